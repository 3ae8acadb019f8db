"""How far H has moved: by lane, over the lanes of a run, and over processes."""

import math
import os
import subprocess
import sys

import pytest
import torch

import skipcache
from skipcache import Forecast, Hold, Interval, Threshold
from skipcache.trajectory.call import CallReader
from skipcache.trajectory.drift import Drift, farthest
from skipcache.trajectory.runs import Runs
from tests.models.pipelines import run_wan, wan
from tests.models.sampling import build, equal, sample


def follow(*steps):
    drift = Drift()
    for H, full in steps:
        drift.follow(H, full)
    return drift


def flat(*values, dtype=torch.float32):
    return tuple(torch.tensor([value], dtype=dtype) for value in values)


def test_changes_are_summed_since_the_last_full_step_and_the_last_one_once_more():
    run = [(flat(8.0), True), (flat(10.0), True), (flat(11.0), False), (flat(13.2), False)]
    seen = [farthest([follow(*run[: i + 1])]) for i in range(4)]
    assert seen == pytest.approx([0, 0.25, 0.1 + 0.1, 0.1 + 0.2 + 0.2])
    assert farthest([follow(*run, (flat(13.2), True))]) == 0


def test_the_norm_is_that_of_all_streams():
    drift = follow((flat(3.0, 4.0), True), (flat(3.0, 9.0), False))
    assert farthest([drift]) == pytest.approx(2 * 5 / 5)
    drift = follow((flat(3.0, 4.0), True), (flat(6.0, 8.0), True))
    assert farthest([drift]) == pytest.approx(1)


def test_nothing_that_stays_nothing_has_not_changed_and_something_out_of_nothing_has():
    assert farthest([follow((flat(0.0), True), (flat(0.0), False))]) == 0
    assert farthest([follow((flat(0.0), True), (flat(1.0), False))]) == math.inf
    assert math.isnan(farthest([follow((flat(1.0), True), (flat(math.nan), False))]))


def test_half_precision_is_summed_in_float32():
    H = torch.full((300, 300), 100.0, dtype=torch.bfloat16)  # whose squares' sum is beyond float16
    steps = [((H + i,), False) for i in range(4)]
    assert farthest([follow(((H,), True), *steps)]) == pytest.approx(1 / 100 + 1 / 101 + 2 / 102, rel=1e-3)
    half = [((H.half() * (1 + i),), i == 0) for i in range(2)]
    assert farthest([follow(*half)]) == pytest.approx(2)


def test_what_is_not_known_is_infinitely_far_until_it_is_known_again():
    known = (flat(2.0), True)
    assert farthest([follow(known, (None, True))]) == math.inf
    assert farthest([follow(known, (flat(2.0, 3.0), False))]) == math.inf
    assert farthest([follow(known, (None, True), known, (flat(3.0), False))]) == pytest.approx(2 * 0.5)
    assert farthest([follow(known, known), follow((None, True))]) == math.inf


def test_the_lane_that_moves_most_decides():
    still, moving = follow((flat(1.0), True), (flat(1.0), False)), follow((flat(1.0), True), (flat(2.0), False))
    assert farthest([still, moving]) == farthest([moving, still]) == 2
    assert farthest([still, follow()]) == 0 == farthest([])


class Denoiser:
    """Stands for a model whose H is given with each call."""

    def __init__(self, policy):
        self.runs = Runs(policy, Forecast(1))

    @property
    def trajectory(self):
        return self.runs.latest

    def __call__(self, t, text, H):
        call = CallReader(("x", "t", "text"), "x", "t").read((torch.zeros(1, 1), t, text), {})
        visit = self.runs.visit(call)
        H = flat(H)
        if visit.full:
            visit.run.record(visit, H, H)
        else:
            visit.lane.cache.predict(visit.step, Forecast(1)).saw(H)
        return visit.full


def test_any_lane_asks_for_a_full_step_and_all_of_them_have_it():
    model, text, null = Denoiser(Threshold(0.2)), torch.ones(1), torch.zeros(1)
    full = [(model(t, null, 1.0), model(t, text, 1.11 ** (9 - t / 100))) for t in (900, 800, 700, 600, 500)]
    assert full == [(True, True), (False, False), (True, True), (False, False), (True, True)]


def test_a_lane_that_has_stopped_asks_for_nothing():
    model, text, null = Denoiser(Threshold(0.2)), torch.ones(1), torch.zeros(1)
    for t, H in ((900, 1.0), (800, 1.15)):
        model(t, null, H)
        model(t, text, 1.0)
    assert [model(t, text, 1.0) for t in (700, 600, 500)] == [True, False, False]
    assert [lane.cache.drift.H for lane in model.trajectory.lanes.all] == [(), flat(1.0)], "and holds nothing"


def test_a_trajectory_starts_with_nothing_of_the_last():
    model, text = Denoiser(Threshold(0.2)), torch.ones(1)
    run = [(900, 1.0), (800, 1.05), (700, 1.1), (600, 1.4), (500, 1.5)]
    first = [model(t, text, H) for t, H in run]
    assert first == [True, False, False, False, True]
    assert [model(t, text, 5 * H) for t, H in run] == first


def test_no_more_than_most_in_a_row():
    model, text = Denoiser(Threshold(0.2, most=2)), torch.ones(1)
    full = [model(t, text, 1.0) for t in range(900, 100, -100)]
    assert full == [True, False, False, True, False, False, True, False]


def test_static_policies_keep_no_shallow_feature():
    model, text = Denoiser(Interval(3)), torch.ones(1)
    for t in (900, 800):
        model(t, text, 1.0)
    (lane,) = model.trajectory.lanes.all
    assert lane.cache.drift is None and lane.cache.predict(1, Hold()).observe is None
    assert len(model.trajectory.tensors) == 2, "R and its slope"


def test_one_look_per_step_and_none_for_static_policies(monkeypatch):
    looks = []

    def spy(drifts):
        looks.append(len(drifts := list(drifts)))
        return farthest(drifts)

    monkeypatch.setattr("skipcache.trajectory.lanes.lanes.farthest", spy)
    pipe = skipcache.accelerate(wan(), policy=Threshold(0.3))
    run_wan(pipe)
    assert looks == [2] * 6
    assert skipcache.report(pipe).full_steps + skipcache.report(pipe).cached_steps == 7
    skipcache.restore(pipe)
    looks.clear()
    run_wan(skipcache.accelerate(pipe, policy=skipcache.Interval(3)))
    assert looks == []


WORKER = """
import datetime, os, sys, torch
import torch.distributed as dist
import skipcache
from tests.models.originals import OriginalDiT

torch.set_num_threads(1)
rank, limit = int(sys.argv[1]), datetime.timedelta(seconds=40)
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2, timeout=limit)
generator = torch.Generator().manual_seed(rank)
x, y = torch.randn(2, 4, 4, 4, generator=generator), torch.tensor([1, 2]) + rank
first = list(range(900, 100, -80))


def runs(policy, meet):
    "Full or not, per call of two runs of two lanes; the second process begins a run anew while the first goes on."
    torch.manual_seed(0)
    model = skipcache.accelerate(OriginalDiT().eval().requires_grad_(False), policy=policy)
    ran, full = [], []
    model.blocks[1].register_forward_hook(lambda *_: ran.append(meet()))
    for t in [*first, *first] if rank == 0 else [*first[:5], *first, *first[:5]]:
        for lane in (0, 1):
            with torch.no_grad():
                model(x * (1 + t / 900 * (1 + rank)), torch.full((2,), t), y + lane)
            full.append(len(ran) > 0)
            ran.clear()
    found = [None, None]
    dist.all_gather_object(found, full)
    return found


ones, others = runs(skipcache.Threshold(1.2), lambda: None)
assert ones != others, "the processes would have decided alike anyway"
ones, others = runs(skipcache.Threshold(1.2, agree=True), lambda: dist.all_reduce(torch.ones(1)))
assert ones == others and False in ones and len(ones) == 40, (ones, others)
assert ones[10:12] == [True, True], "the second process has begun a run"
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # a thread of gloo's that lets go of a tensor while Python ends would abort it
"""


def test_two_processes_decide_as_one(tmp_path, pytestconfig):
    """A block waits for its like on the other process: where one runs it and the other does not, both would hang."""
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    ways = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, rank, str(tmp_path / "meet")], **ways) for rank in "01"]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)[-3000:]


def test_without_a_process_group_there_is_nobody_to_agree_with():
    outputs = [
        sample("dit", skipcache.accelerate(build("dit"), policy=Threshold(0.15, agree=agree)))
        for agree in (False, True)
    ]
    assert equal(*outputs)

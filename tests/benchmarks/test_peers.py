"""Peers at equal compute: each runs and leaves the plain model alone; the counter and the tuning do what they say."""

import builtins
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from matplotlib.image import imread
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import skipcache
from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.names.peers import PEERS
from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.peers import run
from skipcache.benchmarks.peers.context import UnconditionalFirst
from skipcache.benchmarks.peers.dbcache import bins
from skipcache.benchmarks.peers.method import Task, best, nearest
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.memory import holding
from skipcache.benchmarks.sampling.metrics import FrechetDistance
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline
from tests.models.tiny import task as make_task

pytestmark = pytest.mark.thorough

METHODS = {method.name: method for method in run.find_methods(tuple(PEERS))}
MIDDLE = {  # a position of each knob that caches something in 7 steps
    "threshold": {"limit": 10.0},
    "uniform-damped": {"interval": 3, "stop": 0},
    "uniform-hold": {"interval": 3, "stop": 0},
    "fewer-steps": {"steps": 4},
    "dbcache": {"warm_up": 1, "threshold": 10.0},
    "dbcache-taylorseer": {"warm_up": 2, "threshold": 10.0},
    "scm": {"full": 3, "first": 2},
    "scm-taylorseer": {"full": 3, "first": 2},
    "fbcache": {"threshold": 10.0},
    "magcache": {"threshold": 10.0, "max_skip_steps": 3, "retention_ratio": 0.2},
    "taylorseer": {"cache_interval": 3, "disable_cache_before_step": 2},
    "taylorseer-lite": {"cache_interval": 3, "disable_cache_before_step": 2},
    "pab": {"range": 3},
    "fastercache": {"range": 5, "until": 1001},
}


@pytest.fixture(scope="module", params=["dit", "pixart"])
def task(request):
    made = make_task(request.param)
    METHODS["magcache"].ratios = [1.0] * made.calls
    return made


@pytest.fixture(scope="module")
def pixart():
    return make_task("pixart")


def test_every_method_of_the_list_can_be_made():
    assert list(METHODS) == list(PEERS)
    for name, peer in PEERS.items():
        assert (METHODS[name].label, METHODS[name].library) == (peer.label, peer.library)


@pytest.mark.parametrize("name", MIDDLE)
def test_a_method_saves_compute_repeats_itself_and_leaves_the_plain_model_alone(name, task):
    plain = task.run(task.plain, 0)
    setting = MIDDLE[name]
    pipe = METHODS[name].attach(task, setting)
    first, again = (task.run(pipe, 0, setting.get("steps")) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(task.run(task.plain, 0), plain) and torch.equal(task.run(task.pipe(), 0), plain)
    assert not torch.equal(first, plain)
    assert task.count(METHODS[name], setting).flops < task.plain_work.flops
    assert METHODS[name].usage(task, setting) and isinstance(METHODS[name].note(task), str)


def test_speedup_caches_in_longer_runs_alone(task):
    pipe = METHODS["speedup"].attach(task, {"speedup": 1.75})
    first, again = (task.run(pipe, 0, 24) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, task.run(task.plain, 0, 24))
    with pytest.warns(UserWarning, match="all 7 steps of a run are full"):
        assert torch.equal(task.run(pipe, 0), task.run(task.plain, 0))


@pytest.mark.parametrize("name", ["scm", "fbcache", "taylorseer-lite"])
def test_whole_blocks_by_hand(name, task):
    """Of 7 steps full are 0, 1 and 6; the first; 0, 1, 3 and 6. On the others the first block runs, but not in lite."""
    expected = {"scm": 3 * 6 + 4, "fbcache": 6 + 6, "taylorseer-lite": 4 * 6}[name]
    assert task.count(METHODS[name], MIDDLE[name]).blocks == expected


def test_our_own_count_is_the_reports(task):
    with skipcache.accelerated(task.pipe(), policy=skipcache.Interval(3)) as pipe:
        with task.meter.counting(pipe.transformer, 4) as work:
            task.calibration_run(pipe)
            skipcache.reset(pipe)
            work.forget()
            task.calibration_run(pipe)
        report = skipcache.report(pipe)
    assert work.blocks == report.blocks_run == 3 * 6 + 4 * 2


@pytest.mark.parametrize("name", ["uniform-damped", "pab", "fastercache"])
def test_flops_are_those_of_the_flop_counter(name, task):
    """Attention alone is skipped, half a batch is: the sum over the leaves that ran stays exact."""
    pipe = METHODS[name].attach(task, MIDDLE[name])
    task.calibration_run(pipe)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.calibration_run(pipe)
    assert task.count(METHODS[name], MIDDLE[name]).flops == counter.get_total_flops()


def test_plain_work_by_hand(task):
    assert task.plain_work.blocks == 7 * 6
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.calibration_run(task.plain)
    assert task.plain_work.flops == counter.get_total_flops()


@dataclass(frozen=True)
class Fake:
    """Runs the plain model with as many steps as its knob says, so that its FLOPs are known."""

    name: str = "fake"
    label: str = "fake"
    library: str = "nobody"

    def aim(self, task, target, budget):
        return best(task, self, [[{"steps": n} for n in (6, 5, 4, 3, 2)]], budget)

    def attach(self, task, setting):
        return task.pipe()

    def usage(self, task, setting):
        return "fake()"

    def note(self, task):
        return ""


@pytest.mark.parametrize(("share", "steps"), [(0.9, 6), (0.6, 4), (5 / 7, 5), (0.1, 2)])
def test_tuning_ends_at_or_below_the_budget_or_at_the_least(share, steps, pixart):
    setting = Fake().aim(pixart, 1 / share, int(share * pixart.plain_work.flops) + 1)
    assert setting == {"steps": steps}


def test_what_saves_nothing_says_so(pixart):
    with pytest.raises(ValueError, match="saves no compute in a PixArtTransformer2DModel"):
        best(pixart, Fake(), [[{"steps": 7}]], pixart.plain_work.flops // 2)


def test_a_threshold_is_tuned(pixart):
    budget = int(pixart.plain_work.flops / 1.5)
    ladder = [{"threshold": 0.001 * 2**i} for i in range(14)]
    work = pixart.count(METHODS["fbcache"], nearest(pixart, METHODS["fbcache"], ladder, budget))
    assert budget - 2 * pixart.plain_work.flops / 7 < work.flops <= budget


@dataclass(frozen=True)
class Broken(Fake):
    name: str = "broken"

    def aim(self, task, target, budget):
        raise RuntimeError("it was never meant for this\nmodel")


class Judge(nn.Module):
    def features(self, images):
        return images.flatten(1)[:, :5]

    def forward(self, images):
        return images.flatten(1)[:, :3]


def test_errors_are_listed_not_raised(pixart, monkeypatch):
    monkeypatch.setattr(run, "FINE", 9)
    methods = [Broken(), Fake(), METHODS["uniform-hold"]]
    rows, facts = run.compare_all(pixart, methods, Judge(), lambda what, more: None)
    broken = [row for row in rows if row.error]
    assert [row.error for row in broken] == ["RuntimeError: it was never meant for this"]
    assert facts["plain_untouched"] and rows[0].method == "" and rows[0].psnr is None and rows[0].psnr_fine > 0
    assert [row.target for row in rows if row.method == "fake" and not row.error] == [1.5, 2.2, 3.0]
    assert [row.target for row in rows if row.method == "uniform-hold"] == [1.5, 1.7, 2.2, 3.0]
    assert [row.blocks for row in rows if row.method in ("", "fake")] == [7 * 6, 4 * 6, 3 * 6, 2 * 6]  # of 2 images
    assert all(row.flop_speedup >= row.target or row.over_budget for row in rows if row.target and not row.error)


def test_latte_is_refused_or_crashes_where_it_does():
    task = make_task("latte")
    with pytest.raises(ValueError, match="please set BlockAdapter"):
        METHODS["scm"].attach(task, MIDDLE["scm"])
    with pytest.raises(RuntimeError, match="must match the size"):
        task.run(METHODS["fbcache"].attach(task, MIDDLE["fbcache"]), 0)
    for name in ("taylorseer", "taylorseer-lite", "pab", "fastercache"):
        assert task.run(METHODS[name].attach(task, MIDDLE[name]), 0).shape == (2, 4, 5, 8, 8)


@pytest.fixture(scope="module")
def mmdit():
    reference = find_reference("mmdit-emoji")
    settings = PeersSettings.of({"model": "mmdit-emoji", "steps": 7, "batch": 2, "seeds": (0,)})
    return Task(reference.load(), reference.data(), settings, reference.prediction, reference.pipe)


def test_what_runs_on_the_flow_model_and_what_cannot(mmdit):
    METHODS["magcache"].ratios = [1.0] * mmdit.calls
    failed = {}
    for name, setting in MIDDLE.items():
        try:
            pipe = METHODS[name].attach(mmdit, setting)
            assert mmdit.run(pipe, 0, setting.get("steps")).shape == (2, 3, 32, 32)
        except (AssertionError, AttributeError, TypeError) as error:
            failed[name] = type(error)
    assert failed == {  # its last block gives no text stream, which these take for granted
        "dbcache-taylorseer": AssertionError,
        "scm-taylorseer": AssertionError,
        "fbcache": TypeError,
        "taylorseer-lite": AttributeError,
    }


def test_faster_cache_finds_the_unconditional_half_where_it_is(mmdit, pixart):
    """Stable Diffusion 3's own pipeline has it first, as it is wanted."""
    for task, turned in ((mmdit, False), (pixart, True)):
        pipe = METHODS["fastercache"].attach(task, MIDDLE["fastercache"])
        assert isinstance(pipe.transformer, UnconditionalFirst) is turned
        assert ("turned round" in METHODS["fastercache"].note(task)) is turned


def test_masks_have_as_many_full_steps_as_asked():
    for calls in (7, 20, 50):
        for full in range(2, calls):
            for first in (1, max(1, full // 2)):
                computed, cached = bins(calls, full, first)
                assert sum(computed) == full and sum(computed) + sum(cached) == calls
    assert bins(50, 8, 6) == ([6, 1, 1], [21, 21])


def test_memory_is_what_is_held_between_calls():
    model = nn.Linear(2, 2)
    with holding() as held:
        kept = torch.zeros(1000)
        with held.looking(model, 3), torch.no_grad():
            for _ in range(3):
                model(torch.zeros(1, 2))
    assert 4000 <= held.bytes < 4100 and len(kept)


def frechet(x, y):
    same = nn.Identity()
    same.features = lambda samples: samples
    return FrechetDistance(same, x)((y + 1) / 2)


def test_frechet_distance_by_hand():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]).double()
    assert frechet(x, x + 3) == pytest.approx(18)  # the means differ by (3, 3)
    assert frechet(x, 2 * x) == pytest.approx(2 + 2 * 4 / 3)  # and so do deviations, of variance 4/3, by their own size


def test_the_command(pixart, capsys, tmp_path, monkeypatch):
    reference = SimpleNamespace(
        load=lambda weights: pixart.model,
        data=lambda: pixart.data,
        judge=Judge,
        prediction="epsilon",
        pipe=ReferencePipeline,
    )
    monkeypatch.setattr(run, "find_reference", lambda name: reference)
    monkeypatch.setattr(run, "FINE", 9)
    methods = ["skipcache", "fewer-steps", "scm", "pab"]
    short = ["--steps", "5", "--batch", "2", "--seeds", "0", "1", "--targets", "1.3", "--threads", "1"]
    assert main(["peers", *short, "--methods", *methods, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "PyramidAttentionBroadcast" in printed and "to 400 steps" in printed
    result = json.loads((tmp_path / "peers.json").read_text())
    rows = [row for row in result["rows"] if row["target"] == 1.3]
    assert {row["method"] for row in rows} == set(methods) and result["plain_untouched"]
    for row in rows:
        assert row["error"] is None and len(row["ratios"]) == 2 and row["psnr"] > 5 and row["lines"] >= 1
        assert row["over_budget"] or row["flop_speedup"] >= 1.3
    assert imread(tmp_path / "frontier.png").std() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "1"], "--targets: expected speedups above 1, got 1"),
        (["--targets", "nan"], "--targets: expected a finite number, got nan"),
        (["--methods", "teacache"], "--methods: expected one of skipcache"),
        (["--seeds", "0", "1000"], "--seeds: expected numbers below 1000"),
        (["--steps", "3"], "--steps: expected at least 4, got 3"),
        (["--intervals", "2"], "--intervals: expected an option of `skipcache peers`, which does not take it"),
        (["--predictor", "hold"], "--predictor: expected an option of `skipcache peers`"),
        (["--rounds", "3"], "`skipcache engines` and `skipcache overhead` do"),
    ],
)
def test_bad_options(arguments, message, capsys, tmp_path):
    assert main(["peers", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_without_cache_dit(monkeypatch, capsys, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "cache_dit":
            raise ModuleNotFoundError("No module named 'cache_dit'", name="cache_dit")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["peers", "--out", str(tmp_path)]) == 2
    assert "pip install 'skipcache[peers]'" in capsys.readouterr().err
    assert run.find_methods(("skipcache", "pab"))

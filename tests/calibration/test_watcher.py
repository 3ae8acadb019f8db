"""A watcher tells runs, steps and lanes apart, and notes samples and outputs; the model runs as ever."""

import pytest
import torch

from skipcache.calibration.watcher import Watcher, watch
from tests.models.sampling import state
from tests.models.traces import STACK, arguments, glued

TIMES = (0.9, 0.7, 0.5, 0.3)


def sampled(model, times=TIMES, lanes=1, seed=0):
    x, _ = arguments(seed)
    for t in times:
        given = torch.full((2,), t)
        outputs = [model(x, given + 0 * lane)["eps"] for lane in range(lanes)]
        x = x - 0.1 * outputs[0]
    return x


def watched(*runs):
    model = glued()
    return watch(Watcher(model, STACK, None), lambda: [run(model) for run in runs])


def test_the_model_is_as_it_was_and_gave_what_it_would_have_given():
    model, outputs = glued(), []
    before = state(model)
    watcher = watch(Watcher(model, STACK, None), lambda: outputs.append(sampled(model)))
    assert state(model) == before
    with torch.no_grad():
        assert torch.equal(outputs[0], sampled(model))
    seen = watcher.seen[0][-1][0]
    assert torch.equal(seen.x - 0.1 * seen.e, outputs[0])


def test_runs_in_a_row_are_told_apart_and_have_one_length():
    watcher = watched(sampled, lambda m: sampled(m, seed=1))
    assert watcher.runs == [4, 4] and watcher.steps() == 4 and watcher.timesteps() == pytest.approx(TIMES)
    assert not torch.equal(watcher.seen[0][0][0].x, watcher.seen[1][0][0].x)
    with pytest.raises(ValueError, match=r"have \[4, 3\] steps; calibrate on runs of one length"):
        watched(sampled, lambda m: sampled(m, times=TIMES[:3])).steps()


def test_what_was_seen_is_not_changed_by_a_sampler_that_writes_in_place():
    def in_place(model):
        x, _ = arguments()
        for t in TIMES:
            x.sub_(0.1 * model(x, torch.full((2,), t))["eps"])

    ours, theirs = watched(in_place), watched(sampled)
    for mine, its in zip(ours.seen[0], theirs.seen[0]):
        assert torch.equal(mine[0].x, its[0].x) and torch.equal(mine[0].e, its[0].e)


def test_a_run_that_does_not_repeat_itself_is_told():
    first = watched(sampled)
    watched(sampled).check_repeats(first)
    with pytest.raises(ValueError, match="did not begin with equal inputs; seed inside of it"):
        watched(lambda m: sampled(m, seed=1)).check_repeats(first)
    with pytest.raises(ValueError, match="another number of times"):
        watched(lambda m: sampled(m, times=TIMES[:3])).check_repeats(first)


def test_a_run_that_raises_leaves_the_model_plain():
    model = glued()
    before = state(model)

    def run():
        sampled(model)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        watch(Watcher(model, STACK, None), run)
    assert state(model) == before

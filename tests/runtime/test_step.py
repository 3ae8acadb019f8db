"""One accelerated step: which engine serves it, what is recorded of it, and how it is corrected."""

from types import SimpleNamespace

import pytest
import torch

from skipcache.engines import Features, Order, StepResult
from skipcache.policies import Schedule
from skipcache.predictors import Hold
from skipcache.runtime.corrections import correctable, main_output, with_main_output
from skipcache.runtime.step import StepRunner, depth_of
from skipcache.trajectory import WRITES, CallReader, Runs

READER = CallReader(("x", "t"), "x", "t")


def plain(x, t):
    return x * 2


class Engine:
    """Serves, or finds out on its first step that it cannot."""

    def __init__(self, name, serves=True, caches=True, writes=False):
        self.name, self.serves_it, self.caches, self.writes = name, serves, caches, writes
        self.stack = SimpleNamespace(blocks=("a", "b", "c"))
        self.reason, self.log = None, []

    def attach(self):
        self.log.append("attach")

    def refusal(self, call):
        return self.reason

    def serves(self, call):
        return self.serves_it and "full" in self.log

    def can_cache(self, call, prediction):
        return self.serves_it and self.caches

    def full(self, forward, call):
        self.log.append("full")
        torch.rand(1)
        if self.writes:
            call.sample.add_(1)
        if not self.serves_it:
            self.reason = f"{self.name} cannot"
            return StepResult(call.run(forward), 3)
        return StepResult(call.run(forward), 3, features=Features((call.sample,), (call.sample + 1,)))

    def cached(self, forward, call, prediction):
        self.log.append("cached")
        (D,) = prediction(None)
        return StepResult(D, 1, full=False)


class Runner:
    """A runner, its trajectory, and all that it said."""

    def __init__(self, *engines, full_steps=(0, 9)):
        self.refused, self.noted = [], []
        refused = lambda engine, reason, last: self.refused.append((engine.name, reason, last))  # noqa: E731
        self.runner = StepRunner(torch.nn.Module(), Order(engines), Hold(), refused, self.noted.append)
        self.runs = Runs(Schedule(full_steps), Hold())

    def __call__(self, t, corrector=None):
        call = READER.read((torch.full((1, 2), float(t)), t), {})
        visit = self.runs.visit(call)
        return self.runner.run(plain, call, visit, corrector)


def test_a_full_step_is_recorded_and_cached_ones_follow():
    engine = Engine("one")
    run = Runner(engine)
    first, second = run(9.0), run(8.0)
    assert first.full and first.engine == "one" and torch.equal(first.output, torch.full((1, 2), 18.0))
    assert not second.full and second.blocks_run == 1 and torch.equal(second.output, torch.full((1, 2), 10.0))
    assert engine.log == ["attach", "full", "cached"] and run.refused == []


def test_the_next_engine_serves_where_one_finds_out_that_it_cannot_and_the_first_trial_leaves_nothing():
    one, other = Engine("one", serves=False), Engine("other")
    run = Runner(one, other)
    torch.manual_seed(0)
    result = run(9.0)
    left = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(1)
    assert result.engine == "other" and result.features is not None
    assert torch.equal(left, torch.rand(1)), "random numbers were drawn once, as in a plain step"
    assert run.refused == [("one", "one cannot", False)]
    run(8.0)
    assert one.log == ["attach", "full"] and other.log == ["attach", "full", "cached"]


def test_an_engine_that_is_known_to_refuse_is_not_tried_again():
    one, other = Engine("one", serves=False), Engine("other", serves=False)
    run = Runner(one, other)
    for t in (9.0, 8.0, 7.0):
        result = run(t)
        assert result.full and result.features is None and result.blocks_run == 3
    assert one.log == other.log == ["attach", "full"]
    assert run.refused == [("one", "one cannot", False), ("other", "other cannot", True)] * 3


def test_where_the_forward_has_written_to_its_arguments_no_other_engine_runs_it_again():
    one, other = Engine("one", serves=False, writes=True), Engine("other")
    run = Runner(one, other)
    assert run(9.0).features is None and other.log == [] and run.noted == [WRITES]


def test_a_prediction_that_no_engine_can_make_is_a_full_step():
    run = Runner(Engine("one", caches=False))
    run(9.0)
    assert run(8.0).full


def test_the_depth_is_that_of_the_stack():
    assert depth_of([Engine("one")]) == 3


class Corrector:
    """Adds the number of outputs that it is given of the steps before."""

    def __init__(self):
        self.asked = []

    def slope(self, step):
        self.asked.append(step)
        return 1.0

    def apply(self, step, x, e, before):
        return e + len(before)


def test_a_correction_sees_the_model_s_own_outputs_of_the_steps_before():
    corrector, run = Corrector(), Runner(Engine("one"))
    outputs = [run(t, corrector).output for t in (9.0, 8.0, 7.0, 6.0)]
    assert [x[0, 0].item() for x in outputs] == [18.0, 10.0 + 1, 10.0 + 2, 10.0 + 2]
    assert corrector.asked == [1, 2, 3], "the slope is of cached steps alone"


X = torch.randn(2, 3, 4)


@pytest.mark.parametrize(
    "output", [X * 2, (X * 2, None), {"eps": X * 2, "more": 1}, [X * 2]], ids=["tensor", "tuple", "dict", "list"]
)
def test_the_main_output_is_found_and_replaced_in_its_nesting(output):
    call = READER.read((X, 1.0), {})
    assert correctable(output, call) and torch.equal(main_output(output, call), X * 2)
    replaced = with_main_output(output, call, X * 3)
    assert type(replaced) is type(output) and torch.equal(main_output(replaced, call), X * 3)


def test_learned_variances_stay_as_they_are():
    call, variances = READER.read((X, 1.0), {}), torch.randn(2, 3, 4)
    output = torch.cat([X * 2, variances], dim=1)
    assert torch.equal(main_output(output, call), X * 2) and correctable(output, call)
    assert torch.equal(with_main_output(output, call, X * 3), torch.cat([X * 3, variances], dim=1))


@pytest.mark.parametrize("output", [None, (), X[:1], SimpleNamespace(eps=X)], ids=["none", "empty", "shape", "object"])
def test_what_cannot_be_corrected(output):
    assert not correctable(output, READER.read((X, 1.0), {}))
    assert not correctable(X, READER.read(([X, X], 1.0), {})), "of several samples there is no main one"

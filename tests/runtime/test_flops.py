"""FLOPs of a full and of a cached call, counted on zeros, and the speedup that follows from the calls made."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from skipcache.engines.fx.engine import FxEngine
from skipcache.engines.hooks.engine import HookEngine
from skipcache.predictors import Delta, Hold
from skipcache.runtime.flops import count_flops, ideal_speedup
from skipcache.stack import make_plan
from skipcache.trajectory import CallReader, blank_call
from tests.models.traces import STACK, arguments, glued

BLOCK, END = 2 * 2 * 3 * 3, 2 * 2 * 3 * 3  # of a batch of two rows through one linear layer of 3 by 3


def prepared(kind, keep=1):
    model = glued()
    engine = kind(model, STACK, make_plan(4, keep))
    engine.attach()
    call = CallReader(("x", "t"), "x", "t").read(arguments(), {})
    with torch.no_grad():
        engine.full(type(model).forward.__get__(model), call)
    return model, engine, call


def counted(model, engine, call, predictor, follows=False):
    plain = type(model).forward.__get__(model)
    return count_flops(lambda call, step: step(call), engine, plain, blank_call(call), predictor, follows)


@pytest.mark.parametrize("kind", [HookEngine, FxEngine])
@pytest.mark.parametrize("keep", [1, (2, 1), (1, 0), 0])
def test_a_cached_call_has_those_of_the_ends_alone(kind, keep):
    model, engine, call = prepared(kind, keep)
    ends = sum(keep) if isinstance(keep, tuple) else 2 * keep
    assert counted(model, engine, call, Delta()) == (4 * BLOCK + 2 * END, ends * BLOCK + 2 * END)


def test_with_hold_a_graph_has_no_head_unless_h_is_followed():
    model, engine, call = prepared(FxEngine)
    assert counted(model, engine, call, Hold())[1] == BLOCK + END
    assert counted(model, engine, call, Hold(), follows=True)[1] == 2 * BLOCK + 2 * END


def test_a_call_that_cannot_be_cached_costs_as_much_as_a_full_one():
    model, engine, call = prepared(HookEngine)
    engine.forget()
    assert counted(model, engine, call, Delta()) == (4 * BLOCK + 2 * END,) * 2


def test_counting_leaves_the_process_and_the_run_as_they_were():
    model, engine, call = prepared(HookEngine)
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    counted(model, engine, call, Delta())
    assert torch.equal(torch.get_rng_state(), state) and torch.backends.mha.get_fastpath_enabled() is fast
    assert engine.run is None and FlopCounterMode(display=False).get_total_flops() == 0


CALLS = {("a", True): 2, ("a", False): 6, ("b", True): 1}
OUTLINES = [SimpleNamespace(signature="a"), SimpleNamespace(signature="b")]


def test_the_ideal_speedup_is_by_all_calls_that_were_made():
    costs = {"a": (100, 20), "b": (1000, 1000)}
    found = ideal_speedup(CALLS, OUTLINES, lambda call: costs[call.signature])
    assert found == (8 * 100 + 1000) / (2 * 100 + 6 * 20 + 1000)


def test_without_a_cached_call_nothing_is_counted():
    def fail(call):
        raise AssertionError("counted")

    assert ideal_speedup({}, OUTLINES, fail) is None
    assert ideal_speedup({("a", True): 3}, OUTLINES, fail) == 1.0


def test_signatures_that_cannot_be_counted_are_left_out():
    def count(call):
        if call.signature == "b":
            raise RuntimeError("another library's kernel")
        return 100, 50

    assert ideal_speedup(CALLS, OUTLINES, count) == 800 / 500
    assert ideal_speedup(CALLS, OUTLINES[1:], count) is None

"""FLOPs of a full and of a cached call, counted on a copy without weights, and the speedup that follows."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

import skipcache
from skipcache.engines.fx.engine import FxEngine
from skipcache.engines.hooks.engine import HookEngine
from skipcache.predictors import Delta, Hold
from skipcache.runtime import flops
from skipcache.runtime.flops import MAX_COUNTED, Costs, Uncounted, count_flops, ideal_speedup
from skipcache.stack import make_plan
from skipcache.trajectory import CallReader, FeatureCache, blank_call
from tests.models.odd import Tiny, run, tiny
from tests.models.traces import STACK, arguments, glued

BLOCK, END = 2 * 2 * 3 * 3, 2 * 2 * 3 * 3  # of a batch of two rows through one linear layer of 3 by 3
BOTH = pytest.mark.parametrize("engine", ["hooks", "fx"])


def prepared(kind, keep=1, predictor=None, follows=False):
    model, predictor = glued(), predictor or Delta()
    engine = kind(model, STACK, make_plan(4, keep))
    engine.attach()
    call = CallReader(("x", "t"), "x", "t").read(arguments(), {})
    with torch.no_grad():
        H, D = engine.full(type(model).forward.__get__(model), call).features
    cache = FeatureCache(follows)
    cache.record(0, H, D, predictor)
    assert engine.can_cache(call, cache.predict(1, predictor))
    return model, engine, call


def counted(model, engine, call):
    return count_flops(model, engine, blank_call(call))


@pytest.mark.parametrize("kind", [HookEngine, FxEngine])
@pytest.mark.parametrize("keep", [1, (2, 1), (1, 0), 0])
def test_a_cached_call_has_those_of_the_ends_alone(kind, keep):
    ends = sum(keep) if isinstance(keep, tuple) else 2 * keep
    assert counted(*prepared(kind, keep)) == (4 * BLOCK + 2 * END, ends * BLOCK + 2 * END)


def test_with_hold_a_graph_has_no_head_unless_h_is_followed():
    assert counted(*prepared(FxEngine, predictor=Hold()))[1] == BLOCK + END
    assert counted(*prepared(FxEngine, predictor=Hold(), follows=True))[1] == 2 * BLOCK + 2 * END


def test_a_call_that_cannot_be_cached_costs_as_much_as_a_full_one():
    model, _, call = prepared(HookEngine)
    assert counted(model, None, call) == (4 * BLOCK + 2 * END,) * 2


def test_counting_leaves_the_process_and_the_model_as_they_were():
    model, engine, call = prepared(HookEngine)
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    before = {path: dict(m.__dict__) for path, m in model.named_modules()}
    counted(model, engine, call)
    assert torch.equal(torch.get_rng_state(), state) and torch.backends.mha.get_fastpath_enabled() is fast
    assert {path: dict(m.__dict__) for path, m in model.named_modules()} == before and engine.run is None


def test_all_counting_is_done_without_hooks_on_the_modules_of_the_process():
    class Peeks(Tiny):
        def before(self, h, x, t):
            hooks.append(len(torch_module._global_forward_pre_hooks))
            return h

    hooks = []
    model = skipcache.accelerate(tiny(Peeks), interval=3, engine="hooks")
    run(model)
    skipcache.report(model)
    assert hooks and not any(hooks)


class Text(Tiny):
    """Embeds its text once, as F5-TTS does."""

    def __init__(self):
        super().__init__()
        self.embedding, self.cached = nn.Embedding(8, 16), None

    def before(self, h, x, t, text):
        if self.cached is None:
            self.cached = self.embedding(text)
        return h + self.cached.mean(1, keepdim=True)


@BOTH
def test_a_report_never_runs_the_model(engine):
    text, model = torch.arange(6).view(2, 3), tiny(Text)
    expected = run(model, text=text)
    skipcache.accelerate(model, interval=3, engine=engine)
    first = run(model, text=text)
    held, hooked = model.cached, []
    model.register_forward_pre_hook(lambda *_: hooked.append(1))
    model.blocks[0].register_forward_hook(lambda *_: hooked.append(1))
    assert skipcache.report(model).ideal_speedup > 1.5
    assert not hooked and model.cached is held
    skipcache.restore(model)
    assert torch.equal(run(model, text=text)[0], expected[0]) and torch.equal(first[0], expected[0])


class Reads(Tiny):
    def before(self, h, x, t):
        return h * (1.0 if float(t[0]) > 1e6 else 2.0)


def test_where_a_copy_cannot_run_blocks_are_counted_and_a_reason_says_so():
    model = skipcache.accelerate(tiny(Reads), interval=3, engine="hooks")
    run(model, steps=6)
    report = skipcache.report(model)
    assert report.ideal_speedup == (report.blocks_run + report.blocks_saved) / report.blocks_run
    assert [r for r in report.reasons if "the ideal speedup is that of blocks" in r and "item()" in r]


def test_a_model_that_talks_to_other_processes_is_not_counted(tmp_path):
    from torch import distributed

    class Talks(Tiny):
        def before(self, h, x, t):
            distributed.all_reduce(h)
            said.append(h.device.type)
            return h

    said = []
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = skipcache.accelerate(tiny(Talks), interval=3, engine="hooks")
        run(model)
        calls = len(said)
        report = skipcache.report(model)
    finally:
        distributed.destroy_process_group()
    assert report.ideal_speedup > 1 and len(said) == calls
    assert any("its forward talks to other processes" in reason for reason in report.reasons)


def test_autocast_and_weights_of_another_dtype_count_the_same():
    plain = skipcache.accelerate(tiny(), interval=3, engine="hooks")
    cast = skipcache.accelerate(tiny().bfloat16(), interval=3, engine="hooks")
    run(plain)
    with torch.autocast("cpu", torch.bfloat16):
        run(cast)
    assert skipcache.report(cast).reasons == ()
    assert skipcache.report(cast).ideal_speedup == skipcache.report(plain).ideal_speedup


def test_each_signature_is_counted_once_also_where_that_fails(monkeypatch):
    counts = []
    monkeypatch.setattr("skipcache.runtime.flops.count_flops", lambda *_: counts.append(1) or 1 / 0)
    costs, blank = Costs(glued()), SimpleNamespace(signature="a")
    for _ in range(3):
        with pytest.raises(Uncounted, match="raises ZeroDivisionError"):
            costs.of(None, blank)
    assert len(counts) == 1


def test_of_many_signatures_those_count_that_were_called_most():
    calls = {(i, full): 1 + i for i in range(12) for full in (True, False)}
    asked = []
    ideal_speedup(calls, [SimpleNamespace(signature=i) for i in range(12)], lambda b: asked.append(b) or (2, 1))
    assert [blank.signature for blank in asked] == [11, 10, 9, 8][:MAX_COUNTED]


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


@BOTH
def test_a_report_without_flops_counts_blocks_and_makes_no_copy(engine, monkeypatch):
    copies, weightless = [], flops.weightless
    monkeypatch.setattr(flops, "weightless", lambda *given: copies.append(given) or weightless(*given))
    model = skipcache.accelerate(tiny(depth=6), interval=2, keep=1, engine=engine)
    with skipcache.run(model, "r") as named:
        run(model, steps=4)
    for found in (skipcache.report(model, flops=False), named.report(flops=False)):
        assert found.ideal_speedup == (found.blocks_run + found.blocks_saved) / found.blocks_run > 1
        assert found.reasons == () and copies == []
    assert skipcache.report(model).ideal_speedup != found.ideal_speedup and copies

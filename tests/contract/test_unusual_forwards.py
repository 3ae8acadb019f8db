"""Models with a forward or a stack written in an unusual way: both engines serve them, and restore leaves nothing."""

import copy

import pytest
import torch

import skipcache
from skipcache import Hold, training
from tests.models.odd import run, tiny
from tests.models.sampling import equal
from tests.models.stacks import Bound, Chosen, Functional, Masked, UViT

SERVED = [(kind, engine) for kind in (UViT, Masked, Chosen, Bound) for engine in ("fx", "hooks")]


@pytest.mark.parametrize(("kind", "engine"), [*SERVED, (Functional, "hooks")])
def test_they_are_exact_cached_copied_and_restored(kind, engine):
    plain, model = tiny(kind), tiny(kind)
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    expected = run(plain)
    skipcache.accelerate(model, interval=1, engine=engine)
    assert equal(run(model), expected)
    skipcache.restore(model)
    skipcache.accelerate(model, interval=3, engine=engine)
    cached = run(model)
    assert skipcache.report(model).cached_steps == 4 and skipcache.report(model).engine == engine
    assert torch.equal(cached[0], expected[0]) and not torch.equal(cached[1], expected[1])
    assert equal(run(copy.deepcopy(model)), cached)
    skipcache.restore(model)
    assert {path: dict(module.__dict__) for path, module in model.named_modules()} == before


@pytest.mark.parametrize("kind", [UViT, Masked, Chosen, Bound])
def test_both_engines_give_one_result(kind):
    graphs, hooked = (skipcache.accelerate(tiny(kind), interval=3, engine=e) for e in ("fx", "hooks"))
    assert equal(run(graphs), run(hooked))


def test_a_function_that_is_no_method_is_served_by_the_hooks_and_refused_by_fx():
    model = skipcache.accelerate(tiny(Functional), interval=3)
    run(model)
    assert skipcache.report(model).cached_steps == 4 and skipcache.report(model).engine == "hooks"
    with pytest.raises(RuntimeError, match="replaced on the instance"):
        run(skipcache.accelerate(tiny(Functional), interval=3, engine="fx"))


@pytest.mark.parametrize("mid", [True, False])
def test_a_u_of_blocks_caches_what_its_branches_let_through(mid):
    """Skip-Cache by hand: the tail's branch takes what the first block returns on the cached step itself."""
    model, by_hand, kept = tiny(UViT, mid=mid), tiny(UViT, mid=mid), {}

    def held(block, args):
        return kept.setdefault("D", args[0]), args[1]

    by_hand.out_blocks[-1].register_forward_pre_hook(held)
    skipcache.accelerate(model, interval=3)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (900.0, 800.0, 700.0):
            t = torch.full((2,), t)
            assert torch.equal(model(x, t), by_hand(x, t))
            x = 0.9 * x
    assert skipcache.report(model).cached_steps == 2
    assert model.forward.settings.predictor == Hold()


def test_a_recorded_run_reads_the_forward_that_runs():
    model = tiny(Chosen)
    recorded = training.record_run(model, lambda: run(model))
    assert [len(lanes) for lanes in recorded] == [1] * 7

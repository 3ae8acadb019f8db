"""`restore` works whatever was done to the model since, and what is left of wrappers runs plain."""

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import extract_model_from_parallel
from torch import nn

import skipcache
from skipcache import Stack
from skipcache.blocks import MARK, Override, override_of
from tests.models.odd import run, tiny
from tests.models.sampling import equal, state

ENGINES = ["fx", "hooks"]
STACK = Stack(tuple((f"blocks.{i}",) for i in range(5)), "x", "t")

pytestmark = pytest.mark.filterwarnings("ignore:skipcache caches nothing")


def used(engine="hooks", **settings):
    """An accelerated model that has run."""
    model = skipcache.accelerate(tiny(), **{"interval": 3, "engine": engine, **settings})
    run(model, steps=4)
    return model


def leftovers(model):
    return [path for path, m in model.named_modules() if override_of(m, Override) is not None or MARK in m.__dict__]


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def mixed(model):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def in_a_closure(model):
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    return model


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrap", [mixed, in_a_closure])
def test_a_model_that_was_wrapped_since_is_restored_and_the_wrapper_runs_plain(wrap, engine):
    plain, model = wrap(tiny()), wrap(used(engine))
    run(model)
    assert skipcache.report(SimpleNamespace(transformer=model)).engine == engine
    assert skipcache.restore(model) is model
    assert equal(run(model), run(plain)) and not leftovers(model)
    with pytest.raises(ValueError, match="is not accelerated"):
        skipcache.report(model)


@pytest.mark.parametrize(
    ("wrap", "engine"), [(compiled_in_place, "fx"), (lambda model: torch.compile(model, backend="eager"), "hooks")]
)
def test_a_model_that_was_compiled_since_says_so_and_is_restored(wrap, engine):
    torch._dynamo.reset()
    model = used(engine)
    skipcache.reset(model)
    wrapped = wrap(model)
    with pytest.warns(UserWarning, match=r"compiled after accelerate.*use accelerate\(compile=True\)"):
        outputs = run(wrapped, steps=1)
    report = skipcache.report(SimpleNamespace(transformer=wrapped))
    assert report.full_steps == 0 and any("compiled after accelerate" in reason for reason in report.reasons)
    assert skipcache.restore(wrapped) is wrapped
    assert not leftovers(model) and equal(run(wrapped, steps=1), outputs)


def test_a_forward_that_was_set_since_is_named():
    model = used()
    skipcache.reset(model)
    model.forward = lambda x, t: x
    run(model, steps=2)
    (reason,) = skipcache.report(model).reasons
    assert reason.startswith("test_a_forward_that_was_set_since_is_named.<locals>.<lambda> took the place")
    skipcache.restore(model)
    assert torch.equal(model(torch.ones(1), None), torch.ones(1)) and not leftovers(model)


@pytest.mark.parametrize("engine", ENGINES)
def test_mixed_precision_of_accelerate_comes_and_goes_around_it(engine):
    model, plain = used(engine), run(tiny())
    skipcache.reset(model)
    cached = run(model)
    mixed(model)
    assert not equal(run(model), cached) and skipcache.report(model).cached_steps == 8
    extract_model_from_parallel(model, keep_fp32_wrapper=False)
    assert equal(run(model), cached), "what accelerate takes out is the accelerated forward"
    skipcache.restore(model)
    assert equal(run(model), plain) and not leftovers(model)
    mixed(used_and_restored := used(engine))
    skipcache.restore(used_and_restored)
    extract_model_from_parallel(used_and_restored, keep_fp32_wrapper=False)
    assert equal(run(used_and_restored), plain)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_with_block_within_another_leaves_the_outer_one_s_model_accelerated(engine):
    model = tiny()
    before, plain = state(model), run(model)
    with skipcache.accelerated(model, interval=3, engine=engine):
        cached = run(model)
        with skipcache.accelerated(model, interval=3, engine=engine):
            assert equal(run(model), cached)
        assert equal(run(model), cached) and not equal(cached, plain)
    assert state(model) == before
    with skipcache.accelerated(model, interval=3, engine=engine):
        skipcache.restore(model)
    assert state(model) == before


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("engine", ENGINES)
def test_models_that_share_blocks_are_restored_one_by_one(engine, first):
    models = [tiny(seed=0), tiny(seed=1)]
    models[1].blocks = models[0].blocks
    before, plain = list(map(state, models)), list(map(run, models))
    for model in models:
        skipcache.accelerate(model, interval=3, engine=engine)
    cached = list(map(run, models))
    assert equal(run(models[0]), cached[0])
    other = 1 - first
    skipcache.restore(models[first])
    assert equal(run(models[first]), plain[first]) and equal(run(models[other]), cached[other])
    skipcache.restore(models[other])
    assert list(map(state, models)) == before and equal(run(models[other]), plain[other])


def test_a_model_named_as_its_own_block_is_left_alone_and_restored():
    model = tiny()
    before, plain = state(model), run(model)
    skipcache.accelerate(model, interval=3, keep=0, engine="hooks", stack=Stack((("",),), "x", "t"))
    assert equal(run(model), plain)
    assert "did not run its blocks" in skipcache.report(model).reasons[0]
    skipcache.restore(model)
    assert state(model) == before and equal(run(model), plain)


class Waits(nn.Module):
    """In the place of a module: stops a chosen thread before it computes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.thread = inner, None
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, *args, **kwargs):
        if threading.current_thread() is self.thread:
            self.inside.set()
            assert self.go_on.wait(30)
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("cached", [False, True], ids=["full", "cached"])
@pytest.mark.parametrize("place", ["time", "blocks.0.attn", "blocks.4.attn"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_during_which_another_thread_restores_is_right_and_puts_nothing_back(engine, place, cached):
    model = tiny()
    parent, _, name = place.rpartition(".")
    waits = Waits(model.get_submodule(place))
    setattr(model.get_submodule(parent), name, waits)
    before, plain = state(model), run(model, steps=2)
    skipcache.accelerate(model, interval=3, engine=engine)
    expected = run(model, steps=2)
    skipcache.reset(model)
    steps, found = [], []

    def sample():
        for value in (950.0, 50.0):
            steps.append(value)
            if len(steps) == 1 + cached:
                waits.thread = threading.current_thread()
            found.append(run_one(model, value, found))

    thread = threading.Thread(target=sample)
    thread.start()
    assert waits.inside.wait(30)
    skipcache.restore(model)
    waits.thread = None
    waits.go_on.set()
    thread.join()
    assert state(model) == before
    last = found[-1 if cached else 0]
    assert torch.equal(found[0], plain[0])
    assert any(torch.equal(last, outputs[int(cached)]) for outputs in (plain, expected))
    assert equal(run(model, steps=2), plain)


@torch.no_grad()
def run_one(model, value, before):
    """One step of the run that `tests.models.odd.run` makes in two."""
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for output in before:
        x = x - output / 2
    return model(x, torch.full((2,), value))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_is_accelerated_and_restored_again_and_again_while_threads_sample(engine):
    model = tiny()
    before, plain = state(model), run(model)
    done, errors = threading.Event(), []

    def sample():
        while not done.is_set():
            try:
                run(model, steps=4)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=sample) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(12):
        skipcache.accelerate(model, interval=3, engine=engine)
        done.wait(0.002 * (i % 4))
        skipcache.restore(model)
    done.set()
    for thread in threads:
        thread.join()
    assert not errors and state(model) == before and equal(run(model), plain)


def test_a_copy_of_a_restored_model_is_plain():
    model = used()
    skipcache.restore(model)
    twin = copy.deepcopy(model)
    assert not leftovers(twin) and equal(run(twin), run(tiny()))

"""What an accelerated model holds is bounded, and freed at once: no object and no byte more after many runs."""

import gc
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import skipcache
from skipcache.blocks import memory_of
from skipcache.blocks.override import override_of
from skipcache.runtime.forward import CachedForward
from tests.models.odd import Tiny, run, tiny
from tests.models.schedulers import started

ROOT = Path(__file__).parents[2]
SHAPES, KINDS = 2, 4
STACK = skipcache.Stack(tuple((f"blocks.{i}",) for i in range(3)), "x", "t")


class Failing(Tiny):
    """Its forward raises where it is told to."""

    def before(self, h, x, t, fails=False):
        if fails:
            raise ArithmeticError
        return h


class Pipeline:
    """Calls its model in a loop of its own, by its scheduler's timesteps."""

    def __init__(self, model):
        self.transformer, self.scheduler = model, started(DDIMScheduler(), 3)

    def __call__(self, x):
        with torch.no_grad():
            for t in self.scheduler.timesteps:
                x = self.scheduler.step(self.transformer(x, t.expand(len(x))), t, x).prev_sample


def one(model, i, engine):
    """The i-th run: another shape each time, on a thread, by a pipeline of its own, or one that fails half-way."""
    side = 2 + i // KINDS % SHAPES
    if i % KINDS == 0:
        run(model, steps=3, side=side)
    elif i % KINDS == 1:
        thread = threading.Thread(target=run, args=(model, 3, side))
        thread.start()
        thread.join()
    elif i % KINDS == 2:
        skipcache.accelerate(Pipeline(model), policy=skipcache.Interval(2), engine=engine, stack=STACK)(
            torch.ones(2, 4, side, side)
        )
    else:
        with pytest.raises(ArithmeticError):
            run(model, steps=3, side=side, fails=lambda step: step == 1)


def held():
    """How many objects the garbage collector knows, and their bytes with those of the tensors."""
    gc.collect()
    objects = [x for x in gc.get_objects() if not isinstance(x, torch.UntypedStorage)]
    memory = {memory_of(x): x.untyped_storage().nbytes() for x in objects if isinstance(x, Tensor)}
    return len(objects), sum(map(sys.getsizeof, objects)) + sum(memory.values())


def growth(engine, runs=64, settled=48):
    """What more is held after all runs than after the first ones, which fill what is bounded.

    What the last run left is another thing after each of the four kinds: all of them are looked at.
    """
    torch.set_num_threads(1)
    model = skipcache.accelerate(tiny(Failing, depth=3, width=4), interval=2, engine=engine, stack=STACK)
    before, after = [], []
    for i in range(runs):
        one(model, i, engine)
        if settled - KINDS <= i < settled:
            before.append(held())
        if i >= runs - KINDS:
            after.append(held())
    return [max(now) - max(then) for then, now in zip(zip(*before), zip(*after))]


def grown(runs, settled):
    """By both engines, in a process of its own, since pytest keeps what it was told of each warning."""
    code = f"from {__name__} import growth; print([growth(e, {runs}, {settled}) for e in ('hooks', 'fx')])"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("runs", "settled"), [(64, 48), pytest.param(1000, 100, marks=pytest.mark.thorough)], ids=["64", "1000"]
)
def test_no_object_and_no_byte_more_after_many_runs(runs, settled):
    for objects, size in grown(runs, settled):
        assert objects <= 0
        assert size < 1000, "lists and dicts that are filled anew differ by some bytes"


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def features(model):
    found = [weakref.ref(x) for x in override_of(model, CachedForward).runs.tensors]
    assert found
    return found


@pytest.mark.parametrize("engine", ["hooks", "fx", "auto"])
def test_features_are_freed_at_once(engine, no_collector):
    """By `reset`, by `restore` and at the end of a thread; a restored model goes with its last reference."""
    model = skipcache.accelerate(tiny(), interval=3, engine=engine)
    run(model)
    found = features(model)
    skipcache.reset(model)
    assert not any(x() is not None for x in found)
    found = []

    def work(model):
        run(model)
        found.extend(features(model))

    thread = threading.Thread(target=work, args=(model,))
    thread.start()
    thread.join()
    del thread
    assert not any(x() is not None for x in found)
    run(model)
    found = features(model)
    skipcache.restore(model)
    assert not any(x() is not None for x in found)
    gone = weakref.ref(model)
    del model
    assert gone() is None


@pytest.mark.parametrize("engine", ["hooks", "fx"])
def test_an_accelerated_model_is_freed_by_the_collector(engine):
    """Its forward is an object that refers to it, so that it refers to itself: a limit of the README."""
    model = skipcache.accelerate(tiny(), interval=3, engine=engine)
    run(model)
    found = [weakref.ref(model), *features(model)]
    del model
    gc.collect()
    assert not any(x() is not None for x in found)

"""Threads that make the first calls of one model at one time: each gets what it gets alone."""

import sys
import threading
from functools import partial

import pytest
import torch

import skipcache
from tests.models.odd import Tiny, noise, tiny

STEPS, THREADS = 7, 3


class Told(Tiny):
    """It counts its calls, as some models do."""

    def before(self, h, x, t, text):
        return h + text


class Counting(Told):
    def before(self, h, x, t, text):
        self.count += 1
        return h + text


@torch.no_grad()
def sampled(model, seed, together=None):
    x, found = noise(batch=1, seed=seed), []
    for t in torch.linspace(950, 50, STEPS):
        if together is not None:
            together.wait(60)
        found.append(model(x, t.expand(1), text=torch.full((1,), float(seed))))
        x = x - found[-1] / STEPS
    return found


def at_once(functions):
    """What they return, on threads of their own."""
    found = {}
    threads = [threading.Thread(target=lambda i=i, f=f: found.update({i: f()})) for i, f in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(len(functions))]


@pytest.fixture
def in_small_turns():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("engine", ["fx", "hooks", "auto"])
def test_runs_that_begin_at_once_get_what_they_get_alone(engine, in_small_turns):
    alone = [sampled(skipcache.accelerate(tiny(Told), engine=engine), seed) for seed in range(THREADS)]
    for _ in range(4):
        model, together = skipcache.accelerate(tiny(Told), engine=engine), threading.Barrier(THREADS)
        found = at_once([partial(sampled, model, seed, together) for seed in range(THREADS)])
        for mine, theirs in zip(found, alone):
            assert all(map(torch.equal, mine, theirs))
        assert skipcache.report(model, flops=False).blocks_saved == THREADS * 4 * 3, "three of five blocks, four times"


@pytest.mark.parametrize(
    ("engine", "kind"), [("fx", Told), ("hooks", Told), ("hooks", Counting), ("auto", Told), ("auto", Counting)]
)
def test_one_thread_proves_at_a_time(engine, kind):
    """What a trial puts back must not be what another thread's call has done."""
    model, began, overtaken, came = tiny(kind), threading.Event(), threading.Event(), []

    def enter(module, args):
        here = threading.get_ident()
        if not came:
            came.append(here)
            began.set()
            came.append(overtaken.wait(0.3))
        elif here != came[0]:
            overtaken.set()

    model.inlet.register_forward_pre_hook(enter)
    skipcache.accelerate(model, engine=engine)
    at_once([lambda: sampled(model, 0), lambda: began.wait(60) and sampled(model, 1)])
    assert came[1] is False, "the second thread ran the model within the first one's proof"
    assert model.count == (2 * STEPS if kind is Counting else 0)

"""A deep feature that is read is noticed on every step, and so is another structure inside the forward."""

import warnings

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import skipcache
from skipcache.engines.hooks.watch import Watch
from tests.models.odd import Tiny, run, tiny


class Gated(Tiny):
    """Reads a deep feature behind the blocks, once `t` is below `gate`."""

    gate = 1000.0

    def mixed(self, h, deep):
        return h + deep[2]

    def forward(self, x, t):
        c, h, deep = self.time(t), self.inlet(x.flatten(2).transpose(1, 2)), []
        for block in self.blocks:
            h = block(h, c)
            deep.append(h)
        h = self.mixed(h, deep) if float(t[0]) < self.gate else h
        return self.outlet(h).transpose(1, 2).reshape(x.shape)


class ZeroInitialised(Gated):
    """A long skip that adds nothing yet."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.skip = nn.Parameter(torch.zeros(()))

    def mixed(self, h, deep):
        return h + self.skip * deep[2]


class ReadsAView(Gated):
    def mixed(self, h, deep):
        return torch.cat([h[:, :1] + deep[1][:, :1].mean(), h[:, 1:]], dim=1)


class Sums(Tiny):
    """Reads every feature at once, between the blocks."""

    def forward(self, x, t):
        c, h = self.time(t), self.inlet(x.flatten(2).transpose(1, 2))
        total = torch.zeros_like(h)
        for block in self.blocks:
            h = block(h, c)
            total += h if float(t[0]) < 1000 else 0 * h
        return self.outlet(h + total).transpose(1, 2).reshape(x.shape)


class LooksAtOutlines(Gated):
    """Keeps deep features, and reads no value of theirs: a cached step is right."""

    def mixed(self, h, deep):
        return h + torch.ones_like(deep[2]) * deep[1].shape[1]


def quiet(model, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(model, **kwargs)


def with_zeros(model):
    with torch.no_grad():
        model.skip.zero_()
    return model


@pytest.mark.parametrize("engine", ["hooks", "auto"])
@pytest.mark.parametrize("kind", [Gated, ReadsAView, Sums, ZeroInitialised], ids=lambda kind: kind.__name__)
def test_a_deep_feature_that_is_read_is_refused_at_the_first_step(kind, engine):
    model = skipcache.accelerate(tiny(kind), interval=3, engine=engine)
    plain = tiny(kind)
    if kind is ZeroInitialised:
        with_zeros(model), with_zeros(plain)
    assert all(map(torch.equal, quiet(model), run(plain)))
    assert any("reads what a deep block returns" in reason for reason in skipcache.report(model).reasons)


@pytest.mark.parametrize("gate", [600.0, 750.0, 850.0], ids=["full step", "cached step", "second step"])
@pytest.mark.parametrize("kind", [Gated, ReadsAView])
def test_a_reading_that_begins_late_is_noticed_when_it_begins(kind, gate):
    """Steps are at 950, 800, 650, 500, 350, 200, 50; the first, fourth and last are full."""
    model, plain = skipcache.accelerate(tiny(kind), interval=3, engine="hooks"), tiny(kind)
    unread = skipcache.accelerate(tiny(kind), interval=3, engine="hooks")
    model.gate = plain.gate = gate
    unread.gate = 0.0
    times = torch.linspace(950, 50, 7)
    begins = int((times < gate).nonzero()[0])
    x = torch.randn(2, 4, 4, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, t in enumerate(times):
            x, t = x + 0.01, t.expand(2)
            expected = plain(x, t) if i >= begins else unread(x, t)
            assert torch.equal(model(x, t), expected), i
    report = skipcache.report(model)
    assert report.cached_steps == min(begins - 1, 2) and len(report.full_at) == 7 - report.cached_steps
    assert any("reads what a deep block returns, by" in reason for reason in report.reasons)


def test_a_look_at_outlines_is_no_reading():
    model = skipcache.accelerate(tiny(LooksAtOutlines), interval=3, engine="hooks")
    assert len(run(model)) == 7 and skipcache.report(model).cached_steps == 4


@pytest.mark.parametrize(("kind", "watched"), [(Tiny, False), (Gated, True)], ids=["handed on", "held"])
def test_the_watch_ends_with_the_last_value_that_was_made_of_a_deep_block(kind, watched, monkeypatch):
    """What comes behind the blocks is not watched, unless the forward still holds a feature that it could read."""
    seen, follow = [], Watch.__torch_function__

    def noted(self, func, types, args=(), kwargs=None):
        seen.append(func.__name__)
        return follow(self, func, types, args, kwargs)

    monkeypatch.setattr(Watch, "__torch_function__", noted)
    model = tiny(kind)
    model.gate = 0.0
    skipcache.accelerate(model, policy=skipcache.Interval(3), keep=0, engine="hooks")
    run(model, steps=4)  # the first step shows the wiring
    seen.clear()
    run(model, steps=4, seed=1)
    assert skipcache.report(model).cached_steps == 4
    assert ("linear" in seen) is watched


class Doubles(Tiny):
    """Guidance within the forward, on an interval of the timesteps: the blocks get twice the batch."""

    def forward(self, x, t):
        twice = 400 < float(t[0]) < 700
        h = super().forward(torch.cat([x, x * 0.5]) if twice else x, t.repeat(2) if twice else t)
        return h[: len(x)] * 1.5 - h[len(x) :] * 0.5 if twice else h


@pytest.mark.parametrize("batch", [1, 2])
def test_another_inner_batch_uses_no_feature_of_the_one_before(batch):
    model, plain = skipcache.accelerate(tiny(Doubles), interval=3, engine="hooks"), tiny(Doubles)
    x = torch.randn(batch, 4, 4, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in torch.linspace(950, 50, 19):
            x = x + 0.01
            cached = skipcache.report(model).cached_steps
            output = model(x, t.expand(batch))
            if skipcache.report(model).cached_steps == cached:
                assert torch.equal(output, plain(x, t.expand(batch)))
            assert output.shape == x.shape
    report = skipcache.report(model)
    assert report.cached_steps >= 8 and any("is given other tensors than it was" in r for r in report.reasons)


class LeavesOut(Tiny):
    """On some steps it leaves out some of its blocks, or all."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left_out = {}

    def forward(self, x, t):
        c, h = self.time(t), self.inlet(x.flatten(2).transpose(1, 2))
        for i, block in enumerate(self.blocks):
            if i not in self.left_out.get(round(float(t[0])), ()):
                h = block(h, c)
        return self.outlet(h).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("left_out", [(2,), (3,), (2, 3, 4), (1, 2, 3), (0,), (4,), range(5)], ids=str)
@pytest.mark.parametrize("at", [800, 650, 500])
def test_blocks_that_are_left_out_on_some_step(at, left_out):
    model, plain = skipcache.accelerate(tiny(LeavesOut), interval=3, engine="hooks"), tiny(LeavesOut)
    model.left_out = plain.left_out = {at: left_out}
    x = torch.randn(2, 4, 4, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in (950, 800, 650, 500, 350, 200, 50):
            x, now = x + 0.01, torch.full((2,), float(t))
            cached = skipcache.report(model).cached_steps
            output = model(x, now)
            if t == at or skipcache.report(model).cached_steps == cached:
                assert torch.equal(output, plain(x, now)), t
    assert skipcache.report(model).cached_steps >= 2


def test_what_is_made_of_a_deep_block_has_the_earliest_of_them_for_its_origin():
    watch, early, late = Watch(), torch.ones(2), torch.ones(2)
    watch.follow(early, 1), watch.follow(late, 2)
    watch.enter_deep(2)
    watch.resume()
    alone, both, size = late * 2, early + late, early.shape
    watch.pause()
    assert (watch.origin(alone), watch.origin(both), watch.origin(torch.ones(2))) == (2, 1, None)
    assert watch.read == "add" and size == (2,) and _get_current_function_mode_stack() == []
    watch.enter_deep(3)
    assert watch.read is None, "it was on the way to the next deep block"

"""What the fx engine refuses, because a graph would lose it, and what serves instead."""

import contextlib
import random

import numpy
import pytest
import torch
from torch import nn

import skipcache
from skipcache import Hold
from skipcache.engines import order
from tests.models.odd import Tiny, noise, run, tiny
from tests.models.sampling import build, equal, sample


class InPlaceOnFeatures(Tiny):
    def before(self, h, x, t):
        h += 1
        return h


class InPlaceByMethod(Tiny):
    def after(self, h, x, t):
        return h.mul_(2)


class InPlaceIntoASlice(Tiny):
    def after(self, h, x, t):
        h[:, 0] = 0
        return h


class InPlaceThroughAView(Tiny):
    def after(self, h, x, t):
        y = h + 1
        y[:, :2].zero_()
        return y


class Draws(Tiny):
    def before(self, h, x, t):
        return h + torch.randn(h.shape)


class DrawsLike(Tiny):
    def after(self, h, x, t):
        return h + torch.rand_like(h)


class Drops(Tiny):
    def after(self, h, x, t):
        return nn.functional.dropout(h, 0.5, training=True)


class DrawsFromPython(Tiny):
    def before(self, h, x, t):
        return h * random.random()


class DrawsFromNumpy(Tiny):
    def before(self, h, x, t):
        return h * float(numpy.random.rand())


class Counts(Tiny):
    def before(self, h, x, t):
        self.count += 1
        return h + self.count


class CountsInAList(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def before(self, h, x, t):
        self.seen.append(0)
        return h * len(self.seen)


class CountsInABuffer(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("calls", torch.zeros(()))

    def before(self, h, x, t):
        self.calls += 1
        return h * self.calls


class Autocasts(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mix = nn.Linear(16, 16)

    def after(self, h, x, t):
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.linear(h, self.mix.weight).float()


class BranchesOnItem(Tiny):
    def before(self, h, x, t):
        return h if x.mean().item() > 0 else h * 2


class BranchesOnTruth(Tiny):
    def before(self, h, x, t):
        return h * 2 if (t > 500).all() else h


class ReadsAList(Tiny):
    def before(self, h, x, t):
        return h * t.tolist()[0]


class SwitchesGradMode(Tiny):
    def before(self, h, x, t):
        with torch.enable_grad():
            return h * 2


class KeepsATensor(Tiny):
    def before(self, h, x, t):
        self.hidden = h
        return h


REFUSED = {
    InPlaceOnFeatures: "in place",
    InPlaceByMethod: "in place",
    InPlaceIntoASlice: "in place",
    InPlaceThroughAView: "in place",
    Draws: "random",
    DrawsLike: "random",
    Drops: "random",
    DrawsFromPython: "Python's random",
    DrawsFromNumpy: "NumPy",
    Counts: "sets count",
    CountsInAList: "sets seen",
    CountsInABuffer: "in place",
    Autocasts: "autocast",
    BranchesOnItem: "",
    BranchesOnTruth: "",
    ReadsAList: "",
    SwitchesGradMode: "grad",
    KeepsATensor: "sets hidden",
}

# Behind the deep blocks, so that no second run repeats the output: hooks refuse these too.
UNREPEATABLE = {DrawsLike, Drops}


def seeded(model, **kwargs):
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    return run(model, **kwargs)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_a_graph_would_lose_is_refused(kind, monkeypatch):
    """fx raises; auto gives what hooks give, or leaves the model alone, and says why."""
    with pytest.raises(RuntimeError, match=f"cannot serve {kind.__name__}: .*{REFUSED[kind]}"):
        seeded(skipcache.accelerate(tiny(kind), interval=3, engine="fx"))

    monkeypatch.setattr(order, "WORTH", 0)
    plain = seeded(tiny(kind))
    assert equal(seeded(skipcache.accelerate(tiny(kind), interval=1)), plain)
    auto, hooks = (skipcache.accelerate(tiny(kind), interval=3, engine=engine) for engine in ("auto", "hooks"))
    alone = kind in UNREPEATABLE
    with pytest.warns(UserWarning, match="did not give") if alone else contextlib.nullcontext():
        outputs = seeded(auto)
    with pytest.warns(UserWarning, match="did not give") if alone else contextlib.nullcontext():
        assert equal(outputs, seeded(hooks))
    found = skipcache.report(auto)
    assert any(REFUSED[kind] in reason and reason.startswith("fx: ") for reason in found.reasons)
    assert found.cached_steps == (0 if alone else 4) and equal(outputs[:1], plain[:1])
    if alone:
        assert equal(outputs, plain)
    if kind in (Counts, CountsInAList, CountsInABuffer):
        assert 7 in (auto.count, len(getattr(auto, "seen", ())), float(getattr(auto, "calls", 0)))


@pytest.mark.parametrize("kind", [Draws, DrawsFromPython, DrawsFromNumpy], ids=lambda kind: kind.__name__)
def test_trials_take_no_random_numbers_from_the_run(kind):
    """What a forward draws is what it would have drawn alone, however often the model was tried out."""

    def drawn(model):
        return seeded(model), (random.random(), numpy.random.rand(), torch.rand(()).item())

    plain, rest = drawn(tiny(kind))
    for engine in ("auto", "hooks"):
        outputs, left = drawn(skipcache.accelerate(tiny(kind), interval=100, engine=engine))
        assert left == rest and torch.equal(outputs[0], plain[0])


class Fussy(Hold):
    """A predictor that looks at values on the host."""

    def predict(self, H, kept, weights):
        return super().predict(H, kept, weights) if kept[0][0].sum().item() < 1e9 else ()


def test_a_predictor_that_cannot_be_traced_is_left_to_hooks(monkeypatch):
    monkeypatch.setattr(order, "WORTH", 0)
    model = skipcache.accelerate(build("dit"), interval=3, predictor=Fussy())
    sample("dit", model)
    report = skipcache.report(model)
    assert report.cached_steps > 0 and report.engine == "fx and hooks"


class WritesToItsSample(Tiny):
    def before(self, h, x, t):
        x.mul_(0.5)
        return h


def test_a_forward_that_writes_to_its_arguments_writes_once():
    def final(model):
        x, t = noise(), torch.full((2,), 500)
        with torch.no_grad():
            outputs = [model(x, t - i).clone() for i in range(4)]
        return [*outputs, x]

    plain = final(tiny(WritesToItsSample))
    with pytest.warns(UserWarning, match="writes to its arguments"):
        assert equal(final(skipcache.accelerate(tiny(WritesToItsSample), interval=2)), plain)

"""A loop may write in place to what it gave and to what it was given. Nothing that is cached may change by that."""

from dataclasses import replace

import pytest
import torch

import skipcache
from skipcache import Damped, Delta, Forecast, Hold, Stack, Threshold
from skipcache.runtime import Corrections
from tests.models.calibrations import STEPS, calibrated
from tests.models.odd import Tiny, tiny
from tests.models.sampling import equal, sample

ENGINES = ("hooks", "fx")
STACK = Stack(tuple((f"blocks.{i}",) for i in range(5)), "x", "t")


class Direct(Tiny):
    """Its first block takes the sample itself, and what its last block returns is the output."""

    def forward(self, x, t):
        c = self.time(t)
        for block in self.blocks:
            x = block(x, c)
        return x


class Turned(Direct):
    """Its output is a view of what its last block returns."""

    def forward(self, x, t):
        return super().forward(x, t).transpose(1, 2).transpose(1, 2)[:]


def outputs(model, writes):
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for t in torch.linspace(950, 50, 9):
        with torch.no_grad():
            e = model(x, t.expand(2))
        found.append(e.clone())
        after = x - e / 9
        if writes:
            e.mul_(7)
            x.copy_(after)
        else:
            x = after
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [Direct, Turned])
@pytest.mark.parametrize(
    ("keep", "settings"),
    [
        ((1, 0), {"interval": 3, "predictor": Hold()}),
        ((1, 0), {"interval": 3, "predictor": Delta()}),
        ((0, 0), {"interval": 3, "predictor": Damped()}),
        ((0, 1), {"interval": 3, "predictor": Forecast(2)}),
        ((0, 1), {"policy": Threshold(1.0), "predictor": Hold()}),
    ],
    ids=str,
)
def test_writes_to_samples_and_outputs_change_nothing_that_is_cached(engine, kind, keep, settings):
    model = skipcache.accelerate(tiny(kind), keep=keep, engine=engine, stack=STACK, **settings)
    expected = outputs(model, writes=False)
    skipcache.reset(model)
    assert all(map(torch.equal, outputs(model, writes=True), expected))
    assert skipcache.report(model).cached_steps > 0


def test_a_calibration_reads_no_output_that_was_written_to():
    """Where a step adds nothing its output is the model's own, and the next step reads it."""
    model, calibration = calibrated()
    scalars = ((), (0.0, 0.0, 0.5)) * (STEPS // 2)
    calibration = replace(calibration, corrections=Corrections(scalars))
    skipcache.accelerate(model, calibration=calibration)

    def spoiling(**given):
        output = model(**given)
        copy = output.clone()
        output.mul_(3)
        return copy

    expected = sample("original_dit", model, STEPS, 5)
    skipcache.reset(model)
    assert equal(sample("original_dit", model, STEPS, 5, call=spoiling), expected)
    assert skipcache.report(model).cached_steps > 0


class Told(Tiny):
    """Its forward takes a text."""

    def before(self, h, x, t, text):
        return h + text


def through_data(text, other):
    text.data.copy_(other)


def through_numpy(text, other):
    text.numpy()[...] = other.numpy()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("write", [through_data, through_numpy])
def test_a_text_that_was_written_to_without_a_count_is_another_text(engine, write):
    """On the host some of its values are looked at. The step after it is full, and right."""
    model, plain = tiny(Told), tiny(Told)
    skipcache.accelerate(model, interval=4, engine=engine)
    generator = torch.Generator().manual_seed(0)
    text, other = (torch.randn(2, 1, 16, generator=generator) for _ in range(2))
    x = torch.randn(2, 4, 4, 4, generator=generator)
    with torch.no_grad():
        for i, t in enumerate(torch.linspace(950, 50, 8)):
            if i == 6:
                write(text, other)
            e = model(x, t.expand(2), text=text)
            if i == 6:
                assert torch.equal(e, plain(x, t.expand(2), text=other))
            x = x - e / 8
    assert skipcache.report(model).cached_steps > 0

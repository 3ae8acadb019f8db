"""The README's limits that are wrong reuses, one by one: what no evidence can tell, and `test_reuse.py` does not draw.

Each expects the right value, and is expected to fail as long as the limit stands. One without a mark was a limit once.
"""

from dataclasses import replace

import pytest
import torch

import skipcache
from tests.models.calls import Denoiser, Near
from tests.models.devices import as_on_device
from tests.models.fuzz.clients import Given, Inversion, Run, Served, Tiles
from tests.models.fuzz.world import Program, World
from tests.models.odd import Tiny, noise, tiny
from tests.models.reuse import watched, wrong

pytestmark = pytest.mark.filterwarnings("ignore:skipcache caches nothing:UserWarning")

DDIM = Served("DDIM")


def limit(reason, *values):
    """A case that is known to go wrong."""
    return pytest.param(*values, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason), id=reason)


def tile(served):
    return Tiles("ddim", 6, starts=(0,), shift=16, served=served)


GOES_ON = Run(steps=6, begin=2, seed=1, served=DDIM, again=True)


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize(
    "program",
    [
        limit("copies of windows on a device", Program((tile(DDIM),), on_device=True)),
        limit("windows where noise is drawn", Program((tile(Served("DDPM")),))),
        limit(
            "texts in turn at one time on a device",
            Program((Run("heun", 6, turns=3, served=Served("PNDM")),), on_device=True),
        ),
        limit("two requests with one noise and text", Program((Run(steps=5), Run(steps=5)), (0, 1) * 6)),
        limit("an inversion from the last image", Program((Run(), Inversion()), interval=4)),
        limit("the noise of a run that was stopped", Program((Run(stop=1), Run(begin=2)))),
        limit("a schedule that is gone on with", Program((Run(stop=1, seed=0, served=DDIM), GOES_ON), on_device=True)),
    ],
)
def test_no_feature_of_another_call(program, engine):
    assert not World(replace(program, engine=engine)).run().wrong


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("guidance", ["none", "apart", "first"])
@pytest.mark.parametrize("served", [None, Served("Heun"), Served("PNDM")], ids=str)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_texts_that_change_at_the_second_evaluation_of_a_step(turns, served, guidance, engine):
    """No limit on the host: another sample that goes on from one of the step is the next evaluation."""
    client = Run("heun", 6, seed=1, guidance=guidance, served=served, turns=turns, swap=2 if turns == 1 else None)
    assert not World(Program((client,), (), engine)).run().wrong


class Told(Tiny):
    """It uses the number that it is told."""

    def before(self, h, x, t, text=None, scale=0.0):
        return h * (1 + scale) + text


@torch.no_grad()
def crops(model, copied, steps=20):
    """The whole image, and a crop of it that moves by a row on each step, in a loop without a scheduler."""
    x, texts = noise(side=8, batch=1), [torch.zeros(1), torch.ones(1)]
    for i, t in enumerate(torch.linspace(950, 50, steps)):
        yield "whole"
        e, rows = model(x, t.expand(1), text=texts[0]), slice(i % 5, i % 5 + 4)
        yield i % 5
        crop = x[..., rows, :]
        e[..., rows, :] += model(crop.clone() if copied else crop, t.expand(1), text=texts[1])
        x = x - e / steps


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("copied", [False, True])
def test_a_crop_that_moves_beside_the_whole_image(copied, engine):
    model, now = skipcache.accelerate(tiny(Told), interval=3, engine=engine), []
    with watched(lambda: now[-1]) as log:
        for name in crops(model, copied):
            now.append(name)
    assert not wrong(log)


def told(model, numbers):
    """Runs of one text: by step, the numbers that the model is told, in the order of calls."""
    x, text = noise(batch=1), torch.ones(1)
    for t, told_now in zip(torch.linspace(950, 50, len(numbers)), numbers):
        for number in told_now:
            yield number
            e = model(x, t.expand(1), text=text, scale=number)
        x = x - e / len(numbers)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a number that changed on each call of an earlier run")
@torch.no_grad()
def test_a_pass_that_a_later_run_begins_at_its_second_step():
    model, now = skipcache.accelerate(tiny(Told), interval=3, engine="hooks"), []
    with watched(lambda: now[-1]) as log:
        now.extend(told(model, [(0.1 * i,) for i in range(6)]))
        log.clear()
        for number in told(model, [(0.0,), (0.5, 0.0), (0.5, 0.0)]):
            now.append(number)
    assert not wrong(log)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the order of calls, where their number changes")
def test_guidance_that_stops_where_all_conditioning_changes():
    """Residuals that are alike for both texts."""
    model, residuals, lanes = Denoiser(), Near(), {}
    for step, t in enumerate(range(900, 100, -100)):
        for name in ("negative", "positive")[step > 4 :]:
            _, full, _ = model(t, residuals())
            assert full or lanes[model.lane] == name, step
            lanes[model.lane] = name


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="writes that torch does not count, on a device")
@torch.no_grad()
def test_a_text_that_is_written_to_through_its_data():
    model, text, x = skipcache.accelerate(tiny(Told), interval=3, engine="hooks"), torch.zeros(1), noise(batch=1)
    with as_on_device(), watched(lambda: float(text)) as log:
        for step, t in enumerate(torch.linspace(950, 50, 6)):
            text.data.fill_(step > 3)
            x = x - model(x, t.expand(1), text=text) / 6
    assert not wrong(log)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="weights that are written to through their data")
@pytest.mark.parametrize("engine", ["fx", "hooks"])
@torch.no_grad()
def test_a_weight_that_is_given_other_data(engine):
    model, x = skipcache.accelerate(tiny(), interval=3, engine=engine), noise(batch=1)
    weight = model.blocks[2].adaLN.weight
    with watched(lambda: float(weight.norm())) as log:
        for t in torch.linspace(950, 50, 6):
            weight.data = weight * 1.5
            x = x - model(x, t.expand(1)) / 6
    assert not wrong(log)


@pytest.mark.parametrize("way", ["vectors", "views"])
def test_a_window_that_stands_still_is_cached_on_a_device(way):
    """What the first limit buys: samples are not read there."""
    client = Tiles("ddim", 6, starts=(0,), served=DDIM, given=Given(way))
    world = World(Program((client,), (), "hooks", True)).run()
    assert not world.wrong and sum(not row.full for row in world.made) == 4

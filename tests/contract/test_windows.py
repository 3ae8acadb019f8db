"""A window that moves over a canvas, on a device whose scheduler is known, where samples are not read."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import skipcache
from tests.models.devices import as_on_device
from tests.models.odd import Tiny
from tests.models.schedulers import started

STEPS, WIDTH = 9, 4
STACK = skipcache.Stack(tuple((f"blocks.{i}",) for i in range(3)), "x", "t")


class Pipeline:
    """Denoises one window per step, which begins at column `start(i)`; `fresh`: the canvas is a new one after each."""

    def __init__(self, start, fresh):
        torch.manual_seed(0)
        self.transformer, self.scheduler = Tiny().eval(), started(FlowMatchEulerDiscreteScheduler(), STEPS)
        self.start, self.fresh = start, fresh

    @torch.no_grad()
    def __call__(self):
        scheduler = self.scheduler
        scheduler.set_timesteps(STEPS)
        canvas = torch.randn(2, 4, WIDTH, 16, generator=torch.Generator().manual_seed(1))
        for i, t in enumerate(scheduler.timesteps):
            place = slice(self.start(i), self.start(i) + WIDTH)
            window = canvas[..., place]
            output = self.transformer(window, t.expand(2))
            canvas = canvas.clone() if self.fresh else canvas
            canvas[..., place] = scheduler.step(output, t, window, return_dict=False)[0]
        return canvas


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.filterwarnings("ignore:skipcache caches nothing:UserWarning")
def test_a_window_that_moves_reuses_nothing_and_one_that_stands_is_cached(engine, fresh):
    for start, cached in ((lambda i: i + 1, 0), (lambda i: 4, 6)):
        plain, pipe = Pipeline(start, fresh), Pipeline(start, fresh)
        skipcache.accelerate(pipe, policy=skipcache.Interval(3), engine=engine, stack=STACK)
        with as_on_device():
            found = pipe()
        report = skipcache.report(pipe)
        assert report.cached_steps == cached
        assert torch.equal(found, plain()) == (not cached)

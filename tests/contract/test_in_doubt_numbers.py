"""Numbers that cannot be are refused at once, and a forward that leaves its blocks out is run as it is."""

import math

import diffusers
import pytest
import torch
from torch import nn

import skipcache
from skipcache.runtime.corrections import Corrections
from skipcache.trajectory.time.scheduler_run import SchedulerRun


@pytest.mark.parametrize(
    "make",
    [
        lambda: skipcache.Interval(3, start=math.nan),
        lambda: skipcache.Spread(0.3, steps=10**30),
        lambda: Corrections(((math.nan, 0.0),)),
        lambda: Corrections((), (math.inf,)),
        lambda: Corrections(((1e30,),)),
        lambda: skipcache.Calibration("M", 4, (0, 0), (900.0, math.nan), (0,), 0.1, 2.0),
    ],
    ids=["window", "steps", "nan", "infinite", "huge", "timesteps"],
)
def test_numbers_that_cannot_be(make):
    with pytest.raises(ValueError, match=r"finite|<= 100000"):
        make()


@pytest.mark.parametrize(
    ("name", "noisy"),
    [("LCMScheduler", True), ("TCDScheduler", True), ("SASolverScheduler", True), ("UnCLIPScheduler", True),
     ("CMStochasticIterativeScheduler", True), ("DDIMScheduler", False), ("UniPCMultistepScheduler", False)],
)  # fmt: skip
def test_schedulers_that_draw_noise_are_known(name, noisy):
    assert SchedulerRun(getattr(diffusers, name)(), torch.ones(3)).is_noisy is noisy


def test_flow_matching_draws_noise_where_its_settings_say_so():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    assert SchedulerRun(scheduler, torch.ones(3)).is_noisy


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x, t):
        return x + torch.tanh(self.inner(x)) * t[:, None, None]


class Answering(nn.Module):
    """On one step it answers from what it kept, without its blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.kept = None

    def forward(self, x, timestep):
        if abs(float(timestep[0]) - 0.7) < 1e-3:
            return x + self.kept
        h = x
        for block in self.blocks:
            h = block(h, timestep)
        self.kept = h - x
        return h


@torch.no_grad()
def test_a_forward_that_leaves_out_its_blocks_on_a_full_step_is_run_as_it_is():
    torch.manual_seed(0)
    model = skipcache.accelerate(Answering().eval(), interval=3, engine="hooks")
    x = torch.randn(1, 4, 8)
    for i in range(10):
        out = model(x, torch.tensor([1 - i / 10]))
        if i == 3:
            assert torch.equal(out, x + model.kept)
        x = x * 0.99
    report = skipcache.report(model)
    assert report.full_steps + report.cached_steps == 10 and any("did not run its blocks" in r for r in report.reasons)

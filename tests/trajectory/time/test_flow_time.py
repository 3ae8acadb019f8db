"""Flow time of each step, whatever way a scheduler says its noise levels, and on a device without reading it."""

from itertools import pairwise
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    UniPCMultistepScheduler,
)

from skipcache.policies.spread import usual
from skipcache.trajectory.time.flow_time import flow_times
from skipcache.trajectory.time.scheduler_run import SchedulerRun
from tests.models.schedulers import SCHEDULERS

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
NAMED = ("DDIM", "DDPM", "DEISMultistep", "EulerAncestralDiscrete", "LCM", "PNDM", "SASolver", "TCD")


def times(scheduler, steps=20, **options):
    scheduler.set_timesteps(steps, **options)
    return flow_times(scheduler, scheduler.timesteps)


@pytest.mark.parametrize("cls", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_schedulers_of_one_noise_schedule_agree(cls):
    """Some say the share of the signal, others the noise over the signal."""
    scheduler = cls(**LINEAR)
    found = times(scheduler)
    left = DDIMScheduler(**LINEAR).alphas_cumprod.double()[scheduler.timesteps.long()]
    expected = (1 - left).sqrt() / (left.sqrt() + (1 - left).sqrt())
    assert torch.allclose(torch.tensor(found).double(), expected, atol=2e-3)
    assert len(found) == 20 and found == tuple(sorted(found, reverse=True))


def test_flow_matching_says_flow_time_itself():
    found = times(FlowMatchEulerDiscreteScheduler(shift=3.0), 28)
    assert found[0] == 1 and found[-1] < 0.02
    plain = times(FlowMatchEulerDiscreteScheduler(), 28)
    assert torch.allclose(torch.tensor(found), torch.tensor([3 * s / (1 + 2 * s) for s in plain]), atol=1e-2)
    inverted = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    assert times(inverted, 28) == pytest.approx(plain, abs=1e-6), "Mochi counts from data to noise"
    wan = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert times(wan, 28)[0] == pytest.approx(1, abs=1e-3)


def test_second_evaluations_have_a_time_too_and_an_inversion_rises():
    found = times(HeunDiscreteScheduler(), 6)
    assert len(found) == 11 and found[1] == found[2]
    assert all(b > a for a, b in pairwise(times(DDIMInverseScheduler())))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_all_kinds_of_schedulers_are_read_or_said_to_be_unknown(kind):
    scheduler = SCHEDULERS[kind]()
    found = flow_times(scheduler, scheduler.timesteps)
    assert found is None or (len(found) == len(scheduler.timesteps) and all(0 <= t <= 1 for t in found))


@pytest.mark.parametrize("name", NAMED)
def test_these_of_diffusers_are_read(name):
    assert times(getattr(diffusers, f"{name}Scheduler")()) is not None


def test_what_is_not_known_is_none():
    assert times(IPNDMScheduler()) is None
    assert flow_times(SimpleNamespace(), torch.arange(5)) is None
    assert flow_times(SimpleNamespace(sigmas=torch.tensor([1.0, float("nan"), 0])), torch.arange(2)) is None
    assert SchedulerRun(None, torch.arange(5)).times is None


def test_the_schedule_of_loops_without_a_scheduler_is_ddpm_s():
    found = times(DDPMScheduler(timestep_spacing="trailing", **LINEAR), 50)
    assert usual(50) == pytest.approx(found, abs=5e-3)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (DDIMScheduler(), {}),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), {}),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), {"mu": 1.15}),
    ],
    ids=["ddim", "flow", "flux"],
)
def test_on_a_device_a_copy_is_set_on_the_host_and_nothing_is_read(scheduler, options):
    """Of what lies on the device. Flux's shift depends on the image's size: the largest that is usual is taken."""
    expected = times(scheduler, **options)
    for name in ("timesteps", "sigmas"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).to("meta"))  # it has no values to read
    state = dict(scheduler.__dict__)
    assert flow_times(scheduler, scheduler.timesteps) == expected
    assert all(scheduler.__dict__[name] is value for name, value in state.items()), "the scheduler is left alone"


def test_where_no_copy_can_be_set_nothing_is_known():
    class Odd:
        num_inference_steps, timesteps, alphas_cumprod = 5, torch.arange(5), torch.linspace(1, 0, 10)

        def set_timesteps(self, steps, device):
            raise RuntimeError("custom")

    odd = Odd()
    assert len(flow_times(odd, odd.timesteps)) == 5
    assert flow_times(odd, odd.timesteps.to("meta")) is None

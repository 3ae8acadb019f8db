"""Where tensors lie on a device, a call is placed without reading them, or in doubt with one look a step."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from tests.models.calls import Denoiser, every, tensor
from tests.models.schedulers import SCHEDULERS, WAYS, started


@pytest.mark.parametrize("way", ["copies", "vectors"])
def test_one_look_a_step_in_a_ddim_run_whose_timesteps_are_made_anew(blind, way):
    """No memory is shared and there is no step_index: nothing else tells that a step has gone by."""
    scheduler, text = DDIMScheduler(), tensor(4, 4)
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 4):
        scheduler.set_timesteps(steps)
        timesteps, blind.reads = list(map(WAYS[way], scheduler.timesteps)), 0
        with blind(allowed=True):
            assert model.run(timesteps, text) == every(3, steps)
        assert blind.reads <= steps + 2, "the first step's time, and the run's own timesteps, once"


@pytest.mark.parametrize("buffer", [False, True], ids=["new", "rewritten"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_one_look_a_step_in_a_ddim_run_of_two_lanes(blind, mode, buffer):
    """Both calls of a step are given one timestep tensor."""
    scheduler, texts = DDIMScheduler(), (tensor(), tensor())
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 4):
        scheduler.set_timesteps(steps)
        with mode():
            memory = torch.zeros(2, dtype=torch.long)
            for step, t in enumerate(scheduler.timesteps.tolist()):
                given = memory.fill_(t) if buffer else torch.full((2,), t)
                blind.reads = 0
                with blind(allowed=True):
                    found = [model(given, text) for text in texts]
                assert found == [(step, step % 3 == 0, lane) for lane in (0, 1)]
                assert blind.reads <= (2 if step > 1 else 3)


@pytest.mark.parametrize("tiles", [2, 3])
def test_samples_in_turns_share_nothing_on_a_device(blind, tiles):
    scheduler, text, last = started(DDIMScheduler(), 8), tensor(), {}
    model = Denoiser(schedulers=[scheduler])
    for t in scheduler.timesteps:
        given = t.repeat(2)
        with blind(allowed=True):
            for tile in range(tiles):
                full = model(given, text)[1]
                if full:
                    last[model.lane] = tile
                assert last[model.lane] == tile


@pytest.mark.parametrize("start", [1, 2, 4])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["old first", "new first"])
def test_guidance_that_starts_half_way_on_a_device(blind, start, order):
    scheduler, texts = started(DDIMScheduler(), 8), (tensor(), tensor())
    model, seen = Denoiser(schedulers=[scheduler]), []
    for step, t in enumerate(scheduler.timesteps):
        given = t.repeat(2)
        with blind(allowed=True):
            for which in order if step >= start else (0,):
                found = model(given, texts[which])
                assert found[:2] == (step, step % 3 == 0 or (which == 1 and step == start))
                assert found[2] == which
        seen.append(blind.reads)
    assert seen[-1] <= 2 * len(seen) + 6, "two looks a step at most, and a few where the lane is new"


def test_a_loop_of_one_s_own_on_a_device_after_a_run_that_ended(blind):
    """The count is past the end: nothing of that run is reused."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    scheduler.set_timesteps(sigmas=[1 - i / 8 for i in range(8)])
    for t in scheduler.timesteps:
        model(t.expand(2) / 1000, text, x=x)
        x = scheduler.step(model.e, t, x).prev_sample
    with blind(allowed=True):
        assert model.run([torch.full((2,), t) for t in (0.9, 0.8, 0.7, 0.6)], text) == every(3, 4)


def test_a_timestep_that_is_made_anew_for_each_call_costs_a_look(blind):
    scheduler, texts = DDIMScheduler(), (tensor(), tensor())
    model = Denoiser(schedulers=[scheduler])
    for _ in range(2):
        scheduler.set_timesteps(7)
        timesteps = [t.clone() for t in scheduler.timesteps]
        blind.reads = 0
        with blind(allowed=True):
            for step, t in enumerate(timesteps):
                found = [model(t.clone(), text) for text in texts]
                assert found == [(step, step % 3 == 0, lane) for lane in (0, 1)]
        assert 0 < blind.reads <= 2 * 7 + 2, "each call has a timestep of its own"


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("divisor", [1, 1000])
def test_no_device_is_read_in_a_flow_run(blind, lanes, divisor):
    scheduler, texts, x = FlowMatchEulerDiscreteScheduler(), (tensor(), tensor()), tensor()
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 4):
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(0)
        for step, t in enumerate(scheduler.timesteps):
            given = t.expand(2) / divisor
            with blind():
                found = [model(given, text, x=x) for text in texts[:lanes]]
            assert found == [(step, step % 3 == 0, lane) for lane in range(lanes)]
            x = scheduler.step(model.e, t, x).prev_sample


@pytest.mark.parametrize("way", ["views", "expanded"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_no_device_is_read_where_timesteps_are_views(blind, kind, way):
    scheduler, texts = SCHEDULERS[kind](), (tensor(), tensor())
    timesteps = list(map(WAYS[way], scheduler.timesteps))
    model = Denoiser(schedulers=[scheduler])
    with blind():
        for step, t in enumerate(timesteps):
            found = [model(t, text) for text in texts]
            assert found == [(step, step % 3 == 0, lane) for lane in (0, 1)]


def test_one_look_a_step_where_no_scheduler_is_known(blind):
    """At the sample; timesteps that are floats say as much as they can."""
    model, texts = Denoiser(), (tensor(), tensor())
    with blind(allowed=True):
        for step, t in enumerate([900.0, 800.0, 700.0, 600.0]):
            x, blind.reads = model.goes_on(), 0
            assert [model(t, text, x=x)[:2] for text in texts] == [(step, step % 3 == 0)] * 2
            assert blind.reads <= 3, "the timesteps are numbers; are rows of the sample equal, and does it go on"

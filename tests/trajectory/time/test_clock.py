"""The time of a call by its timestep alone: of every type, as a vector, and against a policy's window."""

import contextlib

import pytest
import torch
from diffusers import DDIMScheduler

from skipcache import Interval
from skipcache.trajectory.call import CallReader
from skipcache.trajectory.time.clock import Clock, Instant
from skipcache.trajectory.time.scheduler_run import SchedulerRun
from tests.models.calls import Denoiser, every, full_at, tensor
from tests.models.schedulers import started


@pytest.mark.parametrize(
    "make",
    [
        float,
        int,
        lambda t: torch.tensor(t),
        lambda t: torch.tensor([t, t]),
        lambda t: torch.tensor(t, dtype=torch.bfloat16),
        lambda t: torch.tensor([float(t)]).expand(2),
    ],
    ids=["float", "int", "scalar", "vector", "bfloat16", "expanded"],
)
def test_timesteps_of_every_type(make):
    model, a, b = Denoiser(), tensor(), tensor()
    for _ in range(2):
        for step, t in enumerate([900, 800, 700, 600]):
            assert [model(make(t), text) for text in (a, b)] == [(step, step % 3 == 0, lane) for lane in (0, 1)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_timestep_that_is_rewritten_in_place(lanes, mode):
    with mode():
        model, texts, buffer = Denoiser(), (tensor(), tensor()), torch.zeros(2)
        for _ in range(2):
            for step, t in enumerate([900, 800, 700, 600, 500]):
                buffer.fill_(t)
                found = [model(buffer, text) for text in texts[:lanes]]
                assert found == [(step, step % 3 == 0, lane) for lane in range(lanes)]


def test_vectors_of_unequal_timesteps_are_compared_whole():
    model, text = Denoiser(Interval(9)), tensor()
    vectors = [[900, 900], [900, 800], [800, 800], [0, 800], [0, 700]]
    assert model.run([torch.tensor(v) for v in vectors], text) == every(9, 5)
    assert model(torch.tensor([0, 900]), text) == (0, True, 0)


def test_two_lanes_at_unequal_timesteps():
    model, a, b = Denoiser(Interval(9)), tensor(), tensor()
    for step, v in enumerate([[900, 400], [800, 300], [700, 200]]):
        assert [model(torch.tensor(v), text) for text in (a, b)] == [(step, step == 0, 0), (step, step == 0, 1)]


def test_batched_guidance_is_one_lane():
    model, texts = Denoiser(), tensor(4, 64)
    found = [model(torch.tensor(t).expand(4), texts, x=torch.cat([model.goes_on()] * 2)) for t in (900, 800, 700, 600)]
    assert found == [(step, full, 0) for step, full in every(3, 4)]


def test_the_window_sees_the_values():
    model, text = Denoiser(Interval(4, start=800, stop=500)), tensor()
    assert full_at(model.run([900, 800, 700, 600, 500, 400, 300], text)) == [0, 1, 4, 5, 6]


@pytest.mark.parametrize("hidden", [False, True], ids=["host", "device"])
def test_the_window_sees_a_timestep_that_is_rewritten_in_place_as_it_was(blind, hidden):
    scheduler, text, buffer = started(DDIMScheduler(), 10), tensor(), torch.zeros(2, dtype=torch.long)
    model = Denoiser(Interval(3, None, 500), schedulers=[scheduler])
    timesteps = scheduler.timesteps.tolist()
    with blind(allowed=True) if hidden else contextlib.nullcontext():
        found = [model(buffer.fill_(t), text) for t in timesteps]
    assert full_at(found) == [0, 3, 5, 6, 7, 8, 9]


def test_a_window_that_does_not_fit_raises_at_the_second_step():
    model, text = Denoiser(Interval(2, start=900, stop=50)), tensor()
    model(0.9, text)
    with pytest.raises(ValueError, match="own units"):
        model(0.8, text)


def instant(timestep, **kwargs):
    return Instant.of(timestep, **kwargs)


def test_an_instant_remembers_the_values_that_a_buffer_had():
    buffer = torch.tensor([900.0, 900.0])
    before = instant(buffer)
    buffer.fill_(800)
    assert before.timesteps == (900.0,) and not before.mark.same(buffer)


def test_only_a_counted_position_is_compared_with_the_timestep():
    run = SchedulerRun(object(), torch.tensor([900.0, 800.0, 700.0]))
    first, second = (instant(t / 1000, run=run, position=i, counted=True) for i, t in ((0, 900.0), (1, 800.0)))
    assert second.directions_from(first) == (-1, -1)
    assert instant(0.95, run=run, position=1, counted=True).directions_from(first) == (1, -1)
    assert instant(0.8, run=run, position=1).directions_from(first) is None
    assert first.directions_from(first) is None, "there is nothing before the first position"
    assert first.next().position == 1 and instant(0.9).next().position is None


def test_an_instant_is_dark_where_a_run_is_known_and_reading_would_synchronise():
    run = SchedulerRun(object(), torch.tensor([900.0, 800.0]))
    unread = torch.ones(1, device="meta")
    assert instant(unread, run=run).is_dark
    assert not instant(unread).is_dark and not instant(unread, run=run, position=0).is_dark
    assert not instant(900.0, run=run).is_dark


def test_a_clock_reads_the_run_whose_memory_it_is_given():
    one, other = started(DDIMScheduler(), 4), started(DDIMScheduler(), 5)
    clock, reader = Clock(), CallReader(("x", "t"), "x", "t")
    calls = [reader.read((tensor(), t), {}) for t in (other.timesteps[2], 1.5)]
    read = [clock.read(call, [one, other]).after(None) for call in calls]
    assert read[0].run.timesteps is other.timesteps and read[0].position == 2
    assert read[1].run is read[0].run and read[1].position is None, "the run goes on where no other one is new"
    assert clock.read(calls[1], []).run is None
    assert clock.read(calls[1], [one, other]).run is read[0].run, (
        "other calls between, without a scheduler, end nothing"
    )
    clock.forget(read[0].run)
    assert clock.read(calls[1], [one, other]).run is None

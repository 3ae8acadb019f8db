"""The time of a call by a known scheduler: its position in the timesteps, or the scheduler's own count."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    PNDMScheduler,
)

from skipcache import Interval
from skipcache.trajectory.time.scheduler_run import SchedulerRun, current_runs
from tests.models.calls import Denoiser, every, full_at, indices, tensor
from tests.models.schedulers import SCHEDULERS, WAYS, started


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_step_is_the_position_in_the_scheduler(kind, way):
    """Whatever repeats, rises or falls; with two lanes as with one."""
    scheduler, texts = SCHEDULERS[kind](), (tensor(), tensor())
    for lanes in (1, 2):
        model = Denoiser(schedulers=[scheduler])
        for step, t in enumerate(scheduler.timesteps):
            found = [model(WAYS[way](t), text) for text in texts[:lanes]]
            assert found == [(step, step % 3 == 0, lane) for lane in range(lanes)]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_window_fits_a_run_that_falls_on_the_whole(kind):
    scheduler, text = SCHEDULERS[kind](), tensor()
    timesteps = scheduler.timesteps.tolist()
    model = Denoiser(Interval(3, 700, 200), schedulers=[scheduler])
    full = [i for i, t in enumerate(timesteps) if i % 3 == 0 or t >= 700 or (i and timesteps[i - 1] <= 200)]
    assert full_at(model.run(scheduler.timesteps, text)) == full
    with pytest.raises(ValueError, match="fall"):
        Denoiser(Interval(3, 200, 700), schedulers=[scheduler]).run(scheduler.timesteps, text)


def test_schedulers_are_as_irregular_as_the_tests_want():
    """Otherwise the tests above would prove nothing."""
    changes = {kind: make().timesteps.double().diff() for kind, make in SCHEDULERS.items()}
    assert all((changes[kind] == 0).any() for kind in ("heun", "pndm", "plms"))
    assert all((changes[kind] > 0).any() for kind in ("repaint", "kdpm2 ancestral"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_set_timesteps_starts_a_trajectory_wherever_the_last_one_stopped(kind):
    texts, make = tensor(), SCHEDULERS[kind]
    scheduler = make()
    model = Denoiser(schedulers=[scheduler])
    for stop in (1, 2, 4, 5):
        assert model.run(scheduler.timesteps[:stop], texts) == every(3, stop)
        scheduler.set_timesteps(len(scheduler.timesteps))
        assert model(scheduler.timesteps[0], texts) == (0, True, 0)
        scheduler.set_timesteps(len(scheduler.timesteps) + 1)


def test_a_run_again_without_set_timesteps():
    scheduler, text = started(DDIMScheduler(), 6), tensor()
    model = Denoiser(schedulers=[scheduler])
    for way in ("views", "views", "copies", "views"):
        assert model.run(map(WAYS[way], scheduler.timesteps), text) == every(3, 6)


def test_a_run_that_enters_the_schedule_half_way_counts_from_there():
    scheduler, text = started(DDIMScheduler(), 10), tensor()
    model = Denoiser(schedulers=[scheduler])
    for way in ("views", "copies"):
        scheduler.set_timesteps(10)
        assert model.run(map(WAYS[way], scheduler.timesteps[4:]), text) == every(3, 6)


@pytest.mark.parametrize("way", WAYS)
def test_repaint_calls_on_falls_alone_and_steps_go_on(way):
    """Steps without a call are counted where timesteps are views; values that repeat cannot tell of them."""
    scheduler, text = SCHEDULERS["repaint"](), tensor()
    timesteps = scheduler.timesteps
    called = [0] + [i for i in range(1, len(timesteps)) if timesteps[i] < timesteps[i - 1]]
    model = Denoiser(schedulers=[scheduler])
    found = indices([model(WAYS[way](timesteps[i]), text) for i in called])
    assert found == sorted(set(found))
    assert found == called or way not in ("views", "expanded")


def test_a_scheduler_is_replaced_between_runs():
    text, model = tensor(), Denoiser()
    for way in ("copies", "views", "copies"):
        for cls in (DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler):
            scheduler = started(cls(), 5)
            model.schedulers = [scheduler]
            count = len(scheduler.timesteps)
            assert model.run(map(WAYS[way], scheduler.timesteps), text) == every(3, count)


@pytest.mark.parametrize("way", WAYS)
def test_two_schedulers_of_two_pipelines(way):
    text, one, other = tensor(), DDIMScheduler(), HeunDiscreteScheduler()
    model = Denoiser(schedulers=[one, other])
    for stop in (3, 5, 2):
        one.set_timesteps(6)
        assert model.run(map(WAYS[way], one.timesteps[:stop]), text) == every(3, stop)
        other.set_timesteps(4)
        assert model.run(map(WAYS[way], other.timesteps[:stop]), text) == every(3, stop)


def test_two_runs_in_turns_share_nothing_where_timesteps_are_views():
    text, one, other = tensor(), started(DDIMScheduler(), 5), started(DDIMScheduler(), 5)
    model, runs = Denoiser(schedulers=[one, other]), []
    for step, times in enumerate(zip(one.timesteps, other.timesteps)):
        for t in times:
            assert model(t, text)[:2] == (step, step % 3 == 0)
            runs.append(model.trajectory)
    assert len(set(map(id, runs[::2]))) == len(set(map(id, runs[1::2]))) == 1 and runs[0] is not runs[1]


def test_a_scheduler_that_was_not_started_says_nothing():
    model, text = Denoiser(schedulers=[DDIMScheduler()]), tensor()
    assert model.run([900, 800, 700, 600], text) == every(3, 4)


def test_a_run_from_before_says_nothing_of_a_loop_of_one_s_own():
    scheduler, text = started(DDIMScheduler(), 50), tensor()
    model = Denoiser(schedulers=[scheduler], ignored=(scheduler.timesteps,))
    assert model.run([900, 800, 700, 600], text) == every(3, 4)
    assert model.run(scheduler.timesteps[:4], text) == every(3, 4)


def test_a_thousandth_of_the_timestep():
    """Flux: neither the memory nor the value is the scheduler's; its step_index is."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 5):
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        found = []
        for t in scheduler.timesteps:
            found.append(model(t.expand(2) / 1000, text, x=x)[:2])
            x = scheduler.step(model.e, t, x).prev_sample
        assert found == every(3, steps)


def test_a_thousandth_that_is_by_chance_a_timestep_costs_a_full_step_at_most():
    """1000 / 1000 is the last timestep of this run: the first call seems to be its last, the second a new beginning."""
    scheduler, text, x = started(FlowMatchEulerDiscreteScheduler(), 7), tensor(), tensor()
    assert scheduler.timesteps[-1] == 1
    model, found = Denoiser(schedulers=[scheduler]), []
    for t in scheduler.timesteps:
        found.append(model(t.expand(2) / 1000, text, x=x)[1])
        x = scheduler.step(model.e, t, x).prev_sample
    assert found[0] and found.count(True) <= 4
    assert False in found


@pytest.mark.parametrize("time", [lambda t: 1 - t / 1000, lambda t: t.bfloat16() / 1000], ids=["turned", "rounded"])
def test_a_model_s_own_time_on_the_scheduler_s_count(time):
    """Some count time from noise to image, some round it: the count holds as long as both move together."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(shift=3.0), tensor(), tensor()
    model, found = Denoiser(schedulers=[scheduler]), []
    scheduler.set_timesteps(sigmas=[1 - i / 100 for i in range(100)])
    assert (scheduler.timesteps.bfloat16().diff() == 0).any()
    for t in scheduler.timesteps:
        found.append(model(time(t.expand(2)), text, x=x)[:2])
        x = scheduler.step(model.e, t, x).prev_sample
    assert found == every(3, 100)


@pytest.mark.parametrize("stepped", [True, False], ids=["after a step", "before a step"])
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_a_loop_of_one_s_own_is_not_placed_by_the_count_of_a_scheduler_that_stands_still(stop, stepped):
    """The pipeline's run ended, or was left; its step_index says nothing of another run's timesteps."""
    text, mine = tensor(), FlowMatchEulerDiscreteScheduler()
    scheduler = FlowMatchEulerDiscreteScheduler()
    model = Denoiser(schedulers=[scheduler])

    def run(its, count, stop=None):
        its.set_timesteps(sigmas=[1 - i / count for i in range(count)])
        x, found = tensor(), []
        for i, t in enumerate(its.timesteps):
            found.append(model(t.expand(2) / 1000, text, x=x)[:2])
            if i != stop or stepped:
                x = its.step(model.e, t, x).prev_sample
            if i == stop:
                break
        return found

    assert run(scheduler, 7, stop) == every(3, stop + 1)
    assert run(mine, 5) == every(3, 5)
    assert run(scheduler, 7) == every(3, 7)


def test_another_sample_at_one_count_starts_a_trajectory():
    """Schedulers that evaluate a step twice count both."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    scheduler.set_timesteps(sigmas=[1 - i / 7 for i in range(7)])
    for t in scheduler.timesteps[:4]:
        model(t.expand(2) / 1000, text, x=x)
        x = scheduler.step(model.e, t, x).prev_sample
    t = scheduler.timesteps[4] / 1000
    assert model(t.expand(2), text, x=x) == (4, False, 0)
    assert model(t.expand(2), text) == (0, True, 0)


def test_another_sample_at_one_count_whose_timestep_repeats():
    scheduler, text, x = FlowMatchHeunDiscreteScheduler(), tensor(), tensor()
    model, found = Denoiser(Interval(20), schedulers=[scheduler]), []
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[3] == scheduler.timesteps[4]
    for t in scheduler.timesteps[:3]:
        found.append(model(t.expand(2) / 900, text, x=x)[:2])
        x = scheduler.step(model.e, t, x).prev_sample
    assert found == every(20, 3)
    t = scheduler.timesteps[3] / 900
    assert model(t.expand(2), text, x=x) == (3, False, 0)
    assert model(t.expand(2), text) == (0, True, 0)


def test_single_step_runs_are_full():
    scheduler, text = DDIMScheduler(), tensor()
    model = Denoiser(schedulers=[scheduler])
    for way in ("views", "copies"):
        for _ in range(3):
            scheduler.set_timesteps(1)
            assert model.run(map(WAYS[way], scheduler.timesteps), text) == [(0, True)]


def test_a_timing_loop_at_a_scheduler_s_timestep():
    scheduler, text, x = started(DDIMScheduler(), 5), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    model.run(scheduler.timesteps[:2], text)
    for i in range(10):
        found = model(scheduler.timesteps[2], text, x=x)
        assert (found is None) is bool(i), "a repeated call runs plain"
        assert len(model.trajectory.lanes.all) <= 2


# A run alone ----------------------------------------------------------------------------------------------------------


def test_a_position_is_told_by_memory_else_by_value_at_or_after_the_last_one():
    run = SchedulerRun(object(), torch.tensor([9.0, 7.0, 7.0, 3.0]))
    assert [run.position(t, None) for t in run.timesteps] == [0, 1, 2, 3] and run.holds(run.timesteps[2].expand(5))
    assert [run.position(t.item(), None) for t in run.timesteps] == [0, 1, 1, 3]
    assert [run.position(7.0, last) for last in (0, 1, 2, 3)] == [1, 1, 2, 1]
    assert run.position(5.0, None) is None and run.position(torch.tensor([9.0, 3.0]), None) is None
    assert not run.holds(torch.tensor(7.0)) and not run.holds(7.0)
    assert run.position(run.timesteps[:2], None) is None, "a view of two timesteps stands at none"


def test_values_are_compared_in_the_dtype_of_the_call():
    run = SchedulerRun(object(), torch.tensor([999.0, 998.9, 3.0]))
    assert run.position(torch.tensor(998.9).half(), None) == 0, "float16 rounds both to 999"
    assert run.turn(0, 1, 1.0) == -1 and run.turn(0, 1, torch.tensor(1.0).half()) == 0


def test_what_a_scheduler_says_of_itself():
    heun = started(HeunDiscreteScheduler(), 4)
    (run,) = current_runs([heun, DDIMScheduler(), object()])
    assert run.scheduler is heun and run.count is None and run.direction == -1 and not run.is_noisy
    assert [run.repeats(i) for i in range(len(run.timesteps))] == [False, True, False, True, False, True, False]
    heun.set_begin_index(2)
    assert run.count == 2
    for kind, noisy in ((KDPM2AncestralDiscreteScheduler, True), (DDIMScheduler, False)):
        assert SchedulerRun(started(kind(), 3), torch.ones(3)).is_noisy is noisy

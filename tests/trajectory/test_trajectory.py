"""When a run begins, and what a second call at the same timestep is."""

import pytest
import torch
from diffusers import DDIMScheduler

from skipcache import Delta, Forecast, Interval, Schedule
from skipcache.trajectory.call import CallReader
from skipcache.trajectory.places import Fits, NewRun, Repeat
from skipcache.trajectory.time import Instant
from skipcache.trajectory.trajectory import Trajectory
from tests.models.calls import NAMES, Denoiser, every, full_at, indices, tensor
from tests.models.schedulers import WAYS, started


def test_a_falling_run():
    model, text = Denoiser(), tensor()
    assert model.run([900, 800, 700, 600, 500], text) == every(3, 5)


def test_a_rising_run():
    """The first one of a process is as every later one."""
    model, text = Denoiser(), tensor()
    for _ in range(2):
        assert model.run([0.0, 0.2, 0.4, 0.6, 0.8], text) == every(3, 5)


def test_direction_is_learned_anew_in_each_trajectory():
    model, text = Denoiser(), tensor()
    for _ in range(2):
        assert model.run([800, 700, 600, 500], text) == every(3, 4)
        assert model.run([600, 700, 800, 900], text) == every(3, 4)


def test_a_run_after_one_that_stopped_at_its_first_step_shares_nothing_with_it():
    model, text = Denoiser(), tensor()
    model.run([500], text)
    model.another()
    assert model.run([900, 800, 700, 600], text) == every(3, 4)


@pytest.mark.parametrize(("timesteps", "back"), [([900, 800, 700], 800), ([0.1, 0.2, 0.3], 0.2)])
def test_a_value_against_the_direction_starts_a_trajectory(timesteps, back):
    model, text = Denoiser(), tensor()
    model.run(timesteps, text)
    assert model(back, text) == (0, True, 0)
    assert len(model.trajectory.tensors) == 1


def test_a_repeated_value_does_not_unlearn_the_direction():
    model, text = Denoiser(), tensor()
    model.run([900, 800, 700, 700], text)
    assert model(750, text) == (0, True, 0)


def test_strides_need_not_be_even():
    model, text = Denoiser(Interval(4)), tensor()
    assert model.run([999.0, 998.0, 500.0, 499.5, 3.0, 0.0], text) == every(4, 6)


def test_drop_forgets_the_run():
    model, text = Denoiser(), tensor()
    model.run([900, 800], text)
    model.runs.drop()
    assert model.trajectory.tensors == []
    assert model.run([700, 600], text) == every(3, 2)


def test_another_sample_at_the_first_timestep_starts_a_trajectory():
    model, text = Denoiser(), tensor()
    assert model.run([999] * 5, text) == [(0, True)] * 5
    assert model.run([900, 800, 700], text)[1:] == [(2, False), (3, True)]


def test_another_sample_at_the_first_timestep_starts_a_trajectory_with_two_lanes():
    model, a, b = Denoiser(), tensor(), tensor()
    for _ in range(3):
        x = tensor()
        assert [model(999, a, x=x), model(999, b, x=x)] == [(0, True, 0), (0, True, 1)]


def test_another_sample_later_is_a_full_step_that_does_not_shift_the_count():
    """Heun without a scheduler."""
    model, text = Denoiser(Interval(5)), tensor()
    found = model.run([900, 800, 800, 700, 700, 600, 600, 500, 500, 400, 400], text)
    assert indices(found) == list(range(11))
    assert full_at(found) == [0, 2, 4, 5, 6, 8, 10]


def test_two_lanes_at_a_timestep_that_repeats():
    model, a, b = Denoiser(Interval(9)), tensor(), tensor()
    found = [[model(t, a), model(t, b)] for t in (900, 800, 800, 700)]
    assert found == [[(step, step in (0, 2), 0), (step, step in (0, 2), 1)] for step in range(4)]


@pytest.mark.parametrize("after", [[], [900], [900, 800, 700]])
@pytest.mark.parametrize("lanes", [1, 2])
def test_nothing_grows_in_a_timing_loop(after, lanes):
    model, x, texts = Denoiser(predictor=Forecast(2)), tensor(), [tensor() for _ in range(lanes)]
    for t in after:
        for text in texts:
            model(t, text)
    sizes = set()
    for i in range(20):
        found = [model(600, text, x=x) for text in texts]
        if i > 1:
            assert found == [None] * lanes, "a repeated call runs plain"
            sizes.add((len(model.trajectory.lanes.all), len(model.trajectory.tensors)))
    assert len(sizes) == 1


@pytest.mark.parametrize("way", ["plain", "views", "vectors", "floats"])
@pytest.mark.parametrize("tiles", [2, 3])
@pytest.mark.parametrize("lanes", [1, 2])
def test_samples_in_turns_share_nothing(way, tiles, lanes):
    """Tiles of one image, under one text: which of them a call belongs to cannot be told."""
    scheduler, texts, last = started(DDIMScheduler(), 8), [tensor() for _ in range(lanes)], {}
    model = Denoiser(schedulers=[] if way == "plain" else [scheduler])
    for t in scheduler.timesteps:
        for tile in range(tiles):
            x = tensor()
            for text in texts:
                full = model(t.item() if way == "plain" else WAYS[way](t), text, x=x)[1]
                if full:
                    last[model.lane] = tile
                assert last[model.lane] == tile


def test_a_run_after_a_warm_up_on_its_own_first_sample():
    model, text, x = Denoiser(), tensor(), tensor()
    model(900, text, x=x)
    assert model(900, text, x=x) is None, "a repeated call runs plain, and the first one's features are its own"
    model.x = x
    assert model.run([800, 700, 600], text) == every(3, 4)[1:]


def test_a_run_after_one_that_was_left_at_its_first_step():
    model, text = Denoiser(), tensor()
    model(900, text)
    model.another()
    assert model.run([900, 800, 700, 600, 500], text) == every(3, 5)
    assert model.run([900, 800, 700], text) == every(3, 3)


def test_schedule_counts_from_the_start_of_each_trajectory():
    model, text = Denoiser(Schedule([0, 2])), tensor()
    for _ in range(2):
        assert full_at(model.run([900, 800, 700, 600, 500], text)) == [0, 2, 3, 4]


# A run alone ----------------------------------------------------------------------------------------------------------


def called(t, *conditioning, x=None):
    """A call, and its time."""
    x = tensor() if x is None else x
    return CallReader(NAMES, "hidden_states", "timestep").read((x, t, *conditioning), {}), Instant.of(t)


def entered(run, t, *conditioning, x):
    """The step of a call, which leaves features and an output of ones."""
    call, instant = called(t, *conditioning, x=x)
    visit = run.enter(call, run.place(call, instant), instant)
    visit.note(torch.ones_like(x))
    if visit.full:
        run.record(visit, (tensor(),), (tensor(),))
    return visit


def test_to_place_a_call_changes_nothing():
    run, text, x = Trajectory(Interval(3), Delta()), tensor(), tensor()
    entered(run, 900, text, x=x)
    at, lanes = run.at, list(run.lanes.all)
    places = [
        run.place(*called(t, text, x=y)) for t, y in ((800, x + 1), (900, x), (800, tensor()), (800, tensor(3, 64)))
    ]
    assert [type(place) for place in places] == [Fits, Repeat, NewRun, NewRun]
    assert places[0].steps == 1 and places[0].turn < 1e-3 and places[0].lane is lanes[0]
    assert places[2].instead and not places[3].instead, "the sample alone was not the run's"
    assert run.at is at and run.lanes.all == lanes and run.turns.of(called(900, text, x=x)[0]) == []


def test_nothing_fits_a_run_that_has_not_begun():
    run, call = Trajectory(Interval(3), Delta()), called(900)
    assert isinstance(run.place(*call), NewRun) and run.at is None


def test_a_released_run_holds_nothing_and_goes_on_with_a_full_step():
    run, text, x = Trajectory(Interval(9), Delta()), tensor(), tensor()
    lane = entered(run, 900, text, x=x).lane
    assert len(run.tensors) == 1
    run.release()
    assert run.tensors == [] and run.lanes.all == [lane], "it still knows who is called"
    found = [entered(run, t, text, x=x + i) for i, t in ((1, 800), (2, 700))]
    assert [(visit.step, visit.full, visit.lane is lane) for visit in found] == [(1, True, True), (2, False, True)]


def test_a_run_that_may_not_be_told_from_another_one_reuses_nothing():
    run, text, x = Trajectory(Interval(9), Delta()), tensor(), tensor()
    entered(run, 900, text, x=x)
    assert not entered(run, 800, text, x=x + 1).full
    run.doubt(NewRun(in_turns=True))
    assert entered(run, 700, text, x=x + 2).full and entered(run, 600, text, x=x + 3).full


def test_a_run_after_which_another_one_began_is_allowed_no_noise_either_at_its_second_step():
    run, text, x = Trajectory(Interval(9), Delta()), tensor(), tensor()
    entered(run, 900, text, x=x)
    noisy = called(800, text, x=x + 0.5 * tensor())
    assert isinstance(run.place(*noisy), Fits)
    run.doubt(NewRun())
    assert isinstance(run.place(*noisy), NewRun)


def test_a_run_that_began_in_the_place_of_another_one_goes_where_that_one_went():
    run, text, x = Trajectory(Interval(9), Delta(), NewRun(instead=True, turn=0.9, sense=-1)), tensor(), tensor()
    entered(run, 700, text, x=x)
    assert isinstance(run.place(*called(600, text, x=x + 1)), Fits)
    assert isinstance(run.place(*called(800, text, x=x + 1)), NewRun)


def test_a_run_that_began_in_the_place_of_another_one_is_allowed_no_noise_at_its_second_step():
    text, x = tensor(), tensor()
    for begun, place in ((NewRun(), Fits), (NewRun(instead=True), NewRun)):
        run = Trajectory(Interval(9), Delta(), begun)
        entered(run, 900, text, x=x)
        assert isinstance(run.place(*called(800, text, x=x + 0.5 * tensor())), place)

"""How much the samples of a run may turn, by how much they did before."""

from diffusers import DDIMScheduler

from skipcache.trajectory.call import CallReader
from skipcache.trajectory.places import NewRun
from skipcache.trajectory.span import ODD, RECENT, Turn
from skipcache.trajectory.time import Instant, SchedulerRun
from skipcache.trajectory.turns import Turns
from tests.models.calls import NAMES, tensor

BEFORE, NOW = Instant.of(900.0), Instant.of(800.0)


def called(*shape):
    return CallReader(NAMES, "hidden_states", "timestep").read((tensor(*shape), 800.0), {})


def turned(size):
    return Turn(size, 0.9, 0.01)


def test_samples_of_other_shapes_have_a_history_of_their_own():
    whole, corner, turns = called(2, 64), called(1, 16), Turns()
    turns.note(whole, 0.001)
    turns.note(corner, 0.2)
    assert not turns.allow(whole, turned(0.3), NOW, BEFORE)
    assert turns.allow(corner, turned(0.3), NOW, BEFORE)


def test_the_last_few_are_kept():
    call, turns = called(2, 64), Turns()
    for size in range(RECENT + 2):
        turns.note(call, size / 10)
    assert turns.of(call) == [size / 10 for size in range(2, RECENT + 2)]


def test_a_run_that_began_instead_of_another_knows_what_it_is_told_alone():
    call = called(2, 64)
    assert Turns(NewRun(instead=True)).strict
    told = Turns(NewRun(instead=True, turn=0.2))
    assert not told.strict and told.of(call) == [0.2]


def test_a_run_that_turned_less_before_hands_on_by_how_much_it_turns_now():
    call, turns = called(2, 64), Turns()
    assert turns.instead(call, turned(0.3)).turn is None, "nothing is known of it"
    turns.note(call, 0.001)
    assert turns.instead(call, turned(0.3)).turn == 0.3
    assert turns.instead(call, turned(ODD + 0.1)).turn is None


def test_under_a_scheduler_that_may_clip_a_sample_may_turn_far_unless_another_run_may_be_meant():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    call, turns, now = called(2, 64), Turns(), Instant.of(800.0, SchedulerRun(scheduler, scheduler.timesteps))
    turns.note(call, 0.001)
    assert turns.allow(call, turned(ODD + 0.1), now, BEFORE)
    turns.strict = True
    assert not turns.allow(call, turned(ODD + 0.1), now, BEFORE)

"""Of several runs, the one that a call is of. Where that is in doubt it is of none, and they are in doubt too."""

from skipcache import Delta, Interval
from skipcache.trajectory.call import CallReader
from skipcache.trajectory.places import Fits, NewRun, Repeat
from skipcache.trajectory.runs.choice import best_of, none_of, of_others, surest
from skipcache.trajectory.time import Instant
from skipcache.trajectory.trajectory import Trajectory
from tests.models.calls import NAMES, tensor

NOW = Instant.of(800.0)


def begun():
    """A run after its first call."""
    run = Trajectory(Interval(3), Delta())
    call = CallReader(NAMES, "hidden_states", "timestep").read((tensor(), 900.0, tensor()), {})
    run.enter(call, NewRun(), Instant.of(900.0))
    return run


def fits(run, turn, known=True, sure=True):
    found = run.lanes.find(CallReader(NAMES, "hidden_states", "timestep").read((tensor(), 800.0, tensor()), {}), 1, 0)
    lane = run.lanes.all[0] if known else None
    return Fits(NOW, 1, type(found)(lane, found.evidence), turn, sure)


def test_the_sample_that_turned_least_tells_unless_the_next_is_as_likely():
    one, other = begun(), begun()
    for turns, expected in (((0.3, 0.6), one), ((0.6, 0.3), other), ((0.3, 0.4), None), ((0.01, 0.012), one)):
        placed = [(run, fits(run, turn)) for run, turn in zip((one, other), turns)]
        found = surest(placed)
        assert (None if found is None else found[0]) is expected
    assert surest([(one, fits(one, None)), (other, fits(other, 0.0))]) is None, "nothing was measured"
    assert surest([]) is None


def test_a_run_that_knows_the_lane_goes_first():
    one, other = begun(), begun()
    assert surest([(one, fits(one, 0.0, known=False)), (other, fits(other, 0.01))])[0] is other


def test_what_is_not_sure_counts_for_the_latest_run_alone():
    one, other = begun(), begun()
    unsure = fits(one, None, sure=False)
    assert best_of([(one, unsure), (other, NewRun())]) == ((one, unsure), [])
    assert best_of([(other, NewRun()), (one, unsure)]) == (None, [])
    repeat = Repeat(one.lanes.all[0])
    assert best_of([(other, NewRun()), (one, repeat)]) == ((one, repeat), [])


def test_a_noisy_sample_is_no_run_of_another_thread_where_it_may_be_one_of_its_own():
    one, other = begun(), begun()
    near, far = (other, fits(other, 0.01)), (other, fits(other, 0.5))
    assert of_others([near, far], [(one, NewRun())], False) == [near, far]
    assert of_others([near, far], [(one, NewRun(instead=True))], False) == [near]
    assert of_others([near, far], [], True) == [near]


def test_a_run_begins_with_what_the_others_said_and_leaves_them_in_doubt():
    one, other = begun(), begun()
    one.direction.learn((900.0,), (800.0,))
    place = none_of([(one, NewRun(instead=True, turn=0.2)), (other, NewRun())], NOW, False)
    assert (place.instead, place.in_turns, place.turn, place.sense) == (True, False, 0.2, -1)
    assert one.turns.strict and other.turns.strict


def test_runs_that_nothing_tells_apart_reuse_nothing_any_more():
    runs = [begun(), begun()]
    place = none_of([(run, fits(run, None)) for run in runs], NOW, True)
    assert place.in_turns
    call = CallReader(NAMES, "hidden_states", "timestep").read((tensor(), 800.0, tensor()), {})
    assert all(run.enter(call, fits(run, None), NOW).full for run in runs)

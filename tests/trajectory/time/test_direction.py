"""Values of timesteps, and the direction in which they go."""

import pytest
import torch

from skipcache.trajectory.time.direction import Direction, direction, timestep_values


@pytest.mark.parametrize(
    ("timestep", "values"),
    [
        (900, (900.0,)),
        (0.5, (0.5,)),
        (torch.tensor(7), (7.0,)),
        (torch.tensor([3, 3, 3]), (3.0,)),
        (torch.tensor([[3.0], [2.0]]), (3.0, 2.0)),
        (torch.tensor([0.1], dtype=torch.bfloat16), (0.10009765625,)),
    ],
)
def test_values_are_one_where_all_are_equal(timestep, values):
    assert timestep_values(timestep) == values


@pytest.mark.parametrize(
    ("before", "after", "turn"),
    [
        ((2.0,), (1.0,), -1),
        ((1.0,), (2.0,), 1),
        ((1.0,), (1.0,), 0),
        ((3.0, 2.0), (2.0,), -1),
        ((3.0, 1.0), (3.0, 0.0), -1),
    ],
)
def test_vectors_are_compared_whole(before, after, turn):
    assert direction(before, after) == turn == -direction(after, before)


@pytest.mark.parametrize(("before", "after"), [((3.0, 1.0), (2.0,)), ((900.0, 900.0), (880.0, 990.0))])
def test_where_some_fall_and_others_rise_there_is_no_direction(before, after):
    assert direction(before, after) is None
    assert Direction().turns_back(before, after), "and the call begins a run"


def test_a_direction_is_learned_once():
    known = Direction()
    known.learn((0.2,), (0.2,))
    assert known.sense == 0
    known.learn((0.2,), (0.4,))
    known.learn((0.4,), (0.3,))
    assert known.sense == 1


def test_a_turn_back_is_against_the_direction_and_nothing_else():
    known = Direction()
    assert not known.turns_back((900.0,), (950.0,)), "no direction is known"
    known.learn((900.0,), (800.0,))
    assert known.turns_back((700.0,), (750.0,))
    assert not known.turns_back((700.0,), (600.0,)) and not known.turns_back((700.0,), (700.0,))


@pytest.mark.parametrize("agreement", [1, -1])
def test_a_scheduler_and_its_calls_keep_going_together_or_against_each_other(agreement):
    """A model may count time from noise to image while its scheduler counts it back."""
    known = Direction()
    assert known.fits(-1, -agreement) and known.fits(-1, agreement), "nothing is known yet"
    known.agree(-1, -agreement)
    assert known.fits(-1, -agreement) and known.fits(0, 0)
    assert not known.fits(-1, agreement) and not known.fits(0, -1) and not known.fits(-1, 0)
    assert not known.fits(None, -1)

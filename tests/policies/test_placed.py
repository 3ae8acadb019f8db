"""`Placed`: full steps where a calibration has them, in its own run and in others."""

import pytest

from skipcache.policies.base import Step
from skipcache.policies.placed import Placed


def walk(policy, timesteps, count=None):
    full = []
    for i, t in enumerate(timesteps):
        before = (lambda t=timesteps[i - 1]: (t,)) if i else None
        full.append(policy.full(Step(i, lambda t=t: (t,), before, lambda: -1, count)))
    return tuple(i for i, is_full in enumerate(full) if is_full)


@pytest.mark.parametrize("turn", [1, -1])
def test_other_step_counts_are_placed_by_timestep(turn):
    timesteps = tuple(turn * float(t) for t in range(990, -10, -20))
    policy = Placed((0, 1, 5, 12, 30, 47, 49), timesteps)
    assert walk(policy, timesteps, len(timesteps)) == walk(policy, timesteps) == policy.full_steps
    twice = tuple(turn * float(t) for t in range(990, 0, -10))
    assert [twice[i] for i in walk(policy, twice, len(twice))] == [timesteps[i] for i in policy.full_steps]
    half = timesteps[::2]
    full = walk(policy, half, len(half))
    assert full[0] == 0 and len(full) <= 7 and 15 in full  # 30 of the calibrated run
    img2img = timesteps[10:]
    assert walk(policy, img2img, len(img2img)) == (0, 2, 20, 37, 39)
    assert walk(policy, (turn * 2000.0, turn * 990.0, turn * -50.0)) == (0, 2)

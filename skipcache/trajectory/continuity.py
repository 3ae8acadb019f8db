"""Whether a sample goes on from a lane's last one: evidence that equal conditioning cannot give.

Between two steps a sampler turns the sample by a small angle: x_t = a_t x_0 + s_t n keeps most of its direction, at
whatever scale. Another noise, tile or window of the same latents is nearly orthogonal, since noise of different places
is not correlated. Late in a run samples hold an image, and those of different tiles may point the same way; but then a
step turns them by very little. So the bound follows the lane's own steps:

    angle <= GROWTH * the largest of the lane's last RECENT angles,    and at its first step angle <= FIRST.

FIRST is 0.8 rad. Four steps of flow matching with shift 3 turn by at most 0.5, ten of DDIM by 0.4; n independent
numbers differ by pi / 2, give or take 1 / sqrt(n). From one step to the next angles grow by less than 2 in all
schedules tried, and GROWTH is 3. RECENT is 4, since samplers of higher order (Heun, PNDM) take small and large steps in
turn. Samplers that lose savings by it: those that draw all noise anew on each step (LCM and its like), unless the
scheduler is known, and runs of two or three steps.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST = 0.8
GROWTH = 3.0
RECENT = 4
SMALLEST = 1e-3  # rounding, and samplers that stand still


def bound(angles: Sequence[float]) -> float:
    """The largest angle, in radians, by which a sample may turn after steps that turned it by `angles`."""
    recent = list(angles)[-RECENT:]
    return max(GROWTH * max(recent), SMALLEST) if recent else FIRST

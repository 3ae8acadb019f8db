"""Spread: full steps placed by a power law, without a measurement. `accelerate(speedup=)` uses it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

from skipcache.policies.base import NEAR, Step, check_count, check_number

LEAST = 10  # full steps of the `Spread` that `accelerate(speedup=)` takes
SHORT = 30  # steps of a run: in few steps, each of which is longer, features move early in a run as well
SHORT_POWER, POWER = 1.25, 1.5
MOST = 100_000  # steps of a run
NOISY_POWER = 2.0  # where each step draws noise, what was wrong early in a run is forgiven


@dataclass(frozen=True)
class Spread:
    """A share of the steps is full: few at the start of a run, where features move slowly, and most at its end.

    In a run of N steps k = floor(share * N) are full, at least 2, the first and the last among them. They stand at
    (N - 1) * (1 - (1 - i / (k - 1)) ** power) for i = 0 to k - 1, with the gaps rounded to whole numbers that never
    rise. A run over a part of a scheduler's timesteps (img2img) has those full steps of the whole run that it meets.
    Where neither a scheduler nor `steps` says N, the full steps stand evenly.

    Args:
        share: of the steps that run all blocks, 0 < share <= 1. Lowering it caches more.
        power: 1 is even. Raising it moves full steps towards the end. None: 2 where the scheduler draws noise on each
            step (DDPM, ancestral samplers), else 1.25 in runs of at most 30 steps, and 1.5 in longer ones.
        steps: of a run, for a loop without a pipeline's scheduler.
        least: full steps in a run at least, or half of its steps where that is fewer.

    Raises TypeError or ValueError for numbers that cannot be.

    Example:
        skipcache.accelerate(model, policy=skipcache.Spread(0.4, steps=250))
    """

    share: float
    power: float | None = None
    steps: int | None = None
    least: int = 2

    @classmethod
    def reaching(cls, speedup: float, kept: int, depth: int) -> Spread:
        """The one with which block evaluations fall by `speedup`, where a cached step runs `kept` of `depth` units.

        At least `LEAST` full steps: below that, fewer sampler steps may keep more.
        """
        if isinstance(speedup, bool) or not isinstance(speedup, (int, float)):
            raise TypeError(f"speedup: expected a number, got {speedup!r}")
        if not speedup >= 1:
            raise ValueError(f"speedup: expected at least 1, got {speedup}; 1 runs all blocks on every step")
        if speedup * kept >= depth:
            raise ValueError(
                f"speedup: expected less than {depth / kept:.3g}, got {speedup}: a cached step runs {kept} of {depth} "
                f"units; ask for less, or keep less"
            )
        return cls((1 / speedup - kept / depth) / (1 - kept / depth), least=LEAST)

    def __post_init__(self) -> None:
        check_number("Spread", "share", self.share)
        if not 0 < self.share <= 1:
            raise ValueError(f"Spread: expected 0 < share <= 1, got {self.share}; 1 runs all blocks on every step")
        if self.power is not None:
            check_number("Spread", "power", self.power)
            if not 1 <= self.power <= 4:
                raise ValueError(f"Spread: expected 1 <= power <= 4, got {self.power}; 1 is even")
        if self.steps is not None:
            check_count("Spread", "steps", self.steps, most=MOST)
        check_count("Spread", "least", self.least)

    @property
    def caches(self) -> bool:
        return self.share < 1

    def full(self, step: Step) -> bool:
        count = self.steps if step.count is None else step.count
        if step.index == 0:
            return True
        if count is None:
            return int(step.index * self.share + NEAR) > int((step.index - 1) * self.share + NEAR)
        at = step.index if step.position is None else step.position
        return at in self.places(count, step.noisy) or at >= count

    def places(self, count: int, noisy: bool = False) -> tuple[int, ...]:
        """The full steps of a run of `count` steps, each of which draws noise if it is `noisy`."""
        k = min(count, max(2, min(self.least, (count + 1) // 2), self._asked(count)))
        usual = NOISY_POWER if noisy else SHORT_POWER if count <= SHORT else POWER
        power = usual if self.power is None else self.power
        return tuple(accumulate(_gaps(count - 1, k - 1, power), initial=0))

    def note(self, step: Step) -> str | None:
        """Where more steps are full than asked for."""
        count = self.steps if step.count is None else step.count
        if count is None or len(self.places(count)) <= max(2, self._asked(count)):
            return None
        return (
            f"{len(self.places(count))} of {count} steps are full, not {self._asked(count)}: "
            f"with so few, a run of fewer sampler steps may keep more"
        )

    def _asked(self, count: int) -> int:
        return int(self.share * count + NEAR)


def _gaps(total: int, number: int, power: float) -> list[int]:
    """`number` gaps by the power law, at least 1 each, that add up to `total` and never rise."""
    places = [total * (1 - (1 - i / number) ** power) for i in range(number + 1)] if number else []
    beyond = [max(after - before - 1, 0.0) for before, after in pairwise(places)]  # a gap of 1, which each one has
    scale = (total - number) / (sum(beyond) or 1.0)
    whole = [int(scale * x + NEAR) for x in beyond]
    by_rest = sorted(range(number), key=lambda i: whole[i] - scale * beyond[i])
    for i in by_rest[: total - number - sum(whole)]:
        whole[i] += 1
    return sorted((1 + x for x in whole), reverse=True)

"""Spread: full steps placed in flow time, without a measurement. `interval=` on a pipeline and `speedup=` use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from skipcache.policies.base import NEAR, Step, check_count, check_number

LEAST = 7  # full steps in a run, with `interval=` and `speedup=`
SHORTEST = 9  # steps of a run that they cache: in shorter ones, those of distilled models, no gain was shown
SAFE = 10  # with fewer full steps a run of fewer sampler steps may keep as much
LONGEST = 3  # times the mean distance between full steps; no gap is longer
MOST = 100_000  # steps of a run
EDGE, AT_DATA, AT_NOISE = 0.03, 0.25, 0.5  # of the density
PARTS = 8  # of a step, in which the density is summed up
HALVINGS = 50
BETAS = (1e-4, 0.02)  # of the schedule that is taken where no scheduler tells one

Times = tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """A share of the steps is full, and they stand where an error does most to the sample.

    Flow time tau = sigma / (alpha + sigma) falls from 1 (noise) to 0 (data); a scheduler tells that of each step. Over
    it full steps have the density (tau + .03)^-1/4 (1 - tau + .03)^-1/2. Of all ways to place k full steps, first and
    last among them, that one is taken in which the largest integral of the density between two of them is least. In a
    run of N steps k is at most share * N, and no gap is longer than 3 * N / k. In a run over a part of a scheduler's
    timesteps (img2img) N is the length of that part.

    Where a scheduler's noise levels cannot be read, full steps stand evenly. Where no scheduler is known, but `steps`
    is, the noise levels are taken to be those of DDPM with a linear schedule, as in the code of DiT, PixArt and Latte.
    Where neither is known full steps stand evenly, and the last step may be cached.

    Args:
        share: of the steps that run all blocks, 0 < share <= 1. Lowering it caches more.
        steps: of a run, for a loop without a pipeline's scheduler.
        least: full steps in a run at least.
        shortest: a run of fewer steps than this caches nothing.
        cost: of a cached step, as a share of a full one, for the numbers that are said.

    Raises TypeError or ValueError for numbers that cannot be.

    Example:
        skipcache.accelerate(model, policy=skipcache.Spread(0.4, steps=250))
    """

    share: float
    steps: int | None = None
    least: int = 2
    shortest: int = 1
    cost: float = 0.0

    @classmethod
    def every(cls, interval: int, steps: int | None, kept: int, depth: int) -> Spread:
        """One step in `interval` is full, of which a cached one runs `kept` of `depth` units."""
        return cls(1 / interval, steps, LEAST, SHORTEST, kept / depth)

    @classmethod
    def reaching(cls, speedup: float, kept: int, depth: int, steps: int | None = None) -> Spread:
        """The one with which block evaluations fall by `speedup`, where a cached step runs `kept` of `depth` units."""
        if isinstance(speedup, bool) or not isinstance(speedup, (int, float)):
            raise TypeError(f"speedup: expected a number, got {speedup!r}")
        if not speedup >= 1:
            raise ValueError(f"speedup: expected at least 1, got {speedup}; 1 runs all blocks on every step")
        if speedup * kept >= depth:
            raise ValueError(
                f"speedup: expected less than {depth / kept:.3g}, got {speedup}: a cached step runs {kept} of {depth} "
                f"units; ask for less, or keep less"
            )
        cost = kept / depth
        return cls((1 / speedup - cost) / (1 - cost), steps, LEAST, SHORTEST, cost)

    def __post_init__(self) -> None:
        check_number("Spread", "share", self.share)
        if not 0 < self.share <= 1:
            raise ValueError(f"Spread: expected 0 < share <= 1, got {self.share}; 1 runs all blocks on every step")
        if self.steps is not None:
            check_count("Spread", "steps", self.steps, most=MOST)
        check_count("Spread", "least", self.least)
        check_count("Spread", "shortest", self.shortest)
        check_number("Spread", "cost", self.cost)

    @property
    def caches(self) -> bool:
        return self.share < 1

    def full(self, step: Step) -> bool:
        if step.index == 0:
            return True
        count, start = self._length(step)
        if count is None:
            return int(step.index * self.share + NEAR) > int((step.index - 1) * self.share + NEAR)
        at = step.index if step.position is None else step.position - start
        return at >= count or at in self._places(step, count, start)

    def places(self, count: int, times: Times | None = None) -> tuple[int, ...]:
        """The full steps of a run of `count` steps, with the flow times of a scheduler or those of DDPM."""
        return placed(tuple(times or usual(count)), self._number(count))

    def note(self, step: Step) -> str | None:
        """Where less is cached than was asked for, or where caching may be no gain."""
        count, start = self._length(step)
        if count is None or not self.caches:
            return None
        if count < self.shortest:
            return (
                f"all {count} steps of a run are full: in fewer than {self.shortest}, as distilled models take, it was "
                f"not shown that caching keeps more than fewer steps do; policy=Interval(...) caches all the same"
            )
        full, asked = len(self._places(step, count, start)), max(2, self._asked(count))
        said = f"{full} of {count} steps are full"
        if full > asked:
            return (
                f"{said}, not {asked}, so that block evaluations fall by {self._speedup(full, count):.2f}x: with fewer "
                f"full steps, a run of fewer sampler steps may keep more"
            )
        if full < SAFE and self.least >= LEAST:
            return f"{said}: with fewer than {SAFE}, a run of fewer sampler steps may keep as much"
        if step.scheduler is not None and step.times() is None:
            return f"{said}, evenly placed: the noise levels of {step.scheduler} cannot be read on the host"
        return None

    def _length(self, step: Step) -> tuple[int | None, int]:
        """How many steps the run has, and where it begins in its scheduler's timesteps."""
        count = self.steps if step.count is None else step.count
        start = 0 if step.position is None else max(0, step.position - step.index)
        return (None if count is None else count - start), start

    def _places(self, step: Step, count: int, start: int) -> tuple[int, ...]:
        times = step.times()
        if times is None:
            return placed(even(count) if step.scheduler else usual(count + start)[start:], self._number(count))
        return placed(times[start:], self._number(count))

    def _number(self, count: int) -> int:
        return count if count < self.shortest else min(count, max(2, self.least, self._asked(count)))

    def _asked(self, count: int) -> int:
        return int(self.share * count + NEAR)

    def _speedup(self, full: int, count: int) -> float:
        return count / (full + (count - full) * self.cost)


def even(count: int) -> Times:
    """Flow times that place full steps evenly: the density is as good as constant over them."""
    return tuple(0.5 - 1e-6 * i for i in range(count))


@lru_cache(maxsize=64)
def usual(count: int) -> Times:
    """The flow times of DDPM with a linear schedule, at `count` even timesteps."""
    sigmas = []
    for i in range(count):
        t = 1 - i / count  # of 1000 betas
        left = math.exp(-1000 * (BETAS[0] * t + (BETAS[1] - BETAS[0]) * t * t / 2))  # abar
        alpha, sigma = math.sqrt(left), math.sqrt(1 - left)
        sigmas.append(sigma / (alpha + sigma))
    return tuple(sigmas)


@lru_cache(maxsize=64)
def placed(times: Times, k: int) -> tuple[int, ...]:
    """At most `k` full steps, the first and the last among them: the largest integral between two is the least."""
    until = list(accumulate((_integral(a, b) for a, b in pairwise(times)), initial=0.0))
    longest = max(1, math.ceil(LONGEST * (len(times) - 1) / max(1, k - 1)))
    low, high = 0.0, until[-1] + 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_walked(until, middle, longest)) <= k else (middle, high)
    return _walked(until, high, longest)


def _walked(until: list[float], most: float, longest: int) -> tuple[int, ...]:
    """Each step is full from which on the integral since the last full one would pass `most`; and the last one."""
    last, full = 0, [0]
    for i in range(1, len(until)):
        if i == len(until) - 1 or until[i + 1] - until[last] > most or i + 1 - last > longest:
            full.append(i)
            last = i
    return tuple(full)


def _integral(one: float, other: float) -> float:
    """Of the density, over the flow time from one step to the next."""
    width = (other - one) / PARTS
    middles = (min(max(one + (i + 0.5) * width, 0.0), 1.0) for i in range(PARTS))
    return abs(width) * sum((x + EDGE) ** -AT_DATA * (1 - x + EDGE) ** -AT_NOISE for x in middles)

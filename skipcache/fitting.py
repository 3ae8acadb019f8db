"""Corrections, fitted on runs that sample: least squares for the slopes and scalars that bring the next state where an
uncached run of the same noise has it.

What a sampler makes of x and the outputs is linear for all common ones, but its weights are known to nobody here.
They show in the differences of two runs of one noise, one uncached and one cached: whatever else goes into the next
state (the sampler's own noise) is the same in both and drops out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.call import Call
from skipcache.correction import Corrections, added, correctable, main_output, terms_of, with_main_output
from skipcache.hooks import HookEngine
from skipcache.measure import PREDICTOR, Watcher, full_step
from skipcache.placed import Placed
from skipcache.predictor import Predictor
from skipcache.trajectory import Visit

RIDGE = 1e-4  # of a column's own square: the scalars hardly change from 0 to 1e-2
SMALLEST = 1e-9  # error of a sample that counts: one that happens to be exact is not all there is
WORST = 0.5  # a step whose next state is less than half explained is left uncorrected

Part = tuple[int, int]  # (lane, which of the rows with one x)


@dataclass(frozen=True)
class StepMap:
    """dx_next = x * dx + sum of e[part] * de[part], and the same of the step before; d: cached less uncached."""

    x: float
    e: Mapping[Part, float]
    x_before: float
    e_before: Mapping[Part, float]

    @property
    def total(self) -> float:
        return sum(self.e.values())


class Sampler:
    """What the sampler does from step to step, learned from an uncached and a cached run of the same noise.

    Rows of one x in a call (or in the calls of several lanes) are the parts that guidance mixes.
    """

    def __init__(self, uncached: Watcher, cached: Watcher) -> None:
        self.truth = uncached
        last = uncached.seen[0][-1]
        self.rows = {lane: _grouped(seen.x) for lane, seen in last.items()}
        whole = len(cached.seen) == len(uncached.seen)
        self.maps = [self._map(cached, i) if whole else None for i in range(uncached.steps() - 1)]

    @property
    def guidance(self) -> float | None:
        """The scale of classifier-free guidance: the weight of one of two parts, where the other has the rest."""
        weights = [
            max(w / m.total for w in m.e.values()) for m in self.maps if m is not None and len(m.e) == 2 and m.total
        ]
        return round(sorted(weights)[len(weights) // 2], 3) if weights else None

    def drift(self, cached: Watcher, run: int, step: int) -> tuple[Tensor, dict[Part, Tensor]] | None:
        """(dx, de by part) at a step, by state; None where the runs did not make the same calls."""
        if step < 0:
            return None
        ours, theirs = cached.seen[run][step], self.truth.seen[run][step]
        lanes = [lane for lane in self.rows if lane in ours and lane in theirs]
        if not lanes or any(ours[i].x.shape[0] <= self.rows[i].max() for i in lanes):
            return None
        first = lanes[0]
        dx = self.state(first, ours[first].x) - self.state(first, theirs[first].x)
        de = {}
        for lane in lanes:
            for part, (mine, its) in enumerate(zip(self.parts(lane, ours[lane].e), self.parts(lane, theirs[lane].e))):
                de[lane, part] = mine - its
        return dx, de

    def state(self, lane: int, x: Tensor) -> Tensor:
        """One row of each x."""
        return x[self.rows[lane][:, 0].to(x.device)].float()

    def parts(self, lane: int, e: Tensor) -> list[Tensor]:
        return [e[rows.to(e.device)].float() for rows in self.rows[lane].T]

    def mixed(self, step_map: StepMap, lane: int, values: Tensor) -> Tensor:
        """The lane's parts of `values`, weighed as the sampler weighs outputs."""
        parts = self.parts(lane, values)
        total = torch.zeros_like(parts[0])
        for part, value in enumerate(parts):
            total = total + value * step_map.e.get((lane, part), 0.0)
        return total

    def error(self, cached: Watcher) -> float:
        """How far the last state of `cached` is from the uncached one's, over its size; by the last known map.

        The geometric mean over samples: one that went another way does not hide the others.
        """
        step = self.truth.steps() - 1
        known = next((m for m in reversed(self.maps) if m is not None), None)
        ratios: list[Tensor] = []
        for run in range(len(self.truth.seen)):
            found, seen = self.drift(cached, run, step), self.truth.seen[run][step]
            if found is None:
                return float("inf")
            dx, de = found
            if known is None:
                outputs = {(lane, i): e for lane in self.rows for i, e in enumerate(self.parts(lane, seen[lane].e))}
                ratios += [_ratios(off, outputs[part]) for part, off in de.items()]
                continue
            nxt = dx * known.x + sum((d * known.e.get(part, 0.0) for part, d in de.items()), torch.zeros_like(dx))
            ratios.append(_ratios(nxt, self.state(min(seen), seen[min(seen)].x)))
        each = torch.cat(ratios)
        return float(each.clamp(min=SMALLEST).log().mean().exp()) if each.any() else 0.0

    def _map(self, cached: Watcher, step: int) -> StepMap | None:
        columns: list[list[Tensor]] = []
        target: list[Tensor] = []
        parts: list[Part] = []
        before: list[Part] = []
        moved = 0.0
        for run in range(len(self.truth.seen)):
            here, behind = (self.drift(cached, run, i) for i in (step, step - 1))
            after = self.drift(cached, run, step + 1)
            if here is None or after is None:
                return None
            parts, before = list(here[1]), list(behind[1]) if behind is not None else []
            columns.append([here[0], *here[1].values(), *((behind[0], *behind[1].values()) if behind else ())])
            target.append(after[0])
            lane = min(self.truth.seen[run][step])
            moved += float(self.truth.seen[run][step][lane].x.float().norm())
        if len({len(c) for c in columns}) > 1:
            return None
        A = torch.stack([_flat(list(column)) for column in zip(*columns)], dim=1)
        b = _flat(target)
        if b.norm() < 1e-6 * moved:
            return None
        w = solved(A.T @ A, A.T @ b, 1e-10)
        if (A @ w - b).norm() > WORST * b.norm():
            return None
        weights = iter(w.tolist())
        x, e = next(weights), {part: next(weights) for part in parts}
        x_before = next(weights) if before else 0.0
        return StepMap(x, e, x_before, {part: next(weights) for part in before})


@dataclass(frozen=True)
class _Aim:
    """What the output of one call should be, for the next state to be the uncached run's."""

    sampler: Sampler
    found: StepMap
    lane: int
    total: Tensor  # of the lane's parts, weighed as the sampler weighs them

    def mix(self, values: Tensor) -> Tensor:
        return self.sampler.mixed(self.found, self.lane, values)

    def missed_by(self, e: Tensor, terms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(A, b): `terms` as columns, and what they should add up to beside e."""
        return torch.stack([_flat([self.mix(x)]) for x in terms], dim=1), _flat([self.total - self.mix(e)])


@dataclass
class _Sums:
    """The normal equations of one step, over runs and lanes."""

    gram: Tensor
    rhs: Tensor

    @classmethod
    def of(cls, A: Tensor, b: Tensor, before: _Sums | None) -> _Sums:
        """With what was summed before, where it has as many columns."""
        gram, rhs = A.T @ A, A.T @ b
        if before is None or before.rhs.shape != rhs.shape:
            return cls(gram, rhs)
        return cls(before.gram + gram, before.rhs + rhs)

    def solved(self) -> list[float]:
        found: list[float] = solved(self.gram, self.rhs, RIDGE).tolist()
        return found


class Trial(Watcher):
    """A cached run, with full steps as placed.

    `sampler`: corrections are fitted on the way, step after step, each on what the ones before have led to.
    `corrections`: those are applied.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: HookEngine,
        scheduler: Any,
        policy: Placed,
        sampler: Sampler | None = None,
        corrections: Corrections | None = None,
        predictor: Predictor = PREDICTOR,
    ) -> None:
        super().__init__(model, engine.stack, scheduler, predictor, policy)
        self.predictor = predictor
        self.engine, self.sampler, self.given = engine, sampler, corrections
        self._sums: dict[int, _Sums] = {}
        self._fitted: dict[int, tuple[float, ...]] = {}
        self._slope_sums: dict[int, _Sums] = {}
        self._slopes: dict[int, float] = {}

    @property
    def corrections(self) -> Corrections | None:
        """As fitted, in the numbers that a file holds; None where no step needs one."""
        fitted = [self._fitted.get(i, ()) for i in range(self.steps())]
        slopes = tuple(self._slopes.get(i, 1.0) for i in range(self.steps())) if self._slopes else ()
        return Corrections(tuple(fitted), slopes) if slopes or any(any(w) for w in fitted) else None

    @property
    def is_joint(self) -> bool:
        """All that was fitted together ran with what came out: one run, of one lane."""
        return len(self.seen) == 1 and len(self._lanes) == 1

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        aim = self._aim(visit.step, lane, call)
        if visit.full:
            output, features = full_step(self.engine, self.plain, call)
            self.trajectory.record(visit, *features)
        else:
            if aim is not None:
                self._fit_slope(aim, call, visit)
            slope = self._slopes.get(visit.step, 1.0) if self.given is None else self.given.slope(visit.step)
            output = self._cached(call, visit, slope)
        e = main_output(output, call)
        if e is None or not correctable(output, call):
            return output
        before = visit.lane.outputs_before(visit.step)
        visit.lane.remember(visit.step, e)
        if self.given is not None:
            e = self.given.apply(visit.step, call.sample, e, before)
        elif aim is not None:
            terms = terms_of(call.sample, e, before)
            self._sums[visit.step] = sums = _Sums.of(*aim.missed_by(e, terms), self._sums.get(visit.step))
            self._fitted[visit.step] = tuple(sums.solved())
            e = added(e, terms, self._fitted[visit.step])
        return with_main_output(output, call, e)

    def _cached(self, call: Call, visit: Visit, slope: float) -> Any:
        return self.engine.cached(self.plain, call, visit.lane.predict(visit.step, self.predictor, slope))

    def _fit_slope(self, aim: _Aim, call: Call, visit: Visit) -> None:
        """Between the outputs without a slope and with all of it, as if the blocks between were linear."""
        if len(visit.lane.kept) < self.predictor.depth:
            return
        outputs = [self._cached(call, visit, slope) for slope in (0.0, 1.0)]
        flat, sloped = (main_output(output, call) for output in outputs)
        if flat is None or sloped is None or not correctable(outputs[0], call):
            return
        A, b = aim.missed_by(flat, [sloped.float() - flat.float()])
        self._slope_sums[visit.step] = sums = _Sums.of(A, b, self._slope_sums.get(visit.step))
        (self._slopes[visit.step],) = sums.solved()

    def _aim(self, step: int, lane: int, call: Call) -> _Aim | None:
        sampler, run = self.sampler, len(self.seen) - 1
        if sampler is None or step >= len(sampler.maps) or run >= len(sampler.truth.seen):
            return None
        found, truth = sampler.maps[step], sampler.truth.seen[run][step]
        if found is None or lane not in truth or lane not in sampler.rows or truth[lane].x.shape != call.sample.shape:
            return None
        share = sum(w for part, w in found.e.items() if part[0] == lane) / (found.total or 1.0)
        dx = sampler.state(lane, call.sample) - sampler.state(lane, truth[lane].x)
        carried = self._carried(sampler, found, run, step, dx)
        return _Aim(sampler, found, lane, sampler.mixed(found, lane, truth[lane].e) - share * carried)

    def _carried(self, sampler: Sampler, found: StepMap, run: int, step: int, dx: Tensor) -> Tensor:
        """What the next state is off by, whatever the output at this step."""
        total = dx * found.x
        behind = sampler.drift(self, run, step - 1) if found.e_before else None
        if behind is not None:
            total = total + behind[0] * found.x_before
            for part, weight in found.e_before.items():
                if part in behind[1]:
                    total = total + behind[1][part] * weight
        return total


def solved(gram: Tensor, rhs: Tensor, ridge: float) -> Tensor:
    """Least squares by normal equations, each column scaled to 1 and shrunk by `ridge`; columns of zeros get 0."""
    scale = gram.diagonal().sqrt()
    live = scale > 0
    scale = torch.where(live, scale, torch.ones_like(scale))
    scaled = gram / scale[:, None] / scale[None, :] + torch.diag(ridge + 1e-13 + (~live).double())
    return torch.linalg.solve(scaled, rhs / scale) / scale * live


def _grouped(x: Tensor) -> Tensor:
    """Rows of equal x, (states, rows of each); every row by itself where not all are as many."""
    _, group, counts = torch.unique(x.flatten(1), dim=0, return_inverse=True, return_counts=True)
    if len(set(counts.tolist())) > 1:
        return torch.arange(len(x))[:, None]
    return torch.argsort(group.cpu(), stable=True).reshape(len(counts), -1)


def _ratios(off: Tensor, of: Tensor) -> Tensor:
    """By row, the norm of one over that of the other; 0 over 0 is 0."""
    off, of = _norms(off), _norms(of)
    return torch.where(off == 0, off, off / of)


def _norms(rows: Tensor) -> Tensor:
    return rows.float().flatten(1).norm(dim=1).cpu()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors]).cpu().double()

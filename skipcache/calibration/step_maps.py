"""What a sampler makes of x and the model's outputs, learned from two runs of one noise.

For all common samplers the next state is linear in x and in the outputs, with weights that are not known here. They are
found from the differences between an uncached and a cached run: whatever else goes into the next state (the sampler's
own noise) is the same in both and drops out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skipcache.calibration.watcher import Watcher

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


class StepMaps:
    """The linear map of each step, learned from an uncached and a cached run of the same noise.

    Rows of one x in a call (or in the calls of several lanes) are the parts that guidance mixes.
    """

    def __init__(self, uncached: Watcher, cached: Watcher) -> None:
        self.truth = uncached
        last = uncached.seen[0][-1]
        self.rows = {lane: _grouped(seen.x) for lane, seen in last.items()}
        whole = len(cached.seen) == len(uncached.seen)
        self.by_step = [self._map(cached, i) if whole else None for i in range(uncached.steps() - 1)]

    @property
    def guidance(self) -> float | None:
        """The scale of classifier-free guidance: the weight of one of two parts, where the other has the rest."""
        weights = [
            max(w / m.total for w in m.e.values()) for m in self.by_step if m is not None and len(m.e) == 2 and m.total
        ]
        return round(sorted(weights)[len(weights) // 2], 3) if weights else None

    def difference(self, cached: Watcher, run: int, step: int) -> tuple[Tensor, dict[Part, Tensor]] | None:
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
        known = next((m for m in reversed(self.by_step) if m is not None), None)
        ratios: list[Tensor] = []
        for run in range(len(self.truth.seen)):
            found, seen = self.difference(cached, run, step), self.truth.seen[run][step]
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
            here, behind = (self.difference(cached, run, i) for i in (step, step - 1))
            after = self.difference(cached, run, step + 1)
            if here is None or after is None:
                return None
            parts, before = list(here[1]), list(behind[1]) if behind is not None else []
            columns.append([here[0], *here[1].values(), *((behind[0], *behind[1].values()) if behind else ())])
            target.append(after[0])
            lane = min(self.truth.seen[run][step])
            moved += float(self.truth.seen[run][step][lane].x.float().norm())
        if len({len(c) for c in columns}) > 1:
            return None
        A = torch.stack([flattened(list(column)) for column in zip(*columns)], dim=1)
        b = flattened(target)
        if b.norm() < 1e-6 * moved:
            return None
        w = solved(A.T @ A, A.T @ b, 1e-10)
        if (A @ w - b).norm() > WORST * b.norm():
            return None
        weights = iter(w.tolist())
        x, e = next(weights), {part: next(weights) for part in parts}
        x_before = next(weights) if before else 0.0
        return StepMap(x, e, x_before, {part: next(weights) for part in before})


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


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors]).cpu().double()

"""What was done for one denoiser, in all and by named run, and the reports of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from skipcache.engines import Engine, Recent, StepResult
from skipcache.policies import note_of
from skipcache.runtime.counters import Counters
from skipcache.runtime.flops import Costs, speedup_of
from skipcache.runtime.plain import REPEATED
from skipcache.runtime.report import Report
from skipcache.trajectory import MAX_NAMED, Call, Visit, blank_call, bytes_of

LOG = logging.getLogger("skipcache")
MAX_OUTLINES = 16


class Ledger:
    """Counts calls, in all and for runs by name, and makes reports."""

    def __init__(self, model: nn.Module, engines: Sequence[Engine], depth: int) -> None:
        self.engines, self.depth = engines, depth
        self.all = Counters()
        self._named: dict[str, Counters] = {}
        self._outlines: Recent[Call] = Recent(MAX_OUTLINES)
        self._costs = Costs(model)

    def because(self, reason: str) -> None:
        if reason not in self.all.reasons:
            LOG.info(reason)
        self.all.because(reason)

    def repeat(self, call: Call, name: str | None) -> None:
        """A call ran plain, beside another one of its step."""
        self.because(REPEATED)
        for counters in self._of(name):
            counters.repeat(call.signature, self.depth)

    def evict(self, runs: int) -> None:
        """The features of so many runs were dropped to keep to the limit."""
        if runs:
            LOG.info("the features of %d runs were dropped to keep to cache_limit", runs)
            self.all.evict(runs)

    def count(self, call: Call, visit: Visit, result: StepResult) -> None:
        """What was done, after it was done."""
        if visit.opens_step and visit.step == 0:
            self._note(visit)
        first = not visit.at.counted_full
        for counters in self._of(visit.run.named):
            counters.count(visit, call.signature, result.full, result.blocks_run, self.depth, first)
            if result.engine:
                counters.serve(result.engine)
        visit.at.counted_full = visit.at.counted_full or result.full
        if self._outlines.get(call.signature) is None:
            self._outlines.put(call.signature, blank_call(call))

    def _note(self, visit: Visit) -> None:
        """What the policy says of the run that begins: warned of once, since some runs keep less than was hoped for."""
        note = note_of(visit.run.policy, visit.at.view)
        if note is not None and note not in self.all.reasons:
            self.because(note)
            warnings.warn(f"skipcache: {note}", UserWarning, stacklevel=2)

    def report(
        self, name: str | None, cached: Iterable[Tensor], more: Iterable[str] = (), flops: bool = True
    ) -> Report:
        """Of the run called `name`, or of all. `cached`: what it holds. `more`: reasons that are seen only now.

        `flops`: count them, else blocks.

        Raises ValueError for a name that no run had.
        """
        counters = self.all if name is None else self._named.get(name)
        if counters is None:
            raise ValueError(
                f"no call was made in a run called {name!r}; its calls go inside of `with skipcache.run(...)`"
            )
        speedup, why = speedup_of(counters, self._outlines.values(), self._flops if flops else None)
        return Report(
            full_steps=counters.full_steps,
            cached_steps=counters.cached_steps,
            blocks_run=counters.blocks_run,
            blocks_saved=counters.blocks_saved,
            ideal_speedup=speedup,
            cache_bytes=bytes_of(cached),
            engine=" and ".join(counters.engines) or self.engines[0].name,
            full_at=counters.full_at,
            largest_gap=counters.largest_gap,
            reasons=(*counters.reasons, *why, *more),
            evictions=counters.evictions,
        )

    @property
    def latest(self) -> Call | None:
        """The outline of a call, of the signature that was called last."""
        return next(reversed(self._outlines.values()), None)

    def knows(self, name: str) -> bool:
        """A call was made in a run of that name."""
        return name in self._named

    def forget(self, name: str) -> None:
        self._named.pop(name, None)

    def _of(self, name: str | None) -> list[Counters]:
        if name is None:
            return [self.all]
        named = self._named.setdefault(name, Counters())
        while len(self._named) > MAX_NAMED:
            self.forget(next(iter(self._named)))
        return [self.all, named]

    def _flops(self, blank: Call) -> tuple[int, int]:
        serving = next((e for e in self.engines if e.serves(blank)), None)
        served = next((e for e in self.engines if e.name in self.all.engines), None)  # the model has changed since
        return self._costs.of(serving or served, blank)

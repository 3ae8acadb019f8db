"""Trials of a model: a cached step that is given D itself must do what the full step did.

No block runs for them: those of the head and the tail are answered for by the tape of the full step, which also
compares what they are given, and the deep ones are left out. So the glue of the forward is what is proved. Where the
tape cannot answer for them, blocks of the two ends do run once more: where they write to what they are given, where
what they have returned is written to, where random numbers were drawn, where they get other objects on each call, or
where torch's own attention stands in the glue.

Each trial starts from what was outside of the model before the full step, and what it leaves is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from skipcache.blocks import Generators, Outside, Streams, quietly
from skipcache.engines import COUNTS, Features, beside, same_output
from skipcache.engines.hooks.runs import CachedRun, Count, FullRun, Unwired, WiringObserver
from skipcache.engines.hooks.watch import Watched
from skipcache.engines.hooks.wiring import Wiring
from skipcache.engines.tape import Differs, Tape
from skipcache.predictors import Hold, Prediction
from skipcache.trajectory import Call

if TYPE_CHECKING:
    from skipcache.engines.hooks.engine import HookEngine
    from skipcache.engines.hooks.overrides import BlockCall

# Under a function mode these take another path, whose last bits differ.
FAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
UNPROVED = "a cached step that was given D itself did not give the full step's output"


class Trials:
    """The trials of one signature. They are made before the full step that they are compared with runs."""

    def __init__(self, engine: HookEngine, forward: Callable[..., Any], call: Call) -> None:
        self.engine, self.forward, self.call = engine, forward, call
        self.outside = Outside(engine.model.modules())
        self.generators = Generators(call.sample.device)
        self.tape = None if any(isinstance(module, FAST) for module in self._outside(engine.stack.blocks)) else Tape()
        self.full = WiringObserver(engine, call.batch, self.tape, self.outside.values)

    def prove(self, output: Any, seen: Wiring) -> tuple[Wiring, Features | None]:
        """After `full`: the wiring that holds, with a refusal where none does, and the features to keep.

        Models that write to their features in place are found out here, and run once more on copies.
        """
        full = self.full
        sound = not seen.copies and not self.generators.drawn()
        if self.tape is not None:
            self.tape.pause()
            self.tape.finish(output)
            sound = sound and self.tape.unsound is None
        ways = [(seen, self.tape), (seen, None), (replace(seen, copies=True), None)]
        features = Features(beside(full.H, full.D), full.D)
        for wiring, tape in ways if sound and self.tape is not None else ways[1:]:
            features = self._on_copies(wiring) if wiring.copies else features
            flaw = self._flaw(output, features, wiring, tape)
            if flaw != UNPROVED:
                break
        if flaw is not None:
            return Wiring(refusal=flaw), None
        idle = replace(wiring, idle_head=True)
        free = self.engine.idle_head and self._flaw(output, features, idle, tape) is None
        return (idle if free else wiring), features

    def _glue(self) -> list[nn.Module]:
        """The modules that run where no block does, and those in the first block, which forwards may use beside it."""
        return self._outside(self.engine.stack.blocks[1:])

    def _outside(self, blocks: Sequence[str]) -> list[nn.Module]:
        inside = {module for path in blocks for module in self.engine.model.get_submodule(path).modules()}
        return [module for module in self.engine.model.modules() if module not in inside]

    def _on_copies(self, wiring: Wiring) -> Features:
        run = FullRun(self.engine, self.call.batch, wiring)
        with quietly(self.call.sample.device, self.engine.model):
            self.outside.put_back()
            self.engine.do(Watched(run, self.engine, wiring), self.forward, self.call)
        return Features(beside(run.H, run.D), run.D)

    def _flaw(self, output: Any, features: Features, wiring: Wiring, tape: Tape | None) -> str | None:
        """What a cached step does differently."""
        engine, full = self.engine, self.full
        trial = Trial(engine, self.call.batch, wiring, _of(features.D), tape, self.outside.values)
        watched = Watched(trial, engine, wiring, caches=True)
        with quietly(self.call.sample.device, engine.model, None if tape is None else self._glue()):
            self.outside.put_back()
            try:
                again = engine.do(watched, self.forward, self.call)
            except Exception as error:
                # Glue that no function mode sees may read values that the tape does not hold.
                if tape is not None or isinstance(error, (Unwired, Differs)):
                    return UNPROVED
                raise
        counted, ours = (self.outside.counted(*counts) for counts in (full.counts, trial.counts))
        lost = [name for name in {**counted, **ours} if counted.get(name) != ours.get(name)]
        if lost:
            return COUNTS.format(", ".join(lost[:3]))
        return None if same_output(output, again) and not watched.read else UNPROVED


class Trial(CachedRun):
    """A cached step that is given D itself. `tape` answers for the blocks at the ends; None: they run."""

    def __init__(
        self,
        engine: HookEngine,
        batch: int,
        wiring: Wiring,
        prediction: Prediction,
        tape: Tape | None,
        count: Count,
    ) -> None:
        super().__init__(engine, batch, wiring, prediction)
        self.tape, self.count = tape, count
        self.counts: tuple[Any, Any] = (None, None)
        if tape is not None:
            tape.rewind()

    def compute(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.tape is None:
            return super().compute(block, args, kwargs)
        return self.tape.answer(block.index, args, kwargs)

    def block(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if block.index == self.wiring.first:
            self.counts = self.count(), None
        output = super().block(block, args, kwargs)
        if block.index == self.wiring.last:
            self.counts = self.counts[0], self.count()
        return output


def _of(D: Streams) -> Prediction:
    return Prediction(Hold(), [D], (), residual=False)


def given(engine: HookEngine, D: Streams, call: Call, wiring: Wiring) -> CachedRun:
    """A cached step that is given D itself."""
    return CachedRun(engine, call.batch, wiring, _of(D))

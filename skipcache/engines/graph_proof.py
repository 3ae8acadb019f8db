"""The proof of a graph: given D, it must give the output of the step that it was made of, to the bit.

No block runs for it. What the step showed answers for the blocks, and compares what they are given; the other leaves,
which are small, run. Blocks run once more only where nothing can answer for them, or where that proof has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from skipcache.blocks import Outside, quietly
from skipcache.engines import Features, lost_effects, same_output
from skipcache.engines.answers import Answers
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.programs import Programs
from skipcache.engines.fx.recording import Recording
from skipcache.engines.fx.skeleton import Skeleton
from skipcache.predictors import Hold, Prediction
from skipcache.trajectory import Call


def proved(made: Programs, call: Call, recording: Recording, outside: Outside, answers: Answers) -> Features:
    """The features of the step that `recording` shows. Raises `Untraceable` where the programs do not repeat it.

    They start from the state that was `outside` before the step was recorded, and must count there as it did. The full
    program is proved where it is to run, which is compiled, and where blocks run for the proof anyway.
    """
    features = made.features(recording.given, recording.H, recording.D)
    if features is None:
        raise Untraceable("the trace shows other features than the step that it repeats")
    if any(h.device != d.device for h, d in zip(features.H or (), features.D)):
        raise Untraceable("its head and its deep part lie on two devices, and a graph moves nothing between them")
    if not (answers.unsound is None and _comes_out(made, call, recording.output, features, outside, answers)):
        again = _flaw(made, call, recording.output, features, outside)
        if again is not None:
            raise Untraceable(again)
    return features


def _comes_out(made: Programs, call: Call, output: Any, features: Features, outside: Outside, answers: Answers) -> bool:
    model, blocks = made.layout.model, made.layout.stack.blocks
    skeleton = _answered(model, blocks, answers)
    try:
        return _flaw(made, call, output, features, outside, skeleton.root, answers) is None
    except Exception:  # the programs may read a tensor of which no values are held, in any way
        return False


def _answered(model: nn.Module, blocks: Collection[str], answers: Answers) -> Skeleton:
    """Stand-ins for `model`, for whose blocks `answers` stands."""

    def answer(path: str, *args: Any, **kwargs: Any) -> Any:
        return answers.answer(path, args, kwargs)

    return Skeleton(model, blocks, answer, leaves=frozenset(blocks))


def _flaw(
    made: Programs,
    call: Call,
    output: Any,
    features: Features,
    outside: Outside,
    root: nn.Module | None = None,
    answers: Answers | None = None,
) -> str | None:
    """What the programs do differently. `root`: run them on this stand-in, for whose blocks `answers` stands."""
    outputs, lost = [], None
    unchanged = None if answers is None else outside
    held = Prediction(Hold(), [features.D], (), residual=False)
    programs: list[Callable[[], Any]] = [lambda: made.cached(call.args, call.kwargs, held, eager=True, model=root)]
    if answers is None or made.compile is not False:
        programs.insert(0, lambda: made.full(call.args, call.kwargs, eager=True, model=root))
    with quietly(call.sample.device, made.layout.model, unchanged) as after:
        for program in programs:
            outside.put_back()
            if answers is not None:
                answers.rewind()
            outputs.append(program()[0])
            lost = lost or lost_effects(after)
    if lost or all(same_output(output, one) for one in outputs):
        return lost
    return "a program did not give the output of the step that it was made of"

"""The proof of a graph runs no block, or says what the graph does differently."""

import pytest
import torch

from skipcache.blocks import Outside
from skipcache.engines.answers import Answers
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.programs import Programs
from skipcache.engines.fx.recording import record
from skipcache.engines.graph_proof import proved
from skipcache.stack import Stack
from skipcache.trajectory import CallReader
from tests.models.odd import Tiny, noise, tiny

DEEP = range(1, 4)


def ready(whole):
    """A tiny model, and all that a proof of its programs takes; `ran` has the blocks that ran since."""
    model, stack = tiny(Tiny), Stack(tuple((f"blocks.{i}",) for i in range(5)), "x", "t")
    args = noise(), torch.full((2,), 500.0)
    call, outside = CallReader(("x", "t"), "x", "t").read(args, {}), Outside(model.modules())
    answers = Answers(model.blocks, outside, torch.device("cpu"))
    function = type(model).forward
    recording = record(function, model, stack.blocks, DEEP, args, {}, answers, whole)
    answers.finish()
    made = Programs.of(function, model, stack, DEEP, recording, call, {"backend": "eager"} if whole else False)
    ran = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    return (made, call, recording, outside, answers), ran


@pytest.mark.parametrize("whole", [True, False])
def test_it_runs_no_block_and_gives_the_features(whole):
    with torch.no_grad():
        known, ran = ready(whole)
        features = proved(*known)
    assert not ran and torch.equal(features.D[0], known[2].D) and torch.equal(features.H[0], known[2].H)


def test_where_nothing_can_answer_blocks_run():
    with torch.no_grad():
        known, ran = ready(False)
        known[-1].unsound = "for a test"
        features = proved(*known)
    assert ran == [0, 1, 2, 3, 4, 4] and torch.equal(features.D[0], known[2].D)


def test_another_output_is_not_proved():
    with torch.no_grad():
        known, _ = ready(False)
        known[2].output = known[2].output + 1
        with pytest.raises(Untraceable, match="did not give the output"):
            proved(*known)


def test_other_features_are_not_proved():
    with torch.no_grad():
        known, _ = ready(False)
        known[2].D = known[2].D[:1]
        with pytest.raises(Untraceable, match="other features"):
            proved(*known)

"""What a block does in one step, and what the first full step shows of the wiring."""

import pytest
import torch
from torch import nn

from skipcache.engines.hooks.engine import HookEngine
from skipcache.engines.hooks.runs import CachedRun, FullRun, WiringObserver
from skipcache.predictors import Delta, Hold, Prediction
from skipcache.stack import Stack, make_plan


class Two(nn.Module):
    """Takes (image, text), returns (text, image)."""

    def __init__(self, number):
        super().__init__()
        self.number, self.ran = number, 0

    def forward(self, image, text):
        self.ran += 1
        return text + self.number, image * 2


class Model(nn.Module):
    def __init__(self, order=(0, 1, 2, 3)):
        super().__init__()
        self.blocks = nn.ModuleList(Two(i) for i in range(4))
        self.order = order

    def forward(self, x, t):
        text = x.sum(1, keepdim=True)
        for i in self.order:
            text, x = self.blocks[i](x, text)
        return x + text


X = torch.randn(2, 3)


def engine_of(model, keep=1):
    engine = HookEngine(model, Stack(tuple((f"blocks.{i}",) for i in range(4)), "x", "t"), make_plan(4, keep))
    engine.attach()
    return engine


def do(engine, run):
    with engine.doing(run):
        return engine.model(X, 0)


def observed(keep=1, **options):
    engine = engine_of(Model(**options), keep)
    run = WiringObserver(engine, batch=2)
    do(engine, run)
    return engine, run


def test_the_first_step_sees_where_streams_enter():
    _, run = observed()
    wiring = run.wiring()
    assert run.ran == 4 and wiring.refusal is None and not wiring.copies
    assert (wiring.shallow, wiring.first, wiring.last) == (0, 1, 2)
    assert wiring.outlets[1].inlets == (1, 0), "the first stream that it returns is its second argument"
    assert [x.shape for x in run.H] == [x.shape for x in run.D] == [(2, 1), (2, 3)]


def test_streams_that_look_alike_are_told_by_where_they_enter_the_next_block():
    class Twins(Model):
        def forward(self, x, t):
            text = x.flip(1)
            for block in self.blocks:
                text, x = block(x, text)
            return x - text

    engine = engine_of(Twins())
    run = WiringObserver(engine, batch=2)
    plain = do(engine, run)
    assert [run.wiring().outlets[i].inlets for i in (0, 1, 2)] == [(1, 0)] * 3, "a guess by their looks would be (0, 1)"
    ours = CachedRun(engine, 2, run.wiring(), Prediction(Hold(), [run.D], (), residual=False))
    assert torch.equal(do(engine, ours), plain)


def test_without_a_head_h_is_what_enters_in_the_order_in_which_blocks_return():
    _, run = observed(keep=(0, 1))
    assert run.wiring().shallow == -1
    text, image = run.H
    assert torch.equal(image, X) and torch.equal(text, X.sum(1, keepdim=True))


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 1, 1, 2, 3), (1, 2, 3)])
def test_blocks_out_of_order_are_refused_and_named(order):
    _, run = observed(order=order)
    names = ", ".join(f"blocks.{i}" for i in order)
    assert run.wiring().refusal == f"the blocks did not run once each in the order of the stack; they ran: {names}"


def test_a_block_that_hands_out_no_tensor_is_refused():
    class Wrapped(Two):
        def forward(self, image, text):
            return {"image": image, "text": text}

    class Dicts(Model):
        def forward(self, x, t):
            held = {"image": x, "text": x}
            for block in self.blocks:
                held = block(**held)
            return held["image"]

    model = Dicts()
    model.blocks = nn.ModuleList(Wrapped(i) for i in range(4))
    engine = engine_of(model)
    run = WiringObserver(engine, batch=2)
    do(engine, run)
    assert run.wiring().refusal == "blocks.2 returns neither a tensor nor a tuple of tensors"


def test_a_feature_that_is_written_to_asks_for_copies():
    class InPlace(Two):
        def forward(self, image, text):
            return text, image.mul_(2)

    model = Model()
    model.blocks[3] = InPlace(3)
    engine = engine_of(model)
    run = WiringObserver(engine, batch=2)
    do(engine, run)
    assert run.wiring().copies
    full = FullRun(engine, 2, run.wiring())
    do(engine, full)
    before = [x.clone() for x in full.D]
    do(engine, FullRun(engine, 2, run.wiring()))
    assert all(map(torch.equal, full.D, before))


@pytest.mark.parametrize("keep", [1, (2, 1), (1, 0), (0, 1), 0])
def test_a_cached_step_runs_the_ends_alone_and_hands_out_what_was_predicted(keep):
    engine, run = observed(keep)
    wiring, model = run.wiring(), engine.model
    plain = do(engine, FullRun(engine, 2, wiring))
    ran = [block.ran for block in model.blocks]
    cached = CachedRun(engine, 2, wiring, Prediction(Hold(), [run.D], (), residual=False))
    assert torch.equal(do(engine, cached), plain)
    computed = [block.ran - before for block, before in zip(model.blocks, ran)]
    assert computed == [int(i not in engine.deep) for i in range(4)] and cached.ran == sum(computed)
    R = tuple(d - h for d, h in zip(run.D, run.H))
    delta = CachedRun(engine, 2, wiring, Prediction(Delta(), [R], (), residual=True))
    torch.testing.assert_close(do(engine, delta), plain)
    assert all(map(torch.equal, delta.H, run.H)), "the prediction is given the fresh H"


def test_outside_of_a_run_blocks_compute_as_ever():
    engine, _ = observed()
    assert engine.run is None
    assert torch.equal(engine.model(X, 0), Model()(X, 0))

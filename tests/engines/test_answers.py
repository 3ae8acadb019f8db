"""Answers stand for blocks that they have seen, or say why they cannot."""

import pytest
import torch
from torch import nn

from skipcache.blocks import Outside
from skipcache.engines.answers import Answers, Differs


@pytest.fixture(autouse=True)
def without_autograd():
    with torch.no_grad():
        yield


class Block(nn.Module):
    def __init__(self, function=lambda x: x * 2):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def recorded(glue, x=None, inference=False, modules=()):
    """`glue(call, x)` calls blocks by `call(path, function, *args)`."""
    modules = list(modules)
    answers = Answers(modules, Outside(modules), torch.device("cpu"))
    with torch.inference_mode() if inference else torch.no_grad():
        x = torch.ones(3) if x is None else x

        def call(path, function, *args):
            noted = answers.enter(path, args, {})
            output = function(*args)
            answers.leave(path, noted, output, hold=False)
            return output

        output = glue(call, x)
    answers.finish()
    answers.rewind()
    return answers, x, output


def double(x):
    return x * 2


def straight(call, x):
    return call("b", double, call("a", double, x))


def test_what_goes_straight_from_one_block_to_the_next_is_known_by_identity_alone():
    answers, x, output = recorded(straight)
    assert answers.unsound is None
    for _ in range(2):
        answers.rewind()
        stand_in = answers.answer("a", (x.clone(),), {})
        assert stand_in.is_meta and stand_in.shape == x.shape
        assert torch.equal(answers.answer("b", (stand_in,), {}), output)
    answers.rewind()
    answers.answer("a", (x,), {})
    with pytest.raises(Differs, match="b is given something else"):
        answers.answer("b", (double(x),), {})


def test_other_values_are_held_and_handed_out_apart_and_a_call_is_answered_once():
    answers, x, _ = recorded(lambda call, x: call("a", double, x) + 1)
    answer = answers.answer("a", (x,), {})
    assert torch.equal(answer, double(x))
    with pytest.raises(Differs):
        answers.answer("a", (x,), {})
    answer.zero_()
    answers.rewind()
    assert torch.equal(answers.answer("a", (x,), {}), double(x))


@pytest.mark.parametrize("other", [torch.zeros(3), torch.ones(3).double(), torch.ones(6)[::2], 1.0])
def test_another_value_or_layout_is_not_answered(other):
    answers, _, _ = recorded(straight)
    with pytest.raises(Differs):
        answers.answer("a", (other,), {})


def test_another_ambient_is_not_answered():
    answers, x, _ = recorded(straight)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(Differs):
        answers.answer("a", (x,), {})


def test_layouts_of_views_and_what_is_handed_through_are_kept():
    answers, x, _ = recorded(lambda call, x: call("a", lambda x: (x[:, 1:], x), x)[0] + 1, torch.rand(3, 4))
    view, same = answers.answer("a", (x,), {})
    assert same is x and view.stride() == (4, 1) and torch.equal(view, x[:, 1:])


def writes(x):
    return x.add_(1)


def hidden(x):
    x.data.add_(1)
    return x.clone()


def then_written(call, x):
    h = call("a", double, x)
    y = h + 1
    h.mul_(3)
    return y


def then_given(call, x):
    h = call("a", double, x)
    h.mul_(3)
    return call("b", double, h)


def given_again(call, x):
    call("a", double, x)
    x.data.mul_(3)
    return call("b", double, x)


UNSOUND = {
    "a block": (lambda call, x: call("a", writes, x + 1), "a writes to what it is given"),
    "a block, uncounted": (lambda call, x: call("a", hidden, x + 1), "a writes to what it is given"),
    "the glue": (then_written, "was written to"),
    "the glue before the next": (then_given, "was written to"),
    "the glue, uncounted": (given_again, "was written to"),
    "an object": (lambda call, x: call("a", lambda x, y: x, x, object()), "a block is given a object"),
    "a random number": (lambda call, x: call("a", lambda x: x + torch.rand(()), x), "random numbers"),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_where_nothing_can_answer_it_is_said(kind):
    glue, reason = UNSOUND[kind]
    assert reason in recorded(glue)[0].unsound


def test_without_a_count_of_writes_a_block_that_writes_is_told():
    assert "writes to what it is given" in recorded(UNSOUND["a block"][0], inference=True)[0].unsound


def test_a_block_with_a_state_is_not_answered_for():
    block = Block()
    block.n = 0

    def counts(x):
        block.n += 1
        return x * block.n

    assert "state of its own" in recorded(lambda call, x: call("a", counts, x), modules=[block])[0].unsound
    assert recorded(straight, modules=[block])[0].unsound is None

"""A tape answers for modules that it has seen, or says why it cannot."""

import pytest
import torch

from skipcache.engines.between import same_modes
from skipcache.engines.tape import Differs, Tape


def ran(tape, key, function, *args):
    """`function(*args)`, as a module that the tape watches."""
    tape.pause()
    call = tape.enter(args, {})
    output = function(*args)
    tape.leave(key, call, output)
    tape.resume()
    return output


def recorded(glue, inference=False):
    tape = Tape()
    with torch.inference_mode() if inference else torch.no_grad(), same_modes():
        x = torch.ones(3)
        output = glue(lambda key, function, *args: ran(tape, key, function, *args), x)
        tape.pause()
        tape.finish(output)
    return tape, x, output


def double(x):
    return x * 2


def straight(call, x):
    return call("b", double, call("a", double, x))


def test_what_goes_straight_from_one_module_to_the_next_is_known_by_identity_alone():
    tape, x, output = recorded(straight)
    assert tape.unsound is None
    for _ in range(2):
        tape.rewind()
        token = tape.answer("a", (x,), {})
        assert token.is_meta and token.shape == x.shape
        assert torch.equal(tape.answer("b", (token,), {}), output)
    tape.rewind()
    tape.answer("a", (x.clone(),), {})
    with pytest.raises(Differs, match="b is given something else"):
        tape.answer("b", (double(x),), {})


@pytest.mark.parametrize("read", [lambda x: x + 1, lambda x: x[:2], lambda x: x.real, lambda x: torch.stack([x, x])])
def test_what_the_glue_reads_is_held(read):
    tape, x, _ = recorded(lambda call, x: read(call("a", double, x)))
    tape.rewind()
    assert torch.equal(tape.answer("a", (x,), {}), double(x))


def test_a_look_at_the_outline_holds_nothing():
    tape, x, _ = recorded(lambda call, x: torch.zeros(call("a", double, x).shape[0]))
    tape.rewind()
    assert tape.answer("a", (x,), {}).is_meta


@pytest.mark.parametrize("other", [torch.zeros(3), torch.ones(3).double(), 1.0])
def test_another_value_is_not_answered(other):
    tape, _, _ = recorded(straight)
    tape.rewind()
    with pytest.raises(Differs):
        tape.answer("a", (other,), {})


def test_of_several_calls_that_which_was_given_the_same_is_repeated():
    tape, x, _ = recorded(lambda call, x: call("a", double, x) + call("a", double, x + 1))
    tape.rewind()
    assert torch.equal(tape.answer("a", (x + 1,), {}), double(x + 1))
    assert torch.equal(tape.answer("a", (x,), {}), double(x))
    with pytest.raises(Differs):
        tape.answer("a", (x,), {})


def writes(x):
    return x.add_(1)


def then_written(call, x):
    h = call("a", double, x)
    y = h + 1
    h.mul_(3)
    return y


def then_given(call, x):
    h = call("a", double, x)
    h.mul_(3)
    return call("b", double, h)


UNSOUND = {
    "a module": (lambda call, x: call("a", writes, x + 1), "a writes to what it is given"),
    "the glue": (then_written, "was written to"),
    "the glue before the next": (then_given, "was written to"),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("kind", UNSOUND)
def test_what_is_written_in_place_is_told(kind, inference):
    glue, reason = UNSOUND[kind]
    if inference and kind == "the glue":
        tape, x, _ = recorded(glue, inference)  # the copy holds what the module returned, so that it may be repeated
        tape.rewind()
        assert tape.unsound is None and torch.equal(tape.answer("a", (x,), {}), double(x))
        return
    assert reason in recorded(glue, inference)[0].unsound


def test_of_modules_that_pass_by_the_last_one_s_output_is_held():
    tape = Tape()
    first, last = torch.ones(3), torch.ones(3)
    tape.pass_by(first)
    (made,) = tape.pass_by((last, "other"))
    tape.read([first, last])
    assert torch.equal(made.kept, last) and tape._made[id(first)].kept is None
    last.add_(1)
    assert made.is_written(last)

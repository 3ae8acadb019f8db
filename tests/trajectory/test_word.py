"""What is said of a model's calls: the last word counts, until its block ends."""

import asyncio
import threading

import pytest
import torch

from skipcache.policies import Interval
from skipcache.trajectory.word import Word, said_of, saying


def test_words_nest_and_end():
    model = object()
    outer, inner = Word((model,), "r"), Word((model,), "r", step=3, lane="cond")
    assert said_of(model) is None
    with saying(outer):
        assert said_of(model) is outer
        with saying(inner):
            assert said_of(model) is inner
        assert said_of(model) is outer
    assert said_of(model) is None


def test_a_block_that_raises_ends_its_word():
    model = object()
    with pytest.raises(RuntimeError), saying(Word((model,), "r")):
        raise RuntimeError
    assert said_of(model) is None


def test_a_word_is_of_its_models_alone():
    one, other = object(), object()
    outer, inner = Word((one, other), "both"), Word((other,), "one of them")
    with saying(outer), saying(inner):
        assert said_of(one) is outer and said_of(other) is inner
        assert said_of(object()) is None


def test_equal_models_are_not_one():
    one, other = [1], [1]
    with saying(Word((one,), "r")):
        assert said_of(other) is None and said_of(one) is not None


def test_a_word_goes_with_a_task_and_not_with_another_one():
    model, heard = object(), {}

    async def request(name, waits):
        with saying(Word((model,), name)):
            await asyncio.sleep(waits)
            heard[name] = said_of(model).name, (await asyncio.to_thread(said_of, model)).name

    async def both():
        await asyncio.gather(request("a", 0.02), request("b", 0.01))

    asyncio.run(both())
    assert heard == {"a": ("a", "a"), "b": ("b", "b")}


def test_a_thread_that_was_not_handed_the_context_hears_nothing():
    model, heard = object(), []
    with saying(Word((model,), "r")):
        thread = threading.Thread(target=lambda: heard.append(said_of(model)))
        thread.start()
        thread.join()
    assert heard == [None]


def test_other_timesteps_or_other_flow_times_are_another_run():
    said = Word((), "r", torch.tensor([9.0, 4.0]), (1.0, 0.5))
    same = Word((), "r", torch.tensor([9.0, 4.0]), (1.0, 0.5))
    assert said.run.times == (1.0, 0.5) and same.is_of(said.run, Interval(3), Interval(3))
    others = [(None, None), (torch.tensor([9.0, 4.0]), None), (torch.tensor([9.0, 3.0]), (1.0, 0.5))]
    assert not any(Word((), "r", *other).is_of(said.run, Interval(3), Interval(3)) for other in others)
    assert Word((), "r").is_of(None, Interval(3), Interval(3)) and not Word((), "r").is_of(said.run, *2 * [Interval(3)])

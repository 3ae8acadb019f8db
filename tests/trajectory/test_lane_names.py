"""diffusers' `cache_context` names the lane of the calls inside it, by thread."""

import copy
import threading
from contextlib import contextmanager

import pytest

from skipcache.trajectory.word import NamedLanes


class Model:
    def __init__(self):
        self.entered = []

    @contextmanager
    def cache_context(self, name):
        self.entered.append(name)
        yield


def test_the_name_is_that_of_the_innermost_context():
    model = Model()
    lanes = NamedLanes(model)
    lanes.put_on()
    assert lanes.name is None
    with model.cache_context("cond"):
        assert lanes.name == "cond"
        with model.cache_context("inner"):
            assert lanes.name == "inner"
        assert lanes.name == "cond"
    assert lanes.name is None and model.entered == ["cond", "inner"], "the library's own context is entered too"


def test_a_context_that_raises_ends():
    model = Model()
    lanes = NamedLanes(model)
    lanes.put_on()
    with pytest.raises(RuntimeError), model.cache_context("cond"):
        raise RuntimeError
    assert lanes.name is None


def test_it_is_taken_off_to_the_last_attribute():
    model, own = Model(), object()
    lanes = NamedLanes(model)
    lanes.put_on()
    lanes.take_off()
    assert model.__dict__.keys() == {"entered"}
    model.cache_context = own
    lanes = NamedLanes(model)
    lanes.put_on()
    assert model.cache_context is lanes
    lanes.take_off()
    assert model.cache_context is own


def test_a_model_without_contexts_is_left_alone():
    class Plain:
        pass

    model = Plain()
    NamedLanes(model).put_on()
    assert model.__dict__ == {}


def test_each_thread_has_a_name_of_its_own():
    model = Model()
    lanes = NamedLanes(model)
    lanes.put_on()
    seen = []
    with model.cache_context("cond"):
        thread = threading.Thread(target=lambda: seen.append(lanes.name))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_copy_names_lanes_of_its_own():
    model = Model()
    NamedLanes(model).put_on()
    with model.cache_context("cond"):
        twin = copy.deepcopy(model)
        assert twin.cache_context.module is twin and twin.cache_context.name is None

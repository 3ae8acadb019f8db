"""Random numbers that were drawn are told, and given back."""

import random

import numpy
import pytest
import torch

from skipcache.blocks import Generators

DRAWS = {"torch": lambda: torch.rand(()).item(), "Python's random": random.random, "NumPy": numpy.random.rand}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_told_and_given_back(name):
    before = Generators(torch.device("cpu"))
    assert before.drawn() == []
    number = DRAWS[name]()
    assert before.drawn() == [name]
    before.put_back()
    assert before.drawn() == [] and DRAWS[name]() == number

"""A mode between the blocks goes on and off in a stack that others use too."""

import torch
from torch.overrides import _get_current_function_mode_stack

from skipcache.engines.between import Between, is_outline, same_modes


class Notes(Between):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_it_is_on_from_resume_to_pause():
    notes, x = Notes(), torch.ones(2)
    for _ in range(2):
        notes.resume()
        notes.resume()
        x.add(1)
        notes.pause()
        notes.pause()
        x.sub(1)
    assert notes.seen == ["add", "add"] and not _get_current_function_mode_stack()


def test_under_another_mode_it_stays_where_it_is():
    notes = Notes()
    notes.resume()
    with torch.device("cpu"):
        notes.pause()
        torch.ones(2).add(1)
    assert "add" in notes.seen
    notes.pause()
    assert not _get_current_function_mode_stack()


def test_modes_that_were_left_are_taken_off():
    with same_modes():
        Notes().resume()
    assert not _get_current_function_mode_stack()


def test_outlines():
    assert is_outline("size") and is_outline("zeros_like") and not is_outline("add")

"""A device that no test may read."""

import contextlib

import pytest
import torch

from tests.models.devices import as_on_device


class Blind:
    """Inside, all tensors are as on a device, and to read one is an error."""

    def __init__(self, patch):
        self._patch, self.reads = patch, 0

    @contextlib.contextmanager
    def __call__(self, allowed=False):
        def refuse(*args, **kwargs):
            raise AssertionError("a device was read")

        with as_on_device(), self._patch.context() as patch:
            tolist = torch.Tensor.tolist

            def count(x):
                self.reads += 1
                return tolist(x)

            for name in ("item", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, refuse)
            patch.setattr(torch.Tensor, "tolist", count if allowed else refuse)
            patch.setattr(torch, "equal", refuse)
            yield


@pytest.fixture
def blind(monkeypatch):
    return Blind(monkeypatch)

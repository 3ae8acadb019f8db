"""A device that no test may read."""

import contextlib
import sys

import pytest
import torch

from skipcache.blocks import on_host


class Blind:
    """Inside, all tensors are as on a device, and to read one is an error."""

    def __init__(self, patch):
        self._patch, self.reads = patch, 0

    @contextlib.contextmanager
    def __call__(self, allowed=False):
        def refuse(*args, **kwargs):
            raise AssertionError("a device was read")

        with self._patch.context() as patch:
            for module in (m for name, m in sys.modules.items() if name.startswith("skipcache.trajectory.")):
                if vars(module).get("on_host") is on_host:
                    patch.setattr(module, "on_host", lambda value: not isinstance(value, torch.Tensor))
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

"""How many bytes of tensors are alive at once while code runs."""

import weakref

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):
    """The most bytes that storages of `least` bytes and more, made under it, held at once. Fake tensors hold none."""

    def __init__(self, least=0):
        super().__init__()
        self.least = least
        self.alive, self.bytes, self.most = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        value = func(*args, **(kwargs or {}))
        for x in pytree.tree_leaves(value):
            if isinstance(x, Tensor) and not (x.is_meta or isinstance(x, FakeTensor)):
                self.note(x.untyped_storage())
        return value

    def note(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if size >= self.least and key not in self.alive:
            self.bytes += size
            self.most = max(self.most, self.bytes)
            self.alive[key] = weakref.ref(storage, lambda _: self.freed(key, size))

    def freed(self, key, size):
        self.bytes -= size
        del self.alive[key]


def peak_of(call, least=0):
    with torch.no_grad(), Peak(least) as peak:
        call()
    return peak.most

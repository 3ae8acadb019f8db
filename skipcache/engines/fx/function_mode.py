"""Records torch functions as nodes of a graph while a forward runs on fake tensors.

A torch function mode sees every call of a torch function. Fake tensors have real shapes, dtypes and devices, so the
forward's own Python runs as usual. They have no values, so no branch on a value can become part of the graph.
"""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from skipcache.blocks import Outline, eagerly
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.nesting import children, has_tensor, mapped, tensor_paths, tensors_in
from skipcache.engines.noted import ambient

_LITERALS = (int, float, bool, str, complex, type(...), torch.dtype, torch.device, torch.memory_format, torch.layout)


class _Known(NamedTuple):
    tensor: Tensor  # as the forward holds it
    fake: Tensor
    node: fx.Node


class Tracer(TorchFunctionMode):
    """Records a node for each torch function that is called on a traced tensor.

    Traced tensors are graph inputs, the model's parameters, buffers and tensor attributes (read anew at each run of the
    graph), and all results of these. A tensor that comes from none of them depends on the signature alone: it is
    computed once and becomes one of the `constants`, which the graph takes as inputs. A tracer that is `like` another
    one shares its fake tensors.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, like: Tracer | None = None) -> None:
        super().__init__()
        self.graph = graph
        self.constants: list[Any] = []
        self._model = model
        self._fake: FakeTensorMode = FakeTensorMode() if like is None else like._fake
        self._known: dict[int, _Known] = {}
        self._folded: dict[int, Tensor] = {}
        self._used: list[tuple[Tensor, int]] = []
        self._paths: dict[int, str] | None = None
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        self._last_input = placeholders[-1] if placeholders else graph._root
        self._ambient = ambient()

    # Traced tensors

    def know(self, fake: Tensor, node: fx.Node) -> None:
        self._known[id(fake)] = _Known(fake, fake, node)

    def blank(self, outline: Outline) -> Tensor:
        """A fake tensor, not known yet."""
        shape, dtype, device, stride = outline
        with torch._C.DisableTorchFunction():
            if device.type == "meta" or stride is None:
                with self._fake:
                    return outline.blank()
            return FakeTensor(self._fake, torch.empty_strided(shape, stride, dtype=dtype, device="meta"), device)

    def input(self, name: str) -> fx.Node:
        """A new argument of the graph, behind those that it has."""
        taken = {node.target for node in self.graph.nodes if node.op == "placeholder"}
        numbered = (f"{name}_{i}" if i else name for i in itertools.count())
        unique = next(n for n in numbered if n not in taken)
        with self.graph.inserting_after(self._last_input):
            self._last_input = self.graph.placeholder(unique)
        return self._last_input

    def _lift(self, x: Tensor) -> _Known:
        if id(x) not in self._known:
            if isinstance(x, FakeTensor):
                raise Untraceable("a tensor reached a torch function that no torch function was seen to make")
            path = self._path(x)
            node = self._constant(x) if path is None else self.graph.get_attr(path)
            self._known[id(x)] = _Known(x, self.blank(Outline.exactly(x)), node)
        return self._known[id(x)]

    def _path(self, x: Tensor) -> str | None:
        if self._paths is None:
            self._paths = dict(tensor_paths(self._model))
        return self._paths.get(id(x))

    def _constant(self, value: Any) -> fx.Node:
        if isinstance(value, Tensor) and id(value) in self._folded:
            self._used.append((value, value._version))
        self.constants.append(value)
        return self.input("constant")

    def check_constants(self) -> None:
        """A constant must have been the same at all its uses."""
        if any(x._version != seen for x, seen in self._used):
            raise Untraceable("the forward writes to a tensor that it has used before")

    # Torch functions

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _property(func)
        if name is not None:
            return self._read(name, func, args)
        tensors = list(tensors_in((args, kwargs)))
        if all(id(x) in self._folded for x in tensors):
            return self._fold(func, args, kwargs)
        lifted = [self._lift(x).fake for x in tensors]
        faked = mapped((args, kwargs), lambda x: self._known[id(x)].fake)
        with self._fake, _Watch(func, lifted):
            value = func(*faked[0], **faked[1])
        return self.follow(value, self.emit(*_target(func, args), kwargs)) if has_tensor(value) else value

    def _read(self, name: str, func: Any, args: Any) -> Any:
        """An attribute of a tensor: `x.shape`, `x.T`."""
        if func.__name__ != "__get__":
            raise Untraceable(f"the forward sets the attribute {name!r} of a tensor")
        x = args[0]
        value = func(*args)
        if not isinstance(value, Tensor) or id(x) in self._folded:
            return value
        return self.follow(getattr(self._lift(x).fake, name), self.emit("call_function", getattr, (x, name), {}))

    def _fold(self, func: Any, args: Any, kwargs: Any) -> Any:
        with _Watch(func, []):
            value = func(*args, **kwargs)
        self._folded.update((id(x), x) for x in tensors_in(value))
        return value

    def emit(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        if ambient() != self._ambient:
            raise Untraceable("the forward enters autocast, or changes grad mode or the default dtype")
        return self.graph.create_node(op, target, self.argument(args), self.argument(kwargs))

    def argument(self, value: Any) -> Any:
        """`value` as a node's argument: what Python source can say as it is, anything else by way of an input."""
        if isinstance(value, Tensor):
            return self._lift(value).node
        if type(value) in (tuple, list, torch.Size):
            items = [self.argument(item) for item in value]
            return items if type(value) is list else tuple(items)
        if type(value) is dict:
            return {key: self.argument(item) for key, item in value.items()}
        if type(value) is slice:
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if value is None or type(value) in _LITERALS:
            return value
        if has_tensor(value) or any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
            raise Untraceable(f"the forward passes tensors on in a {type(value).__name__}")
        return self._constant(value)

    def follow(self, value: Any, node: fx.Node) -> Any:
        """Know the tensors in `value`, which is what `node` returns."""
        for tensor, at in self.parts(value, node):
            if isinstance(tensor, Tensor):
                self.know(tensor, at)
        return value

    def parts(self, value: Any, node: fx.Node) -> Iterator[tuple[Any, fx.Node]]:
        """All that is in `value`, nested as it may be, each with a node that takes it out of what `node` returns."""
        held = children(value)
        if held is None:
            yield value, node
        for take, key, item in held or ():
            yield from self.parts(item, self.graph.call_function(take, (node, key)))


class _Watch(TorchDispatchMode):
    """Refuses what a graph would lose: random numbers, and writing to a tensor that `func` was given."""

    def __init__(self, func: Any, given: list[Tensor]) -> None:
        super().__init__()
        self._name = getattr(func, "__name__", str(func))
        self._given = {x.untyped_storage()._cdata for x in given}

    def __torch_dispatch__(self, op: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        bound = dict(zip((argument.name for argument in op._schema.arguments), args)) | kwargs
        if torch.Tag.nondeterministic_seeded in op.tags and bound.get("dropout_p", 1) != 0:
            raise Untraceable(f"the forward draws random numbers, by {self._name}")
        for argument in op._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in tensors_in(bound.get(argument.name)):
                    if x.untyped_storage()._cdata in self._given:
                        raise Untraceable(f"the forward writes to a tensor in place, by {self._name}")
        return op(*args, **kwargs)


_REFLECTED = types.MappingProxyType(
    {
        "__radd__": operator.add,
        "__rsub__": operator.sub,
        "__rmul__": operator.mul,
        "__rdiv__": operator.truediv,
        "__rtruediv__": operator.truediv,
        "__rfloordiv__": operator.floordiv,
        "__rmod__": operator.mod,
        "__rpow__": operator.pow,
        "__rmatmul__": operator.matmul,
    }
)


def _target(func: Any, args: Any) -> tuple[str, Any, Any]:
    """`func(*args)` as a node's op, target and args, in the form that reads best."""
    name = getattr(func, "__name__", "")
    if getattr(torch.Tensor, f"__{name}__", None) is func:
        name = f"__{name}__"  # torch names some operators as if they were methods: `Tensor.__pow__` says "pow"
    if getattr(torch.Tensor, name, None) is not func:
        return "call_function", func, args
    if name in _REFLECTED:
        return "call_function", _REFLECTED[name], (args[1], args[0])
    if name.startswith("__") and hasattr(operator, name):
        return "call_function", getattr(operator, name), args
    return "call_method", name, args


def _property(func: Any) -> str | None:
    """The name of the tensor's attribute that `func` reads or writes."""
    if not isinstance(func, types.MethodWrapperType) or func.__name__ not in ("__get__", "__set__", "__delete__"):
        return None
    owner = func.__self__
    return getattr(owner, "__name__", None) or owner.fget.__name__  # type: ignore[attr-defined]


@contextmanager
def tracing(tracer: Tracer) -> Iterator[None]:
    """Torch functions that this thread calls are written down by `tracer`."""
    with eagerly(), tracer:
        yield
    tracer.check_constants()

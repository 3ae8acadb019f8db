"""What one call to the denoiser shows on the host: sample, timestep, conditioning, structure. No device is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, outline_of, version, whole_argument
from skipcache.trajectory.mark import Mark, is_plain

WHOLE = frozenset({type(None), bool, int, str, torch.dtype, torch.device})


@dataclass(frozen=True)
class Call:
    """One call of the denoiser.

    Attributes:
        samples: x_t; several where a list of samples was given (Z-Image). `sample` is the first.
        timestep: a tensor or a number.
        conditioning: the leaves of all other arguments, by name of the argument.
        structure: shapes, dtypes, devices and nesting of all arguments, without values.
        signature: the structure, the values of plain Python leaves, autocast and inference mode. A graph is valid for
            one signature.
        kind: the signature without the identities of objects and numbers with a fraction. A wiring is valid for one.
        context: the lane's name by diffusers' `cache_context`, if there is one.
        sample_structure: the outlines of all samples.
        batch: of the sample.
        autocast: its dtype on the sample's device; None where it is off.
        inference: in inference mode.
        state: of the model, as `blocks.ModelState` reads it.
        gather: gives the whole sample of this process's part; None where nothing is divided.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    samples: tuple[Tensor, ...]
    timestep: Tensor | float
    conditioning: tuple[Any, ...]
    structure: Hashable
    signature: Hashable
    kind: Hashable = None
    context: str | None = None
    sample_structure: tuple[Hashable, ...] = ()
    batch: int = 0
    autocast: torch.dtype | None = None
    inference: bool = False
    state: Hashable = None
    gather: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def x(self) -> Tensor:
        """The sample as the caller gave it: gathered, where several processes hold parts of it, which must all ask."""
        return self.sample if self.gather is None else self.gather(self.sample)

    @property
    def sample(self) -> Tensor:
        return self.samples[0]

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """Of the conditioning, as it is now."""
        return tuple(map(Mark.of, self.conditioning))

    @cached_property
    def sample_marks(self) -> tuple[Mark, ...]:
        return tuple(map(Mark.of, self.samples))

    @property
    def sample_mark(self) -> Mark:
        return self.sample_marks[0]

    @property
    def tensors(self) -> list[Tensor]:
        """All among the arguments."""
        given = (*self.samples, self.timestep, *self.conditioning)
        return [x for x in given if isinstance(x, Tensor)]

    def run(self, forward: Callable[..., Any]) -> Any:
        """`forward` on the arguments, in lists and dicts of this run's own: a model may empty them (HunyuanDiT)."""
        args, kwargs = self.arguments()
        return forward(*args, **kwargs)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _opened(self.args), _opened(dict(self.kwargs))


@dataclass(frozen=True)
class CallReader:
    """Reads calls of one forward: `names` are its parameters, `sample` and `timestep` two of them.

    `model`: whose processes may each be given a part of an argument; None where they are not.
    """

    names: tuple[str, ...]
    sample: str
    timestep: str
    model: nn.Module | None = None

    @classmethod
    def of(cls, forward: Callable[..., Any], sample: str, timestep: str) -> CallReader:
        """For a bound `forward`."""
        return cls(tuple(inspect.signature(forward).parameters), sample, timestep)

    def read(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: str | None = None,
        state: Hashable = None,
    ) -> Call | None:
        """The call `forward(*args, **kwargs)`; None without a sample or a timestep."""
        given = dict(zip(self.names, args))
        given.update(kwargs)
        x, t = given.pop(self.sample, None), given.pop(self.timestep, None)
        if not self._is_divided:
            return _call(x, t, given, args, kwargs, context, state)
        t = self._whole(self.timestep, t) if isinstance(t, Tensor) else t
        call = _call(x, t, given, args, kwargs, context, state)
        return None if call is None else replace(call, gather=partial(self._whole, self.sample))

    @property
    def _is_divided(self) -> bool:
        return self.model is not None and self.model.__dict__.get("_parallel_config") is not None

    def _whole(self, name: str, part: Tensor) -> Tensor:
        assert self.model is not None
        return whole_argument(self.model, name, part)


def _call(
    x: Any,
    t: Any,
    given: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: str | None,
    state: Hashable,
) -> Call | None:
    samples = [x] if isinstance(x, Tensor) else list(x) if isinstance(x, (list, tuple)) else []
    if not (samples and all(isinstance(s, Tensor) and s.ndim for s in samples) and isinstance(t, (Tensor, int, float))):
        return None
    outlines = tuple(map(outline_of, samples))
    leaves, shape, values = [], [], []
    for name in sorted(given):
        parts, spec = _flat(given[name])
        leaves += parts
        shape.append((name, spec, tuple(outline_of(leaf) for leaf in parts)))
        values += [leaf for leaf in parts if not isinstance(leaf, Tensor)]
    structure = (outlines, outline_of(t), tuple(shape))
    device = samples[0].device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    autocast = torch.get_autocast_dtype(device) if casts else None
    inference = torch.is_inference_mode_enabled()
    ambient = autocast, inference
    plain = tuple(v for v in values if type(v) in WHOLE)
    kind = (structure, plain, ambient)
    odd = len(plain) < len(values)
    signature = (structure, tuple(v if is_plain(v) else id(v) for v in values), ambient) if odd else kind
    batch = len(x) if isinstance(x, (list, tuple)) else x.shape[0]
    return Call(
        args,
        kwargs,
        tuple(samples),
        t,
        tuple(leaves),
        structure,
        signature,
        kind,
        context,
        outlines,
        batch,
        autocast,
        inference,
        state,
    )


def _opened(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_opened, value))
    return {key: _opened(item) for key, item in value.items()} if type(value) is dict else value


def _flat(value: Any) -> tuple[list[Any], Hashable]:
    if value is None or isinstance(value, (Tensor, bool, int, float, str)):
        return [value], None
    leaves, spec = pytree.tree_flatten(value)
    return leaves, spec


def versions(call: Call) -> list[int]:
    """The counts of in-place writes to the tensors among the arguments."""
    leaves = pytree.tree_leaves((call.args, dict(call.kwargs)))
    return [version(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


def blank_call(call: Call) -> Call:
    """`call` with outlines for tensors, which hold no memory."""
    args, kwargs, samples = pytree.tree_map_only(Tensor, Outline.of, (call.args, dict(call.kwargs), call.samples))
    return replace(call, args=args, kwargs=kwargs, samples=samples, conditioning=(), state=None)


def zero_call(blank: Call) -> Call:
    """A call of zeros, from what `blank_call` made."""
    args, kwargs, samples = pytree.tree_map(
        lambda x: x.zeros() if isinstance(x, Outline) else x,
        (blank.args, blank.kwargs, blank.samples),
        is_leaf=lambda x: isinstance(x, Outline),
    )
    return replace(blank, args=args, kwargs=kwargs, samples=samples)


WRITES = "the forward writes to its arguments, so that no second run could prove the first"

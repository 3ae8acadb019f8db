"""What a row of the zoo is: how a tiny denoiser is built, weighted and called."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


class Draw:
    """Draws the arguments of one forward call: the same seed gives the same tensors at every t in [0, 1]."""

    def __init__(self, seed: int, t: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.t = t

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def ints(self, *shape: int, high: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator)

    def rotary(self, tokens: int, dim: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of random angles, each for two neighbouring channels: two of (tokens, dim)."""
        angles = self(tokens, dim // 2).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()

    def steps(self, *shape: int) -> Tensor:
        """The time as DDPM-like schedulers count it: integers, falling from 999."""
        return torch.full(shape or (2,), round(self.t * 999))

    def times(self, *shape: int, unit: float = 1.0) -> Tensor:
        """The time as flow-matching schedulers give it: floats, in [0, 1] or scaled by `unit`."""
        return torch.full(shape or (2,), self.t * unit)


@dataclass(frozen=True)
class Entry:
    """A tiny denoiser: `make` builds it untrained, `draw` gives the arguments of its forward.

    The rest is what a search for the main stack must find: the module lists of its units in running order (a
    tuple of lists alternates: a unit is one block of each), and the names of the sample and time arguments.
    """

    name: str
    make: partial[nn.Module]
    draw: Callable[[Draw], dict[str, Any]]
    lists: tuple[str | tuple[str, ...], ...] = ("transformer_blocks",)
    sample: str = "hidden_states"
    timestep: str = "timestep"

    @property
    def cls(self) -> Callable[..., nn.Module]:
        return self.make.func

    def build(self, seed: int = 0) -> nn.Module:
        """A model in eval mode, float32 on CPU, with no inert block; leaves the global RNG as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # random buffers, such as Fourier features
            model = self.make().float()
        return randomise(model, seed).eval()

    def inputs(self, seed: int = 0, t: float = 0.7) -> dict[str, Any]:
        return self.draw(Draw(seed, t))

    def trajectory(self, *times: float, seed: int = 0) -> list[dict[str, Any]]:
        """The calls of one sampling run: sample and time change, the conditioning stays the same tensors."""
        first = self.inputs(seed, times[0])
        calls = [self.inputs(seed, t) for t in times]
        return [
            {name: first[name] if _equal(first[name], value) else value for name, value in call.items()}
            | {self.sample: tree_map(lambda x, t=t: x * (0.5 + t), first[self.sample])}
            for t, call in zip(times, calls)
        ]

    def units(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        """The paths of the blocks of the main stack of a model of this entry's class, by unit."""
        paths = []
        for names in self.lists:
            columns = (names,) if isinstance(names, str) else names
            depth = len(model.get_submodule(columns[0]))
            paths += [tuple(f"{column}.{i}" for column in columns) for i in range(depth)]
        return tuple(paths)


def _equal(a: Any, b: Any) -> bool:
    """Whether two arguments hold the same values."""
    return all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(tree_leaves(a), tree_leaves(b))
    )


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter noise of a sane size, in place, so that no gate, projection or block is inert.

    Zero-initialised adaLN layers and output projections would make each block an identity: a cache of
    such a model looks exact however wrong it is.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1 and name.endswith("weight"):
                noise /= math.sqrt(p[0].numel())  # fan in
            elif p.ndim == 1 and name.endswith("weight"):
                noise = 1 + 0.1 * noise  # scale of a norm
            else:
                noise *= 0.3  # biases, modulation tables, position embeddings, learned tokens
            p.copy_(noise)
    return model


def table(*rows: Sequence[Entry]) -> dict[str, Entry]:
    """One dict by name out of several lists; a name stands once."""
    entries = [entry for row in rows for entry in row]
    by_name = {entry.name: entry for entry in entries}
    assert len(by_name) == len(entries), "two entries of the zoo have the same name"
    return by_name

"""Whether a denoiser of real size fits into the memory at hand, told before anything is built.

What is needed is counted on the meta device, where nothing has values:

    weights, and 16 + 4 * 2 hidden states.

16 hidden states are a rough bound of what lives within a block: the stream and what is added to it, q, k and v, the
attention's output, and the feed-forward layer's four times the width before and after its activation. 4 are what an
engine's cache holds, H, D and what was remembered of the step before, and there are two engines. All pipelines share
the weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import skipcache
from skipcache.benchmarks.engines.presets import Preset

IN_A_BLOCK = 16  # hidden states
IN_A_CACHE = 4
ENGINES = 2
META = torch.device("meta")


@dataclass(frozen=True)
class Need:
    """Bytes."""

    weights: int
    hidden: int

    @property
    def bytes(self) -> int:
        return self.weights + (IN_A_BLOCK + ENGINES * IN_A_CACHE) * self.hidden

    def __str__(self) -> str:
        return f"{_gib(self.bytes)}, of which weights {_gib(self.weights)}"


def need(preset: Preset, batch: int, dtype: torch.dtype) -> Need:
    """Of the preset, counted without building it: layers are of one size, so models of one and of two tell it."""
    one, two = (replace(preset, layers=n).build(META, dtype) for n in (1, 2))
    least, more = _weights(one), _weights(two) - _weights(one)
    return Need(least + (preset.layers_now - 1) * more, _hidden(preset, two, batch, dtype))


def _weights(model: nn.Module) -> int:
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))


def _hidden(preset: Preset, model: nn.Module, batch: int, dtype: torch.dtype) -> int:
    """Bytes of what the first block returns."""
    sizes: list[int] = []
    first = model.get_submodule(skipcache.find_stack(model).blocks[0])
    first.register_forward_hook(lambda block, args, output: sizes.append(_bytes(output)))
    noise, conditions = preset.inputs(model, batch)
    with torch.no_grad():
        model(noise.to(dtype), timestep=torch.zeros(batch, device=META), **conditions, return_dict=False)
    return max(sizes)


def check_fits(preset: Preset, batch: int, dtype: torch.dtype, at_hand: int) -> None:
    """Raises ValueError with the bytes needed and those at hand, and what would fit."""
    needed = need(preset, batch, dtype)
    if needed.bytes <= at_hand:
        return
    ways = [f"--blocks {n}" for n in [_layers_within(preset, batch, dtype, at_hand)] if n]
    if dtype.itemsize > 2:
        n = _layers_within(preset, batch, torch.bfloat16, at_hand)
        ways += [] if not n else ["--dtype bfloat16" if n == preset.layers_now else f"--dtype bfloat16 --blocks {n}"]
    found = f"{preset.size.cls} of {preset.layers_now} layers, batch {batch}, {str(dtype).removeprefix('torch.')}"
    remedy = f"give {' or '.join(ways)}" if ways else "take a machine with more memory"
    raise ValueError(f"expected memory for a {found}: {needed}; got {_gib(at_hand)}; {remedy}")


def _layers_within(preset: Preset, batch: int, dtype: torch.dtype, at_hand: int) -> int:
    """How many layers fit, at most as many as there are; all layers are of one size."""
    most = preset.layers_now
    least, whole = (need(replace(preset, layers=n), batch, dtype).bytes for n in (1, most))
    if whole <= at_hand or most == 1:
        return most if whole <= at_hand else 0
    return max(0, 1 + int((at_hand - least) // ((whole - least) / (most - 1))))


def bytes_at_hand(device: torch.device) -> int:
    """What can still be taken of the device's memory; of the host's, what its kernel says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return known[0] if known else _free_pages()


def _free_pages() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bytes(output: Any) -> int:
    """Of all tensors of a block: Flux has two streams."""
    parts = output if isinstance(output, (tuple, list)) else (output,)
    return sum(x.numel() * x.element_size() for x in parts if isinstance(x, Tensor))


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"

"""Skip branches on disk: their own small files, and what diffusers saves of a grafted model.

Files are read by safetensors, or by torch.load(weights_only=True): none of them can run code. The one class that is let
in beside tensors is argparse.Namespace, a bare container, which training scripts save among their weights.
"""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from skipcache.blocks import class_name, divided_like, is_divided, reshard, whole_of
from skipcache.branches.fit import State, as_state, check_keys
from skipcache.branches.graft import graft
from skipcache.branches.layout import NAME, Layout, check_layout, layout_in
from skipcache.branches.modules import SkipBranch, branches_of, grafted_branches
from skipcache.branches.plans import stack_of
from skipcache.branches.widths import usual_width
from skipcache.stack import Stack

FILE = "skip_branches.safetensors"
WEIGHTS = "diffusion_pytorch_model*.safetensors"  # what diffusers' save_pretrained writes
STATE = "_extra_state"

PathLike = str | Path


def save_branches(model: nn.Module, path: PathLike) -> Path:
    """Write the grafted branches of `model`, without the backbone.

    Args:
        model: a model with grafted branches.
        path: a .safetensors file, or a folder. The layout (fuse, pairs, widths) and the backbone's class are in the
            file's metadata.

    Where the model is sharded all processes must call it: the weights are gathered, and the first process writes.

    Returns the file's path. Raises ValueError where the model has no grafted branches.

    Example:
        skipcache.save_branches(model, "branches.safetensors")
    """
    branches = grafted_branches(model)
    reshard(model)
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: x for name, x in branches.state_dict().items() if name != STATE}
    tensors = {name: whole_of(x.detach()).cpu().contiguous() for name, x in held.items()}
    facts = {**asdict(branches.layout), "backbone": class_name(model)}
    together = any(map(is_divided, held.values()))
    if not together or distributed.get_rank() == 0:
        _safetensors().save_file(tensors, path, metadata={"skipcache": json.dumps(facts)})
    if together:
        distributed.barrier()
    return path


def load_branches(model: nn.Module, path: PathLike, *, stack: Stack | None = None) -> nn.Module:
    """Give `model` the skip branches (Skip-DiT, arXiv 2411.17616) of a file.

    Args:
        model: a plain model, which is grafted, or one grafted with the same layout, which takes the weights.
        path: a file of `save_branches`, or a folder that it or diffusers' `save_pretrained` wrote.
        stack: where the blocks are, for a model whose structure does not show it.

    Returns `model`. Raises ValueError, naming both sides, where the file is for another class, depth, width or layout;
    the model is then as it was.

    Example:
        skipcache.load_branches(pipe.transformer, "branches.safetensors")
    """
    layout, backbone, tensors = _read_branches(Path(path))
    if backbone not in (None, class_name(model)):
        raise ValueError(f"{path} has branches for a {backbone}, but the model is a {class_name(model)}")
    branches = branches_of(model)
    if branches is not None:
        check_layout(layout, branches.layout)
    stack = stack or stack_of(model)
    if len(stack.units) != layout.depth:
        raise ValueError(f"{path} has {layout}, but {type(model).__name__} has {len(stack.units)} units")
    fill(model, layout, tensors, stack, str(path))
    return model


# Reading


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading and writing branches needs safetensors: pip install safetensors") from None
    return safetensors.torch


def read_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"expected a checkpoint at {path}, found none")
    try:
        if path.suffix == ".safetensors":
            return _safetensors().load_file(path)
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is refused, since it holds more than tensors, or is broken: {reason}") from error
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a truncated file fails in as many ways as there are formats
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _read_branches(path: Path) -> tuple[Layout, str | None, dict[str, Tensor]]:
    """(layout, the backbone's class if it is known, tensors by their names in SkipBranches)."""
    files = [path]
    if path.is_dir():
        files = [path / FILE] if (path / FILE).is_file() else sorted(path.glob(WEIGHTS))
    if not files:
        raise ValueError(f"expected {FILE} or {WEIGHTS} in {path}, found neither")
    tensors = {name: x for file in files for name, x in as_state(read_file(file), str(file)).items()}
    facts = _metadata(files[0])
    if facts is not None:
        return _layout(Layout.of, facts, path), facts.get("backbone"), tensors
    prefix = f"{NAME}."
    tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    state = tensors.pop(STATE, None)
    if state is None:
        raise ValueError(f"{path} has no skip branches: expected tensors named {prefix}*")
    return _layout(layout_in, state, path), None, tensors


def _layout(read: Callable[[Any], Layout], facts: Any, path: Path) -> Layout:
    try:
        return read(facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _metadata(file: Path) -> dict[str, Any] | None:
    if file.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get("skipcache", "null")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected the layout of skip branches as JSON, got {text[:80]!r}: {error}") from error
    return facts if isinstance(facts, dict) and "fuse" in facts else None


# Writing to the model


def fill(model: nn.Module, layout: Layout, tensors: State, stack: Stack, where: str) -> None:
    """Graft where the model is plain, and load. All is checked before the model is touched."""
    plain = branches_of(model) is None
    if plain:
        _check_width(model, stack, layout, where)
    check_keys(where, tensors, _expected(layout))
    if plain:
        graft(model, layout.fuse, layout.pairs, stack=stack, streams=len(layout.widths), width=layout.widths)
    branches = grafted_branches(model)
    reshard(model)
    own = dict(branches.named_parameters())
    tensors = {name: divided_like(x, own[name]) for name, x in tensors.items()}
    branches.load_state_dict(tensors | {STATE: branches.get_extra_state()})


def _expected(layout: Layout) -> dict[str, Tensor]:
    """Tensors as the branches of `layout` have them, on the meta device."""
    with torch.device("meta"):
        branches = {width: SkipBranch(width, layout.fuse).state_dict() for width in set(layout.widths)}
    return {
        f"{pair}.{stream}.{name}": x
        for pair in range(len(layout.pairs))
        for stream, width in enumerate(layout.widths)
        for name, x in branches[width].items()
    }


def _check_width(model: nn.Module, stack: Stack, layout: Layout, where: str) -> None:
    """A graft of a width that the blocks do not show must be made by hand, and then loaded into."""
    width = usual_width(model.get_submodule(stack.units[layout.pairs[0][1]][0]))
    wrong = [given for given in layout.widths if given != width]
    if wrong:
        raise ValueError(
            f"{where} has branches of width {wrong[0]}, but the blocks of {type(model).__name__} work on {width}; "
            f"if that was misread, call skipcache.graft(model, width={wrong[0]}, ...) first"
        )

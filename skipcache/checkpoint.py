"""Skip branches on disk: their own small files, what diffusers saves of a grafted model, and Skip-DiT's checkpoints.

Files are read by safetensors, or by torch.load(weights_only=True): none of them can run code.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.branches import (
    NAME,
    Layout,
    SkipBranches,
    branches_of,
    check_layout,
    graft,
    layout_in,
    ungraft,
    usual_width,
)
from skipcache.stack import Stack, find_stack

FILE = "skip_branches.safetensors"
WEIGHTS = "diffusion_pytorch_model*.safetensors"  # what diffusers' save_pretrained writes
STATE = "_extra_state"
SHOWN = 8

State = Mapping[str, Tensor]
PathLike = str | Path


def save_branches(model: nn.Module, path: PathLike) -> Path:
    """Write the grafted branches of `model`, without the backbone, to a .safetensors file or into a folder.

    The layout (fuse, pairs, widths) and the backbone's class are in the metadata. Returns the file's path. Raises
    ValueError where the model has no grafted branches.
    """
    branches = branches_of(model)
    if branches is None:
        raise ValueError(f"{type(model).__name__} has no grafted skip branches; call skipcache.graft first")
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: x.detach().cpu().contiguous() for name, x in branches.state_dict().items() if name != STATE}
    facts = {**asdict(branches.layout), "backbone": type(model).__name__}
    _safetensors().save_file(tensors, path, metadata={"skipcache": json.dumps(facts)})
    return path


def load_branches(model: nn.Module, path: PathLike, *, stack: Stack | None = None) -> nn.Module:
    """Give `model` the branches of a file of `save_branches`, or of a folder that it or `save_pretrained` wrote.

    A plain model is grafted; one with grafted branches of the same layout takes the weights. Returns `model`. Raises
    ValueError, naming both sides, where the file is for another class, depth, width or layout; the model is then as
    it was.
    """
    layout, backbone, tensors = _read_branches(Path(path))
    if backbone not in (None, type(model).__name__):
        raise ValueError(f"{path} has branches for a {backbone}, but the model is a {type(model).__name__}")
    branches = branches_of(model)
    if branches is not None:
        stack = branches.stack
        check_layout(layout, branches.layout)
    stack = stack or find_stack(model)
    if len(stack.units) != layout.depth:
        raise ValueError(f"{path} has {layout}, but {type(model).__name__} has {len(stack.units)} units")
    _fill(model, layout, tensors, stack, str(path))
    return model


def load_skip_dit(
    model: nn.Module, checkpoint: PathLike | Mapping[str, Any], *, stack: Stack | None = None
) -> nn.Module:
    """Load a checkpoint of Skip-DiT's layout: a denoiser's own weights, and those of `concat` branches beside them.

    Args:
        model: the plain denoiser, in the original code's form or diffusers'. Branches are grafted in place where the
            checkpoint has `skip_norms.*` and `skip_linears.*`; a model with skip branches of its own (HunyuanDiT) takes
            its weights as they are. On diffusers' DiT the original names are converted.
        checkpoint: a path (.safetensors, or anything torch.load reads with weights_only=True), or a state dict, bare or
            under "ema".

    Returns `model`. Raises ValueError where keys are missing or unexpected, or shapes differ, with a list, and where a
    file cannot be read; the model is then as it was. Source: github.com/OpenSparseLLMs/Skip-DiT.
    """
    if branches_of(model) is not None:
        raise ValueError(f"{type(model).__name__} has grafted skip branches; call skipcache.ungraft first")
    where = "the state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
    state = _read(checkpoint)
    own, skips = _divide(state)
    if not skips and not (stack or find_stack(model)).native_skips:
        raise ValueError(f"{where} has no skip_norms.* and skip_linears.*: it is no checkpoint of a Skip-DiT")
    ours = model.state_dict()
    if "t_embedder.mlp.0.weight" in own and any(name.startswith("transformer_blocks.") for name in ours):
        own = _as_diffusers(own, where)
    _check_keys(where, own, ours)
    if skips:
        stack = stack or find_stack(model)
        layout, tensors = _branches_in(skips, len(stack.units), where)
        _fill(model, layout, tensors, stack, where)
    missing = model.load_state_dict(own, strict=False).missing_keys
    assert all(name.startswith(f"{NAME}.") for name in missing)
    return model


# Reading


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading and writing branches needs safetensors: pip install safetensors") from None
    return safetensors.torch


def _read(checkpoint: PathLike | Mapping[str, Any]) -> dict[str, Tensor]:
    state: Any = checkpoint if isinstance(checkpoint, Mapping) else _read_file(Path(checkpoint))
    state = state.get("ema", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state or not all(isinstance(x, Tensor) for x in state.values()):
        odd = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"expected a state dict of tensors, bare or under 'ema', got {_shown(odd)}")
    return dict(state)


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"expected a checkpoint at {path}, found none")
    try:
        if path.suffix == ".safetensors":
            return _safetensors().load_file(path)
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
    tensors = {name: x for file in files for name, x in _read_file(file).items()}
    facts = _metadata(files[0])
    if facts is not None:
        return Layout.of(facts), facts["backbone"], tensors
    prefix = f"{NAME}."
    tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    state = tensors.pop(STATE, None)
    if state is None:
        raise ValueError(f"{path} has no skip branches: expected tensors named {prefix}*")
    return layout_in(state), None, tensors


def _metadata(file: Path) -> dict[str, Any] | None:
    _safetensors()
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        facts = json.loads((opened.metadata() or {}).get("skipcache", "null"))
    return facts if isinstance(facts, dict) and "fuse" in facts else None


# Writing to the model


def _fill(model: nn.Module, layout: Layout, tensors: State, stack: Stack, where: str) -> None:
    """Graft where the model is plain, and load; a model that was plain is so again if that fails."""
    plain = branches_of(model) is None
    if plain:
        _check_width(model, stack, layout, where)
        graft(model, layout.fuse, layout.pairs, stack=stack, streams=len(layout.widths), width=layout.widths)
    branches = branches_of(model)
    assert branches is not None
    try:
        _check_keys(where, tensors, _own(branches))
        branches.load_state_dict(dict(tensors) | {STATE: branches.get_extra_state()})
    except BaseException:
        if plain:
            ungraft(model)
        raise


def _own(branches: SkipBranches) -> dict[str, Tensor]:
    return {name: x for name, x in branches.state_dict().items() if name != STATE}


def _check_width(model: nn.Module, stack: Stack, layout: Layout, where: str) -> None:
    """A graft of a width that the blocks do not show must be made by hand, and then loaded into."""
    width = usual_width(model.get_submodule(stack.units[layout.pairs[0][1]][0]))
    wrong = [given for given in layout.widths if given != width]
    if wrong:
        raise ValueError(
            f"{where} has branches of width {wrong[0]}, but the blocks of {type(model).__name__} work on {width}; "
            f"if that was misread, call skipcache.graft(model, width={wrong[0]}, ...) first"
        )


def _check_keys(where: str, given: State, ours: State) -> None:
    missing, unexpected = sorted(ours.keys() - given.keys()), sorted(given.keys() - ours.keys())
    if missing or unexpected:
        raise ValueError(
            f"{where} does not fit the model: missing keys: {_shown(missing)}; unexpected keys: {_shown(unexpected)}"
        )
    wrong = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(ours[name].shape)}"
        for name in ours
        if given[name].shape != ours[name].shape
    ]
    if wrong:
        raise ValueError(f"{where} does not fit the model: {_shown(wrong)}")


def _shown(names: Iterable[str] | str) -> str:
    if isinstance(names, str):
        return names
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "none"


# Skip-DiT's layout


def _divide(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the denoiser's own, the branches')"""
    skips = {name: x for name, x in state.items() if name.startswith(("skip_norms.", "skip_linears."))}
    return {name: x for name, x in state.items() if name not in skips}, skips


def _branches_in(skips: State, depth: int, where: str) -> tuple[Layout, dict[str, Tensor]]:
    """`skip_norms.j` and `skip_linears.j.linear` belong to the j-th unit of the second half, counted outwards."""
    half = depth // 2
    parts = (
        "skip_norms.{}.weight",
        "skip_norms.{}.bias",
        "skip_linears.{}.linear.weight",
        "skip_linears.{}.linear.bias",
    )
    expected = {part.format(j) for j in range(half) for part in parts}
    if skips.keys() != expected:
        missing, unexpected = sorted(expected - skips.keys()), sorted(skips.keys() - expected)
        raise ValueError(
            f"{where} does not fit a stack of {depth} units, which has {half} branches: "
            f"missing keys: {_shown(missing)}; unexpected keys: {_shown(unexpected)}"
        )
    width = skips["skip_linears.0.linear.bias"].shape[0]
    layout = Layout("concat", tuple((i, depth - 1 - i) for i in range(half)), depth, (width,))
    tensors = {}
    for j in range(half):
        pair = half - 1 - j
        for rest in ("weight", "bias"):
            tensors[f"{pair}.0.norm.{rest}"] = skips[f"skip_norms.{j}.{rest}"]
            tensors[f"{pair}.0.linear.{rest}"] = skips[f"skip_linears.{j}.linear.{rest}"]
    return layout, tensors


def _as_diffusers(own: State, where: str) -> dict[str, Tensor]:
    """The original DiT's names as those of diffusers' DiTTransformer2DModel, which keeps an embedder in each block."""
    named: dict[str, Tensor] = {}
    depth = len({name.split(".")[1] for name in own if name.startswith("blocks.")})
    shared = {
        "t_embedder.mlp.0": "emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "emb.timestep_embedder.linear_2",
        "y_embedder.embedding_table": "emb.class_embedder.embedding_table",
    }
    ends = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    inside = {
        "adaLN_modulation.1": "norm1.linear",
        "attn.proj": "attn1.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
    }
    for name, x in own.items():
        module, _, rest = name.rpartition(".")
        if name == "pos_embed":  # a constant, which diffusers computes
            continue
        if module in shared:
            named.update((f"transformer_blocks.{i}.norm1.{shared[module]}.{rest}", x) for i in range(depth))
        elif module in ends:
            named[f"{ends[module]}.{rest}"] = x
        elif module.startswith("blocks."):
            _, i, part = module.split(".", 2)
            block = f"transformer_blocks.{i}"
            if part == "attn.qkv":
                parts = zip(("to_q", "to_k", "to_v"), x.chunk(3))
                named.update((f"{block}.attn1.{to}.{rest}", one) for to, one in parts)
            elif part in inside:
                named[f"{block}.{inside[part]}.{rest}"] = x
            else:
                raise ValueError(f"{where}: no part of diffusers' DiT is known for {name}")
        else:
            raise ValueError(f"{where}: no part of diffusers' DiT is known for {name}")
    return named

"""Skip-DiT's checkpoints (github.com/OpenSparseLLMs/Skip-DiT): a denoiser's own weights, and branches beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from skipcache.branches.checkpoint import PathLike, fill, read_file
from skipcache.branches.fit import State, as_state, check_keys, check_names
from skipcache.branches.layout import Layout
from skipcache.branches.modules import branches_of
from skipcache.stack import Stack, find_stack

WRAPPERS = ("ema", "model", "state_dict", "module")  # keys of training checkpoints, the best weights first
MOST_WRAPPERS = 3  # one in the other
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def load_skip_dit(
    model: nn.Module, checkpoint: PathLike | Mapping[str, Any], *, stack: Stack | None = None
) -> nn.Module:
    """Load a checkpoint of Skip-DiT's layout: a denoiser's own weights, and those of `concat` branches beside them.

    Args:
        model: the plain denoiser, in the original code's form or diffusers'. Branches are grafted in place where the
            checkpoint has `skip_norms.*` and `skip_linears.*`; a model with skip branches of its own (HunyuanDiT) takes
            its weights as they are. On diffusers' DiT the original names are converted.
        checkpoint: a path (.safetensors, or what torch.load reads with weights_only=True; an argparse.Namespace may be
            in it), or a state dict. A training checkpoint is unwrapped: the averaged weights under "ema" come first,
            then "model", "state_dict" and "module". So are names that DistributedDataParallel or torch.compile have
            prefixed.
        stack: where the blocks are, for a model whose structure does not show it.

    Returns `model`. Raises ValueError where keys are missing or unexpected, or shapes differ, with a list, and where a
    file cannot be read; the model is then as it was. Source: github.com/OpenSparseLLMs/Skip-DiT.

    Example:
        skipcache.load_skip_dit(model, "DiT-XL-2-skip.pt")
    """
    if branches_of(model) is not None:
        raise ValueError(f"{type(model).__name__} has grafted skip branches; call skipcache.ungraft first")
    where = "the state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
    state = _read(checkpoint, where)
    own, skips = _divide(state)
    stack = stack or find_stack(model)
    if not skips and not stack.native_skips:
        raise ValueError(f"{where} has no skip_norms.* and skip_linears.*: it is no checkpoint of a Skip-DiT")
    ours = model.state_dict()
    if "t_embedder.mlp.0.weight" in own and any(name.startswith("transformer_blocks.") for name in ours):
        own = _as_diffusers(own, where)
    check_keys(where, own, ours)
    if skips:
        layout, tensors = _branches_in(skips, len(stack.units), where)
        fill(model, layout, tensors, stack, where)
    nn.Module.load_state_dict(model, own, strict=False)  # all but the branches, which have theirs
    return model


def _read(checkpoint: PathLike | Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The weights in a checkpoint, out of all that training has wrapped around them and their names."""
    state: Any = checkpoint if isinstance(checkpoint, Mapping) else read_file(Path(checkpoint))
    for _ in range(MOST_WRAPPERS):
        held = [state[name] for name in WRAPPERS if name in state] if isinstance(state, Mapping) else []
        state = next((inner for inner in held if isinstance(inner, Mapping) and inner), state)
    state = as_state(state, where)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): x for name, x in state.items()}
    return state


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
    check_names(f"{where} does not fit a stack of {depth} units, which has {half} branches", skips.keys(), expected)
    width = skips["skip_linears.0.linear.bias"].numel()
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
            _, i, part = (*module.split(".", 2), "")[:3]
            block = f"transformer_blocks.{i}"
            if part == "attn.qkv" and x.ndim:
                parts = zip(("to_q", "to_k", "to_v"), x.chunk(3))
                named.update((f"{block}.attn1.{to}.{rest}", one) for to, one in parts)
            elif part in inside:
                named[f"{block}.{inside[part]}.{rest}"] = x
            else:
                raise ValueError(f"{where}: no part of diffusers' DiT is known for {name}")
        else:
            raise ValueError(f"{where}: no part of diffusers' DiT is known for {name}")
    return named

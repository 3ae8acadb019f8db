"""Tiny models of diffusers that two processes hold together, and what they are compared with."""

import torch
from diffusers import ContextParallelConfig
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import skipcache
from tests.models.zoo import ZOO

# diffusers' plan splits this mask by tokens, and then attention takes it for one of all tokens.
LEFT_OUT = {"ltx": ("encoder_attention_mask",)}


def build(name):
    return ZOO[name].build().requires_grad_(False)


def context(model, **settings):
    """Each process holds a part of every image's tokens."""
    model.enable_parallelism(config=ContextParallelConfig(**(settings or {"ulysses_degree": 2})))
    return model


def fsdp(model, **settings):
    """Each process holds a part of every weight, and gathers a block's weights when it runs. `settings`: of blocks."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for path in skipcache.find_stack(model).blocks:
        fully_shard(model.get_submodule(path), mesh=mesh, **settings)
    return fully_shard(model, mesh=mesh)


def tensors(model):
    """Each process holds a part of the weights of every feed-forward layer, and computes with that part."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    plan = {"net.0.proj": ColwiseParallel(), "net.2": RowwiseParallel()}
    for path in skipcache.find_stack(model).blocks:
        block = model.get_submodule(path)
        layer = next((getattr(block, name) for name in ("ffn", "ff", "img_mlp") if hasattr(block, name)), None)
        if layer is not None:
            parallelize_module(layer, mesh, plan)
    return model


def calls(name, steps, seed):
    """The arguments of a run's calls, without the sample, and the first sample."""
    entry = ZOO[name]
    kwargs = {**entry.inputs(seed), **dict.fromkeys(LEFT_OUT.get(name, ()))}
    x, t = kwargs.pop(entry.sample), kwargs.pop(entry.timestep)
    unit = float(t.abs().max()) / 0.7
    times = [
        torch.where(t == 0, t, torch.full_like(t, share * unit)) for share in torch.linspace(0.95, 0.05, 8)[:steps]
    ]
    return x, [{entry.timestep: time, **kwargs} for time in times]


@torch.no_grad()
def sample(name, model, steps=8, seed=0, change=lambda kwargs: kwargs):
    """The outputs of all steps of a little Euler sampler."""
    x, given = calls(name, steps, seed)
    outputs = []
    for kwargs in given:
        e = model(**{ZOO[name].sample: x, **change(kwargs)}, return_dict=False)[0]
        outputs.append(e.clone())
        x = x - e[tuple(map(slice, x.shape))] / 8
    return outputs


def far(ones, others):
    """The largest relative distance over the steps."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ones, others, strict=True))


def equal(ones, others):
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def everyone(value):
    """The value of each process."""
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found

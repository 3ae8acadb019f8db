"""The zoo is complete, deterministic and without inert parts: a cache that is wrong shows in the output."""

import inspect
from collections.abc import Iterator

import pytest
import torch
from diffusers.models import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.models.zoo import LEFT_OUT, ZOO

pytestmark = pytest.mark.thorough

every_entry = pytest.mark.parametrize("name", ZOO)


def outputs(model: nn.Module, inputs: dict) -> list[Tensor]:
    with torch.no_grad():
        out = model(**inputs)
    out = tuple(out.values()) if isinstance(out, dict) else out
    return [x for x in tree_leaves(out) if isinstance(x, Tensor)]


def distance(xs: list[Tensor], ys: list[Tensor]) -> float:
    assert [x.shape for x in xs] == [y.shape for y in ys]
    return max((x - y).abs().max().item() for x, y in zip(xs, ys))


def outer_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The module lists that stand in no other: the stacks, refiners and such, not the parts of a block."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from outer_lists(child)


def test_every_public_class_has_an_entry_or_a_reason():
    public = {name for name, cls in vars(transformers).items() if inspect.isclass(cls) and issubclass(cls, nn.Module)}
    covered = {entry.cls.__name__ for entry in ZOO.values()}
    assert covered.isdisjoint(LEFT_OUT)
    assert covered | LEFT_OUT.keys() >= public


@every_entry
def test_same_seed_same_output(name):
    state = torch.get_rng_state()
    entry = ZOO[name]
    first, second = outputs(entry.build(), entry.inputs()), outputs(entry.build(), entry.inputs())
    assert all(torch.isfinite(x).all() for x in first)
    assert distance(first, second) == 0
    assert torch.equal(state, torch.get_rng_state())


@every_entry
def test_output_depends_on_sample_and_time(name):
    entry = ZOO[name]
    model = entry.build()
    here = outputs(model, entry.inputs())
    assert distance(here, outputs(model, entry.inputs(t=0.4))) > 1e-2
    assert distance(here, outputs(model, entry.inputs(seed=1))) > 1e-1


@every_entry
def test_output_depends_on_every_block(name):
    entry = ZOO[name]
    model = entry.build()
    inputs = entry.inputs()
    here = outputs(model, inputs)
    for block in (block for blocks in outer_lists(model) for block in blocks):
        before = [p.clone() for p in block.parameters()]
        with torch.no_grad():
            for p in block.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
            if before:
                assert distance(here, outputs(model, inputs)) > 1e-6
            for p, old in zip(block.parameters(), before):
                p.copy_(old)


@every_entry
def test_units_run_once_each_and_in_order(name):
    entry = ZOO[name]
    model = entry.build()
    expected = [path for unit in entry.units(model) for path in unit]
    run = []
    for path in expected:
        model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: run.append(path))
    outputs(model, entry.inputs())
    assert run == expected


@every_entry
def test_trajectory_keeps_the_conditioning(name):
    entry = ZOO[name]
    model = entry.build()
    first, second = entry.trajectory(0.9, 0.6)
    assert first.keys() == second.keys()
    assert distance(outputs(model, first), outputs(model, second)) > 1e-2
    conditioning = first.keys() - {entry.sample, entry.timestep}
    kept = [key for key in conditioning if first[key] is second[key]]
    assert len(kept) >= len(conditioning) - 1  # some have a second time: the one to go to, that of the sound
    for key in (entry.sample, entry.timestep):
        assert not all(torch.equal(x, y) for x, y in zip(tree_leaves(first[key]), tree_leaves(second[key])))

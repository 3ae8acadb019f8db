"""Discovery: adapters and structure find the units of every denoiser of diffusers, and of the originals."""

import pytest
import torch
from torch import nn

import skipcache
from skipcache.stack.discovery import describe_by_structure
from tests.models.sampling import build
from tests.models.zoo import ZOO

UNUSUAL = {"cosmos3": "packs samples in a list", "t5_film": "names its sample decoder_input_tokens"}


@pytest.mark.parametrize("name", ZOO)
def test_every_denoiser_of_diffusers_is_found(name):
    with torch.device("meta"):
        model = ZOO[name].make()
    stack = skipcache.find_stack(model)
    assert stack.units == ZOO[name].units(model)
    assert stack.timestep == ZOO[name].timestep
    if name not in UNUSUAL:
        assert stack.sample == ZOO[name].sample


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("original_dit", [(f"blocks.{i}",) for i in range(4)]),
        ("original_pixart", [(f"blocks.{i}",) for i in range(4)]),
        ("original_latte", [(f"blocks.{2 * i}", f"blocks.{2 * i + 1}") for i in range(4)]),
        ("original_latte_pairs", [(f"spatial_blocks.{i}", f"temporal_blocks.{i}") for i in range(4)]),
        ("yesterday", [(f"core.layers.{i}",) for i in range(5)]),
    ],
)
def test_the_originals_are_found(name, units):
    stack = skipcache.find_stack(build(name))
    assert list(stack.units) == units
    assert stack.transposed == (frozenset(unit[1] for unit in units) if "latte" in name else frozenset())


@pytest.mark.parametrize("name", ["dit", "pixart_alpha", "pixart_sigma", "sd3", "wan"])
def test_structure_alone_agrees_with_the_adapters(name):
    model = ZOO[name].build()
    assert describe_by_structure(model).units == skipcache.find_stack(model).units


def test_latte_s_canonical_layout_is_a_view_and_has_an_inverse():
    stack = skipcache.find_stack(build("original_latte"))
    spatial, temporal = stack.units[0]
    x = torch.randn(2 * 5, 3, 8)  # (batch * frames, tokens, D)
    canonical = stack.canonical(spatial, x, batch=2)
    assert canonical.shape == (2, 5, 3, 8) and canonical.data_ptr() == x.data_ptr()
    assert torch.equal(stack.raw(spatial, canonical, batch=2), x)
    y = x.unflatten(0, (2, 5)).transpose(1, 2).flatten(0, 1)  # (batch * tokens, frames, D)
    assert torch.equal(stack.canonical(temporal, y, batch=2), canonical)
    assert torch.equal(stack.raw(temporal, canonical, batch=2), y)


def test_a_stack_says_what_is_wrong_with_it():
    for units, message in (
        ((), "at least one unit"),
        (((),), "at least one block"),
        ((("a",), ("a",)), "each block once"),
    ):
        with pytest.raises(ValueError, match=message):
            skipcache.Stack(units)


def test_third_parties_add_adapters_by_entry_point(monkeypatch):
    class Point:
        def load(self):
            return lambda model: (
                skipcache.Stack((("body.0",), ("body.1",)), "z", "when") if hasattr(model, "body") else None
            )

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, z, when):
            return z

    monkeypatch.setattr(
        "skipcache.stack.discovery.entry_points", lambda group: [Point()] if group == "skipcache.adapters" else []
    )
    assert skipcache.find_stack(Odd()).timestep == "when"

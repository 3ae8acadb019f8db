"""Discovery: adapters and structure find the units of every denoiser of diffusers, and of the originals."""

import pytest
import torch
from torch import nn

import skipcache
from skipcache.stack.discovery import describe_by_structure, one_per_block
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


class Mixing(nn.Module):
    """A block: it takes the feature and something beside it."""

    def __init__(self, width=4):
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, x, c):
        return self.mix(x) + c


class Timeless(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Mixing() for _ in range(2))

    def forward(self, x, y):
        return x


class Stackless(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))

    def forward(self, x, t):
        return x


class Staged(nn.Module):
    """A short refiner, larger blocks that run first, and the longest list."""

    def __init__(self):
        super().__init__()
        self.refiner = nn.ModuleList(Mixing(2) for _ in range(2))
        self.wide = nn.ModuleList(Mixing(8) for _ in range(2))
        self.narrow = nn.ModuleList(Mixing(4) for _ in range(3))

    def forward(self, img, sigmas, text):
        return img


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Timeless, r"Timeless\.forward has no timestep argument"), (Stackless, "Stackless has no stack: looked for")],
)
def test_a_model_without_time_or_blocks_is_refused_by_name(kind, message):
    with pytest.raises(ValueError, match=message):
        skipcache.find_stack(kind())


def test_larger_blocks_join_in_front_and_a_refiner_does_not():
    stack = describe_by_structure(Staged())
    assert stack.blocks == ("wide.0", "wide.1", "narrow.0", "narrow.1", "narrow.2")
    assert (stack.sample, stack.timestep) == ("img", "sigmas")


def test_units_of_one_block_each():
    assert one_per_block(Staged(), "wide", "nothing", "refiner") == (
        ("wide.0",),
        ("wide.1",),
        ("refiner.0",),
        ("refiner.1",),
    )

"""A `Stack` by itself: its layouts, and what is wrong with it."""

import pytest
import torch
from torch import nn

import skipcache
from skipcache.stack.stack import Stack, check_stack
from tests.models.sampling import build


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
    with pytest.raises(ValueError, match="two arguments, sample and timestep, got 'x' for both"):
        skipcache.Stack((("a",), ("b",)), "x", "x")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, x, t, y=None):
        return x


UNITS = (("blocks.0",), ("blocks.1",), ("blocks.2",))


def test_blocks_are_the_paths_of_all_units_in_order():
    assert Stack((("a", "b"), ("c", "d"))).blocks == ("a", "b", "c", "d")
    assert not Stack((("a", "b"), ("c", "d"))).enters_canonical
    assert Stack(UNITS).enters_canonical
    assert Stack((("a", "b"), ("c", "d")), transposed=frozenset({"b", "d"})).enters_canonical


def test_without_transposed_blocks_a_stream_stays_as_it_is():
    x = torch.randn(2, 3)
    assert Stack(UNITS).canonical("blocks.0", x, batch=1) is x is Stack(UNITS).raw("blocks.0", x, batch=1)


@pytest.mark.parametrize(
    ("stack", "error", "message"),
    [
        ("blocks", TypeError, r"expected a skipcache\.Stack, got str"),
        (Stack((("blocks.0",), ("layers.1",)), "x", "t"), ValueError, r"Model has no block at 'layers\.1'"),
        (Stack(UNITS, "z", "t"), ValueError, "no argument 'z' for the sample"),
        (Stack(UNITS, "x", "sigma"), ValueError, "no argument 'sigma' for the timestep"),
    ],
)
def test_a_stack_that_does_not_fit_the_model_is_refused(stack, error, message):
    with pytest.raises(error, match=message):
        check_stack(Model(), stack)


def test_a_stack_that_fits_is_not_refused():
    check_stack(Model(), Stack(UNITS, "x", "t"))

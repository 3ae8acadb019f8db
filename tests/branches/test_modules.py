"""The modules of branches: what one computes, and where all of them hang."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipcache.branches.layout import Layout, layout_in
from skipcache.branches.modules import Float32LayerNorm, SkipBranch, SkipBranches, branches_of, grafted_branches
from skipcache.stack import Stack

X, SKIP = torch.randn(2, 3, 4), torch.randn(2, 3, 4)


class Block(nn.Module):
    def forward(self, x, c):
        return x + c


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x, t):
        for block in self.blocks:
            x = block(x, t)
        return x


def branches(model, fuse="concat"):
    stack = Stack(tuple((f"blocks.{i}",) for i in range(4)), "x", "t")
    return SkipBranches(model, stack, Layout(fuse, ((0, 3), (1, 2)), 4, (4,)))


@pytest.mark.parametrize("fuse", ["add", "concat"])
def test_a_branch_is_a_norm_and_a_linear_layer_of_both(fuse):
    branch = SkipBranch(4, fuse)
    nn.init.normal_(branch.linear.weight), nn.init.normal_(branch.linear.bias), nn.init.normal_(branch.norm.weight)
    both = torch.cat([X, SKIP], dim=-1)
    norm = F.layer_norm(both, (8,), branch.norm.weight, branch.norm.bias, 1e-6)
    fused = F.linear(norm, branch.linear.weight, branch.linear.bias)
    assert torch.equal(branch(X, SKIP), X + fused if fuse == "add" else fused)


def test_add_begins_as_nothing_and_concat_does_not():
    assert torch.equal(SkipBranch(4, "add")(X, SKIP), X)
    assert not torch.equal(SkipBranch(4, "concat")(X, SKIP), X)


def test_the_norm_is_computed_in_float32_and_handed_out_in_the_input_s_dtype():
    norm, x = Float32LayerNorm(4).bfloat16(), 100 * torch.randn(5, 4).bfloat16()
    assert torch.equal(norm(x), F.layer_norm(x.float(), (4,)).bfloat16()) and norm(x).dtype == torch.bfloat16
    assert Float32LayerNorm(4)(x.double()).dtype == torch.float64


def test_the_layout_is_saved_with_the_weights():
    made = branches(Model())
    assert layout_in(made.state_dict()["_extra_state"]) == made.layout
    assert sum(p.numel() for p in made.parameters()) == 2 * (8 + 8 + 4 * 8 + 4)


def test_branches_of_a_model_are_those_at_their_place_and_no_other_module():
    model = Model()
    assert branches_of(model) is None
    with pytest.raises(ValueError, match=r"Model has no grafted skip branches; call skipcache\.graft first"):
        grafted_branches(model)
    model.skip_branches = nn.Linear(2, 2)
    assert branches_of(model) is None
    model.skip_branches = branches(model)
    assert branches_of(model) is grafted_branches(model) is model.skip_branches


def test_a_graph_is_told_what_to_hand_over_to_which_block():
    made = branches(Model())
    returned = {"blocks.0": (X,), "blocks.1": (SKIP,), "blocks.2": (X,)}
    assert made.wire("blocks.3", (returned["blocks.2"][0], None), {}, returned) == {0: X}
    assert made.wire("blocks.2", (returned["blocks.1"][0], None), {}, returned) == {0: SKIP}
    assert made.wire("blocks.0", (X, None), {}, {}) == {} and made.wire("somewhere", (X,), {}, {}) is None

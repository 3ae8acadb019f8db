"""Skip branches of a model's own: a branch is told from a mask of layers, and a U of blocks is found whole."""

import pytest
import torch
from torch import nn

import skipcache
from skipcache.stack.skips import are_halves, fuses_skip, lone_blocks, takes_skip
from tests.models.originals import Block
from tests.models.stacks import Masked, MaskedBlock, SkipBlock, UViT
from tests.models.zoo import ZOO


class Adding(Block):
    def forward(self, x, c, skip=None):
        return super().forward(x if skip is None else x + skip, c)


@pytest.mark.parametrize(
    ("block", "takes", "fuses"),
    [
        (SkipBlock(16, skip=True), True, True),
        (SkipBlock(16), True, False),
        (Adding(16), True, False),
        (MaskedBlock(16), False, False),
        (Block(16), False, False),
    ],
)
def test_what_shows_a_branch(block, takes, fuses):
    assert (takes_skip(block), fuses_skip(block)) == (takes, fuses)


def test_a_mask_of_layers_makes_a_plain_stack_and_hunyuan_s_branches_do_not():
    assert not skipcache.find_stack(Masked()).native_skips
    with torch.device("meta"):
        assert skipcache.find_stack(ZOO["hunyuan_dit"].make()).native_skips


@pytest.mark.parametrize("mid", [True, False])
def test_a_u_is_found_whole_and_in_running_order(mid):
    model = UViT(half=3, mid=mid)
    ran = []
    for path, module in model.named_modules():
        if isinstance(module, SkipBlock):
            module.register_forward_pre_hook(lambda module, args, path=path: ran.append(path))
    with torch.no_grad():
        model(torch.zeros(1, 4, 4, 4), torch.tensor([5.0]))
    stack = skipcache.find_stack(model)
    assert list(stack.blocks) == ran and len(ran) == 6 + mid and stack.native_skips
    assert are_halves(model.in_blocks, model.out_blocks) and not are_halves(model.out_blocks, model.in_blocks)
    assert lone_blocks(model, "out_blocks", model.out_blocks) == (["mid_block"] if mid else [])


def test_a_lone_block_beside_a_list_is_refused_with_the_remedy():
    model = UViT()
    model.extra = SkipBlock(16)
    with pytest.raises(ValueError, match=r"UViT: expected all blocks in lists, got mid_block, extra beside out_blocks"):
        skipcache.find_stack(model)


def test_halves_nested_in_dicts_are_refused_and_not_half_found():
    """diffusers' UniDiffuser: its second half is a list of ModuleDicts, so that only the first half is seen."""
    model = UViT()
    model.out_blocks = nn.ModuleList(nn.ModuleDict({"block": block}) for block in model.out_blocks)
    with pytest.raises(ValueError, match="got mid_block beside in_blocks, of the same class; pass stack="):
        skipcache.find_stack(model)

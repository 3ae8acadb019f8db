"""Denoisers whose stack or forward is written in an unusual way, as in repositories that people use."""

import functools
import types

import torch
from torch import nn

from tests.models.odd import Tiny
from tests.models.originals import Block, Embed


class SkipBlock(Block):
    """U-ViT's: a block of the second half fuses the output of its mirror image."""

    def __init__(self, width, skip=False):
        super().__init__(width)
        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.adaLN = None

    def forward(self, x, skip=None):
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        h = self.norm(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(x)


class UViT(nn.Module):
    """U-ViT (arXiv 2209.12152): the time is a token; `in_blocks`, maybe a `mid_block`, `out_blocks` with skips."""

    def __init__(self, half=4, width=16, mid=True):
        super().__init__()
        self.patch_embed = nn.Linear(4, width)
        self.time_embed = Embed(width)
        self.in_blocks = nn.ModuleList(SkipBlock(width) for _ in range(half))
        self.mid_block = SkipBlock(width) if mid else None
        self.out_blocks = nn.ModuleList(SkipBlock(width, skip=True) for _ in range(half))
        self.decoder_pred = nn.Linear(width, 4)

    def forward(self, x, timesteps, y=None):
        tokens = self.patch_embed(x.flatten(2).transpose(1, 2))  # (N, T, D)
        h = torch.cat([self.time_embed(timesteps)[:, None], tokens], dim=1)
        skips = []
        for block in self.in_blocks:
            h = block(h)
            skips.append(h)
        if self.mid_block is not None:
            h = self.mid_block(h)
        for block in self.out_blocks:
            h = block(h, skips.pop())
        return self.decoder_pred(h)[:, 1:].transpose(1, 2).reshape(x.shape)


class MaskedBlock(Block):
    """LTX-Video's: `skip_layer_mask` names the layers to leave out. It is no skip branch."""

    def forward(self, x, c, skip_layer_mask=None, skip_layer_strategy=None):
        return super().forward(x, c)


class Masked(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = nn.ModuleList(MaskedBlock(16) for _ in range(5))


class Chosen(Tiny):
    """No forward in the class: the instance binds one of its methods, as Open-Sora 2.0's."""

    forward = nn.Module.forward

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.forward = self.forward_plain

    def forward_plain(self, img, timesteps):
        return Tiny.forward(self, img, timesteps)


class Bound(Tiny):
    """A forward in the class, which is not the one that runs: a function is bound to the instance."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.forward = types.MethodType(halved, self)

    def forward(self, x, t):
        raise AssertionError("the class's forward runs")


def halved(self, img, sigma):
    return 0.5 * Tiny.forward(self, img, sigma)


class Functional(Tiny):
    """No forward in the class, and on the instance a function that is no method."""

    forward = nn.Module.forward

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.forward = functools.partial(halved, self)

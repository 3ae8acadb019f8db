"""Google's emoji, 32x32 RGB on white, with captions such as "brown animal mammal": real pictures, of much variety.

The captions are in `emoji_captions.txt`; the pictures are fetched, and only to train.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from skipcache.benchmarks.references.data.captions import Captions
from skipcache.benchmarks.references.data.emoji_archive import fetch, on_white, read_pictures

CATALOGUE = Path(__file__).with_name("emoji_captions.txt")


@cache
def _catalogue() -> dict[str, list[str]]:
    """Caption -> names of its pictures. Shuffled, so that the first few are a fair selection."""
    lines = CATALOGUE.read_text().splitlines()
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [lines[k].split(": ") for k in order]
    return {text: names.split() for text, names in pairs}


@cache
def captions() -> Captions:
    """Each is a shade, a colour or skin tone, and what is shown. These two are the attributes."""
    pairs = [text.split(" ", 1) for text in _catalogue()]
    shades, kinds = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    attributes = torch.tensor([[kinds.index(kind), shades.index(shade)] for shade, kind in pairs])
    return Captions(tuple(_catalogue()), attributes, (len(kinds), len(shades)))


@cache
def labels() -> Tensor:
    """(N,), number of each picture's caption."""
    counts = torch.tensor([len(names) for names in _catalogue().values()])
    return torch.arange(len(counts)).repeat_interleave(counts)


@cache
def pictures() -> Tensor:
    """(N, 3, 32, 32) in [-1, 1], in the order of `labels`; fetches them where they are not in the user's cache."""
    names = [name for group in _catalogue().values() for name in group]
    found = read_pictures(fetch(), names)
    return torch.stack([on_white(found[name]) for name in names])

"""Captions, their attributes, and a small encoder whose hidden states condition a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

WIDTH = 64  # of the hidden states, and of the space in which captions and samples meet


@dataclass(frozen=True)
class Captions:
    """Texts, and for each text one value per attribute; `sizes` says how many values each attribute has.

    Texts differ in their attributes: a sample that shows all of them right has exactly one caption.
    """

    texts: tuple[str, ...]
    attributes: Tensor  # (captions, number of attributes)
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def words(self) -> list[str]:
        return sorted({word for text in self.texts for word in text.split()})

    @cached_property
    def tokens(self) -> Tensor:
        """(captions + 1, longest): number of each word from 1, filled up with 0; the last row is the empty caption."""
        number = {word: i + 1 for i, word in enumerate(self.words)}
        rows = [torch.tensor([number[word] for word in text.split()]) for text in self.texts]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return torch.cat([padded, torch.zeros_like(padded[:1])])

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """(N, sum of sizes) -> (N, captions): log-probability that a sample has all attributes of a caption."""
        parts = [part.log_softmax(-1) for part in logits.split(self.sizes, dim=-1)]
        return torch.stack([part[:, value] for part, value in zip(parts, self.attributes.T)]).sum(0)


class CaptionEncoder(nn.Module):
    """A transformer of two layers. Padding is a word of its own, so that no mask is needed."""

    def __init__(self, words: int, length: int, width: int = WIDTH) -> None:
        super().__init__()
        self.embed = nn.Embedding(words + 1, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, length) -> hidden states (N, length, width)."""
        states: Tensor = self.layers(self.embed(tokens) + self.place)
        return states

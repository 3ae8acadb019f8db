"""Learns what captions and samples have in common, as CLIP does (arXiv 2103.00020), and then judges samples.

A tower reads samples, an encoder reads captions, and both end in one space: there a sample is drawn to its caption
and pushed from the others, and the same heads read the attributes off either. The encoder's hidden states condition
a denoiser; the tower and the heads say which caption a sample has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipcache.benchmarks.references.data.captions import WIDTH, CaptionEncoder, Captions
from skipcache.benchmarks.references.data.dataset import Data
from skipcache.benchmarks.sampling.metrics import accuracy
from skipcache.benchmarks.training.task import Recipe, Task
from skipcache.benchmarks.training.weights_file import FOLDER, load_weights

Draw = Callable[[torch.Generator, int], tuple[Tensor, Tensor]]  # (samples in [-1, 1], number of each one's caption)


class CaptionJudge(nn.Module):
    """`forward` rates all captions for each sample; `features` are for distances between sets of samples."""

    def __init__(self, captions: Captions, tower: nn.Module) -> None:
        super().__init__()
        self.captions = captions
        self.tower = tower  # (N, ...) -> (N, WIDTH)
        self.encoder = CaptionEncoder(len(captions.words), captions.tokens.shape[1])
        self.heads = nn.Linear(WIDTH, sum(captions.sizes))
        self.sharpness = nn.Parameter(torch.tensor(2.3))  # log of CLIP's temperature

    def features(self, samples: Tensor) -> Tensor:
        """Samples in [-1, 1] -> (N, 64)."""
        features: Tensor = self.tower(samples)
        return features

    def forward(self, samples: Tensor) -> Tensor:
        """Log-likelihood of each caption, (N, captions)."""
        return self.captions.log_likelihood(self.heads(self.features(samples)))

    @torch.no_grad()
    def states(self) -> Tensor:
        """The encoder's hidden states of all captions; the last row is that of the empty caption."""
        states: Tensor = self.encoder(self.captions.tokens)
        return states

    def loss(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Contrastive loss within the batch, plus the loss of the attributes. Equal captions are all right."""
        seen, read = self.features(samples), self.encoder(self.captions.tokens[labels]).mean(1)
        alike = self.sharpness.exp().clamp(max=50) * F.normalize(seen, dim=1) @ F.normalize(read, dim=1).T
        same = (labels[:, None] == labels).float()  # (batch, batch)
        same = same / same.sum(1, keepdim=True)
        contrast = (F.cross_entropy(alike, same) + F.cross_entropy(alike.T, same)) / 2
        return contrast + self._attribute_loss(seen, labels) + self._attribute_loss(read, labels)

    def _attribute_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        parts = self.heads(features).split(self.captions.sizes, dim=1)
        values = self.captions.attributes[labels].T
        return torch.stack([F.cross_entropy(part, value) for part, value in zip(parts, values)]).sum()


def judge_task(name: str, build: Callable[[], CaptionJudge], draw: Draw, held_out: Draw, recipe: Recipe) -> Task:
    """`draw` makes a batch of the training set; the accuracy is measured on samples of `held_out`."""

    def loss(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        samples, labels = draw(generator, batch)
        samples = samples + 0.1 * torch.rand((), generator=generator) * torch.randn(samples.shape, generator=generator)
        judged: Tensor = model.loss(samples, labels)  # type: ignore[operator]
        return judged

    def score(model: nn.Module) -> dict[str, float]:
        return {"held_out_accuracy": accuracy(model, *held_out(torch.Generator().manual_seed(1), 2000))}

    return Task(name, build, loss, score, recipe)


def captioned(samples: Tensor, labels: Tensor, judge: CaptionJudge) -> Data:
    """Data whose conditions are the hidden states of the captions."""
    return Data(samples, labels, {"encoder_hidden_states": judge.states()}, judge.captions.texts)


def load_caption_judge(name: str, build: Callable[[], CaptionJudge]) -> CaptionJudge:
    """With the shipped weights."""
    judge = load_weights(build(), FOLDER / f"{name}.safetensors")
    assert isinstance(judge, CaptionJudge)
    return judge

"""Tiny random denoisers with made-up data, as tasks of `skipcache peers`."""

import torch

from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.peers.method import Task
from skipcache.benchmarks.references.data.dataset import Data
from tests.pipelines import denoiser, randn

CLASSES = 3


def data(table, *shape):
    samples = randn(6, *shape, seed=1).clamp(-1, 1)
    return Data(samples, torch.arange(6) % CLASSES, table)


def task(kind, **settings):
    """Six blocks; `settings` differ from 7 DDIM steps of 2 images of one seed."""
    text = {"encoder_hidden_states": randn(CLASSES + 1, 6, 12)}
    if kind == "dit":
        model = denoiser("dit", num_layers=6, out_channels=4, num_embeds_ada_norm=CLASSES)
        made = data({"class_labels": torch.arange(CLASSES + 1)}, model.config.in_channels, 8, 8)
    elif kind == "pixart":
        model = denoiser("pixart_sigma", num_layers=6, out_channels=4, use_additional_conditions=False)
        made = data(text, 4, 8, 8)
    else:
        model = denoiser("latte", num_layers=3, out_channels=4, video_length=5)
        made = data(text, 4, 5, 8, 8)
    quiet(model)
    return Task(model, made, PeersSettings(**{"steps": 7, "batch": 2, "seeds": (0,), **settings}))


@torch.no_grad()
def quiet(model):
    """Smaller outputs: samples of random weights would all be clamped to black and white, and be equal for that."""
    for name, parameter in model.named_parameters():
        if name.startswith("proj_out"):
            parameter *= 0.2

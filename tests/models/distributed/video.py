"""What processes do for test_video.py: the example of one video over several processes, on a tiny Wan."""

import importlib.util
from pathlib import Path

import torch

import skipcache
from tests.models import pipelines

EXAMPLE = Path(__file__).parents[3] / "examples" / "context_parallel_video.py"


def example():
    spec = importlib.util.spec_from_file_location("context_parallel_video", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def videos(rank):
    """The frames of the example on all processes, those of one process, and what was done."""
    code, width = example(), pipelines.wan().transformer.config.text_dim
    inputs = {
        "prompt_embeds": pipelines.randn(1, 6, width),
        "negative_prompt_embeds": pipelines.randn(1, 6, width, seed=9),
        "num_inference_steps": 12,
        "output_type": "latent",
        "height": 32,
        "width": 16,
        "num_frames": 9,
    }
    ours = code.accelerated(pipelines.wan(), speedup=1.5)
    alone = skipcache.accelerate(pipelines.wan(), speedup=1.5)
    frames, expected = (torch.as_tensor(code.video(pipe, seed=3, **inputs)) for pipe in (ours, alone))
    plain = torch.as_tensor(code.video(pipelines.wan(), seed=3, **inputs))
    report = skipcache.report(ours)
    apart = [float((x - expected).norm() / expected.norm()) for x in (frames, plain)]
    return apart, report.full_at == skipcache.report(alone).full_at, report.cached_steps, frames.sum().item()

"""One Wan over several GPUs: each holds a part of the video's tokens, and all skip the same blocks.

    torchrun --nproc-per-node 2 examples/context_parallel_video.py "A cat walks on the grass" --out cat.mp4

The processes make one video together, in less time. Each has the whole model; where that does not fit, see "On several
devices" in docs/how-to.md for FSDP2. Needs diffusers, transformers, ftfy and imageio-ffmpeg.
"""

import argparse
import os

import torch
from diffusers import ContextParallelConfig, WanPipeline
from diffusers.utils import export_to_video
from torch import distributed

import skipcache

MODEL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def accelerated(pipe, speedup=2.0, **settings):
    """`pipe` with its tokens divided over all processes, and skipcache on it. The order of the two does not matter."""
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=distributed.get_world_size()))
    if "policy" not in settings:
        settings = {"speedup": speedup, **settings}
    return skipcache.accelerate(pipe, **settings)


def video(pipe, seed=0, **inputs):
    """The frames, on every process. All must draw the same noise: so it is drawn on the host."""
    return pipe(generator=torch.Generator().manual_seed(seed), **inputs).frames[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--out", default="video.mp4")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    distributed.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    pipe = WanPipeline.from_pretrained(options.model, torch_dtype=torch.bfloat16).to("cuda")
    accelerated(pipe, options.speedup)
    frames = video(pipe, options.seed, prompt=options.prompt, num_inference_steps=options.steps)
    if distributed.get_rank() == 0:
        export_to_video(frames, options.out, fps=16)
        print(skipcache.report(pipe))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

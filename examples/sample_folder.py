"""A folder of pictures, made batch by batch. `torchrun_batch.py` and `ray_batch.py` share it.

The noise of a picture comes from a seed of its own, `--seed` plus its number, and its label or prompt stands there.
A batch is always made of the same pictures. So the folder does not depend on how many workers there are, or on which
of them were stopped. A batch whose pictures are all there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import skipcache


@dataclass(frozen=True)
class Job:
    """All that a worker must know; it is pickled to workers, the calibration with it."""

    model: str
    out: Path
    images: int
    batch: int
    steps: int
    guidance: float
    seed: int
    dtype: str
    speedup: float | None
    calibration: skipcache.Calibration | None
    inputs: tuple[str, ...]  # prompts; none: labels 0, 1, ..., 999, 0, ...

    @classmethod
    def of(cls, args: argparse.Namespace) -> Job:
        model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model
        found = skipcache.Calibration.load(args.calibration) if args.calibration else None
        inputs = tuple(args.prompts.read_text().split("\n")[:-1]) if args.prompts else ()
        named = {name: getattr(args, name) for name in ("images", "batch", "steps", "guidance", "seed", "dtype")}
        return cls(model, args.out.resolve(), **named, speedup=args.speedup, calibration=found, inputs=inputs)

    def begin(self) -> None:
        """Makes the folder. Stops where it was begun with other settings: it would hold two kinds of pictures."""
        self.out.mkdir(parents=True, exist_ok=True)
        path, mine = self.out / "settings.json", json.loads(json.dumps({**asdict(self), "out": ""}, default=repr))
        if not path.exists():
            write(path, json.dumps(mine, indent=1).encode())
        theirs = json.loads(path.read_text())
        changed = [name for name in mine if mine[name] != theirs.get(name) and name != "images"]
        if changed:
            raise SystemExit(f"{self.out} was begun with other settings ({', '.join(changed)}); name another --out")

    def left(self) -> list[int]:
        """The batches that are not all there."""
        return [k for k in range(-(-self.images // self.batch)) if not all(map(Path.exists, self.paths(k)))]

    def numbers(self, k: int) -> range:
        return range(k * self.batch, min((k + 1) * self.batch, self.images))

    def paths(self, k: int) -> list[Path]:
        return [self.out / f"{i:06d}.png" for i in self.numbers(k)]

    def pipeline(self, device: torch.device | str) -> DiffusionPipeline:
        pipe = DiffusionPipeline.from_pretrained(self.model, torch_dtype=getattr(torch, self.dtype)).to(device)
        pipe.set_progress_bar_config(disable=True)
        if self.calibration is not None:
            return skipcache.accelerate(pipe, calibration=self.calibration)
        return skipcache.accelerate(pipe, speedup=self.speedup) if self.speedup else pipe

    def sample(self, pipe: DiffusionPipeline, k: int) -> None:
        numbers = self.numbers(k)
        inputs = [self.inputs[i % len(self.inputs)] if self.inputs else i % 1000 for i in numbers]
        seeds = [torch.Generator().manual_seed(self.seed + i) for i in numbers]  # on the CPU: equal on every device
        images = pipe(inputs, num_inference_steps=self.steps, guidance_scale=self.guidance, generator=seeds).images
        for path, image in zip(self.paths(k), images):
            image.save(path.with_suffix(".part"), format="PNG")
            os.replace(path.with_suffix(".part"), path)  # a picture is there as a whole, or not at all


def write(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, path)


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="facebook/DiT-XL-2-256", help="a pipeline, by name or folder")
    parser.add_argument("--out", type=Path, default=Path("samples"), help="folder of the pictures")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=32, help="pictures per call; another number changes last bits")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--prompts", type=Path, help="a prompt per line; without it labels 0 to 999 in turn")
    parser.add_argument("--speedup", type=float, help="of block evaluations; without it the plain pipeline runs")
    parser.add_argument("--calibration", type=Path, help="file of skipcache.calibrate, in place of --speedup")
    return parser

"""What skipcache keeps and saves on released weights: run it once, where a model hub can be reached.

    python examples/check_released.py --device cuda --dtype bfloat16 --out released.json
    python examples/check_released.py dit wan --device cuda

For each model: is interval=1 equal to the plain run to the bit, and the pipeline as before after restore? How near to
the plain run are speedup=2.2, a calibration, and fewer steps with as many block evaluations? How much faster is each?
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import skipcache

PROMPTS = ["a red fox in the snow, photograph", "a harbour at night, oil painting"]
SEEDS = (0, 1, 2)  # measured on; the calibration has one of its own
CALIBRATION_SEED = 1000
Sample = Callable[[Any, int, int], Tensor]  # (pipeline, steps, seed) -> samples in [0, 1]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(pipe: Any, steps: int, seed: int) -> Tensor:
    return pipe([207, 360], num_inference_steps=steps, generator=seeded(seed), output_type="pt").images


def pictures(pipe: Any, steps: int, seed: int) -> Tensor:
    return pipe(PROMPTS, num_inference_steps=steps, generator=seeded(seed), output_type="pt").images


def videos(pipe: Any, steps: int, seed: int) -> Tensor:
    size = {"height": 480, "width": 832, "num_frames": 33}
    return pipe(PROMPTS[:1], num_inference_steps=steps, generator=seeded(seed), output_type="pt", **size).frames


# Name -> (repository, what samples, steps)
MODELS: dict[str, tuple[str, Sample, int]] = {
    "dit": ("facebook/DiT-XL-2-256", labels, 50),
    "pixart": ("PixArt-alpha/PixArt-XL-2-512x512", pictures, 20),
    "sd35": ("stabilityai/stable-diffusion-3.5-medium", pictures, 28),
    "wan": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", videos, 50),
}


@dataclass
class Row:
    """PSNR in dB against the plain run, None where samples are equal; times over that of the plain run."""

    model: str
    exact: bool
    restored: bool
    full_steps: int
    fewer_steps: int
    psnr_default: float | None
    psnr_calibrated: float | None
    psnr_fewer_steps: float | None
    speedup_default: float
    speedup_calibrated: float
    speedup_fewer_steps: float
    notes: list[str] = field(default_factory=list)


def check(name: str, pipe: Any, sample: Sample, steps: int, speedup: float = 2.2) -> Row:
    """`pipe` must be plain; it is plain again afterwards. Stops where a plain run does not repeat itself."""
    first = sample(pipe, steps, SEEDS[0])  # also a warm-up
    if not torch.equal(first, sample(pipe, steps, SEEDS[0])):
        raise SystemExit(f"{name}: the plain pipeline gives other samples for one seed; nothing can be compared")
    with skipcache.accelerated(pipe, 1):
        exact = torch.equal(sample(pipe, steps, SEEDS[0]), first)
    restored = torch.equal(sample(pipe, steps, SEEDS[0]), first)
    plain = [timed(sample, pipe, steps, seed) for seed in SEEDS]
    with warned() as notes:
        found = skipcache.calibrate(
            pipe, lambda: sample(pipe, steps, CALIBRATION_SEED), speedup=speedup, progress=False
        )
        with skipcache.accelerated(pipe, speedup=speedup):
            default = cached_runs(sample, pipe, steps)
            report = skipcache.report(pipe)
        with skipcache.accelerated(pipe, calibration=found):
            calibrated = cached_runs(sample, pipe, steps)
    share = report.blocks_run / (report.blocks_run + report.blocks_saved)
    fewer_steps = math.ceil(share * steps)
    fewer = [timed(sample, pipe, fewer_steps, seed) for seed in SEEDS]
    sets = {"default": default, "calibrated": calibrated, "fewer_steps": fewer}
    figures = {f"psnr_{key}": psnr(runs, plain) for key, runs in sets.items()}
    figures |= {f"speedup_{key}": faster(runs, plain) for key, runs in sets.items()}
    return Row(name, exact, restored, report.full_steps // len(SEEDS), fewer_steps, **figures, notes=notes)


def cached_runs(sample: Sample, pipe: Any, steps: int) -> list[tuple[Tensor, float]]:
    sample(pipe, steps, SEEDS[0])  # the first full step is proved; that takes time once
    skipcache.reset(pipe)
    return [timed(sample, pipe, steps, seed) for seed in SEEDS]


def timed(sample: Sample, pipe: Any, steps: int, seed: int) -> tuple[Tensor, float]:
    start = time.perf_counter()
    samples = sample(pipe, steps, seed).cpu()  # waits for the device
    return samples, time.perf_counter() - start


def psnr(runs: Sequence[tuple[Tensor, float]], plain: Sequence[tuple[Tensor, float]]) -> float | None:
    """Mean over seeds."""
    errors = [(x.double() - y.double()).square().mean().item() for (x, _), (y, _) in zip(runs, plain)]
    return None if not all(errors) else statistics.mean(-10 * math.log10(error) for error in errors)


def faster(runs: Sequence[tuple[Tensor, float]], plain: Sequence[tuple[Tensor, float]]) -> float:
    return statistics.median(theirs / ours for (_, ours), (_, theirs) in zip(runs, plain))


@contextmanager
def warned() -> Iterator[list[str]]:
    """What skipcache warns of in the context, each once: it belongs into the table."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(str(one.message) for one in caught if "skipcache" in str(one.message))


def table(rows: Sequence[Row]) -> str:
    kept, took = ("default dB", "calibrated dB", "fewer steps dB"), ("default", "calibrated", "fewer steps")
    head = ["", "interval=1", "restored", *kept, *took]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        decibels = (row.psnr_default, row.psnr_calibrated, row.psnr_fewer_steps)
        times = (row.speedup_default, row.speedup_calibrated, row.speedup_fewer_steps)
        cells = ["equal" if row.exact else "DIFFERS", "equal" if row.restored else "DIFFERS"]
        cells += ["equal" if x is None else f"{x:.1f}" for x in decibels]
        lines.append([row.model, *cells, *(f"{x:.2f}x" for x in times)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([text, "", *(f"{row.model}: {note}" for row in rows for note in row.notes)])


def load(repository: str, dtype: str, device: str) -> Any:
    pipe = DiffusionPipeline.from_pretrained(repository, torch_dtype=getattr(torch, dtype)).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main(argv: Sequence[str] | None = None, load: Callable[[str, str, str], Any] = load) -> int:
    """0 where all that were asked for are exact and were restored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--speedup", type=float, default=2.2)
    parser.add_argument("--out", type=Path, default=Path("released.json"))
    args = parser.parse_args(argv)
    unknown = set(args.models) - set(MODELS)
    if unknown:
        parser.error(f"expected names among {', '.join(MODELS)}, got {', '.join(sorted(unknown))}")
    rows, failed = [], {}
    for name in args.models or MODELS:
        repository, sample, steps = MODELS[name]
        try:
            pipe = load(repository, args.dtype, args.device)
        except OSError as error:  # not reached, or not allowed
            failed[name] = f"{repository} was not loaded: {str(error).splitlines()[0]}"
            continue
        rows.append(check(name, pipe, sample, steps, args.speedup))
        del pipe
        print(table(rows), flush=True)
    facts = {"torch": torch.__version__, "skipcache": skipcache.__version__, "device": args.device, "dtype": args.dtype}
    args.out.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows], "failed": failed}, indent=1) + "\n")
    print("\n".join([*failed.values(), f"wrote {args.out}"]))
    return 0 if rows and all(row.exact and row.restored for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""The command `skipcache` and its subcommands. Heavy imports wait until a command has been understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from skipcache.benchmarks.bench_command import add_bench, both_ends
from skipcache.benchmarks.settings import PREDICTORS, AnalysisSettings, EvidenceSettings

S = TypeVar("S", EvidenceSettings, AnalysisSettings)

EXTRAS = {  # modules -> the extra that installs them
    **dict.fromkeys(("diffusers", "matplotlib", "safetensors", "sklearn", "torchmetrics"), "bench"),
    "cache_dit": "peers",
}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when done; 2 when it cannot be done as asked, with one line that says what to do instead."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        args.run(args, _console())
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _fail(f"{args.command} needs {error.name}; pip install 'skipcache[{extra}]'")
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"skipcache: error: {message}", file=sys.stderr)
    return 2


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skipcache", description="Skip-Cache for diffusion transformers.")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="bench | train | inspect | evidence | analyze | publish"
    )
    add_bench(commands.add_parser("bench", help="measure speed and fidelity on a trained reference denoiser"))
    _add_train(commands.add_parser("train", help="train a reference model from scratch; resumable"))
    _add_inspect(commands.add_parser("inspect", help="show the stack, the plan and the ideal speedup of a model"))
    _add_evidence(commands.add_parser("evidence", help="how well models with and without skip branches cache"))
    _add_analyze(commands.add_parser("analyze", help="how stable the features of each block are"))
    _add_publish(commands.add_parser("publish", help="write the docs' tables out of result files"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="a reference denoiser, or a judge of their samples, such as digits-classifier")
    add("--seed", type=int, default=0, help="of the first weights and of every batch (default %(default)s)")
    add("--steps", type=int, help="training steps (default: those of the shipped weights)")
    _add_run(parser, Path("train-out"), "checkpoint and weights")
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace, console: Console) -> None:
    from skipcache.benchmarks.train import run_training

    run_training(args.model, args.out, console, seed=args.seed, steps=args.steps, threads=args.threads)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "model",
        help="a model class of diffusers, such as PixArtTransformer2DModel, or a folder with its config.json",
    )
    add(
        "--keep",
        type=int,
        nargs="+",
        default=(1, 1),
        help="units run on cached steps: at both ends, or HEAD TAIL (default 1)",
    )
    add("--config", nargs="+", default=(), metavar="KEY=VALUE", help="settings that differ from the config")
    add("--graph", action="store_true", help="print the fx engine's two graphs as code")
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace, console: Console) -> None:
    from skipcache.benchmarks.inspection import run_inspect

    run_inspect(args.model, console, keep=both_ends(args.keep), overrides=args.config, graph=args.graph)


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    defaults = EvidenceSettings()
    add = parser.add_argument
    add(
        "--model",
        dest="models",
        nargs="+",
        default=defaults.models,
        help=f"default {' '.join(defaults.models)}",
    )
    add("--intervals", type=int, nargs="+", default=defaults.intervals, help="every n-th step is full (default 2 to 6)")
    add(
        "--predictor",
        dest="predictors",
        nargs="+",
        default=defaults.predictors,
        help=f"some of {', '.join(PREDICTORS)}",
    )
    add("--keep", type=int, nargs="+", default=defaults.keep, help="units run at each end (default 1 4)")
    add("--steps", type=int, default=defaults.steps, help="DDIM steps (default %(default)s)")
    add("--guidance", type=float, default=defaults.guidance, help="guidance scale (default %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="images per seed (default %(default)s)")
    add(
        "--images",
        type=int,
        default=defaults.images,
        help="to judge quality by; 0: don't (default %(default)s)",
    )
    add("--seeds", type=int, nargs="+", default=defaults.seeds, help="one run for each (default 0 1 2 3)")
    _add_run(parser, defaults.out, "the results")
    parser.set_defaults(run=_evidence)


def _evidence(args: argparse.Namespace, console: Console) -> None:
    from skipcache.benchmarks.evidence import run_evidence

    run_evidence(_gathered(EvidenceSettings, args), console)


def _add_analyze(parser: argparse.ArgumentParser) -> None:
    defaults = AnalysisSettings()
    add = parser.add_argument
    add(
        "--model",
        dest="models",
        nargs="+",
        default=defaults.models,
        help=f"default {' '.join(defaults.models)}",
    )
    add("--steps", type=int, default=defaults.steps, help="DDIM steps (default %(default)s)")
    add("--guidance", type=float, default=defaults.guidance, help="guidance scale (default %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="images (default %(default)s)")
    add("--noise", type=float, default=defaults.noise, help="perturbation, over the sample (default %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="of the first noise (default %(default)s)")
    _add_run(parser, defaults.out, "the results")
    parser.set_defaults(run=_analyze)


def _analyze(args: argparse.Namespace, console: Console) -> None:
    from skipcache.benchmarks.analysis import run_analysis

    run_analysis(_gathered(AnalysisSettings, args), console)


def _add_publish(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="folders of `bench --peers` to take in (default: none)")
    add("--root", type=Path, default=Path(), help="the checkout whose docs are written (default: this folder)")
    parser.set_defaults(run=_publish)


def _publish(args: argparse.Namespace, console: Console) -> None:
    from skipcache.benchmarks.publish import publish

    written = publish(args.runs, args.root)
    lines = "\n".join(f"wrote {path}" for path in written) or "nothing has changed"
    console.print(lines, highlight=False, soft_wrap=True)


def _add_run(parser: argparse.ArgumentParser, out: Path, what: str) -> None:
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--out", type=Path, default=out, help=f"folder for {what} (default %(default)s)")


def _gathered(kind: type[S], args: argparse.Namespace) -> S:
    """Settings out of the options of the same names."""
    given = {field.name: getattr(args, field.name) for field in fields(kind)}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return kind(**values)


def _console() -> Console:
    """Wide enough for the tables where the output is a file or a log."""
    console = Console()
    return console if console.is_terminal else Console(width=120)

"""The command `skipcache` and its subcommands. Heavy imports wait until a command has been understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from skipcache.benchmarks.settings import (
    ALL_PEERS,
    DTYPES,
    PREDICTORS,
    PRESETS,
    SCHEDULERS,
    AnalysisSettings,
    EvidenceSettings,
    PeersSettings,
    PresetSettings,
    Settings,
)

S = TypeVar("S", Settings, PeersSettings, PresetSettings, EvidenceSettings, AnalysisSettings)

EXTRAS = {  # modules -> the extra that installs them
    **dict.fromkeys(("diffusers", "matplotlib", "safetensors", "sklearn", "torchmetrics"), "bench"),
    "cache_dit": "peers",
}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when done; 2 when it cannot be done as asked, with one line that says what to do instead."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        args.run(args)
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
    _add_bench(commands.add_parser("bench", help="measure speed and fidelity on a trained reference denoiser"))
    _add_train(commands.add_parser("train", help="train a reference model from scratch; resumable"))
    _add_inspect(commands.add_parser("inspect", help="show the stack, the plan and the ideal speedup of a model"))
    _add_evidence(commands.add_parser("evidence", help="how well models with and without skip branches cache"))
    _add_analyze(commands.add_parser("analyze", help="how stable the features of each block are"))
    _add_publish(commands.add_parser("publish", help="write the docs' tables out of result files"))
    return parser


def _add_bench(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    add = parser.add_argument
    add("--model", default=defaults.model, help="reference denoiser (default %(default)s)")
    add("--weights", type=Path, help="a .safetensors file of `skipcache train` in place of the shipped one")
    add("--beside", metavar="MODEL", help="another one in a table of its own, or none (default: dit-digits-skip)")
    add("--steps", type=int, help=f"sampler steps (default {defaults.steps}; with --peers 20 for dpm++)")
    add("--scheduler", default=defaults.scheduler, help=f"{', '.join(SCHEDULERS)} (default %(default)s)")
    add("--guidance", type=float, default=defaults.guidance, help="guidance scale (default %(default)s)")
    add("--batch", type=int, help=f"images per run (default {defaults.batch}, or the preset's)")
    add(
        "--intervals", type=int, nargs="+", default=defaults.intervals, help="every n-th step is full (default 2 3 4 5)"
    )
    add(
        "--keep",
        type=int,
        nargs="+",
        default=defaults.keep,
        help="units run on cached steps: at both ends, or HEAD TAIL (default 1)",
    )
    add(
        "--predictor",
        dest="predictors",
        nargs="+",
        default=defaults.predictors,
        help=f"some of {', '.join(PREDICTORS)} (default all)",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        help="one pair of runs for each (default 0 1 2 3 4; with --peers 0 1 2)",
    )
    add("--device", default=defaults.device, help="cpu, cuda, cuda:1, mps (default %(default)s)")
    add("--dtype", help=f"{', '.join(DTYPES)} (default {defaults.dtype}; bfloat16 for presets on cuda)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    add("--out", type=Path, help=f"folder for the results (default {defaults.out}; with --peers {PeersSettings.out})")
    _add_peers(parser)
    add("--preset", help=f"in place of a model: time one of real size with random weights; {', '.join(PRESETS)}")
    add("--compile", nargs="?", const="inductor", metavar="BACKEND", help="presets: compile the plain model and fx")
    add("--results", type=Path, help="presets: folder for the results (default: --out on CPU, else benchmarks/results)")
    parser.set_defaults(run=_bench)


def _add_peers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--peers", action="store_true", help="beside other caches (skipcache[peers]), tuned to the same compute")
    targets = " ".join(f"{target:g}" for target in PeersSettings.targets)
    add("--targets", type=float, nargs="+", help=f"peers: speedups by FLOPs to tune for (default {targets})")
    add("--methods", nargs="+", metavar="METHOD", help=f"peers: some of {', '.join(ALL_PEERS)} (default all)")


def _bench(args: argparse.Namespace) -> None:
    if args.peers:
        _bench_peers(args)
        return
    for option in ("targets", "methods"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option}: expected with --peers alone; add --peers")
    if args.preset is not None:
        _bench_preset(args)
        return
    for option in ("compile", "results"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option}: expected with --preset alone; add --preset {PRESETS[0]}")
    defaults = Settings()
    settings = _gathered(
        Settings,
        args,
        beside=_beside(args, defaults),
        keep=_both_ends(args.keep),
        **{name: _given(args, defaults, name) for name in ("steps", "batch", "seeds", "dtype", "out")},
    )
    from skipcache.benchmarks.bench import run_bench

    run_bench(settings, _console())


def _given(args: argparse.Namespace, defaults: Any, name: str) -> Any:
    """An option whose default depends on what else is asked for."""
    value = getattr(args, name)
    return getattr(defaults, name) if value is None else tuple(value) if isinstance(value, list) else value


def _bench_peers(args: argparse.Namespace) -> None:
    plain = Settings()
    options = ("preset", "compile", "results", "beside", "dtype")
    unused = {**dict.fromkeys(options), **{n: getattr(plain, n) for n in ("intervals", "predictors", "keep", "device")}}
    for option, default in unused.items():
        if getattr(args, option) != default:
            name = "predictor" if option == "predictors" else option
            raise ValueError(f"--{name}: expected without --peers; leave out one of them")
    defaults = PeersSettings(steps=20 if args.scheduler == "dpm++" else 50)
    given = ("steps", "batch", "targets", "methods", "seeds", "out")
    settings = _gathered(PeersSettings, args, **{name: _given(args, defaults, name) for name in given})
    from skipcache.benchmarks.peers.run import run_peers

    run_peers(settings, _console())


def _beside(args: argparse.Namespace, defaults: Settings) -> str | None:
    """The skip model stands beside its plain one, where both can run; beside others stands what is asked for."""
    if args.beside is not None:
        return None if args.beside == "none" else str(args.beside)
    head, tail = _both_ends(args.keep)
    fits = args.model == defaults.model and args.weights is None and head == tail >= 1
    return defaults.beside if fits else None


def _bench_preset(args: argparse.Namespace) -> None:
    defaults = Settings()
    for option, default in (
        ("model", defaults.model),
        ("weights", None),
        ("beside", None),
        ("scheduler", defaults.scheduler),
        ("guidance", defaults.guidance),
    ):
        if getattr(args, option) != default:
            raise ValueError(f"--{option}: expected without --preset, which has its own; leave out one of them")
    if tuple(args.predictors) != defaults.predictors:
        raise ValueError("--predictor: expected without --preset, which takes the family's best; leave out one of them")
    shared = {name: _given(args, defaults, name) for name in ("steps", "out")}
    pairs = len(_given(args, defaults, "seeds"))
    settings = _gathered(PresetSettings, args, keep=_both_ends(args.keep), pairs=pairs, **shared)
    from skipcache.benchmarks.bench_presets import run_presets

    run_presets(settings, _console())


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="a reference denoiser, or a judge of their samples, such as digits-classifier")
    add("--seed", type=int, default=0, help="of the first weights and of every batch (default %(default)s)")
    add("--steps", type=int, help="training steps (default: those of the shipped weights)")
    _add_run(parser, Path("train-out"), "checkpoint and weights")
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    from skipcache.benchmarks.train import run_training

    run_training(args.model, args.out, _console(), seed=args.seed, steps=args.steps, threads=args.threads)


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


def _inspect(args: argparse.Namespace) -> None:
    from skipcache.benchmarks.inspection import run_inspect

    run_inspect(args.model, _console(), keep=_both_ends(args.keep), overrides=args.config, graph=args.graph)


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


def _evidence(args: argparse.Namespace) -> None:
    from skipcache.benchmarks.evidence import run_evidence

    run_evidence(_gathered(EvidenceSettings, args), _console())


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


def _analyze(args: argparse.Namespace) -> None:
    from skipcache.benchmarks.analysis import run_analysis

    run_analysis(_gathered(AnalysisSettings, args), _console())


def _add_publish(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="folders of `bench --peers` to take in (default: none)")
    add("--root", type=Path, default=Path(), help="the checkout whose docs are written (default: this folder)")
    parser.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> None:
    from skipcache.benchmarks.publish import publish

    written = publish(args.runs, args.root)
    print("\n".join(f"wrote {path}" for path in written) or "nothing has changed")


def _add_run(parser: argparse.ArgumentParser, out: Path, what: str) -> None:
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--out", type=Path, default=out, help=f"folder for {what} (default %(default)s)")


def _gathered(kind: type[S], args: argparse.Namespace, **others: Any) -> S:
    """Settings out of the options of the same names, and `others`, which need more than that."""
    named = [field.name for field in fields(kind) if field.name not in others]
    given = {name: getattr(args, name) for name in named}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return kind(**values, **others)


def _both_ends(keep: Sequence[int]) -> tuple[int, int]:
    if len(keep) not in (1, 2):
        raise ValueError(f"--keep: expected one or two numbers, got {len(keep)}; such as --keep 1 or --keep 1 2")
    return keep[0], keep[-1]


def _console() -> Console:
    """Wide enough for the tables where the output is a file or a log."""
    console = Console()
    return console if console.is_terminal else Console(width=120)

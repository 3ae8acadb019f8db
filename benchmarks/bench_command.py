"""`skipcache bench`: its options, and which of them go with fidelity, with `--peers` and with `--preset`.

A mode takes the options that its settings have fields for. No option has a default here: what is not given is left to
the settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from skipcache.benchmarks.settings import (
    ALL_PEERS,
    DTYPES,
    PREDICTORS,
    PRESETS,
    SCHEDULERS,
    PeersSettings,
    PresetSettings,
    Settings,
)

PLAIN, PEERS, PRESET = "", "--peers", "--preset"
KINDS: dict[str, Any] = {PLAIN: Settings, PEERS: PeersSettings, PRESET: PresetSettings}


def add_bench(parser: argparse.ArgumentParser) -> None:
    plain = Settings()
    many: dict[str, Any] = {"type": int, "nargs": "+"}
    add = parser.add_argument
    add("--peers", action="store_true", help="beside other caches (skipcache[peers]), tuned to the same compute")
    add(
        "--preset",
        help=f"time both engines, not fidelity; real sizes with random weights, or a reference: {', '.join(PRESETS)}",
    )
    add("--model", help=f"reference denoiser (default {plain.model})")
    add("--weights", type=Path, help="a .safetensors file of `skipcache train` in place of the shipped one")
    add("--beside", metavar="MODEL", help="another one in a table of its own, or none (default: dit-digits-skip)")
    add("--steps", type=int, help=f"sampler steps (default {plain.steps}; with --peers 20 for dpm++)")
    add("--scheduler", help=f"{', '.join(SCHEDULERS)} (default {plain.scheduler})")
    add("--guidance", type=float, help=f"guidance scale (default {plain.guidance:g})")
    add("--batch", type=int, help=f"images per run (default {plain.batch}; the preset's own)")
    add("--intervals", **many, help="every n-th step is full (default 2 3 4 5)")
    add("--keep", **many, help="units run on cached steps: at both ends, or HEAD TAIL (default 1)")
    add(
        "--predictor",
        dest="predictors",
        nargs="+",
        help=f"some of {', '.join(PREDICTORS)} (default all; for presets damped)",
    )
    add("--seeds", **many, help="one pair of runs for each (default 0 1 2 3 4; with --peers 0 1 2)")
    add("--device", help=f"cpu, cuda, cuda:1, mps (default {plain.device})")
    add("--dtype", help=f"{', '.join(DTYPES)} (default {plain.dtype}; bfloat16 for presets on cuda)")
    add("--threads", type=int, help="CPU threads (default: all cores)")
    add("--out", type=Path, help=f"folder for the results (default {plain.out}; with --peers {PeersSettings.out})")
    targets = " ".join(f"{target:g}" for target in PeersSettings.targets)
    add("--targets", type=float, nargs="+", help=f"peers: speedups by FLOPs to tune for (default {targets})")
    add("--methods", nargs="+", metavar="METHOD", help=f"peers: some of {', '.join(ALL_PEERS)} (default all)")
    add("--compile", nargs="?", const="inductor", metavar="BACKEND", help="presets: compile the plain model and fx")
    add("--rounds", type=int, help=f"presets: runs of each pipeline, in turns (default {PresetSettings.rounds})")
    add("--results", type=Path, help="presets: folder for the results (default: --out on CPU, else benchmarks/results)")
    parser.set_defaults(run=_bench)


def _bench(args: argparse.Namespace, console: Console) -> None:
    if args.peers and args.preset is not None:
        raise ValueError("--preset: expected without --peers; leave out one of them")
    mode = PEERS if args.peers else PRESET if args.preset is not None else PLAIN
    given = _given(args, mode)
    if mode == PEERS:
        if given.get("scheduler") == "dpm++":
            given.setdefault("steps", 20)
        peers = PeersSettings(**given)
        from skipcache.benchmarks.peers.run import run_peers

        run_peers(peers, console)
    elif mode == PRESET:
        preset = PresetSettings(**given)
        from skipcache.benchmarks.bench_presets import run_presets

        run_presets(preset, console)
    else:
        settings = Settings(**{**given, "beside": _beside(given)})
        from skipcache.benchmarks.bench import run_bench

        run_bench(settings, console)


def _given(args: argparse.Namespace, mode: str) -> dict[str, Any]:
    """The options that were given, by the names of fields. Raises ValueError for one that `mode` does not take."""
    takers = {name: {field.name for field in fields(kind)} for name, kind in KINDS.items()}
    options = set().union(*takers.values())
    given = {name: value for name, value in vars(args).items() if name in options and value is not None}
    for name in (name for name in given if name not in takers[mode]):
        option = "--predictor" if name == "predictors" else f"--{name}"
        others = [other for other, names in takers.items() if name in names]
        if PLAIN in others:
            raise ValueError(f"{option}: expected without {mode}; leave out one of them")
        raise ValueError(f"{option}: expected with {others[0]} alone; add {others[0]}, or leave it out")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return {**given, "keep": both_ends(given["keep"])} if "keep" in given else given


def _beside(given: dict[str, Any]) -> str | None:
    """The skip model stands beside its plain one, where both can run; beside others stands what is asked for."""
    if "beside" in given:
        return None if given["beside"] == "none" else str(given["beside"])
    head, tail = given.get("keep", Settings.keep)
    fits = given.get("model", Settings.model) == Settings.model and "weights" not in given and head == tail >= 1
    return Settings.beside if fits else None


def both_ends(keep: Sequence[int]) -> tuple[int, int]:
    if len(keep) not in (1, 2):
        raise ValueError(f"--keep: expected one or two numbers, got {len(keep)}; such as --keep 1 or --keep 1 2")
    return keep[0], keep[-1]

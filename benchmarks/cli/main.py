"""The command `skipcache` and its subcommands. Heavy imports wait until the arguments have been understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from skipcache.benchmarks.cli import (
    analyze,
    bench,
    compare,
    engines,
    evidence,
    inspect,
    peers,
    publish,
    train,
)
from skipcache.benchmarks.cli.command import Command

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        *(module.COMMAND for module in (bench, compare, peers, engines, train, inspect, evidence)),
        engines.GPU,
        engines.OVERHEAD,
        evidence.DEFAULT,
        evidence.HALF,
        evidence.PROMISES,
        *(module.COMMAND for module in (analyze, publish)),
    )
}
EXTRAS = {  # modules -> the extra that installs them
    **dict.fromkeys(("diffusers", "matplotlib", "safetensors", "sklearn", "torchmetrics", "PIL"), "bench"),
    "cache_dit": "peers",
}
NO_MEMORY = ("allocate memory", "out of memory")  # in what torch raises as RuntimeError


def main(argv: Sequence[str] | None = None) -> int:
    """0 when done; 2 when it cannot be done as asked, with one line that says what to do instead."""
    parser = make_parser()
    traceback = "--traceback" in (sys.argv[1:] if argv is None else argv)
    name = ""
    try:
        args, unknown = parser.parse_known_args(argv)
        name = args.command
        if unknown:
            return _fail(_not_taken(name, unknown[0]))
        command = COMMANDS[name]
        command.run(command.settings_of(args), _console())
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _fail(f"{name} needs {error.name}; pip install 'skipcache[{extra}]'")
    except (ValueError, OSError) as error:
        if traceback:
            raise
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if traceback or not _is_out_of_memory(error):
            raise
        return _fail("expected a run that fits into memory; give a smaller --batch, or other numbers that are smaller")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skipcache", description="Skip-Cache for diffusion transformers.")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for command in COMMANDS.values():
        command.add_to(commands)
    return parser


def _not_taken(name: str, argument: str) -> str:
    flag = argument.partition("=")[0]
    others = [f"`skipcache {other}`" for other, command in COMMANDS.items() if command.takes(flag)]
    hint = (
        f"{' and '.join(others)} {'does' if len(others) == 1 else 'do'}" if others else f"see `skipcache {name} --help`"
    )
    return f"{flag}: expected an option of `skipcache {name}`, which does not take it; {hint}"


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(word in str(error) for word in NO_MEMORY)


def _fail(message: str) -> int:
    print(f"skipcache: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _console() -> Console:
    """Wide enough for the tables where the output is a file or a log."""
    console = Console()
    return console if console.is_terminal else Console(width=120)

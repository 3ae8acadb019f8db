"""What a command is, and how its arguments become settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console

from skipcache.benchmarks.cli.arguments import add_fields, given
from skipcache.benchmarks.options.checks import Checked
from skipcache.benchmarks.options.option import spelled


@dataclass(frozen=True)
class Command:
    """A subcommand of `skipcache`.

    Attributes:
        run: does the work; it imports what is heavy.
        moved: a flag that the command had -> the command to type instead.
    """

    name: str
    help: str
    settings: type[Checked]
    run: Callable[[Any, Console], None]
    moved: dict[str, str] = field(default_factory=dict)

    def add_to(self, commands: Any) -> None:
        parser = commands.add_parser(self.name, help=self.help)
        parser.description = f"{self.help[0].upper()}{self.help[1:]}."
        add_fields(parser, self.settings)
        for flag, instead in self.moved.items():
            parser.add_argument(flag, nargs="?", action=Moved, const=instead, help=argparse.SUPPRESS)

    def settings_of(self, args: argparse.Namespace) -> Any:
        return self.settings.of(given(self.settings, args))

    def takes(self, flag: str) -> bool:
        return any(spelled(one) == flag for one in fields(self.settings))  # type: ignore[arg-type]


class Moved(argparse.Action):
    """A flag that is no more: says what to type instead."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        raise ValueError(f"{self.option_strings[0]}: expected a command of its own; type `{self.const}`")

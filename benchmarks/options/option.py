"""An option of the command line, described in the metadata of a settings field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Option:
    """What the parser and the checks know of a field.

    Attributes:
        help: for `--help`; the choices and the default are added to it.
        flag: such as "--model" for the field `models`; by default `--` and the field's name.
        positional: given without a flag.
        metavar: the value's name in `--help`; by default the flag's name in capitals.
        nargs: as in argparse; by default "+" for a tuple.
        const: the value of a flag that is given without one.
        choices: the only values allowed.
        least, most: limits of a number.
        why: added to the error about `least`, after a semicolon.
        convert: turns the parsed value into the field's.
        check: called with the option's name and its value; raises ValueError for a bad one.
        shown: the default in `--help`, where it is not the field's own.
    """

    help: str
    flag: str = ""
    positional: bool = False
    metavar: str = ""
    nargs: str | None = None
    const: Any = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    why: str = ""
    convert: Callable[[Any], Any] | None = None
    check: Callable[[str, Any], None] | None = None
    shown: str = ""


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of a settings class; `more` are the other attributes of `Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


def positional(help: str, *, default: Any = MISSING, **more: Any) -> Any:
    """A field that is given without a flag; required if it has no default."""
    return field(default=default, metadata={"option": Option(help, positional=True, **more)})


def option_of(one: Field[Any]) -> Option:
    found: Option = one.metadata["option"]
    return found


def spelled(one: Field[Any]) -> str:
    """As it is typed: `--predictor`, or for a positional one `MODEL`."""
    told = option_of(one)
    if told.positional:
        return told.metavar or one.name.upper()
    return told.flag or f"--{one.name}"

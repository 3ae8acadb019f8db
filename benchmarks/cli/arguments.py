"""Arguments of a parser out of the fields of a settings class."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin, get_type_hints

from skipcache.benchmarks.options.option import Option, option_of, spelled


def add_fields(parser: argparse.ArgumentParser, settings: type) -> None:
    """One argument per field. No default stands in the parser: what is not given is left to the settings."""
    hints = get_type_hints(settings)
    for one in fields(settings):
        _add(parser, one, hints[one.name])


def given(settings: type, args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the names of fields."""
    found: dict[str, Any] = {}
    for one in fields(settings):
        if one.name in args:
            value = getattr(args, one.name)
            convert = option_of(one).convert
            found[one.name] = convert(value) if convert else tuple(value) if isinstance(value, list) else value
    return found


def _add(parser: argparse.ArgumentParser, one: Field[Any], hint: Any) -> None:
    option, (kind, many) = option_of(one), _kind(hint)
    shape: dict[str, Any] = {"help": _help(one, option), "default": argparse.SUPPRESS}
    if kind is bool:
        parser.add_argument(spelled(one), dest=one.name, action="store_true", **shape)
        return
    shape["type"] = kind
    if option.nargs or many:
        shape["nargs"] = option.nargs or "+"
    if option.const is not None:
        shape["const"] = option.const
    if option.positional:
        parser.add_argument(one.name, metavar=spelled(one), **shape)
    else:
        metavar = option.metavar or spelled(one).strip("-").upper()
        parser.add_argument(spelled(one), dest=one.name, metavar=metavar, **shape)


def _kind(hint: Any) -> tuple[Any, bool]:
    """(type, whether several are taken): `int | None` -> (int, False); `tuple[str, ...]` -> (str, True)."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    kinds = [part for part in get_args(hint) if part is not type(None)]
    return (kinds[0] if kinds else hint), False


def _help(one: Field[Any], option: Option) -> str:
    text = option.help
    if option.choices:
        text += f": {', '.join(option.choices)}"
    shown = option.shown or _shown(one.default)
    return (f"{text} (default {shown})" if shown else text).replace("%", "%%")


def _shown(default: Any) -> str:
    if default in (None, MISSING, (), False):
        return ""
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)

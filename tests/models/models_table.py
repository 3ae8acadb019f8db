"""docs/models.md: what serves each transformer denoiser of diffusers. `python -m tests.models.models_table` writes it.

Each tiny model of the zoo runs a short trajectory on the fx engine and one on the hooks: full steps must equal the
plain model's, cached steps each other's, to the bit.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import skipcache
from tests.models.zoo import LEFT_OUT, ZOO, Entry

PATH = Path(__file__).parents[2] / "docs" / "models.md"
TIMES = (0.9, 0.8, 0.7)
LONGER = (0.9, 0.8, 0.7, 0.6, 0.5)  # for what takes a second time, which looks like another conditioning at first
ENGINES = {"fx": "fx", "hooks": "hooks only", "": "all steps full"}

HEAD = """# Transformer denoisers of diffusers

Written by `python -m tests.models.models_table`, with diffusers {version}. A tiny model of each class, with random
weights that leave no block inert, runs three steps under `accelerate(model, interval=2, keep=1)`, with `engine="fx"`
and with `engine="hooks"`. Its full steps must equal the plain model's and its cached steps must be the same on both
engines, to the bit. Where fx refuses, hooks serve, as they do from the start with `engine="auto"`.

A unit is one repeat of the stack, here of the tiny model; the blocks of lists joined by + alternate. Where all steps
are full, the model runs as if nothing were there.

| class | units | block lists | engine |
|---|---|---|---|
"""


REFUSAL = re.compile(r"^engine='fx' cannot serve \w+: |; use engine='auto'$")
NOT_OF_THE_CLASS = ("ideal speedup", "no features of its own")  # reasons that follow from the calls made here


@dataclass(frozen=True)
class Row:
    """What was found in one class; `wrong` says which outputs are not what they must be, and is empty."""

    cls: str
    units: int
    lists: tuple[str, ...]
    engine: str
    reason: str = ""
    wrong: str = ""

    def __str__(self) -> str:
        served = f"WRONG: {self.wrong}" if self.wrong else ENGINES[self.engine]
        lists = ", ".join(f"`{name}`" for name in self.lists)
        return f"| {self.cls} | {self.units} | {lists} | {served}{self.reason and ': ' + self.reason} |"


def rows() -> Iterator[Row]:
    """By class name; those of one class that differ in nothing stand once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from dict.fromkeys(map(look_at, sorted(ZOO.values(), key=lambda entry: entry.cls.__name__)))
    finally:
        torch.set_num_threads(threads)


def look_at(entry: Entry, times: tuple[float, ...] = TIMES) -> Row:
    model = entry.build()
    stack = skipcache.find_stack(model)
    calls = entry.trajectory(*times)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = [_run(model, call) for call in calls]
        with skipcache.accelerated(model, interval=2, keep=1, engine="hooks"):
            hooks = [_run(model, call) for call in calls]
            report = skipcache.report(model)
        found, refused = hooks, ()
        try:
            with skipcache.accelerated(model, interval=2, keep=1, engine="fx"):
                found = [_run(model, call) for call in calls]
                report = skipcache.report(model)
        except RuntimeError as error:
            refused = (REFUSAL.sub("", str(error)),)
    said = [text for text in (*refused, *report.reasons) if not any(part in text for part in NOT_OF_THE_CLASS)]
    if not (report.cached_steps or said or times is LONGER):
        return look_at(entry, LONGER)
    wrong = []
    opened = len(times) - 1 - max(report.full_at, default=0)  # the call at which the last trajectory began
    full_at = [*range(opened), *(opened + i for i in report.full_at)]
    for i, (theirs, ours, cached) in enumerate(zip(plain, found, hooks, strict=True)):
        full = _equal(ours, theirs)
        if not _equal(ours, cached) or (report.cached_steps and full != (i in full_at)):
            wrong.append(f"step {i}")
    engine = report.engine if report.cached_steps else ""
    reason = "; ".join(map(_short, said))
    return Row(type(model).__name__, len(stack.units), _lists(stack), engine, reason, ", ".join(wrong))


def _run(model: nn.Module, call: dict[str, Any]) -> list[Any]:
    """The tensors of the output, and the same random numbers on each run."""
    torch.manual_seed(0)
    output = model(**call)
    return tree_leaves(tuple(output.values()) if isinstance(output, dict) else output)


def _equal(ours: list[Any], theirs: list[Any]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _lists(stack: skipcache.Stack) -> tuple[str, ...]:
    """The lists of blocks in running order; those whose blocks alternate in a unit are joined."""
    found: dict[str, None] = {}
    for unit in stack.units:
        found[" + ".join(dict.fromkeys(path.rpartition(".")[0] for path in unit))] = None
    return tuple(found)


def _short(reason: str) -> str:
    """One line without addresses and table bars."""
    return re.sub(r" at 0x[0-9a-f]+", "", reason).replace("|", "/").removeprefix("fx: ")


def classes(table: list[Row], engine: str) -> set[str]:
    """The classes of which all rows are served by `engine`."""
    return {row.cls for row in table} - {row.cls for row in table if row.engine != engine}


def render(table: list[Row]) -> str:
    lines = [HEAD.format(version=diffusers.__version__) + "\n".join(map(str, table)), ""]
    counts = (f"{len(classes(table, engine))} {name}" for engine, name in ENGINES.items())
    lines.append(f"Of {len({row.cls for row in table})} classes: " + ", ".join(counts) + ".\n")
    lines.append("## Not supported\n\n| class | reason |\n|---|---|")
    lines += [f"| {name} | {reason} |" for name, reason in sorted(LEFT_OUT.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"writing {PATH}\n")
    PATH.write_text(render(list(rows())))

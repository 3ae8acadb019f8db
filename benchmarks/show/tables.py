"""Tables for the terminal and for the docs."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def new_table(title: str, gap: int = 2) -> Table:
    """Without lines between columns: a row of the main job has to fit a terminal."""
    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, gap),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        caption_justify="left",
    )


def wide(console: Console, width: int) -> Console:
    """At least so wide: a narrow terminal may break the table's rows, but rich would cut figures off them."""
    return Console(width=max(console.width, width), file=console.file, force_terminal=console.is_terminal)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with a blank line after it."""
    rule = ["---", *(["---:"] * (len(heads) - 1))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *lines)) + "\n"

"""One progress bar, for whatever takes long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Bar:
    """What is being done, and how much of it is done."""

    progress: Progress
    task: TaskID

    def say(self, what: str) -> None:
        self.progress.update(self.task, description=what)

    def advance(self) -> None:
        self.progress.advance(self.task)

    def reach(self, done: int, note: str = "") -> None:
        self.progress.update(self.task, completed=done, note=note)

    def restart(self, what: str, total: int) -> None:
        self.progress.reset(self.task, description=what, total=total)


@contextmanager
def progress_bar(console: Console, what: str = "", total: int = 0, note: str = "") -> Iterator[Bar]:
    """On `console` while the context lasts. `note` stands at the end, such as a loss."""
    columns = (
        TextColumn("{task.description:36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, progress.add_task(what, total=total, note=note))

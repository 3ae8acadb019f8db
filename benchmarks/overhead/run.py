"""Runs the workers in turns, way by way, and makes the table.

Every figure is of one thread's CPU time. All ways of a round are timed one after another, in each version, so that a
machine that slows down slows all of them; the ratios of a round are what counts, and their median is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from skipcache.benchmarks.options.overhead import OverheadSettings
from skipcache.benchmarks.overhead import worker
from skipcache.benchmarks.show.json_file import describe_device, write_json
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.show.tables import new_table

Times = dict[str, dict[str, float]]  # ways -> kinds of call -> milliseconds
HERE, BESIDE = "this version", "the other one"


class Worker:
    """A process of one version. Raises ValueError where it cannot start."""

    def __init__(self, python: str) -> None:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # the worker's folder is no place to import from
        self.process = subprocess.Popen(
            [python, worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer(f"--beside: expected a Python with skipcache and diffusers, got {python}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, way: str, runs: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"way": way, "runs": runs}) + "\n")
        self.process.stdin.flush()
        return self._answer(f"{way}: the process that times it has ended")

    def _answer(self, trouble: str) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"{trouble}; what it printed is above")
        return json.loads(line)


def run_overhead(settings: OverheadSettings, console: Console) -> Path:
    settings.out.mkdir(parents=True, exist_ok=True)
    pythons = {HERE: sys.executable} | ({} if settings.beside is None else {BESIDE: str(settings.beside)})
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(python)) for name, python in pythons.items()}
        rounds = _timed(workers, settings, console)
    rows = [row for name in workers for row in rows_of(name, [one[name] for one in rounds])]
    against = ratios_of(rounds) if BESIDE in workers else []
    path = settings.out / "overhead.json"
    facts = {"device": describe_device("cpu"), "blocks": worker.BLOCKS, "width": worker.HEADS * worker.HEAD_WIDTH}
    write_json(path, settings, {**facts, "rounds": rounds, "rows": rows, "against": against})
    console.print(_table(rows))
    if against:
        console.print(_against_table(against))
    console.print(f"wrote {path}", highlight=False)
    return path


def _timed(workers: dict[str, Worker], settings: OverheadSettings, console: Console) -> list[dict[str, Times]]:
    ways = workers[HERE].facts["ways"]
    rounds: list[dict[str, Times]] = []
    with progress_bar(console, total=settings.rounds * len(ways)) as bar:
        for turn in range(settings.rounds):
            times: dict[str, Times] = {name: {} for name in workers}
            for way in ways:
                bar.say(way)
                for name in list(workers) if turn % 2 else reversed(workers):
                    times[name][way] = workers[name].ask(way, settings.runs)
                bar.advance()
            rounds.append(times)
    return rounds


def rows_of(version: str, rounds: list[Times]) -> list[dict[str, Any]]:
    """Medians of each kind of call: milliseconds, over a plain call, and of a cached one over the floor of its units.

    The mean is over all calls of a run at this interval.
    """
    rows = []
    for way in worker.WAYS:
        floor = f"floor, {way.partition(', ')[2]}"
        for kind in rounds[0][way]:
            times = [one[way] for one in rounds]
            floors = [one[way][kind] / one[floor]["call"] for one in rounds] if kind == "cached" else []
            rows.append(
                {
                    "version": version,
                    "way": way,
                    "kind": kind,
                    "ms": median(one[kind] for one in times),
                    "over_plain": median(one[kind] / one["plain"] for one in times),
                    "over_floor": median(floors) if floors else None,
                }
            )
    return rows


def ratios_of(rounds: list[dict[str, Times]]) -> list[dict[str, Any]]:
    """This version over the other one, each over its own plain call: the median of the rounds, and their extremes."""
    found = []
    for way in worker.WAYS:
        for kind in rounds[0][HERE][way]:
            times = [(one[HERE][way], one[BESIDE][way]) for one in rounds]
            if kind == "plain":
                continue
            over = sorted((a[kind] / a["plain"]) / (b[kind] / b["plain"]) for a, b in times)
            found.append({"way": way, "kind": kind, "ratio": median(over), "least": over[0], "most": over[-1]})
    return found


def _table(rows: list[dict[str, Any]]) -> Table:
    table = new_table("host time per call, one thread")
    for column in ("", "", "", "ms", "over plain", "over floor"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        floor = "" if row["over_floor"] is None else f"{row['over_floor']:.2f}"
        table.add_row(row["version"], row["way"], row["kind"], f"{row['ms']:.2f}", f"{row['over_plain']:.3f}", floor)
    return table


def _against_table(against: list[dict[str, Any]]) -> Table:
    table = new_table(f"{HERE} over {BESIDE}, each over its own plain call")
    for column in ("", "", "median", "least", "most"):
        table.add_column(column, no_wrap=True)
    for row in against:
        table.add_row(row["way"], row["kind"], *(f"{row[name]:.2f}" for name in ("ratio", "least", "most")))
    return table

"""`skipcache peers`: from a reference denoiser to a table, peers.json and frontier.png."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from skipcache.benchmarks.names.peers import PEERS, Peer
from skipcache.benchmarks.names.schedulers import STOCHASTIC
from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.peers import ours
from skipcache.benchmarks.peers.frontier import draw_frontier
from skipcache.benchmarks.peers.method import Method, Setting, Task, key_of
from skipcache.benchmarks.peers.race import Contender, enter, finish, plain_work, race
from skipcache.benchmarks.peers.rows import OVER, Judge, Row
from skipcache.benchmarks.peers.table import print_peers
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import describe_device, write_json
from skipcache.benchmarks.show.progress import progress_bar

FINE = 400  # steps of the reference that keeps fidelity to the plain run from being taken for quality
MORE_TARGETS = dict.fromkeys(("uniform-hold", "fewer-steps"), (1.7,))  # the paper's rule beside its rival


def run_peers(settings: PeersSettings, console: Console) -> Path:
    start = time.perf_counter()
    use_threads(settings.threads)
    reference = find_reference(settings.model)
    methods = find_methods(settings.methods)
    task = Task(reference.load(settings.weights), reference.data(), settings, reference.prediction, reference.pipe)
    settings.out.mkdir(parents=True, exist_ok=True)
    with shown_progress(console) as show, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries warn of themselves
        rows, facts = compare_all(task, methods, reference.judge(), show)
    content = {
        "device": describe_device("cpu"),
        "images": settings.batch * len(settings.seeds),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "blocks": len(task.stack.blocks),
        **facts,
        "seconds": time.perf_counter() - start,
        "rows": [asdict(row) for row in rows],
    }
    path = settings.out / "peers.json"
    write_json(path, settings, content)
    draw_frontier(settings.out / "frontier.png", rows, settings)
    print_peers(console, rows, settings, content)
    return path


def find_methods(names: Sequence[str]) -> list[Method]:
    """In the order of the list: skipcache's own is first, since it sets the others' budget."""
    chosen = {name: peer for name, peer in PEERS.items() if name in names}
    if any(peer.library == "cache-dit" for peer in chosen.values()):
        import cache_dit  # noqa: F401  # so that its absence is told before minutes are spent
    return [_make(name, peer) for name, peer in chosen.items()]


def _make(name: str, peer: Peer) -> Method:
    module, _, maker = peer.made_by.partition(".")
    make = getattr(importlib.import_module(f"skipcache.benchmarks.peers.{module}"), maker)
    method: Method = make(name=name, label=peer.label, library=peer.library, **dict(peer.options))
    return method


@dataclass(frozen=True)
class Entry:
    """What a method is set to for a target, or why it cannot run; `budget` is a share of the plain run's FLOPs."""

    method: Method
    target: float
    budget: float
    setting: Setting | None
    error: str | None = None


Targets = Mapping[str, Sequence[float]]  # by method
Show = Callable[[str, int], None]  # (what is being done, how much more there is of it)


def compare_all(
    task: Task, methods: Sequence[Method], judge: nn.Module, show: Show
) -> tuple[list[Row], dict[str, bool]]:
    """The plain model's row, then those of each target; and whether the plain model samples as before all peers."""
    settings = task.settings
    done = compete(task, methods, show)
    contenders, plain = done.contenders, done.plain
    fine = None if settings.scheduler in STOCHASTIC else [task.run(task.plain, seed, FINE) for seed in settings.seeds]
    judged = Judge(settings, plain, fine, task.data.samples, task.labels, judge)
    first = Row("", f"plain, {settings.steps} steps", "", None, flops=done.flops, flop_speedup=1.0, speedup=1.0)
    first.blocks = task.plain_work.blocks
    judged.judge(first, plain)
    for contender in contenders.values():
        judged.judge(contender.row, contender.samples)
    return [first, *done.rows()], {"plain_untouched": done.plain_untouched}


@dataclass(frozen=True)
class Competition:
    """All methods, tuned and run in turns with the plain model. `plain` has its samples by seed, `flops` its work."""

    entries: list[Entry]
    contenders: dict[str, Contender]
    plain: list[Tensor]
    flops: int
    plain_untouched: bool  # the plain model samples as before all methods

    def rows(self) -> list[Row]:
        return [_row(entry, self.contenders) for entry in self.entries]


def compete(task: Task, methods: Sequence[Method], show: Show, more: Targets = MORE_TARGETS) -> Competition:
    """`more` are targets that some methods have beside the task's."""
    seeds = task.settings.seeds
    before = task.run(task.plain, seeds[0])
    entries = list(tune_all(task, methods, show, more))
    contenders, entries = enter_all(task, entries, show)
    flops, held = plain_work(task)
    one_round = len(contenders) + (len(contenders) + 1) // 2
    show("runs side by side", one_round * len(seeds))
    plain = race(task, list(contenders.values()), lambda: show("", 0))
    for contender in contenders.values():
        finish(contender, flops, held)
    return Competition(entries, contenders, plain, flops, torch.equal(before, task.run(task.plain, seeds[0])))


def tune_all(task: Task, methods: Sequence[Method], show: Show, more: Targets = MORE_TARGETS) -> Iterator[Entry]:
    """By target; one that cannot run says so once and is not asked again."""
    failed: set[str] = set()
    targets = sorted({*task.settings.targets, *(t for m in methods for t in more.get(m.name, ()))})
    asked = [(target, m) for target in targets for m in methods if _is_asked(task, m, target, more)]
    show("tuning", len(asked))
    budget, at = 0, 0.0
    for target, method in asked:
        if at != target:
            budget, at = int(task.plain_work.flops / target), target
        show(f"tuning {method.name}, {target:g}x", 0)
        if method.name in failed:
            continue
        try:
            setting = method.aim(task, target, budget)
            if isinstance(method, ours.Calibrated):
                budget = task.count(method, setting).flops
            yield Entry(method, target, budget / task.plain_work.flops, setting)
        except Exception as error:  # whatever a peer raises is its result
            failed.add(method.name)
            yield Entry(method, target, 0.0, None, _told(error))


def _is_asked(task: Task, method: Method, target: float, more: Targets) -> bool:
    return target in (*task.settings.targets, *more.get(method.name, ()))


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"


def enter_all(task: Task, entries: Sequence[Entry], show: Show) -> tuple[dict[str, Contender], list[Entry]]:
    """One contender for each position of a knob, by its key, however many targets it serves."""
    show("counting", len(entries))
    contenders: dict[str, Contender] = {}
    kept: list[Entry] = []
    for entry in entries:
        show(f"counting {entry.method.name}", 0)
        try:
            if entry.setting is not None and key_of(entry.method, entry.setting) not in contenders:
                contenders[key_of(entry.method, entry.setting)] = enter(task, entry.method, entry.setting)
            kept.append(entry)
        except Exception as error:  # as above
            kept.append(replace(entry, setting=None, error=_told(error)))
    return contenders, kept


def _row(entry: Entry, contenders: dict[str, Contender]) -> Row:
    method, target = entry.method, entry.target
    if entry.setting is None:
        return Row(method.name, method.label, method.library, target, error=entry.error)
    row = contenders[key_of(method, entry.setting)].row
    return replace(row, target=target, over_budget=1 / (row.flop_speedup or 1) > OVER * entry.budget)


@contextmanager
def shown_progress(console: Console) -> Iterator[Show]:
    with progress_bar(console) as bar:

        def show(what: str, more: int) -> None:
            if more:
                bar.restart(what, more)
                return
            bar.advance()
            if what:
                bar.say(what)

        yield show

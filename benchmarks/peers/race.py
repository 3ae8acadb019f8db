"""Runs all methods in turns with the plain pipeline, seed by seed. Each method has its own copy of the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from skipcache.benchmarks.peers.method import Method, Setting, Task
from skipcache.benchmarks.peers.rows import Row, median
from skipcache.benchmarks.sampling.memory import holding
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


@dataclass
class Contender:
    """One method at one position of its knob, on a pipeline of its own; it may serve several targets."""

    method: Method
    setting: Setting
    pipe: ReferencePipeline
    row: Row
    samples: list[Tensor] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int | None:
        steps: int | None = self.setting.get("steps")
        return steps


def enter(task: Task, method: Method, setting: Setting) -> Contender:
    """Puts the method on, and counts a run of the first seed: its work, and the bytes that it holds beyond a plain run.

    Both are counted on one run beside those that are timed, since looking takes time.
    """
    first, steps = task.settings.seeds[0], setting.get("steps")
    with holding() as held:
        pipe = method.attach(task, setting)
        if method.library == "skipcache":
            task.run(pipe, first, steps)  # its first full step of a shape is traced and proved
        calls = len(task.timesteps_of(steps or task.settings.steps))
        model = pipe.transformer
        with task.meter.counting(model, task.settings.batch) as work, held.looking(model, calls):
            task.run(pipe, first, steps)
    usage = method.usage(task, setting)
    row = Row(
        method.name,
        method.label,
        method.library,
        None,
        method.note(task),
        setting=dict(setting),
        usage=usage,
        lines=len(usage.splitlines()),
        flops=work.flops,
        blocks=work.blocks,
        extra_bytes=held.bytes,
    )
    return Contender(method, setting, pipe, row)


def plain_work(task: Task) -> tuple[int, int]:
    """(FLOPs, bytes) of a plain run, with which those of the contenders are compared."""
    first = task.settings.seeds[0]
    with holding() as held:
        pipe = task.pipe()
        with (
            task.meter.counting(pipe.transformer, task.settings.batch) as work,
            held.looking(pipe.transformer, task.calls),
        ):
            task.run(pipe, first)
    return work.flops, held.bytes


def race(task: Task, contenders: Sequence[Contender], on_run: Callable[[], None]) -> list[Tensor]:
    """Runs all for every seed, and gives the plain samples by seed.

    A plain run stands beside each contender's, before one and after the next: a shared machine drifts by more than
    what is measured, and a speedup is the median of the ratios of neighbours.
    """
    plain: list[Tensor] = []
    for turn, seed in enumerate(task.settings.seeds):
        order = contenders if turn % 2 == 0 else contenders[::-1]
        samples = task.run(task.plain, seed) if not order else None
        for pair in _pairs(order):
            took = {}
            for contender in (pair[0], None, *pair[1:]):
                start = time.perf_counter()
                if contender is None:
                    samples = task.run(task.plain, seed)
                else:
                    contender.samples.append(task.run(contender.pipe, seed, contender.steps))
                took[id(contender)] = time.perf_counter() - start
                on_run()
            for contender in pair:
                contender.ratios.append(took[id(None)] / took[id(contender)])
        if samples is not None:
            plain.append(samples)
    return plain


def _pairs(order: Sequence[Contender]) -> Iterator[Sequence[Contender]]:
    return (order[i : i + 2] for i in range(0, len(order), 2))


def finish(contender: Contender, plain_flops: int, plain_bytes: int) -> None:
    row = contender.row
    row.ratios = tuple(contender.ratios)
    row.speedup = median(row.ratios)
    row.flop_speedup = plain_flops / (row.flops or 1)
    row.extra_bytes = max(0, (row.extra_bytes or 0) - plain_bytes)

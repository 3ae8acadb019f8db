"""What a client says of its calls, and what it is told of them: `skipcache.run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skipcache.policies import Interval, Policy, Spread, reads_drift
from skipcache.runtime.forward import CachedForward
from skipcache.runtime.report import Report
from skipcache.trajectory import Word, saying


class Run:
    """A run by name; a context manager for its calls. Made by `skipcache.run`."""

    def __init__(self, forwards: dict[str, CachedForward], word: Word) -> None:
        self._forwards, self._word = forwards, word
        self._open: list[Any] = []

    @property
    def name(self) -> str:
        return self._word.name

    def __enter__(self) -> Run:
        said = saying(self._word)
        said.__enter__()
        self._open.append(said)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(None, None, None)

    @contextmanager
    def step(self, index: int | None = None, lane: str | None = None) -> Iterator[Run]:
        """The calls inside are those of this step, counted from 0, or of this lane.

        Raises ValueError for a step outside of the run's timesteps.
        """
        count = None if self._word.timesteps is None else len(self._word.timesteps)
        if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
            raise TypeError(f"step: expected an int, got {index!r}")
        if index is not None and (count is None or not 0 <= index < count):
            raise ValueError(
                f"step: expected one of the run's timesteps=, of which {count or 'none'} were given, got {index}"
            )
        with saying(replace(self._word, step=index, lane=lane)):
            yield self

    def report(self, *, flops: bool = True) -> Any:
        """Of this run alone: a `Report`, or a dict of them by component for a pipeline of several denoisers.

        `flops`: as in `skipcache.report`.

        Raises ValueError where no call was made in it yet.
        """
        called = {name: f for name, f in self._forwards.items() if f.ledger.knows(self.name)} or self._forwards
        found: dict[str, Report] = {name: forward.report(self.name, flops) for name, forward in called.items()}
        return found if len(self._forwards) > 1 else next(iter(found.values()))

    def end(self) -> None:
        """Free what it holds. A call under its name begins another run."""
        for forward in self._forwards.values():
            forward.end(self.name)


def named_run(
    forwards: dict[str, CachedForward],
    name: str,
    timesteps: Tensor | Sequence[float] | None,
    interval: int | None,
    policy: Policy | None,
    speedup: float | None,
    times: Tensor | Sequence[float] | None = None,
) -> Run:
    """See `skipcache.run`."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"run: expected a name, a str that is not empty, got {name!r}")
    given = [
        key for key, value in (("interval", interval), ("policy", policy), ("speedup", speedup)) if value is not None
    ]
    if len(given) > 1:
        raise ValueError(f"run: {' and '.join(given)} exclude each other; give one")
    if policy is not None and (isinstance(policy, type) or not isinstance(policy, Policy)):
        raise TypeError(f"run: expected Interval(...), Schedule(...) or another Policy, got {policy!r}")
    if interval is not None:
        policy = Interval(interval)
    if speedup is not None:
        plan = next(iter(forwards.values())).settings.plan
        policy = Spread.reaching(speedup, plan.head + plan.tail, plan.depth)
    unread = [forward for forward in forwards.values() if not reads_drift(forward.settings.policy)]
    if policy is not None and reads_drift(policy) and unread:
        raise ValueError(
            f"run: {policy!r} follows H, which is not kept for {unread[0].settings.policy!r}; accelerate with it"
        )
    models = tuple(forward.module for forward in forwards.values())
    steps = _numbers("timesteps", timesteps)
    return Run(forwards, Word(models, name, steps, _flow_times(times, steps), policy))


def _numbers(what: str, given: Tensor | Sequence[float] | None) -> Tensor | None:
    if given is None:
        return None
    try:
        found = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"run: expected {what} as numbers, got {given!r}") from error
    if found.ndim != 1 or not found.numel() or found.is_complex() or not bool(torch.isfinite(found).all()):
        raise ValueError(f"run: expected {what} as a list of finite numbers, got {given!r}")
    return found


def _flow_times(given: Tensor | Sequence[float] | None, timesteps: Tensor | None) -> tuple[float, ...] | None:
    found = _numbers("times", given)
    if found is None:
        return None
    count = 0 if timesteps is None else len(timesteps)
    if len(found) != count:
        raise ValueError(f"run: expected as many times as timesteps, got {len(found)} and {count}; give both")
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise ValueError(f"run: expected times sigma / (alpha + sigma), from 0 (data) to 1 (noise), got {given!r}")
    return tuple(found.double().tolist())

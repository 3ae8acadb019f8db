"""The calls of one ComfyUI run: which step and lane each of them is, as ComfyUI says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

import skipcache
from skipcache.clients.comfyui.steps import Steps


class Options(dict[str, Any]):
    """`transformer_options` of one lane: one object for all of its calls, where ComfyUI makes a new dict each time.

    It holds the sigma, which changes on every call. What tells lanes apart in it is in the lane's name.
    """


class Calls:
    """An APPLY_MODEL wrapper: around each call of `model`, which is accelerated."""

    def __init__(self, model: Any, steps: Steps) -> None:
        self.steps = steps
        self.inside = skipcache.run(model, "inside", steps.timesteps.tolist(), times=steps.times.tolist())
        self.outside = skipcache.run(model, "outside", interval=1)
        self.at, self.called = 0, Counter[str]()
        self.lanes: dict[str, Options] = {}

    def __call__(
        self,
        executor: Callable[..., Any],
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        """`t` is the sigma, (batch,)."""
        options = transformer_options or {}
        at = self.steps.at(float(t.flatten()[0]), self.at)
        if at != self.at:
            self.at, self.called = at, Counter()
        if at not in self.steps.inside:
            with self.outside:
                return executor(x, t, c_concat, c_crossattn, control, options, **more)
        lane = self._lane(options, x)
        own = self.lanes.setdefault(lane, Options())
        own.clear()
        own.update(options)
        with self.inside.step(at - self.steps.inside.start, lane):
            return executor(x, t, c_concat, c_crossattn, control, own, **more)

    def _lane(self, options: dict[str, Any], x: Tensor) -> str:
        """The second evaluation of a step (Heun, DPM-2) is a lane of its own."""
        who = who_is_called(options, x)
        self.called[who] += 1
        return f"{self.called[who]} {who}"

    @property
    def full_at(self) -> list[int]:
        """The steps that may be cached and were full, counted from the run's first one."""
        try:
            found = self.inside.report(flops=False).full_at
        except ValueError:  # no call was one of an accelerated step
            return []
        return [i + self.steps.inside.start for i in found]


def who_is_called(options: dict[str, Any], x: Tensor) -> str:
    """The ids of the conds, what is patched for them, the window, and the size of x."""
    window = getattr(options.get("context_window"), "index_list", None)
    patches = [sorted(_patches(options.get(kind))) for kind in ("patches", "patches_replace")]
    return repr((options.get("uuids"), options.get("cond_or_uncond"), window, patches, tuple(x.shape)))


def _patches(found: Any, path: str = "") -> Iterator[str]:
    """Where something is patched, and by which object."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield from _patches(value, f"{path}/{name}")
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from _patches(value, path)
    elif found is not None:
        yield f"{path} {id(found)}"

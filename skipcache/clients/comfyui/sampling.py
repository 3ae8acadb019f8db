"""One run of a ComfyUI sampler: its model is accelerated for the length of it.

Clones of a model share its module. So the module is accelerated while one of them samples, and restored at the end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import skipcache
from skipcache.clients.comfyui.calls import Calls
from skipcache.clients.comfyui.steps import Steps

KEY = "skipcache"
SAMPLER, APPLY = "sampler_sample", "apply_model"  # of comfy.patcher_extension.WrappersMP
LATEST = 1  # report that is kept
LOG = logging.getLogger("skipcache")


def attach(
    model: Any,
    interval: int | None = None,
    *,
    speedup: float | None = None,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    **settings: Any,
) -> Any:
    """A clone of a ModelPatcher that samples faster; `model` stays as it is. The last `attach` of a chain counts.

    Args:
        model: a `comfy.model_patcher.ModelPatcher`.
        interval, speedup: as in `skipcache.accelerate`; interval 3 where neither is given. Full steps are placed by
            the run's sigmas.
        start_percent, end_percent: the part of sampling in which steps may be cached, as in ComfyUI's other nodes.
            Raising the first or lowering the second caches less. The steps outside run the plain model.
        settings: others of `skipcache.accelerate`, such as `policy=`, `predictor=` and `cache_limit=`.

    Returns the clone. Where a model cannot be accelerated it samples plain, and `report_of` says why.

    Raises ValueError for a part that is none.

    Example:
        faster = skipcache.comfyui.attach(model, speedup=2)
    """
    if not 0 <= start_percent < end_percent <= 1:
        raise ValueError(f"expected 0 <= start_percent < end_percent <= 1, got {start_percent} and {end_percent}")
    clone = model.clone()
    clone.remove_wrappers_with_key(SAMPLER, KEY)
    chosen = {"interval": interval, "speedup": speedup, **settings}
    clone.add_wrapper_with_key(SAMPLER, KEY, Sampling(chosen, start_percent, end_percent))
    return clone


def report_of(model: Any) -> str:
    """What caching did in the last run of a model that went through `attach`, or through other nodes after it.

    Raises ValueError where it did not.
    """
    found = model.get_wrappers(SAMPLER, KEY)
    if not found:
        raise ValueError("expected a model that went through SkipCache (attach), got one that did not")
    reports: deque[str] = found[-1].reports
    return reports[-1] if reports else "skipcache: the model has not sampled yet"


@dataclass(frozen=True, eq=False)
class Sampling:
    """A SAMPLER_SAMPLE wrapper. `reports` are shared by all clones of the model that it was added to."""

    settings: dict[str, Any]
    start: float = 0.0
    end: float = 1.0
    reports: deque[str] = field(default_factory=lambda: deque(maxlen=LATEST))

    def __call__(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *more: Any) -> Any:
        base = guider.inner_model
        with ExitStack() as stack:
            try:
                calls = stack.enter_context(self._accelerated(base, sigmas))
            except (TypeError, ValueError) as error:
                self._say(f"skipcache: the model sampled plain: {error}")
                with suppress(ValueError):  # where another node's run of it is under way
                    stack.enter_context(skipcache.suspended(base.diffusion_model))
            else:
                options = extra_args["model_options"].setdefault("transformer_options", {})
                options.setdefault("wrappers", {}).setdefault(APPLY, {})[KEY] = [calls]
            return executor(guider, sigmas, extra_args, *more)

    @contextmanager
    def _accelerated(self, base: Any, sigmas: Tensor) -> Iterator[Calls]:
        """ComfyUI leaves models in training mode, and its arguments hold objects, which graphs do not take."""
        steps = Steps.of(base.model_sampling, sigmas, self.start, self.end)
        settings = {"engine": "hooks", "training": "ignore", **self.settings}
        if settings.get("policy") is None:
            settings["steps"] = len(steps.inside)
        with skipcache.accelerated(base.diffusion_model, **settings) as model:
            calls = Calls(model, steps)
            try:
                yield calls
            finally:
                self._say(text_of(skipcache.report(model, flops=False), calls))

    def _say(self, text: str) -> None:
        self.reports.append(text)
        LOG.info(text)


def text_of(report: skipcache.Report, calls: Calls) -> str:
    """The report of a run, in a few lines."""
    blocks = report.blocks_run + report.blocks_saved
    fewer = f", {blocks / report.blocks_run:.2f}x fewer" if report.blocks_run else ""
    return "\n".join(
        [
            f"skipcache: {report.full_steps} full and {report.cached_steps} cached steps",
            f"{report.blocks_run} of {blocks} block evaluations{fewer}",
            f"full at: {' '.join(map(str, calls.full_at)) or '-'}",
            *(f"because: {reason}" for reason in report.reasons),
        ]
    )

"""diffusers' caches of attention: PyramidAttentionBroadcast and FasterCache, by `enable_cache`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import diffusers
from diffusers.hooks import FasterCacheConfig, PyramidAttentionBroadcastConfig

from skipcache.benchmarks.peers.context import InContext, UnconditionalFirst, by_hand, cached_pipeline
from skipcache.benchmarks.peers.method import Setting, Task, best
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


@dataclass(frozen=True)
class PyramidAttentionBroadcast:
    """Attention outputs are reused for `range` steps, between timesteps 100 and 800; the rest of a block always runs.

    Temporal attention is reused twice as long, cross attention three times, as in the paper (arXiv 2408.12588).
    """

    name: str
    label: str
    library: str

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return best(task, self, [[{"range": n} for n in range(2, 11)]], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        pipe = cached_pipeline(task)
        model = pipe.transformer
        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=setting["range"],
            temporal_attention_block_skip_range=2 * setting["range"],
            cross_attention_block_skip_range=3 * setting["range"],
            current_timestep_callback=lambda: model.current_timestep,
        )
        model.enable_cache(config)
        return pipe

    def usage(self, task: Task, setting: Setting) -> str:
        n = setting["range"]
        config = f"PyramidAttentionBroadcastConfig({n}, {2 * n}, {3 * n}, current_timestep_callback=timestep)"
        return usage(task, "apply_pyramid_attention_broadcast", config)

    def note(self, task: Task) -> str:
        return "attention alone is reused"


@dataclass(frozen=True)
class FasterCache:
    """The unconditional half is forecast from the conditional one, and attention from its last two outputs.

    `range` is how long the unconditional half goes without being computed; `until` the timestep from which on.
    """

    name: str
    label: str
    library: str

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        ladder: list[Setting] = [{"range": n, "until": 641} for n in (2, 3, 4, 5, 6, 8, 10)]
        ladder += [{"range": 10, "until": until} for until in range(681, 1002, 40)]
        ladder += [{"range": n, "until": 1001} for n in (15, 20, 50)]
        return best(task, self, [ladder], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        pipe = cached_pipeline(task, UnconditionalFirst if _has_it_second(task) else InContext)
        model = pipe.transformer
        names = (task.stack.sample, task.stack.timestep, *task.data.table)
        config = FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            temporal_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, max(681, setting["until"])),
            temporal_attention_timestep_skip_range=(-1, max(681, setting["until"])),
            unconditional_batch_skip_range=setting["range"],
            unconditional_batch_timestep_skip_range=(-1, setting["until"]),
            attention_weight_callback=lambda _: 0.5,
            tensor_format="BCFHW" if task.data.samples.ndim == 5 else "BCHW",
            current_timestep_callback=lambda: model.current_timestep,
            _unconditional_conditional_input_kwargs_identifiers=list(names),
        )
        with quiet_diffusers():
            model.enable_cache(config)
        return pipe

    def usage(self, task: Task, setting: Setting) -> str:
        until, names = setting["until"], ", ".join(task.data.table)
        skip = (
            f"unconditional_batch_skip_range={setting['range']}, unconditional_batch_timestep_skip_range=(-1, {until})"
        )
        attention = f"spatial_attention_timestep_skip_range=(-1, {max(681, until)}), attention_weight_callback=weight"
        rest = f"_unconditional_conditional_input_kwargs_identifiers=[..., {names}], tensor_format=..."
        config = f"FasterCacheConfig({skip}, {attention}, {rest}, current_timestep_callback=timestep)"
        return usage(task, "apply_faster_cache", config)

    def note(self, task: Task) -> str:
        return "halves of the batch turned round: it wants the unconditional one first" if _has_it_second(task) else ""


def _has_it_second(task: Task) -> bool:
    """The pipeline asks for the unconditional half second; those of diffusers ask for it first."""
    return isinstance(task.plain, ReferencePipeline)


def usage(task: Task, function: str, config: str) -> str:
    timestep = "timestep = lambda: pipe.current_timestep"
    return "\n".join(
        [*by_hand(task, timestep=True), timestep, f"config = {config}", f"{function}(transformer, config)"]
    )


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without the warning that FasterCache is experimental, once for each copy."""
    verbosity = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)

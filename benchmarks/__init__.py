"""The command `skipcache`, and the benchmarks behind it. README.md lists the rooms and what each may import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipcache.benchmarks.races.race import Race


def race(
    pipe: Any,
    run: Callable[[Any, int, int], Any],
    *,
    speedup: float = 2.2,
    steps: int = 50,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = (),
) -> Race:
    """Other caches, fewer sampler steps and skipcache, on your own pipeline and prompts, at equal compute.

    Each method runs on a copy of the pipeline that shares its weights, and is tuned on a seed that is not measured.

    Args:
        pipe: a plain pipeline of diffusers with one `transformer` and a `scheduler`, without offloading.
        run: called as `run(pipe, steps, seed)` with one of the copies. It samples and returns the pipeline's output, or
            its images or videos in [0, 1]: (N, C, H, W) or (N, frames, C, H, W). Equal seeds must give equal samples.
        speedup: factor by which FLOPs fall. Raising it saves more and strays further from the plain run.
        steps: sampler steps of the plain run.
        seeds: one plain run and one run of each method for each. More of them steady the figures.
        methods: names of `skipcache peers`, all but "pab" and "fastercache"; the usual ones by default.

    Returns a `Race`. `print` it for the table; `rows` has the figures, and `save(path)` writes them as JSON.

    Raises ValueError for a pipeline or a function that cannot be raced, with what to do.

    Example:
        def run(pipe, steps, seed):
            generator = torch.Generator().manual_seed(seed)
            return pipe([207, 360], num_inference_steps=steps, generator=generator, output_type="pt")

        print(skipcache.benchmarks.race(pipe, run, speedup=2.2))
    """
    from skipcache.benchmarks.races.race import race_own

    return race_own(pipe, run, speedup, steps, seeds, methods)

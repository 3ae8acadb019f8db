"""`skipcache analyze`: how stable features are, block by block: from step to step, and under noise on the input.

The study behind Skip-DiT (arXiv 2411.17616): what changes little can be cached. For every unit of the stack and every
step of an uncached run: the cosine similarity with the same unit's feature at the step before, the change from it
relative to its size, and the change that a small perturbation of the sample makes at this step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

import skipcache
from skipcache.benchmarks.options.studies import AnalyzeSettings
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import write_json
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.show.tables import new_table

MEASURES = {
    "similarity": "cosine similarity with the step before",
    "change": "relative change from the step before",
    "perturbed": "relative change under noise on the input",
}


Features = Sequence[Sequence[Tensor]]  # by step, then by unit


@dataclass(frozen=True)
class Stability:
    """Per unit (rows) and step (columns), means over the batch; the first step, with none before it, is left out."""

    model: str
    similarity: list[list[float]]
    change: list[list[float]]
    perturbed: list[list[float]]


def run_analysis(settings: AnalyzeSettings, console: Console) -> Path:
    use_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    found = []
    with progress_bar(console, total=len(settings.models)) as bar:
        for name in settings.models:
            bar.say(name)
            found.append(analyze(name, settings))
            bar.advance()
    path = settings.out / "stability.json"
    write_json(path, settings, {"models": [asdict(stability) for stability in found]})
    for measure in MEASURES:
        draw(settings.out / f"{measure}.png", measure, found)
    table = new_table(f"means over {settings.steps} steps: first, middle and last unit", gap=1)
    for column in ("", *MEASURES):
        table.add_column(column, no_wrap=True)
    for stability in found:
        table.add_row(stability.model, *(_summary(getattr(stability, measure)) for measure in MEASURES))
    console.print(table)
    console.print(f"wrote {path} and {', '.join(f'{measure}.png' for measure in MEASURES)}", highlight=False)
    return path


def analyze(name: str, settings: AnalyzeSettings) -> Stability:
    """Samples with the reference model `name`; every step runs twice, with and without noise on its input."""
    reference = find_reference(name)
    data, model = reference.data(), reference.load()
    watched = Watched(model, settings.noise, settings.seed)
    pipe = reference.pipeline(model)
    with watched.watching():
        labels = balanced(settings.batch, data.classes)
        pipe(data, labels, steps=settings.steps, guidance=settings.guidance, seed=settings.seed)
    before, after = watched.features[:-1], watched.features[1:]
    return Stability(
        name,
        _by_unit(_similarity, before, after),
        _by_unit(_change, before, after),
        _by_unit(_change, after, watched.perturbed[1:]),
    )


class Watched:
    """The features of all units at all steps of a run, each (batch, tokens * D), and those of a perturbed step."""

    def __init__(self, model: nn.Module, noise: float, seed: int) -> None:
        stack = skipcache.find_stack(model)
        self.model, self.noise = model, noise
        self.sample = stack.sample
        self.blocks = [model.get_submodule(unit[-1]) for unit in stack.units]
        self.generator = torch.Generator().manual_seed(seed)
        self.features: list[list[Tensor]] = []
        self.perturbed: list[list[Tensor]] = []
        self._now: list[Tensor] = []
        self._again = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [block.register_forward_hook(self._keep) for block in self.blocks]
        handles.append(self.model.register_forward_hook(self._step, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, block: nn.Module, args: Any, output: Any) -> None:
        streams = output if isinstance(output, tuple) else (output,)
        self._now.append(torch.cat([x.flatten(1) for x in streams if isinstance(x, Tensor)], dim=1))

    def _step(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        features, self._now = self._now, []
        if self._again:
            self.perturbed.append(features)
            return
        self.features.append(features)
        self._again = True
        try:
            if args:
                model(self._disturbed(args[0]), *args[1:], **kwargs)
            else:
                model(**{**kwargs, self.sample: self._disturbed(kwargs[self.sample])})
        finally:
            self._again = False

    def _disturbed(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.generator).to(x)
        return x + self.noise * x.norm() / noise.norm() * noise


def _similarity(before: Tensor, after: Tensor) -> float:
    return nn.functional.cosine_similarity(before, after, dim=1).mean().item()


def _change(before: Tensor, after: Tensor) -> float:
    return ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item()


def _by_unit(compare: Callable[[Tensor, Tensor], float], ones: Features, others: Features) -> list[list[float]]:
    by_step = ([compare(x, y) for x, y in zip(*step)] for step in zip(ones, others))
    return [list(unit) for unit in zip(*by_step)]


def _summary(rows: list[list[float]]) -> str:
    means = [sum(row) / len(row) for row in rows]
    return "  ".join(f"{means[i]:.4f}" for i in (0, len(means) // 2, -1))


def draw(path: Path, measure: str, found: Sequence[Stability]) -> None:
    """One heatmap per model, on one logarithmic scale: the last steps change more than all others."""
    maps = [torch.tensor(getattr(stability, measure)) for stability in found]
    if measure == "similarity":
        maps = [1 - x for x in maps]
    maps = [x.clamp(min=1e-6) for x in maps]
    scale = LogNorm(min(x.min().item() for x in maps), max(x.max().item() for x in maps))
    figure = Figure(figsize=(1.2 + 5 * len(maps), 3.4), dpi=160, layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, values, stability in zip(axes, maps, found):
        image = axis.imshow(values.numpy(), cmap="viridis", norm=scale, aspect="auto", interpolation="nearest")
        axis.set(title=stability.model, xlabel="step", ylabel="unit")
    label = MEASURES[measure] if measure != "similarity" else f"1 - {MEASURES[measure]}"
    figure.colorbar(image, ax=list(axes), label=label.replace(" with", "\nwith").replace(" from", "\nfrom"))
    figure.savefig(path)

"""For your own training loop: full and cached steps under autograd, frozen backbones, and a loss that needs no data.

A cached step can be taught. Record a run of the plain model, then draw the outputs of full and cached steps to it:

    skipcache.graft(model)
    optimizer = torch.optim.AdamW(training.freeze_backbone(model), lr=1e-3)
    run = training.record_run(model, lambda: pipe(prompts))
    for _ in range(1000):
        training.distillation_loss(model, run, interval=3).backward()
        optimizer.step()
        optimizer.zero_grad()

`model` may be wrapped by DistributedDataParallel in all of it: each step runs through the wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Override, Streams, check_plain, reshard, tensors_of
from skipcache.branches import grafted_branches, planned, stack_of
from skipcache.engines.hooks import CachedRun, FullRun, HookEngine, Wiring, WiringObserver
from skipcache.predictors import Hold, Prediction
from skipcache.stack import Keep, argument_names, unwrap
from skipcache.trajectory import Call, CallReader, Mark


@dataclass(frozen=True)
class DeepFeature:
    """D of a full step, in the stack's canonical layout, and how the blocks are wired: what a cached step needs."""

    streams: Streams
    keep: Keep
    wiring: Wiring

    def detach(self) -> DeepFeature:
        return replace(self, streams=tuple(x.detach() for x in self.streams))


def branch_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the grafted skip branches, as a list. Raises ValueError where there are none."""
    reshard(unwrap(model))  # after a run FSDP2 holds others for a while, which no optimiser should have
    return list(grafted_branches(unwrap(model)).parameters())


def freeze_backbone(model: nn.Module) -> list[nn.Parameter]:
    """Let only the grafted branches require gradients: the first training stage of Skip-DiT (arXiv 2411.17616).

    `model.requires_grad_(True)` undoes it, for the second stage.

    Returns the branches' parameters. Raises ValueError where there are none.

    Example:
        optimizer = torch.optim.AdamW(training.freeze_backbone(model), lr=1e-3)
    """
    parameters = branch_parameters(model)
    model.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)
    return parameters


def full_forward(model: nn.Module, *args: Any, keep: Keep = 1, **kwargs: Any) -> tuple[Any, DeepFeature]:
    """A full step under autograd.

    Args:
        model: a plain or grafted denoiser, also inside DistributedDataParallel; not an accelerated one.
        args, kwargs: of the model's forward.
        keep: units run at each end of the cached steps that will follow.

    Returns the model's output, and D for `cached_forward`; both carry gradients. `D.detach()` makes it a constant.
    Raises ValueError where the model cannot run cached steps, or where the sample or the timestep is missing.

    Example:
        output, deep = training.full_forward(model, x, timestep=t)
    """
    with _hooked(model, keep) as engine:
        call = _call(engine, args, kwargs)
        first = WiringObserver(engine, call.batch)
        with engine.doing(first):
            output = model(*args, **kwargs)
        wiring = first.wiring()
        if wiring.refusal:
            raise ValueError(f"{type(engine.model).__name__} cannot run cached steps: {wiring.refusal}")
        D = first.D
        if wiring.copies:
            again = FullRun(engine, call.batch, wiring)
            with engine.doing(again):
                output = model(*args, **kwargs)
            D = again.D
    return output, DeepFeature(D, keep, wiring)


def cached_forward(model: nn.Module, deep: DeepFeature, *args: Any, **kwargs: Any) -> Any:
    """A cached step under autograd: head and tail of `model` run on the arguments, with `deep` between them (Hold).

    Args:
        model, args, kwargs: those of `full_forward`, at another timestep.
        deep: what `full_forward` returned.

    Returns the model's output. Raises TypeError where `deep` is something else.

    Example:
        output = training.cached_forward(model, deep.detach(), x_next, timestep=t_next)
    """
    if not isinstance(deep, DeepFeature):
        raise TypeError(f"deep: expected the DeepFeature of full_forward, got {type(deep).__name__}")
    with _hooked(model, deep.keep) as engine:
        # Tensors of this step's own: gradient checkpointing tells by them which step it runs again.
        streams = tuple(x.clone() for x in deep.streams)
        prediction = Prediction(Hold(), [streams], (), residual=False)
        call = _call(engine, args, kwargs)
        with engine.doing(CachedRun(engine, call.batch, deep.wiring, prediction)):
            return model(*args, **kwargs)


@dataclass(frozen=True)
class RecordedCall:
    """A call's arguments, and the tensors of its output."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: tuple[Tensor, ...]


Run = list[list[RecordedCall]]  # by step, then by lane


def record_run(model: nn.Module, run: Callable[[], Any]) -> Run:
    """Record the calls of a sampling run, for `distillation_loss`.

    Args:
        model: the denoiser. It is in eval mode during the run.
        run: samples from the model in any way; it is called once, without gradients.

    Returns the calls by step and lane. Calls in a row at one timestep are lanes of a step. All samples and outputs are
    held, on the devices that they are on. Raises ValueError where `run` never calls the model.

    Example:
        run = training.record_run(model, lambda: pipe(prompts))
    """
    inner = unwrap(model)
    recorder = _Recorder(inner)
    training = inner.training
    recorder.put_on()
    try:
        inner.eval()
        with torch.no_grad():
            run()
    finally:
        recorder.take_off()
        inner.train(training)
    if not recorder.steps:
        raise ValueError(f"the run never called {type(inner).__name__} with a sample and a timestep")
    return recorder.steps


def distillation_loss(
    model: nn.Module, run: Run, *, interval: int = 3, keep: Keep = 1, generator: torch.Generator | None = None
) -> Tensor:
    """A loss that needs no data: cached and full steps are drawn to the recorded outputs (cf. arXiv 2411.17616, 3.2).

    A full step is drawn at random, and a cached step 1 to interval - 1 steps later, which uses its D. The loss is the
    mean squared error of the cached step, which teaches the branches to make up for an old D, plus that of the full
    step, which keeps uncached outputs where they were.

    Args:
        model: with grafted branches; also inside DistributedDataParallel.
        run: what `record_run` returned.
        interval: of the sampling that is trained for, at least 2. Raising it trains for older features.
        keep: units run at each end on the cached step.
        generator: draws the steps; torch's global one by default.

    Returns a 0-d tensor. Raises ValueError for an interval below 2 or a run of one step.

    Example:
        training.distillation_loss(model, run, interval=3).backward()
    """
    if interval < 2:
        raise ValueError(f"interval: expected at least 2, got {interval}; 1 has no cached steps")
    if len(run) < 2:
        raise ValueError(f"run: expected at least 2 steps, got {len(run)}")
    ahead = _draw(min(interval, len(run)) - 1, generator) + 1
    start = _draw(len(run) - ahead, generator)
    lane = _draw(min(len(run[start]), len(run[start + ahead])), generator)
    first, later = run[start][lane], run[start + ahead][lane]
    output, deep = full_forward(model, *first.args, keep=keep, **first.kwargs)
    cached = cached_forward(model, deep.detach(), *later.args, **later.kwargs)
    return _distance(output, first.output) + _distance(cached, later.output)


class _Recorder(Override):
    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.stack = stack_of(module)
        self.reader = CallReader(tuple(argument_names(module)), self.stack.sample, self.stack.timestep)
        self.steps: Run = []
        self._last: Mark | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.reader.read(args, kwargs)
        # The sampler may go on to write to any of these.
        args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), (args, kwargs))
        output = self.plain(*args, **kwargs)
        if call is not None:
            if self._last is None or not self._last.equal(call.timestep):
                self.steps.append([])
            self._last = Mark.of(call.timestep.clone() if isinstance(call.timestep, Tensor) else call.timestep)
            held = tuple(x.detach().clone() for x in tensors_of(output))
            self.steps[-1].append(RecordedCall(args, kwargs, held))
        return output


@contextmanager
def _hooked(model: nn.Module, keep: Keep) -> Iterator[HookEngine]:
    """The hook engine on the plain module under `model`, for the length of a step."""
    inner = unwrap(model)
    check_plain(inner, "before training it")
    engine = HookEngine(inner, *planned(inner, keep))
    engine.attach()
    try:
        yield engine
    finally:
        engine.detach()


def _call(engine: HookEngine, args: Any, kwargs: Any) -> Call:
    stack, model = engine.stack, engine.model
    call = CallReader(tuple(argument_names(model)), stack.sample, stack.timestep).read(args, kwargs)
    if call is None:
        raise ValueError(f"expected a tensor {stack.sample!r} and a {stack.timestep!r} among the arguments")
    return call


def _draw(below: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(below, (), generator=generator))


def _distance(output: Any, target: tuple[Tensor, ...]) -> Tensor:
    ours = list(tensors_of(output))
    return torch.stack([F.mse_loss(x.float(), y.float()) for x, y in zip(ours, target)]).sum()

"""All that `accelerate` decides for one denoiser, and how it follows from what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from skipcache.branches import branches_of, planned, stack_of
from skipcache.engines import Engine
from skipcache.engines.fx import FxEngine, Options
from skipcache.engines.hooks import HookEngine
from skipcache.policies import Interval, Policy, Spread, check_count, reads_drift, reads_time
from skipcache.predictors import Damped, Hold, Predictor
from skipcache.runtime.corrections import Corrections
from skipcache.runtime.plain import TRAINING
from skipcache.stack import Keep, Plan, Stack, inner_denoiser
from skipcache.trajectory import Agree

ENGINES = ("auto", "fx", "hooks")


@dataclass(frozen=True)
class Settings:
    """All that is decided for one denoiser. Equal settings may share a model."""

    stack: Stack
    plan: Plan
    policy: Policy
    predictor: Predictor
    engine: str = "auto"
    compile: Options = False
    corrections: Corrections | None = None
    training: str = "plain"
    cache_limit: int | None = None
    agree: Agree = False


def make_engines(model: nn.Module, settings: Settings) -> list[Engine]:
    """The quickest to begin first: see `Order`."""
    stack, plan = settings.stack, settings.plan
    idle_head = not (settings.predictor.residual or reads_drift(settings.policy))
    engines: list[Engine] = []
    if settings.engine in ("auto", "hooks"):
        engines.append(HookEngine(model, stack, plan, idle_head))
    if settings.engine in ("auto", "fx"):
        engines.append(FxEngine(model, stack, plan, settings.compile))
    return engines


def of_inner(model: nn.Module, settings: Settings) -> tuple[nn.Module, Settings] | None:
    """The denoiser inside of `model` and the settings for it; None where there is none.

    None, too, where corrections or a window of timesteps were meant for `model` itself.
    """
    if settings.corrections is not None or reads_time(settings.policy):
        return None
    inner, stack = inner_denoiser(model, settings.stack) or (None, None)
    return None if inner is None or stack is None else (inner, replace(settings, stack=stack))


@dataclass(frozen=True)
class Request:
    """What a user asked for, None where nothing was said. Raises TypeError or ValueError for what cannot be."""

    interval: int | None = None
    policy: Policy | None = None
    speedup: float | None = None
    keep: Keep | None = None
    predictor: Predictor | None = None
    engine: str = "auto"
    compile: Options = False
    stack: Stack | None = None
    corrections: Corrections | None = None
    training: str = "plain"
    cache_limit: int | None = None
    steps: int | None = None
    agree: Agree = False

    def __post_init__(self) -> None:
        given = {"interval": self.interval, "policy": self.policy, "speedup": self.speedup}
        named = [f"{name}={value}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other; give one")
        if self.policy is not None and (isinstance(self.policy, type) or not isinstance(self.policy, Policy)):
            raise TypeError(f"policy: expected Interval(...), Schedule(...) or another Policy, got {self.policy!r}")
        if self.interval is not None:
            Interval(self.interval)
        if self.steps is not None:
            check_count("accelerate", "steps", self.steps)
            if self.policy is not None:
                raise ValueError(f"steps={self.steps}: {self.policy!r} has settings of its own; leave out one of them")
        predictor = self.predictor
        if predictor is not None and (isinstance(predictor, type) or not isinstance(predictor, Predictor)):
            raise TypeError(
                f"predictor: expected Hold(), Delta(), Forecast(...), Damped() or another Predictor, got {predictor!r}"
            )
        if self.engine not in ENGINES:
            raise ValueError(f"engine: expected 'auto', 'fx' or 'hooks', got {self.engine!r}")
        if self.training not in TRAINING:
            raise ValueError(f"training: expected 'plain' or 'ignore', got {self.training!r}")
        if self.cache_limit is not None:
            check_count("accelerate", "cache_limit", self.cache_limit)
        if not isinstance(self.agree, (bool, str)):
            raise TypeError(f"agree: expected True, False or the name of a mesh dimension, got {self.agree!r}")
        if not isinstance(self.compile, (bool, dict)):
            raise TypeError(
                f"compile: expected True, False or a dict of options for torch.compile, got {self.compile!r}"
            )
        if self.compile is not False and self.engine == "hooks":
            raise ValueError("compile: expected engine 'auto' or 'fx', got 'hooks', which has no graphs to compile")

    def settings(self, model: nn.Module, in_pipeline: bool = False) -> Settings:
        """The settings for `model`. Raises ValueError or TypeError for what does not fit it.

        `in_pipeline`: its scheduler will tell the length of a run, unless `steps` does.
        """
        placed = self.policy is None and (self.speedup is not None or in_pipeline or self.steps is not None)
        keep = self.keep
        if keep is None:
            keep = 0 if placed and not self._has_skips(model) else 1
        stack, plan = planned(model, keep, self.stack)
        predictor = self.predictor or (Hold() if _carries_H(model, stack) else Damped())
        return Settings(
            stack,
            plan,
            self._policy(plan, placed),
            predictor,
            self.engine,
            self.compile,
            self.corrections,
            self.training,
            self.cache_limit,
            self.agree,
        )

    def _policy(self, plan: Plan, placed: bool) -> Policy:
        interval = 3 if self.interval is None else self.interval
        kept = plan.head + plan.tail
        if self.speedup is not None:
            return Spread.reaching(self.speedup, kept, plan.depth, self.steps)
        if placed and interval > 1:
            return Spread.every(interval, self.steps, kept, plan.depth)
        return self.policy or Interval(interval)

    def _has_skips(self, model: nn.Module) -> bool:
        """Raises ValueError with `speedup`, which beats fewer sampler steps only with no blocks on cached steps."""
        if branches_of(model) is None and not (self.stack or stack_of(model)).native_skips:
            return False
        if self.speedup is not None:
            raise ValueError(
                f"speedup: {type(model).__name__} has skip branches, with which it may keep less than fewer sampler "
                f"steps; calibrate, give interval=, or insist with keep=1"
            )
        return True


def _carries_H(model: nn.Module, stack: Stack) -> bool:
    """Branches replace what enters deep units by functions of H: `Hold` is the form that keeps most there."""
    branches = branches_of(model)
    return stack.native_skips or (branches is not None and branches.layout.fuse == "concat")

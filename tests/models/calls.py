"""Calls made by hand to a stand-in for a denoiser: (step, full, lane) come out."""

import torch

from skipcache import Delta, Interval
from skipcache.trajectory import Repeat, Runs
from skipcache.trajectory.call import CallReader

LOOK = torch.Tensor.tolist  # even where tests forbid it
NAMES = ("hidden_states", "timestep", "text", "residuals")


def tensor(*shape, dtype=torch.float32):
    return torch.randn(shape or (2, 64), dtype=dtype)


class Near:
    """Values that change a little on each call, as a ControlNet's residuals do."""

    def __init__(self):
        self.base = tensor()

    def __call__(self):
        return self.base + 0.2 * tensor()


class Denoiser:
    """Stands for a model: makes the call, and records random features where the visit is full.

    Where no sample is given it goes on from the last one, as a sampler's does.
    """

    def __init__(self, policy=None, predictor=None, schedulers=(), ignored=()):
        self.runs = Runs(policy or Interval(3), predictor or Delta(), lambda: ignored)
        self.schedulers = list(schedulers)
        self.x, self.e = tensor(), torch.zeros(2, 64)
        self._lanes, self._known, self._now = None, [], []

    @property
    def trajectory(self):
        """The run of the last call."""
        return self.runs.latest

    def goes_on(self):
        """The next sample, as a sampler makes it: of the last one and the last output."""
        moves = isinstance(self.e, torch.Tensor) and self.e.shape == self.x.shape
        self.x = self.x + 0.1 * self.e if moves else self.x
        return self.x

    def sample(self, t, who):
        """The sample of the step: the next one where the time is new, or was there for this lane already."""
        now = LOOK(t.flatten()[:1]) if isinstance(t, torch.Tensor) else [t]
        if self._now[:1] != [now] or who in self._now:
            self._now = [now]
            self.goes_on()
        self._now.append(who)
        return self.x

    def another(self):
        """From here on another sample."""
        self.x, self.e = tensor(), torch.zeros(2, 64)

    def __call__(self, t, *conditioning, x=None, context=None, state=None, **kwargs):
        x = self.sample(t, (*map(id, conditioning), context, state)) if x is None else x
        call = CallReader(NAMES, "hidden_states", "timestep").read((x, t, *conditioning), kwargs, context, state)
        visit = self.runs.visit(call, self.schedulers)
        if isinstance(visit, Repeat):
            return None
        self.lane = visit.lane
        assert visit.full or visit.lane.cache.kept, "a cached step without a feature"
        self.e = tensor(*x.shape) if isinstance(x, torch.Tensor) else [tensor(*one.shape) for one in x]
        visit.note(self.e)
        if visit.full:
            visit.run.record(visit, (tensor(),), (tensor(),))
        if self._lanes is not visit.run.lanes:
            self._lanes, self._known = visit.run.lanes, []
        if not any(visit.lane is lane for lane in self._known):
            self._known.append(visit.lane)
        return visit.step, visit.full, [visit.lane is lane for lane in self._known].index(True)

    def run(self, timesteps, *conditioning, **kwargs):
        """(step, full) of one call per timestep."""
        return [self(t, *conditioning, **kwargs)[:2] for t in timesteps]


def every(interval, steps):
    return [(i, i % interval == 0) for i in range(steps)]


def indices(found):
    return [step for step, *_ in found]


def full_at(found):
    return [step for step, full, *_ in found if full]

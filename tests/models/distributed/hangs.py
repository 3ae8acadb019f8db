"""What processes do for test_hangs.py: each of these once made one of them wait for ever."""

from functools import partial

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import skipcache
from skipcache.trajectory.processes import RAISED as RAISED
from tests.models.distributed.sharded import build, calls, context, everyone, far, fsdp, sample
from tests.models.zoo import ZOO


def reports(rank):
    """One process alone asks for a report; all sample again afterwards."""
    found = {}
    for way, name in ((fsdp, "wan"), (context, "wan"), (context, "flux_dev")):
        model = skipcache.accelerate(way(build(name)), interval=3)
        before = sample(name, model, steps=4)
        report = skipcache.report(model) if rank == 0 else None
        distributed.barrier()
        again = sample(name, model, steps=4)
        found[way.__name__, name] = far(again, before) == 0, report and report.ideal_speedup
    alone = skipcache.accelerate(build("wan"), interval=3)
    sample("wan", alone, steps=4)
    found["alone"] = skipcache.report(alone).ideal_speedup
    return found


def thresholds(rank):
    """By way of sharding and limit: the full steps of all processes, which agree without being told to."""
    found = {}
    for way, name in ((context, "flux_dev"), (fsdp, "wan")):
        for limit in (0.1, 0.3):
            model = skipcache.accelerate(way(build(name)), policy=skipcache.Threshold(limit))
            # FSDP is data parallel too: each process has samples of its own.
            sample(name, model, seed=rank if way is fsdp else 0)
            found[way.__name__, limit] = everyone(skipcache.report(model).full_at)
    return found


def tokens_of_the_first_frame(kwargs):
    """Wan 2.2's image-to-video: those of the given frame have time 0, and the plan splits times by token."""
    t = kwargs["timestep"].clone()
    t[:, : t.shape[1] // 4] = 0
    return {**kwargs, "timestep": t}


def windows(rank):
    """Interval's window, where each process is given the times of other tokens."""
    found = {}
    for policy in (skipcache.Interval(3, 900, 200), skipcache.Interval(3, start=900)):
        runs = {}
        for label, way in (("alone", lambda model: model), ("sharded", context)):
            model = way(skipcache.accelerate(build("wan_ti2v"), policy=policy))
            outputs = sample("wan_ti2v", model, change=tokens_of_the_first_frame)
            runs[label] = outputs, skipcache.report(model).full_at
        found[str(policy)] = far(runs["sharded"][0], runs["alone"][0]), everyone(runs["sharded"][1]), runs["alone"][1]
    return found


class RaisesOnOne(skipcache.Policy):
    caches = True

    def full(self, step):
        step.timesteps()
        if step.index == 2 and distributed.get_rank() == 1:
            raise ValueError("a policy of one process failed")
        return step.index % 3 == 0


def raising(rank):
    """Where one process cannot place a call, all raise, and go on together afterwards."""
    model = skipcache.accelerate(fsdp(build("wan")), policy=RaisesOnOne())
    said = []
    for _ in range(2):
        try:
            sample("wan", model)
        except (ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


@torch.no_grad()
def strays(rank):
    """One process begins a run where the others go on: all begin one."""
    model = skipcache.accelerate(fsdp(build("wan")), interval=3)
    x, given = calls("wan", 8, 0)
    order = [*given[:4], *given] if rank == 0 else [*given, *given[:4]]
    for kwargs in order:
        model(**{ZOO["wan"].sample: x, **kwargs}, return_dict=False)
    report = skipcache.report(model)
    return everyone((report.full_steps, report.cached_steps, report.full_at)), report.reasons


def calibrations(rank):
    """All processes find the same calibration, also of samples of their own, and run it."""
    found = {}
    for way, name in ((context, "wan"), (context, "flux_dev"), (fsdp, "wan")):
        model = way(build(name))
        run = partial(sample, name, model, seed=rank if way is fsdp else 0)
        made = skipcache.calibrate(model, run, full_steps=4, keep=0, progress=False)
        skipcache.accelerate(model, calibration=made)
        sample(name, model)
        report = skipcache.report(model)
        steps = report.full_steps, report.cached_steps
        found[way.__name__, name] = everyone(made), steps, type(build(name)).__name__
    return found


def replicas(rank):
    """Two replicas over two processes each; the second one has a prompt more. Each agrees within itself."""
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("dp", "ring", "ulysses"))
    replica = mesh["dp"].get_local_rank()
    model = context(build("wan"), ulysses_degree=2, mesh=mesh["ring", "ulysses"])
    skipcache.accelerate(model, policy=skipcache.Threshold(0.3), agree="ulysses")
    found = []
    for prompt in range(1 + replica):
        sample("wan", model, seed=10 * replica + prompt)
        found.append(skipcache.report(model).full_at)
    return found

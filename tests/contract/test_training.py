"""`skipcache.training`: cached steps under autograd, frozen backbones, distillation, several processes."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import skipcache
from skipcache import Hold, training
from skipcache.branches.modules import branches_of
from tests.models.grafted import grafted
from tests.models.sampling import build, equal, first, inputs, sample, state


def two_calls(name, model):
    kwargs, x_name, t_name = inputs(name, model)
    x = kwargs[x_name]
    integer = name in ("dit", "latte") or name.startswith("original")
    times = [torch.full((len(x),), t * 1000).long() if integer else torch.full((len(x),), t) for t in (0.8, 0.7)]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    return {**kwargs, t_name: times[0]}, {**kwargs, x_name: x + 0.1 * noise, t_name: times[1]}


@pytest.mark.parametrize("fuse", [None, "add", "concat"])
@pytest.mark.parametrize("name", ["dit", "latte", "sd3", "flux_dev", "original_dit", "yesterday_in_place"])
def test_steps_under_autograd_equal_those_of_sampling(name, fuse):
    model = build(name) if fuse is None else grafted(name, fuse)
    one, two = two_calls(name, model)
    before = state(model)
    output, deep = training.full_forward(model, **one)
    cached = training.cached_forward(model, deep, **two)
    assert state(model) == before
    skipcache.accelerate(model, interval=2, predictor=Hold(), engine="hooks")
    with torch.no_grad():
        assert torch.equal(first(model(**one)), first(output))
        assert torch.equal(first(model(**two)), first(cached))
    assert skipcache.report(model).cached_steps == 1


def test_gradients_of_a_cached_step_reach_head_tail_and_their_branch_alone():
    model = grafted("original_dit", "concat").requires_grad_(True)
    one, two = two_calls("original_dit", model)
    _, deep = training.full_forward(model, **one)
    first(training.cached_forward(model, deep.detach(), **two)).square().mean().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("blocks.0.") for name in touched)
    assert any(name.startswith("blocks.3.") for name in touched)
    assert any(name.startswith("skip_branches.0.") for name in touched)
    assert not any(name.startswith(("blocks.1.", "blocks.2.", "skip_branches.1.")) for name in touched)
    model.zero_grad()
    first(training.cached_forward(model, deep, **two)).square().mean().backward()
    assert model.blocks[2].mlp[0].weight.grad.abs().sum() > 0


def test_only_the_branches_are_left_to_train():
    model = skipcache.graft(build("original_dit")).requires_grad_(True)
    parameters = training.freeze_backbone(model)
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in parameters} == {id(p) for p in branches_of(model).parameters()}
    with pytest.raises(ValueError, match="graft first"):
        training.freeze_backbone(build("original_dit"))


def test_distillation_brings_cached_runs_nearer():
    """A dozen lines of a user's own; the recorded run is the plain model's, and uncached outputs stay near it."""
    model = skipcache.graft(build("original_dit"))
    plain = sample("original_dit", model, steps=12)
    run = training.record_run(model, lambda: sample("original_dit", model, steps=12))
    assert len(run) == 12 and equal([calls[0].output[0] for calls in run], plain)

    def error():
        with skipcache.accelerated(model, 3, predictor=Hold()):
            return sum((a - b).square().mean() for a, b in zip(sample("original_dit", model, steps=12), plain))

    before, generator = error(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(training.freeze_backbone(model), lr=1e-2)
    for _ in range(150):
        training.distillation_loss(model, run, interval=3, generator=generator).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert error() < 0.7 * before


def test_lanes_of_a_recorded_run_stay_apart():
    model = build("original_dit")

    def guided():
        x = torch.zeros(2, 4, 4, 4)
        for t in (900, 600, 300):
            for y in (torch.tensor([1, 2]), torch.tensor([10, 10])):
                model(x, torch.full((2,), t), y)

    run = training.record_run(model, guided)
    assert [len(lanes) for lanes in run] == [2, 2, 2]
    assert all(torch.equal(lanes[1].args[2], torch.tensor([10, 10])) for lanes in run)


def test_bad_input():
    model = grafted("original_dit", "concat")
    one, _ = two_calls("original_dit", model)
    _, deep = training.full_forward(model, **one)
    with pytest.raises(TypeError, match="DeepFeature"):
        training.cached_forward(model, torch.zeros(1), **one)
    with pytest.raises(ValueError, match="among the arguments"):
        training.full_forward(model, **{name: x for name, x in one.items() if name != "t"})
    with pytest.raises(ValueError, match="never called"):
        training.record_run(model, lambda: None)
    run = training.record_run(model, lambda: sample("original_dit", model))
    with pytest.raises(ValueError, match="at least 2"):
        training.distillation_loss(model, run, interval=1)
    with pytest.raises(ValueError, match="at least 2"):
        training.distillation_loss(model, run[:1])
    with pytest.raises(ValueError, match="head = tail"):
        training.full_forward(model, keep=0, **one)
    skipcache.accelerate(model)
    with pytest.raises(ValueError, match="restore"):
        training.cached_forward(model, deep, **one)


WORKER = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import skipcache
from skipcache import training
from tests.models.sampling import build, sample


def main(rank):
    model = skipcache.graft(build("original_dit"))
    run = training.record_run(model, lambda: sample("original_dit", model, seed=rank))
    for stage in ("branches", "everything"):
        if stage == "branches":
            training.freeze_backbone(model)
        else:
            model.requires_grad_(True)
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(3):
            training.distillation_loss(wrapped, run, interval=3, generator=generator).backward()
            optimizer.step()
            optimizer.zero_grad()
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])
        others = [torch.empty_like(flat) for _ in range(2)]
        dist.all_gather(others, flat)
        assert torch.equal(others[0], others[1]), "the processes have drifted apart"
        if rank == 0:
            skipcache.save_branches(model, os.path.join(sys.argv[1], stage))


torch.set_num_threads(1)
dist.init_process_group("gloo")
main(dist.get_rank())
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # a thread of gloo's that lets go of a tensor while Python ends would abort it
"""


def test_two_processes_train_as_one(tmp_path, pytestconfig):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    torchrun(pytestconfig.rootpath, "--nproc-per-node", "2", str(script), str(tmp_path))
    model = skipcache.load_branches(build("original_dit"), tmp_path / "everything")
    assert all(p.abs().sum() > 0 for p in branches_of(model).parameters())
    frozen = skipcache.load_branches(build("original_dit"), tmp_path / "branches")
    assert not equal(list(branches_of(frozen).parameters()), list(branches_of(model).parameters()))


def torchrun(root, *args):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *args]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_wrapped_model_is_trained_through_its_wrapper():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.module(*args, **kwargs)

    Wrapper.__name__ = "DistributedDataParallel"
    model = grafted("original_dit", "add")
    wrapped = Wrapper(model)
    one, two = two_calls("original_dit", model)
    output, deep = training.full_forward(wrapped, **one)
    cached = training.cached_forward(wrapped, deep, **two)
    assert wrapped.calls == 2
    assert torch.equal(output, training.full_forward(model, **one)[0])
    assert torch.equal(cached, training.cached_forward(model, deep, **two))

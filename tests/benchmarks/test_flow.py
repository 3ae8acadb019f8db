"""Models of rectified flow: their loss, their samplers, and the real pipeline around the shipped one."""

import diffusers
import pytest
import torch
from torch import nn

import skipcache
from skipcache.benchmarks.names.models import FLOWS, REFERENCES
from skipcache.benchmarks.names.schedulers import FLOW, FLOW_SCHEDULERS, SCHEDULERS
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.references.data.dataset import Data, balanced
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.metrics import class_accuracy
from skipcache.benchmarks.sampling.schedulers import make_scheduler
from skipcache.benchmarks.sampling.text_to_image import TextToImagePipeline
from skipcache.benchmarks.training.losses import flow_loss
from skipcache.benchmarks.training.task import shortened
from skipcache.benchmarks.training.trainer import train


@pytest.fixture(scope="module")
def reference():
    return find_reference("mmdit-emoji")


@pytest.fixture(scope="module")
def model(reference):
    return reference.load()


class Seen(nn.Module):
    """Predicts the velocity to the one clean sample there is, and keeps what it was called with."""

    def __init__(self, clean):
        super().__init__()
        self.clean, self.calls = clean, []

    def forward(self, x, timestep, kind, return_dict):
        self.calls.append((timestep, kind))
        sigma = (timestep / 1000)[:, None]
        return ((x - self.clean) / sigma,)  # x = clean + sigma * (noise - clean)


def test_the_loss_is_zero_for_the_true_velocity():
    clean = torch.tensor([[0.5, -1.0, 0.25]])
    data = Data(clean, torch.zeros(1, dtype=torch.long), {"kind": torch.tensor([7, 0])})
    model = Seen(clean)
    loss = flow_loss(clean, data.labels, data)(model, torch.Generator().manual_seed(0), 1000)
    assert loss < 1e-6
    ((timestep, kind),) = model.calls
    assert timestep.min() > 0 and timestep.max() < 1000
    assert timestep.median() == pytest.approx(500, abs=5)  # logit-normal: as many above as below
    assert ((timestep > 270) & (timestep < 730)).float().mean() == pytest.approx(0.68, abs=0.02)
    assert set(kind.tolist()) == {0, 7} and (kind == 0).float().mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_noise_levels_are_shifted_towards_noise(name):
    scheduler = make_scheduler(name, FLOW)
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas
    middle = sigmas[(sigmas - 0.5).abs().argmin()]
    assert 0.99 < sigmas[0] <= 1 and sigmas[-1] == 0 and 0.4 < middle < 0.6
    assert (sigmas > 0.5).float().mean() > 0.6
    assert name in SCHEDULERS  # so that tables know its place


def test_names_of_flows_and_their_samplers():
    assert {name for name in REFERENCES if find_reference(name).prediction == FLOW} == set(FLOWS)
    with pytest.raises(ValueError, match=r"one of euler, dpm\+\+, unipc, heun, got 'ddim'"):
        make_scheduler("ddim", FLOW)
    for settings in (BenchSettings, PeersSettings):
        usual = settings.of({"model": "mmdit-emoji"})
        assert (usual.scheduler, usual.steps) == ("euler", 28)
        with pytest.raises(ValueError, match=r"--scheduler: .*rectified flow of mmdit-emoji, got 'ddpm'"):
            settings.of({"model": "mmdit-emoji", "scheduler": "ddpm"})


def test_it_is_the_pipeline_of_diffusers(reference, model):
    pipe = reference.pipeline(model)
    assert isinstance(pipe, TextToImagePipeline) and isinstance(pipe, diffusers.StableDiffusion3Pipeline)
    assert isinstance(pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    assert isinstance(pipe.vae, diffusers.AutoencoderKL) and pipe.transformer is model
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 2.4e6


@pytest.mark.parametrize("scheduler", FLOW_SCHEDULERS)
def test_samples_show_what_was_asked_for(reference, model, scheduler):
    labels = balanced(32, reference.data().classes)
    samples = reference.pipeline(model, scheduler)(reference.data(), labels, steps=20)
    assert samples.shape == (32, 3, 32, 32) and samples.min() >= 0 and samples.max() <= 1
    assert class_accuracy(reference.judge(), samples, labels) > 0.4  # one of 214


def test_guidance_and_seeds_matter(reference, model):
    pipe, labels = reference.pipeline(model), balanced(2, reference.data().classes)
    first, again = (pipe(reference.data(), labels, steps=3, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, pipe(reference.data(), labels, steps=3, seed=2))
    assert not torch.equal(first, pipe(reference.data(), labels, steps=3, seed=1, guidance=1.0))


@pytest.mark.parametrize("scheduler", FLOW_SCHEDULERS)
def test_it_is_accelerated_as_it_is(reference, scheduler):
    pipe, labels = reference.pipeline(reference.load(), scheduler), balanced(2, reference.data().classes)
    plain = pipe(reference.data(), labels, steps=12)
    with skipcache.accelerated(pipe, policy=skipcache.Interval(2)):
        assert len(skipcache.find_stack(pipe.transformer).units) == 12
        cached = pipe(reference.data(), labels, steps=12)
        report = skipcache.report(pipe)
        assert report.cached_steps == len(pipe.scheduler.timesteps) // 2 and report.engine == "hooks"
    assert 0 < (cached - plain).abs().mean() < 0.1


def test_training_repeats_itself(reference, tmp_path):
    task = shortened(reference.task(), 2)
    first, again = (train(task, tmp_path / folder / "run").state_dict() for folder in ("one", "two"))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["proj_out.weight"], task.build().proj_out.weight)

"""The shipped weights: they load, they are small, and they draw what they are asked for."""

import pytest
import torch

from skipcache.benchmarks import classifier
from skipcache.benchmarks.digits import digits, split
from skipcache.benchmarks.references import MODULES, balanced, class_accuracy, find_reference
from skipcache.benchmarks.sampling import ReferencePipeline, make_scheduler
from skipcache.benchmarks.settings import SCHEDULERS
from skipcache.benchmarks.shipped import FOLDER, load_weights, read_settings


@pytest.fixture(scope="module")
def reference():
    return find_reference("dit-digits")


@pytest.fixture(scope="module")
def model(reference):
    return reference.load()


def test_the_classifier_knows_digits_it_has_not_seen():
    images, labels = digits()
    judge = classifier.load_judge()
    assert classifier.accuracy(judge, images[split()[1]], labels[split()[1]]) > 0.98
    assert judge.features(images[:3]).shape == (3, 64)


def test_held_out_digits_are_not_in_the_training_set():
    train, held_out = split()
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(1797))
    assert torch.equal(split()[1], held_out)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "dit-digits"])
def test_models_with_branches_draw_what_they_are_asked_for(name):
    reference = find_reference(name)
    labels = balanced(20, 10)
    samples = ReferencePipeline(reference.load(), make_scheduler("ddim"))(reference.data(), labels, steps=10)
    assert class_accuracy(reference.judge(), samples, labels) >= 0.9


@pytest.mark.parametrize(("scheduler", "steps"), [("ddim", 10), ("dpm++", 8), ("heun", 8), ("euler", 10), ("ddpm", 30)])
def test_samples_are_of_the_class_asked_for(reference, model, scheduler, steps):
    """Few steps, so not quite all of them."""
    labels = balanced(20, 10)
    samples = ReferencePipeline(model, make_scheduler(scheduler))(reference.data(), labels, steps=steps)
    assert samples.shape == (20, 1, 8, 8) and samples.min() >= 0 and samples.max() <= 1
    assert class_accuracy(reference.judge(), samples, labels) >= 0.9
    assert scheduler in SCHEDULERS


def test_the_same_seed_draws_the_same_samples(reference, model):
    pipe = ReferencePipeline(model, make_scheduler("ddim"))
    labels = balanced(4, 10)
    first, again, other = (pipe(reference.data(), labels, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_weights_are_small_and_say_how_they_were_made(model):
    assert 1.8e6 < sum(p.numel() for p in model.parameters()) < 2.3e6
    for name in ("dit-digits", "digits-classifier"):
        path = FOLDER / f"{name}.safetensors"
        assert path.stat().st_size <= 5_000_000
        assert {"name", "seed", "recipe", "torch", "scores"} <= read_settings(path).keys()


def test_missing_weights_and_unknown_names(reference, tmp_path):
    with pytest.raises(ValueError, match="skipcache train dit-digits"):
        load_weights(reference.build(), tmp_path / "dit-digits.safetensors")
    with pytest.raises(ValueError, match="expected one of dit-digits, dit-digits-skip, dit-digits-add, got 'dit'"):
        find_reference("dit")

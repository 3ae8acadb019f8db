"""The shipped weights: they load, they are small, and they draw what they are asked for."""

import pytest
import torch

import skipcache
from skipcache.benchmarks.names.models import REFERENCES, TRAINABLE
from skipcache.benchmarks.names.schedulers import SCHEDULERS
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.data.digits import digits, split
from skipcache.benchmarks.references.judges import digits as classifier
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.metrics import accuracy, class_accuracy
from skipcache.benchmarks.training.task import shortened
from skipcache.benchmarks.training.trainer import train
from skipcache.benchmarks.training.weights_file import FOLDER, load_weights, read_settings


@pytest.fixture(scope="module")
def reference():
    return find_reference("dit-digits")


@pytest.fixture(scope="module")
def model(reference):
    return reference.load()


def test_the_classifier_knows_digits_it_has_not_seen():
    images, labels = digits()
    judge = classifier.load_judge()
    assert accuracy(judge, images[split()[1]], labels[split()[1]]) > 0.98
    assert judge.features(images[:3]).shape == (3, 64)


def test_held_out_digits_are_not_in_the_training_set():
    train, held_out = split()
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(1797))
    assert torch.equal(split()[1], held_out)


@pytest.mark.parametrize("name", ["dit-digits-skip", "dit-digits-add"])
def test_models_with_branches_draw_what_they_are_asked_for(name):
    reference = find_reference(name)
    labels = balanced(20, 10)
    samples = reference.pipeline(reference.load())(reference.data(), labels, steps=10)
    assert class_accuracy(reference.judge(), samples, labels) >= 0.9


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [("pixart-shapes", 30, (3, 16, 16)), ("latte-digits", 10, (1, 8, 16, 16))],
)
def test_captions_draw_what_they_say(name, count, shape):
    """A caption is right where all its attributes are."""
    reference = find_reference(name)
    labels = balanced(count, reference.data().classes)
    samples = reference.pipeline(reference.load())(reference.data(), labels, steps=10)
    assert samples.shape == (count, *shape) and samples.min() >= 0 and samples.max() <= 1
    assert class_accuracy(reference.judge(), samples, labels) > 0.5


@pytest.mark.parametrize(("name", "units"), [("pixart-shapes", 24), ("latte-digits", 6)])
def test_caption_models_are_accelerated_as_they_are(name, units):
    reference = find_reference(name)
    pipe = reference.pipeline(reference.load())
    labels = balanced(2, reference.data().classes)
    plain = pipe(reference.data(), labels, steps=4)
    with skipcache.accelerated(pipe, policy=skipcache.Interval(2)):
        assert len(skipcache.find_stack(pipe.transformer).units) == units
        cached = pipe(reference.data(), labels, steps=4)
        assert skipcache.report(pipe).cached_steps == 2 and skipcache.report(pipe).engine == "hooks"
    assert 0 < (cached - plain).abs().mean() < 0.1


@pytest.mark.parametrize("name", ["pixart-shapes", "latte-digits"])
def test_training_on_captions_repeats_itself(name, tmp_path):
    task = shortened(find_reference(name).task(), 2)
    first, again = (train(task, tmp_path / folder / "run").state_dict() for folder in ("one", "two"))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["proj_out.weight"], task.build().proj_out.weight)


@pytest.mark.parametrize(("scheduler", "steps"), [("ddim", 10), ("dpm++", 8), ("heun", 8), ("euler", 10), ("ddpm", 30)])
def test_samples_are_of_the_class_asked_for(reference, model, scheduler, steps):
    """Few steps, so not quite all of them."""
    labels = balanced(20, 10)
    samples = reference.pipeline(model, scheduler)(reference.data(), labels, steps=steps)
    assert samples.shape == (20, 1, 8, 8) and samples.min() >= 0 and samples.max() <= 1
    assert class_accuracy(reference.judge(), samples, labels) >= 0.9
    assert scheduler in SCHEDULERS


def test_the_same_seed_draws_the_same_samples(reference, model):
    pipe = reference.pipeline(model)
    labels = balanced(4, 10)
    first, again, other = (pipe(reference.data(), labels, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_weights_are_small_and_say_how_they_were_made(model):
    assert 1.8e6 < sum(p.numel() for p in model.parameters()) < 2.3e6
    for name in TRAINABLE:
        path = FOLDER / f"{name}.safetensors"
        assert path.stat().st_size <= 5_000_000
        assert {"name", "seed", "recipe", "torch", "scores"} <= read_settings(path).keys()


def test_missing_weights_and_unknown_names(reference, tmp_path):
    with pytest.raises(ValueError, match="skipcache train dit-digits"):
        load_weights(reference.build(), tmp_path / "dit-digits.safetensors")
    with pytest.raises(ValueError, match=f"expected one of {', '.join(REFERENCES)}, got 'dit'"):
        find_reference("dit")


def test_labels_are_balanced():
    assert balanced(20, 10).bincount().tolist() == [2] * 10

"""Scenes and videos with captions: they show what is said, and their judges, trained and shipped, read it off them."""

import pytest
import torch

from skipcache.benchmarks.references.data import moving_digits, shapes
from skipcache.benchmarks.references.judges import moving_digits as moving_digits_judge
from skipcache.benchmarks.references.judges import shapes as shapes_judge
from skipcache.benchmarks.training.task import shortened
from skipcache.benchmarks.training.trainer import train

SETS = {"shapes": (shapes, shapes_judge), "moving-digits": (moving_digits, moving_digits_judge)}


def drawn(content, seed=5, **options):
    """One sample of each caption, of another seed than the training set."""
    labels = torch.arange(len(content.captions()))
    return content.draw(labels, torch.Generator().manual_seed(seed), **options), labels


@pytest.mark.parametrize(("name", "count", "length"), [("shapes", 1152, 8), ("moving-digits", 90, 4)])
def test_captions_differ_in_words_and_in_what_they_say(name, count, length):
    captions = SETS[name][0].captions()
    assert len(captions) == len(set(captions.texts)) == len(set(map(tuple, captions.attributes.tolist()))) == count
    assert all(values.max() == size - 1 for values, size in zip(captions.attributes.T, captions.sizes))
    assert captions.tokens.shape == (count + 1, length) and not captions.tokens[-1].any()
    words = [captions.words[token - 1] for token in captions.tokens[7] if token]
    assert " ".join(words) == captions.texts[7]


def test_a_caption_is_likeliest_where_all_its_attributes_are():
    captions = moving_digits.captions()
    logits = torch.zeros(1, 19)
    digit, motion = captions.attributes[33]
    logits[0, digit] = logits[0, 10 + motion] = 4.0
    likelihood = captions.log_likelihood(logits)
    assert likelihood.argmax() == 33
    assert likelihood.exp().sum() == pytest.approx(1, abs=1e-5)


def test_training_sets_are_the_same_every_time():
    samples, labels = shapes.scenes(3, 1)
    assert samples.shape == (1152, 3, 16, 16) and samples.abs().max() <= 1 and labels.tolist() == list(range(1152))
    assert torch.equal(samples, drawn(shapes, 3)[0]) and not torch.equal(samples, drawn(shapes, 4)[0])
    videos, labels = moving_digits.videos(3, 1)
    assert videos.shape == (90, 1, 8, 16, 16) and videos.abs().max() <= 1 and labels.tolist() == list(range(90))
    assert torch.equal(videos, drawn(moving_digits, 3)[0]) and not torch.equal(videos, drawn(moving_digits, 4)[0])


def test_scenes_show_their_colours_and_sizes_where_the_caption_says():
    samples, labels = drawn(shapes)
    for sample, label in zip(samples[:200], labels):
        text = shapes.captions().texts[label]
        relation = next(name for name in shapes.RELATIONS if f" {name} " in text)
        objects = [part.split() for part in text.split(f" {relation} ")]
        halves = sample.split(8, dim=2 if relation in ("left of", "right of") else 1)
        if relation in ("right of", "below"):
            halves = halves[::-1]
        areas = []
        for half, (_, colour, _) in zip(halves, objects):
            vivid = half.amax(0) - half.amin(0)  # grey has equal channels
            inked = vivid > vivid.max() / 2
            areas.append(inked.sum())
            middle = half[:, inked].median(1).values / 2 + 0.5
            nearest = min(shapes.COLOURS, key=lambda c: (torch.tensor(shapes.COLOURS[c]) - middle).norm())
            assert nearest == colour, text
        if objects[0][0] != objects[1][0] and objects[0][2] == objects[1][2]:
            assert areas[0] > areas[1], text  # large is named before small


def test_digits_move_as_the_caption_says():
    videos, labels = drawn(moving_digits)
    ink = videos[:, 0] + 1  # (N, frames, 16, 16)
    places = torch.arange(16.0)
    x = (ink.sum(2) * places).sum(2) / ink.sum((2, 3))  # (N, frames)
    y = (ink.sum(3) * places).sum(2) / ink.sum((2, 3))
    moved = torch.stack([x[:, -1] - x[:, 0], y[:, -1] - y[:, 0]], dim=1)
    for label, distance in zip(labels, moved):
        motion = moving_digits.captions().texts[label].partition(" ")[2]
        asked = 7 * torch.tensor(moving_digits.MOTIONS[motion])
        assert torch.allclose(distance, asked, rtol=0.11, atol=0.05), motion


@pytest.mark.parametrize(
    ("name", "options", "share"), [("shapes", {}, 0.99), ("moving-digits", {"held_out": True}, 0.95)]
)
def test_the_judge_reads_samples_it_has_not_seen(name, options, share):
    content, judged = SETS[name]
    samples, labels = drawn(content, **options)
    judge = judged.load_judge()
    with torch.no_grad():
        assert judge(samples).shape == (len(samples), len(labels))
        assert (judge(samples).argmax(1) == labels).float().mean() >= share
        assert judge.features(samples[:3]).shape == (3, 64)


@pytest.mark.parametrize("name", SETS)
def test_the_encoder_tells_captions_apart(name):
    captions, judge = SETS[name][0].captions(), SETS[name][1].load_judge()
    states = judge.states()
    assert states.shape == (len(captions) + 1, captions.tokens.shape[1], 64)
    assert torch.pdist(states.flatten(1)).min() > 0.5
    read = captions.log_likelihood(judge.heads(states[:-1].mean(1))).argmax(1)
    assert torch.equal(read, torch.arange(len(captions)))


@pytest.mark.parametrize("name", SETS)
def test_training_a_judge_repeats_itself(name, tmp_path):
    task = shortened(SETS[name][1].task(), 2)
    first, again = (train(task, tmp_path / folder / "run").state_dict() for folder in ("one", "two"))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert 0 <= task.score(SETS[name][1].build())["held_out_accuracy"] < 0.1

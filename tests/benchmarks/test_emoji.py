"""Emoji: the captions, the fetched archive, and the autoencoder and judge, trained and shipped. Nothing is fetched."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from skipcache.benchmarks.references import emoji_autoencoder
from skipcache.benchmarks.references.data import emoji, emoji_archive, emoji_catalogue
from skipcache.benchmarks.references.judges import emoji as emoji_judge
from skipcache.benchmarks.references.mmdit_emoji import data
from skipcache.benchmarks.sampling.metrics import accuracy
from skipcache.benchmarks.training.task import shortened
from skipcache.benchmarks.training.trainer import train

YELLOW, RED, BROWN = (250, 200, 40, 255), (220, 30, 30, 255), (120, 60, 30, 255)


def painted(colour, outline=(0, 0, 0, 255)):
    """A square of a colour with a wide outline, on nothing."""
    picture = Image.new("RGBA", (64, 64))
    picture.paste(outline, (8, 8, 56, 56))
    picture.paste(colour, (16, 16, 48, 48))
    return picture


def packed(path, pictures, listed):
    """An archive as npm has it."""
    with tarfile.open(path, "w:gz") as tar:
        files = {f"{emoji_archive.FOLDER}{name}.png": picture for name, picture in pictures.items()}
        for name, content in {"package/emoji.json": listed, **files}.items():
            data = io.BytesIO()
            if isinstance(content, Image.Image):
                content.save(data, "PNG")
            else:
                data.write(json.dumps(content).encode())
            member = tarfile.TarInfo(name)
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    return path


def listed(name, subcategory, tones=()):
    variations = {code: {"image": f"{name}-{code}.png", "has_img_google": True} for code in tones}
    more = {"skin_variations": variations} if tones else {}
    return {"image": f"{name}.png", "subcategory": subcategory, "category": "Any", "has_img_google": True, **more}


def test_captions_say_a_shade_and_what_is_shown():
    captions = emoji.captions()
    assert len(captions) == len(set(captions.texts)) == len(set(map(tuple, captions.attributes.tolist()))) == 214
    assert {"yellow face smiling", "brown animal mammal", "blue country flag", "dark person role"} <= {*captions.texts}
    assert all(values.max() == size - 1 for values, size in zip(captions.attributes.T, captions.sizes))
    assert captions.tokens.shape == (215, 4)
    counts = emoji.labels().bincount()
    assert len(counts) == 214 and counts.min() >= emoji_catalogue.LEAST and counts.sum() == 2258


def test_the_catalogue_names_what_most_pixels_have(tmp_path, monkeypatch):
    pictures = {f"m{i}": painted(BROWN) for i in range(3)} | {"rare": painted(RED)}
    pictures |= {f"p{i}{tone}": painted(RED) for i in range(3) for tone in ("", "-1F3FB", "-1F3FD")}
    animals = [listed(f"m{i}", "animal-mammal") for i in range(3)]
    people = [listed(f"p{i}", "person-role", ("1F3FB", "1F3FD")) for i in range(3)]
    archive = packed(tmp_path / "archive.tgz", pictures, [*animals, *people, listed("rare", "arts & crafts")])
    monkeypatch.setattr(emoji_catalogue, "fetch", lambda: archive)
    assert emoji_catalogue.catalogue().splitlines() == [
        "brown animal mammal: m0 m1 m2",
        "light person role: p0-1F3FB p1-1F3FB p2-1F3FB",
        "yellow person role: p0 p1 p2",
    ]
    assert emoji_catalogue.colour(painted(YELLOW)) == "yellow"
    assert emoji_catalogue.colour(painted((255, 255, 255, 255), (255, 255, 255, 255))) == "white"


def test_pictures_are_read_on_white_in_the_order_of_the_labels(tmp_path, monkeypatch):
    names = {"red square": ["b", "a"], "yellow square": ["c"]}
    archive = packed(tmp_path / "archive.tgz", {"a": painted(RED), "b": painted(BROWN), "c": painted(YELLOW)}, [])
    monkeypatch.setattr(emoji, "_catalogue", lambda: names)
    monkeypatch.setattr(emoji, "fetch", lambda: archive)
    images = emoji.pictures.__wrapped__()
    assert images.shape == (3, 3, 32, 32) and emoji.labels.__wrapped__().tolist() == [0, 0, 1]
    for image, colour in zip(images, (BROWN, RED, YELLOW)):
        assert (image[:, 0, 0] == 1).all()
        assert image[:, 16, 16].tolist() == pytest.approx([x / 127.5 - 1 for x in colour[:3]], abs=1e-5)
    with pytest.raises(ValueError, match=r"expected pictures of d in .* delete the file"):
        emoji_archive.read_pictures(archive, ["a", "d"])


def test_the_archive_is_fetched_once_and_only_as_it_should_be(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "archive.tgz"
    source.write_bytes(b"pictures")
    with pytest.raises(ValueError, match="expected an archive with sha512 00"):
        emoji_archive.fetch(source.as_uri(), "00")
    assert not any((tmp_path / "cache").rglob("*.tgz"))
    path = emoji_archive.fetch(source.as_uri(), hashlib.sha512(b"pictures").hexdigest())
    source.unlink()
    assert emoji_archive.fetch(source.as_uri(), "00") == path and path.read_bytes() == b"pictures"


def test_the_list_of_emoji_is_read(tmp_path):
    assert emoji_archive.read_list(packed(tmp_path / "archive.tgz", {}, [{"name": "X"}])) == [{"name": "X"}]


def test_finished_latents_have_mean_0_and_deviation_1_and_decode_as_before(monkeypatch):
    torch.manual_seed(0)
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    monkeypatch.setattr(emoji_autoencoder, "pictures", lambda: images)
    monkeypatch.setattr(emoji_autoencoder, "labels", lambda: torch.zeros(6, dtype=torch.long))
    model = emoji_autoencoder.EmojiAutoencoder().eval()
    before = model.decode(model.encode(images))
    emoji_autoencoder.finished(model)
    assert torch.allclose(model.latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(model.latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(model.decode(model.latents), before, atol=1e-4)


def test_the_shipped_autoencoder_gives_back_what_it_is_given():
    model = emoji_autoencoder.load_autoencoder()
    assert torch.allclose(model.latents.mean((0, 2, 3)), torch.zeros(4), atol=0.01)
    assert torch.allclose(model.latents.std((0, 2, 3)), torch.ones(4), atol=0.01)
    images = model.decode(model.latents[:50]).clamp(-1, 1)
    assert (model.decode(model.encode(images)) - images).abs().mean() < 0.06


def test_data_are_decoded_pictures_that_the_judge_reads():
    samples, labels = data().samples, data().labels
    assert samples.shape == (1000, 3, 32, 32) and samples.abs().max() <= 1
    assert samples.mean() > 0.2  # white around most
    judge = emoji_judge.load_judge()
    assert accuracy(judge, samples, labels) > 0.6
    assert judge.features(samples[:3]).shape == (3, 64)


def test_the_encoder_tells_captions_apart():
    captions, judge = emoji.captions(), emoji_judge.load_judge()
    assert judge.states().shape == (215, 4, 64)
    read = captions.log_likelihood(judge.heads(judge.states()[:-1].mean(1))).argmax(1)
    assert torch.equal(read, torch.arange(214))


def test_varied_pictures_keep_their_size_and_white_around():
    images = torch.stack([emoji_archive.on_white(painted(RED))] * 8)
    varied = emoji_judge.varied(images, torch.Generator().manual_seed(0))
    assert varied.shape == images.shape and varied.abs().max() <= 1
    assert not torch.equal(varied[0], varied[1])
    assert (varied[:, 0, 16, 16] > varied[:, 2, 16, 16] + 0.5).all()  # red stays red
    assert torch.equal(varied, emoji_judge.varied(images, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("module", [emoji_autoencoder, emoji_judge], ids=["autoencoder", "judge"])
def test_training_repeats_itself(module, tmp_path, monkeypatch):
    """On pictures made up, as many as there are real ones."""
    noise = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    images = (torch.from_numpy(noise) * 2 - 1).expand(len(emoji.labels()), -1, -1, -1)
    monkeypatch.setattr(module, "pictures", lambda: images)
    task = shortened(module.task(), 2)
    first, again = (train(task, tmp_path / folder / "run").state_dict() for folder in ("one", "two"))
    assert all(torch.equal(value, again[key]) for key, value in first.items())

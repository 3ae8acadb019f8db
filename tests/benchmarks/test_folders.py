"""`skipcache compare`: pairs by name, figures by hand, the files it writes, and one plain line for what cannot be."""

import json
import math

import imageio.v3
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.folders import run
from skipcache.benchmarks.folders.files import as_tensor, read, samples_at
from skipcache.benchmarks.folders.measures import measure, missing, spread
from skipcache.benchmarks.folders.samples import write_samples


def picture(seed, size=24, channels=3):
    return np.random.default_rng(seed).integers(40, 200, (size, size, channels), dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".npy", ".npz"):
        (np.save if path.suffix == ".npy" else np.savez)(path, array)
    elif array.ndim == 4 and path.suffix == ".gif":
        first, *rest = (Image.fromarray(frame) for frame in array)
        first.save(path, save_all=True, append_images=rest)
    elif array.ndim == 4:
        imageio.v3.imwrite(path, array, fps=4)
    else:
        Image.fromarray(array.squeeze()).save(path)


@pytest.fixture
def folders(tmp_path):
    """Three pairs: equal, off by 1 and off by 4 in each value; and one picture that stands alone."""
    for seed, off in enumerate((0, 1, 4)):
        save(tmp_path / "a" / f"{seed}.png", picture(seed) + np.uint8(off))
        save(tmp_path / "b" / "0.npy" if seed == 0 else tmp_path / "b" / f"{seed}.png", picture(seed))
    save(tmp_path / "a" / "more" / "3.png", picture(3))
    return tmp_path


def compared(folders, *more):
    out = folders / "out"
    assert main(["compare", str(folders / "a"), str(folders / "b"), "--threads", "1", "--out", str(out), *more]) == 0
    return json.loads((out / "compare.json").read_text()), out


def test_figures_by_hand(folders, capsys):
    found, out = compared(folders)
    decibels = [20 * math.log10(255 / off) for off in (1, 4)]
    assert [row["psnr"] for row in found["rows"]] == [None, *map(pytest.approx, decibels)]
    assert (found["pairs"], found["equal"], found["without_a_partner"]) == (3, 1, {"A": 1, "B": 0})
    assert found["psnr"]["mean"] == pytest.approx(sum(decibels) / 2)
    assert found["psnr"]["std"] == pytest.approx((decibels[0] - decibels[1]) / 2, rel=1e-4)
    assert found["ssim"]["most"] == 1 > found["ssim"]["least"]
    assert found["worst"] == ["2", "1"]
    with Image.open(out / "worst.png") as image:
        assert image.size[0] == 900 and len(image.convert("RGB").getcolors(2**24)) > 1000
    printed = capsys.readouterr().out
    assert "1 of 3 pairs are equal" in printed and "1 of A, 0 of B" in printed


def test_equal_folders_have_no_worst(folders, capsys):
    for seed in range(3):
        save(folders / "a" / f"{seed}.png", picture(seed))
    found, out = compared(folders)
    assert found["equal"] == 3 and found["psnr"] is None and found["worst"] == []
    assert not (out / "worst.png").exists()


def test_what_is_not_at_hand_is_said_and_nothing_is_fetched(folders, capsys, monkeypatch):
    monkeypatch.setattr("skipcache.benchmarks.folders.measures.find_spec", lambda name: None)
    found, _ = compared(folders)
    assert found["left_out"] == {"lpips": "torchvision is not installed", "fid": "torch_fidelity is not installed"}
    assert "LPIPS was not measured: torchvision is not installed." in capsys.readouterr().out
    assert found["lpips"] is None and found["fid"] is None


def test_weights_are_looked_for_where_torch_keeps_them(monkeypatch, tmp_path):
    monkeypatch.setattr("skipcache.benchmarks.folders.measures.find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert missing("lpips") == f"its weights are not at {tmp_path}/checkpoints/alexnet-owt-7be5be79.pth"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"")
    assert missing("lpips") is None and missing("fid")


class Means(nn.Module):
    """Two features of a picture, in the place of Inception's 2048."""

    num_features = 2

    def forward(self, x):
        return 255 * torch.stack([x.mean((1, 2, 3)), x[:, 0].mean((1, 2))], 1)


def test_lpips_and_fid_where_they_are_at_hand(folders, monkeypatch, capsys):
    """Their arithmetic is torchmetrics'; the nets are stand-ins, since their weights have to be fetched."""
    monkeypatch.setattr(run, "missing", lambda name: None)
    monkeypatch.setattr(run, "lpips", lambda: lambda x, y: (x - y).abs().mean().item())
    monkeypatch.setattr(
        run, "frechet", lambda: FrechetInceptionDistance(Means(), normalize=True, input_img_size=(3, 24, 24))
    )
    found, _ = compared(folders)
    assert [row["lpips"] for row in found["rows"]] == pytest.approx([0, 1 / 255, 4 / 255], abs=1e-6)
    assert found["lpips"]["most"] == pytest.approx(4 / 255, abs=1e-6)
    assert found["fid"] > 2 * (5 / 3) ** 2  # by which the means of both features differ
    assert f"FID {found['fid']:.2f}, of 3 pairs" in capsys.readouterr().out


def test_the_sample_file_is_that_of_adm(folders):
    _, out = compared(folders, "--npz")
    for name, files in (("A.npz", ["0.png", "1.png", "2.png", "more/3.png"]), ("B.npz", ["0.npy", "1.png", "2.png"])):
        with np.load(out / name) as loaded:
            assert loaded.files == ["arr_0"] and loaded["arr_0"].dtype == np.uint8
            expected = [read(folders / name[0].lower() / file) for file in files]
            assert np.array_equal(loaded["arr_0"], np.stack(expected))
    again = ["compare", str(out / "A.npz"), str(out / "B.npz"), "--out", str(folders / "again")]
    assert main(again) == 0
    assert json.loads((folders / "again" / "compare.json").read_text())["worst"] == ["000002", "000001"]


def test_a_sample_file_of_grey_floats(tmp_path):
    write_samples(tmp_path / "x.npz", {"a": np.full((8, 8, 1), 0.5, np.float32), "b": np.ones((8, 8, 1), np.float32)})
    (a, b) = samples_at(tmp_path / "x.npz").values()
    assert a.shape == (8, 8, 3) and (a == 128).all() and (b == 255).all()


@pytest.mark.parametrize("ending", ["gif", "npz", "mp4"])
def test_videos(ending, tmp_path):
    video = np.stack([np.full((32, 32, 3), 40 * i + 20, np.uint8) for i in range(5)])
    other = video.copy()
    other[2] += 30
    for name, array in (("a", video), ("b", other)):
        save(tmp_path / name / f"clip.{ending}", array)
    assert read(tmp_path / "a" / f"clip.{ending}").shape == (5, 32, 32, 3)
    found, out = compared(tmp_path)
    if ending != "mp4":  # which loses a little
        assert found["rows"][0]["psnr"] == pytest.approx(20 * math.log10(255 / 30) + 10 * math.log10(5), abs=1e-3)
    assert 20 < found["rows"][0]["psnr"] < 30 and (out / "worst.png").is_file()


def test_layouts_and_kinds_of_arrays(tmp_path):
    x = picture(0)
    forms = {
        "rows": x,
        "channels_first": np.moveaxis(x, -1, 0),
        "unit": (x / 255).astype(np.float64),
        "grey": x[..., 0],
    }
    for name, array in forms.items():
        save(tmp_path / f"{name}.npy", array)
    rows, first, unit, grey = (as_tensor(read(tmp_path / f"{name}.npy")) for name in forms)
    assert torch.equal(rows, first) and torch.allclose(rows, unit, atol=1e-7)
    assert torch.equal(grey, rows[:, :1])


def test_grey_beside_colour_and_transparency():
    grey, clear = picture(0, channels=1), picture(0, channels=4)
    assert measure(grey, np.repeat(grey, 3, -1)) == {"psnr": None, "ssim": 1.0, "exact": True}
    assert measure(clear, clear[..., :3])["exact"]


def test_a_spread():
    found = spread([1.0, 2.0, 6.0])
    assert found == {"mean": 3, "std": pytest.approx(math.sqrt(14 / 3)), "least": 1, "median": 2, "most": 6}
    assert spread([]) is None


def spoil(path, content):
    path.write_bytes(content)


def short(path):
    path.write_bytes(path.read_bytes()[:100])


def deep(path):
    Image.fromarray(np.zeros((24, 24), np.uint16)).save(path)


def pickled(path):
    path.unlink()
    np.save(path.with_suffix(".npy"), np.array([{"a": 1}], dtype=object), allow_pickle=True)


def instead(ending, array):
    def change(path):
        path.unlink()
        save(path.with_suffix(ending), array)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: spoil(path, b""), "a/1.png: expected a readable file, got a broken one"),
        (lambda path: spoil(path, b"not a picture"), "a/1.png: expected a readable file"),
        (short, "a/1.png: expected a readable file"),
        (deep, "more than 8 bits in a channel"),
        (pickled, "a/1.npy: expected an array of numbers"),
        (lambda path: (path.unlink(), spoil(path.with_suffix(".npz"), b"PK\x03\x04")), "a/1.npz: expected an array"),
        (lambda path: (path.unlink(), spoil(path.with_suffix(".mp4"), b"no")), "a/1.mp4: expected a readable file"),
        (lambda path: save(path, picture(1, 32)), "1: expected samples of one size, got 32 x 32 and 24 x 24"),
        (instead(".npy", np.zeros((5, 24, 24, 3), np.uint8)), "got 5 frames of 24 x 24 and 24 x 24"),
        (instead(".npy", np.zeros((24, 24, 7), np.uint8)), "with 1, 3 or 4 channels, got the shape (24, 24, 7)"),
        (instead(".npy", np.zeros((24, 24, 3), np.int64)), "expected uint8, or floats in [0, 1], got int64"),
        (instead(".npy", np.full((24, 24, 3), -1.0)), "expected floats in [0, 1], got -1 to -1; scale them"),
        (instead(".npy", np.full((24, 24, 3), np.nan)), "expected floats in [0, 1], got nan to nan"),
        (lambda path: save(path.with_suffix(".jpg"), picture(1)), "expected one file of a name"),
    ],
)
def test_broken_files_and_others_that_cannot_be_compared(folders, change, message, capsys):
    change(folders / "a" / "1.png")
    assert main(["compare", str(folders / "a"), str(folders / "b"), "--out", str(folders / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("skipcache: error:") and len(error.splitlines()) == 1
    assert not (folders / "out").exists()


def test_folders_that_cannot_be_compared(folders, capsys):
    (folders / "empty").mkdir()
    save(folders / "c" / "other.png", picture(0))
    save(folders / "flat.npz", picture(0))
    a, b = str(folders / "a"), str(folders / "b")
    for pair, message in (
        ((a, str(folders / "none")), "B: expected a folder of samples, found nothing at"),
        ((str(folders / "a" / "0.png"), b), "A: expected a folder, or a sample file that ends in .npz, got the file"),
        ((a, str(folders / "empty")), "found no file that ends in .png"),
        ((a, str(folders / "c")), "expected samples of the same names in both, got 0, ... in"),
        ((str(folders / "flat.npz"), b), "expected pictures as (N, H, W, C), got the shape (24, 24, 3)"),
    ):
        assert main(["compare", *pair, "--out", str(folders / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_no_sample_file_of_videos_or_of_several_sizes(folders, capsys):
    save(folders / "a" / "more" / "3.png", picture(3, 32))
    arguments = ["compare", str(folders / "a"), str(folders / "b"), "--npz", "--out", str(folders / "out")]
    assert main(arguments) == 2
    assert "expected pictures of one size, got more/3 of 32 x 32 beside 0 of 24 x 24" in capsys.readouterr().err
    save(folders / "a" / "more" / "3.gif", np.stack([picture(3), picture(4)]))
    (folders / "a" / "more" / "3.png").unlink()
    assert main(arguments) == 2
    assert "got more/3 of 2 frames of 24 x 24" in capsys.readouterr().err
    assert not list((folders / "out").glob("*.part")) and not (folders / "out" / "A.npz").exists()


def test_pictures_that_are_too_small(tmp_path, capsys):
    for name in "ab":
        save(tmp_path / name / "x.png", picture(0, 6))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 2
    assert "x: expected at least 8 x 8 pixels, got 6 x 6" in capsys.readouterr().err


def test_a_video_without_its_reader(tmp_path, monkeypatch):
    (tmp_path / "x.mp4").write_bytes(b"")
    monkeypatch.setattr("skipcache.benchmarks.folders.files.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'imageio\[ffmpeg\]'"):
        read(tmp_path / "x.mp4")

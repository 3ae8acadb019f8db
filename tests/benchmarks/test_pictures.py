"""Pictures of images and of videos: their forms, and what a viewer finds in the files."""

import pytest
import torch
from PIL import Image

from skipcache.benchmarks.fidelity.figures import draw_samples
from skipcache.benchmarks.fidelity.pairs import Measured
from skipcache.benchmarks.fidelity.rows import make_row
from skipcache.benchmarks.fidelity.variants import Variant
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.show.pictures import draw_grid, stills, strip


def test_a_strip_has_white_gaps():
    assert strip(torch.full((3, 3, 16, 16), 0.5)).shape == (16, 50, 3)
    grey = strip(torch.full((2, 1, 8, 8), 0.5))
    assert grey.shape == (8, 17, 1) and grey[:, 8].eq(0).all()  # no ink
    assert strip(torch.zeros(2, 3, 4, 4))[:, 4].eq(1).all()


def test_stills_are_the_first_images_or_a_few_frames_of_the_first_videos():
    images = torch.rand(12, 3, 16, 16)
    assert torch.equal(stills(images), images[:10])
    videos = torch.rand(5, 1, 8, 16, 16)
    assert torch.equal(stills(videos)[:6], torch.cat([videos[k, :, [0, 4, 7]].transpose(0, 1) for k in (0, 1)]))
    assert stills(videos).shape == (9, 1, 16, 16)


@pytest.mark.parametrize(("shape", "suffixes"), [((4, 3, 16, 16), [".png"]), ((2, 1, 3, 16, 16), [".png", ".gif"])])
def test_a_grid_shows_samples_and_moves_where_they_do(shape, suffixes, tmp_path):
    samples = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    paths = draw_grid(tmp_path / "grid", samples, ["a caption"] * len(samples))
    assert [path.name for path in paths] == [f"grid{suffix}" for suffix in suffixes]
    for path in paths:
        with Image.open(path) as image:
            assert image.convert("L").getextrema()[0] < 60
            assert getattr(image, "n_frames", 1) == (3 if path.suffix == ".gif" else 1)


def test_the_bench_draws_colours_and_videos(tmp_path):
    for name, files in (("pixart-shapes", ["x.png"]), ("latte-digits", ["x.png", "x.gif"])):
        reference = find_reference(name)
        samples = reference.data().samples[:3] / 2 + 0.5
        variant = Variant(50, interval=2, predictor="hold")
        measured = Measured(variant, (samples + 0.01).clamp(0, 1), samples, (1.5,), 25, 25, 100, (0, 2), 1.8, 1000)
        row = make_row(measured, reference.judge(), reference.data().labels[:3], BenchSettings())
        assert row.class_accuracy == 1 and 39 < row.psnr < 60 and 0 < row.ssim < 1
        assert [path.name for path in draw_samples(tmp_path / "x.png", [measured], [row])] == files
        for file in files:
            with Image.open(tmp_path / file) as image:
                assert len(image.convert("RGB").getcolors(2**24)) > 20
                assert getattr(image, "n_frames", 1) == (8 if file == "x.gif" else 1)

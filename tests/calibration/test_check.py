"""`calibrate(check=...)`: how far samples stray that nothing was fitted on, and what that promises for new ones."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import skipcache
from skipcache import Calibration
from skipcache.calibration.check import quantile, samples_of, strayed
from tests.models.calibrations import Guided
from tests.models.sampling import build


def last(model, seeds):
    """The last states of some runs of two samples."""
    return torch.cat([Guided(model).run(seed)[-1] for seed in seeds])


def checked(seeds=range(10, 16), **goal):
    model = build("original_dit")
    goal = goal or {"full_steps": 5}
    run, check = Guided(model).run, lambda: last(model, seeds)
    return model, skipcache.calibrate(model, run, check=check, keep=1, progress=False, **goal)


def test_errors_are_those_of_the_accelerated_model():
    model, found = checked()
    plain = last(model, range(10, 16))
    with skipcache.accelerated(model, calibration=found, engine="hooks"):
        cached = last(model, range(10, 16))
    assert found.errors == tuple(sorted(strayed(cached, plain))) and len(found.errors) == 12
    assert (
        found.errors[0] > 0 and not skipcache.calibrate(model, Guided(model).run, full_steps=5, progress=False).errors
    )


def test_an_error_that_is_asked_for_is_that_of_the_checked_samples():
    _, loose = checked()
    aim = 0.7 * loose.bound(0.9)
    _, found = checked(max_error=aim)
    assert found.bound(0.9) <= aim and len(found.full_steps) > len(loose.full_steps)


def test_a_new_error_stays_below_the_kth_of_n():
    errors = [0.1 * i for i in range(1, 20)]
    assert quantile(errors, 0.9) == errors[17] and quantile(errors, 0.5) == errors[9]
    assert quantile(errors[:9], 0.9) == errors[8]
    with pytest.raises(ValueError, match="needs 9 checked samples or more, got 8"):
        quantile(errors[:8], 0.9)
    for level in (0, 1, 90, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            quantile(errors, level)


def test_the_promise_is_kept_as_often_as_it_says():
    """Over many draws of checked samples, and of new ones, whatever their distribution."""
    generator = torch.Generator().manual_seed(0)
    kept, inside = [], []
    for _ in range(400):
        errors = torch.randn(41, generator=generator).exp()
        found = calibration(tuple(sorted(errors[:40].tolist())))
        new = float(errors[40])
        low, high = found.interval(0.8)
        kept.append(new <= found.bound(0.9))
        inside.append(low <= new <= high)
    assert abs(sum(kept) / 400 - 0.9) < 0.04 and abs(sum(inside) / 400 - 0.8) < 0.05


def calibration(errors=()):
    return Calibration("DiT", 4, (0, 0), (900.0, 500.0, 100.0), (0, 2), 0.1, 1.4, errors=errors)


def test_files_hold_them_and_files_without_them_are_read(tmp_path):
    found = calibration((0.1, 0.2))
    path = found.save(tmp_path / "found.json")
    assert Calibration.load(path) == found
    facts = json.loads(path.read_text())
    facts.pop("errors")
    path.write_text(json.dumps({**facts, "format": 2}))
    assert Calibration.load(path) == calibration()
    with pytest.raises(ValueError, match="checked samples"):
        Calibration.load(path).bound()
    for bad in (float("nan"), float("inf"), "x"):
        with pytest.raises((ValueError, TypeError), match="finite"):
            calibration((bad,))


def test_samples_of_whatever_a_pipeline_gives():
    batch = torch.rand(2, 3, 4, 4)
    pictures = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in (0, 9)]
    for value, shape in (
        (batch, (3, 4, 4)),
        (batch.numpy(), (3, 4, 4)),
        ([batch[0], batch[1]], (3, 4, 4)),
        ([batch[:1], batch[1:]], (3, 4, 4)),
        ([batch.numpy()[0], batch.numpy()[1]], (3, 4, 4)),
        (SimpleNamespace(images=pictures), (4, 4, 3)),
        (SimpleNamespace(frames=[pictures, pictures]), (2, 4, 4, 3)),
        ([SimpleNamespace(images=pictures[:1]), SimpleNamespace(images=pictures[1:])], (4, 4, 3)),
    ):
        found = samples_of(value)
        assert [tuple(x.shape) for x in found] == [shape, shape] and found[0].dtype == torch.float64
    for bad in (None, 3, SimpleNamespace(), torch.rand(3)):
        with pytest.raises(TypeError, match="check: expected"):
            samples_of(bad)


def test_samples_that_cannot_be_compared_are_refused():
    batch = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match="as many and of the same shapes"):
        strayed(batch, batch[:1])
    with pytest.raises(ValueError, match="as many and of the same shapes"):
        strayed([], [])
    with pytest.raises(ValueError, match="not finite"):
        strayed(batch * float("nan"), batch)
    assert strayed(batch, batch) == [0.0, 0.0] and strayed(0 * batch, 0 * batch) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"check": 3}, TypeError, "check: expected a callable"),
        ({"check": dict}, TypeError, "check: expected a callable"),
        ({"check": lambda: None, "level": 90}, ValueError, "level: expected"),
        ({"check": lambda: None, "level": True}, ValueError, "level: expected"),
    ],
)
def test_bad_values(given, error, message):
    model = build("original_dit")
    with pytest.raises(error, match=message):
        skipcache.calibrate(model, Guided(model).run, full_steps=5, progress=False, **given)


def test_a_check_must_repeat_itself_and_return_its_samples():
    model, seeds = build("original_dit"), itertools.count(20)
    for check, error, message in (
        (lambda: last(model, [next(seeds)]), ValueError, "seed inside of it"),
        (lambda: Guided(model).run(9) and None, TypeError, "returns? its samples"),
    ):
        with pytest.raises(error, match=message):
            skipcache.calibrate(model, Guided(model).run, full_steps=5, check=check, progress=False)
    assert "forward" not in model.__dict__

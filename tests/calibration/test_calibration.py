"""A calibration as a value: its file, and the models that it is for."""

from dataclasses import replace

import pytest

import skipcache
from skipcache import Calibration, Damped, Forecast, Schedule
from tests.models.calibrations import Guided, calibrated
from tests.models.sampling import build, state


def test_files(tmp_path):
    model = build("original_dit")
    found = skipcache.calibrate(model, Guided(model).run, full_steps=5, progress=False)
    path = found.save(tmp_path / "deep" / "found.json")
    assert Calibration.load(path) == found and found.corrections is not None
    damped = replace(found, predictor=Damped(), corrections=None)
    with pytest.raises(ValueError, match="slopes are those of Forecast"):
        replace(found, predictor=Damped(), corrections=replace(found.corrections, slopes=(0.5,)))
    assert Calibration.load(damped.save(tmp_path / "damped.json")) == damped
    assert (damped.predictor, found.predictor) == (Damped(), Forecast(1))
    whole = path.read_text()
    texts = {
        "cut": whole[: len(whole) // 2],
        "other": "{}",
        "list": "[]",
        "more": whole[:-2] + ', "x": 1}',
        "late": whole.replace('"full_steps": [0', '"full_steps": [99'),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="no calibration"):
            Calibration.load(tmp_path / name)
    with pytest.raises(ValueError, match="found none"):
        Calibration.load(tmp_path / "none")


def test_another_model_is_refused():
    _, found = calibrated()
    other = build("yesterday")
    before = state(other)
    with pytest.raises(ValueError, match="made for a OriginalDiT of 4 units, but the model is a Yesterday of 5"):
        skipcache.accelerate(other, calibration=found)
    assert state(other) == before
    for options in ({"interval": 3}, {"keep": 1}, {"policy": Schedule([0])}, {"predictor": skipcache.Hold()}):
        with pytest.raises(ValueError, match="leave out"):
            skipcache.accelerate(build("original_dit"), calibration=found, **options)
    with pytest.raises(TypeError, match="calibration"):
        skipcache.accelerate(build("original_dit"), calibration="found.json")

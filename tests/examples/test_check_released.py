"""The check of released weights, on tiny pipelines of the same classes."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

import skipcache
from tests.models.pipelines import dit, pixart, run_dit, run_pixart, run_sd3, run_wan, sd3, wan

SCRIPT = Path(__file__).parents[2] / "examples" / "check_released.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_released", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


TINY = {"dit": (dit, run_dit), "pixart": (pixart, run_pixart), "sd35": (sd3, run_sd3), "wan": (wan, run_wan)}


@pytest.mark.thorough
@pytest.mark.parametrize("name", TINY)
def test_one_model(script, name):
    make, run = TINY[name]
    pipe = make()
    row = script.check(name, pipe, run, 14, 1.5)
    assert row.exact and row.restored and (row.full_steps, row.fewer_steps) == (9, 9)
    plain = [run(pipe, 14, seed) for seed in script.SEEDS]
    with skipcache.accelerated(pipe, speedup=1.5), script.warned() as notes:
        cached = [run(pipe, 14, seed) for seed in script.SEEDS]
    fewer = [run(pipe, 9, seed) for seed in script.SEEDS]
    for runs, found in ((cached, row.psnr_default), (fewer, row.psnr_fewer_steps)):
        decibels = [-10 * math.log10((x.double() - y).square().mean()) for x, y in zip(runs, plain)]
        assert found == pytest.approx(sum(decibels) / len(decibels))
    assert any("fewer than 10 full steps" in note or "fewer sampler steps" in note for note in notes)
    assert set(notes) <= set(row.notes) and math.isfinite(row.psnr_calibrated)


def test_a_pipeline_that_does_not_repeat_itself_is_not_compared(script):
    seeds = iter(range(9))
    with pytest.raises(SystemExit, match="gives other samples for one seed"):
        script.check("dit", dit(), lambda pipe, steps, seed: run_dit(pipe, steps, next(seeds)), 4)


def row(script, **changes):
    values = {"psnr_default": 40.0, "psnr_calibrated": 45.0, "psnr_fewer_steps": None}
    times = {"speedup_default": 2.0, "speedup_calibrated": 2.1, "speedup_fewer_steps": 2.2}
    return script.Row(
        "dit", **{"exact": True, "restored": True, "full_steps": 9, "fewer_steps": 9, **values, **times, **changes}
    )


def test_the_table(script):
    text = script.table([row(script), row(script, exact=False, notes=["skipcache: a note"])])
    assert "| dit | equal | equal | 40.0 | 45.0 | equal | 2.00x | 2.10x | 2.20x |" in text
    assert "| dit | DIFFERS | equal |" in text and "dit: skipcache: a note" in text


def test_the_command(script, monkeypatch, tmp_path, capsys):
    def load(repository, dtype, device):
        if "stable-diffusion" in repository:
            raise OSError("it is gated\nmore")
        return repository

    monkeypatch.setattr(script, "check", lambda name, pipe, *_: row(script, exact=name == "dit"))
    out = tmp_path / "x.json"
    assert script.main(["dit", "sd35", "--out", str(out)], load) == 0
    assert "stabilityai/stable-diffusion-3.5-medium was not loaded: it is gated" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["torch"] == torch.__version__ and len(found["rows"]) == 1 and list(found["failed"]) == ["sd35"]
    assert script.main(["wan", "--out", str(out)], load) == 1, "it was not exact"
    assert script.main(["sd35", "--out", str(out)], load) == 1, "nothing was checked"
    with pytest.raises(SystemExit):
        script.main(["flux"], load)

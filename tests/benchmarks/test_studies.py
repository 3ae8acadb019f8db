"""`skipcache evidence` and `skipcache analyze`, on small runs."""

import json

import pytest
from matplotlib.image import imread

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


def test_evidence_compares_models(capsys, tmp_path):
    arguments = ["--model", "dit-digits", "dit-digits-skip", "--intervals", "2", "--keep", "1", "--predictor", "hold"]
    short = ["--steps", "6", "--batch", "3", "--images", "40", "--seeds", "0", "1", "--threads", "1"]
    assert main(["evidence", *arguments, *short, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "dit-digits-skip, Hold" in printed and "Frechet" in printed
    results = json.loads((tmp_path / "evidence.json").read_text())
    assert [row["model"] for row in results["fidelity"]] == ["dit-digits", "dit-digits-skip"]
    assert all(len(row["psnr"]) == 2 and min(row["psnr"]) > 5 for row in results["fidelity"])
    assert all(distance > 0 for row in results["quality"] for distance in row["frechet"])


def test_default_compares_an_interval_with_fewer_steps(capsys, tmp_path):
    short = ["--model", "dit-digits", "--batch", "2", "--seeds", "3", "--threads", "1"]
    chosen = ["--scheduler", "ddpm", "unipc", "--steps", "10", "--intervals", "2"]
    assert main(["default", *short, *chosen, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "dit-digits, unipc 10" in printed and "0 of 1 cells short" in printed
    noisy, cell = json.loads((tmp_path / "default.json").read_text())["cells"]
    assert noisy["scheduler"] == "ddpm" and (cell["full_steps"], cell["interval"], cell["steps"]) == (7, 2, 10)
    assert cell["warned"] and cell["margin"] > 0 and len(cell["psnr"]) == 1
    assert main(["default", "--steps", "8"]) == 2
    assert "--steps: expected at least 9" in capsys.readouterr().err


def test_the_rival_of_a_second_order_sampler_calls_the_model_as_often(capsys, tmp_path, monkeypatch):
    """7 of the 19 calls of 10 steps of Heun are full, which are the calls of 4 steps."""
    ran = []
    sample = ReferencePipeline.__call__

    def noted(pipe, *args, steps, **options):
        ran.append(steps)
        return sample(pipe, *args, steps=steps, **options)

    monkeypatch.setattr(ReferencePipeline, "__call__", noted)
    short = ["--model", "dit-digits", "--batch", "2", "--seeds", "3", "--threads", "1", "--scheduler", "heun"]
    assert main(["default", *short, "--steps", "10", "--intervals", "3", "--out", str(tmp_path)]) == 0
    (cell,) = json.loads((tmp_path / "default.json").read_text())["cells"]
    assert ran == [10, 10, 10, 4] and cell["full_steps"] == 7


def test_half_compares_the_default_with_a_forecast_in_float32(capsys, tmp_path):
    short = ["--model", "dit-digits", "--batch", "2", "--seeds", "3", "--threads", "1"]
    assert main(["half", *short, "--steps", "16", "--intervals", "2", "--out", str(tmp_path)]) == 0
    assert "dit-digits, dpm++ 16" in capsys.readouterr().out
    (cell,) = json.loads((tmp_path / "half.json").read_text())["cells"]
    assert cell["wide"] != cell["psnr"] and cell["full_steps"] == 8
    assert min(*cell["wide"], *cell["psnr"], *cell["precision"], *cell["float32"]) > 15


@pytest.mark.thorough
def test_promises_are_counted_on_samples_that_no_calibration_saw(capsys, tmp_path):
    short = ["--model", "mmdit-emoji", "--batch", "2", "--checked", "20", "--new", "8", "--threads", "1"]
    assert main(["promises", *short, "--out", str(tmp_path)]) == 0
    assert "mmdit-emoji, euler 28" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "promises.json").read_text())["models"]
    levels, bounds = ([promise[name] for promise in found["promises"]] for name in ("level", "bound"))
    assert levels == [0.8, 0.9, 0.95] and bounds == sorted(bounds) and bounds[0] > 0
    assert all(0 <= promise[name] <= 1 for promise in found["promises"] for name in ("kept", "kept_at_other_guidance"))
    assert found["speedup"] >= 2.2 and 0 < found["expected"] < bounds[-1] * 2


def test_analyze_draws_heatmaps(capsys, tmp_path):
    arguments = ["--model", "dit-digits", "dit-digits-skip", "--steps", "5", "--batch", "2", "--threads", "1"]
    assert main(["analyze", *arguments, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "stability.json").read_text())
    for model in results["models"]:
        for measure in ("similarity", "change", "perturbed"):
            assert len(model[measure]) == 12 and all(len(row) == 4 for row in model[measure])
            assert imread(tmp_path / f"{measure}.png").std() > 0.01
        assert all(-1 <= x <= 1 for row in model["similarity"] for x in row)
        assert all(x > 0 for row in model["perturbed"] for x in row)
    assert main(["analyze", "--noise", "0"]) == 2
    assert main(["evidence", "--keep", "0"]) == 2
    assert "--keep: expected at least 1" in capsys.readouterr().err

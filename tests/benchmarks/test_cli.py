"""The command line: a small main job makes all its outputs; the impossible gets one line and exit code 2."""

import builtins
import json
import subprocess
import sys

import pytest
import torch
from diffusers import DiTTransformer2DModel
from matplotlib.image import imread

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.names.models import JUDGES, REFERENCES

SMALL = ["--steps", "7", "--batch", "3", "--seeds", "0", "1", "--intervals", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    assert main(["bench", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_bench_writes_results(out):
    results = json.loads((out / "results.json").read_text())
    rows = {row["label"]: row for row in results["rows"]}
    assert list(rows) == [
        "plain, 7 steps",
        "interval 1",
        "interval 3, Hold",
        "interval 3, Delta",
        "interval 3, Forecast(1)",
        "interval 3, Damped",
        "plain, 4 steps",
    ]
    assert rows["interval 1"]["exact"] and rows["interval 1"]["blocks"] == 7 * 12
    hold = rows["interval 3, Hold"]
    # Nothing reads the head under Hold, so that the fx engine leaves it out.
    assert (hold["full_steps"], hold["cached_steps"], hold["blocks"]) == (3, 4, 3 * 12 + 4 * 1)
    assert rows["interval 3, Forecast(1)"]["blocks"] == 3 * 12 + 4 * 2
    assert hold["full_at"] == [0, 3, 6] and len(hold["ratios"]) == 2
    assert hold["psnr"] > 0 and hold["cache_bytes"] == 6 * 16 * 88 * 4  # one hidden state: (batch, tokens, width)
    assert rows["interval 3, Forecast(1)"]["cache_bytes"] == 2 * hold["cache_bytes"]
    # Two hidden states, and of each row how much of its slope came true.
    assert rows["interval 3, Damped"]["cache_bytes"] == 2 * hold["cache_bytes"] + 6 * 4
    assert results["settings"]["seeds"] == [0, 1] and "torch" in results["versions"]
    assert results["images"] == 6
    labels = [row["label"] for row in results["beside"]]
    assert results["settings"]["beside"] == "dit-digits-skip" and labels == ["plain, 7 steps", "interval 3, Hold"]
    # Its branch reads the head on every step.
    assert results["beside"][1]["blocks"] == 3 * 12 + 4 * 2 and not results["beside"][1]["exact"]


def test_bench_draws_both_pictures(out):
    for name in ("samples.png", "fidelity.png"):
        image = imread(out / name)
        assert min(image.shape[:2]) > 300 and image.std() > 0.01


def test_bench_prints_the_table(capsys, tmp_path):
    arguments = ["--steps", "4", "--batch", "2", "--seeds", "0", "--intervals", "2", "--predictor", "hold"]
    assert main(["bench", *arguments, "--scheduler", "ddpm", "--keep", "0", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for part in ("interval 2, Hold", "of ideal", "steps that ran all blocks", "0 2", "interval 1 costs"):
        assert part in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "--steps: expected at least 2, got 1"),
        (["--intervals", "0"], "--intervals: expected at least 1, got 0"),
        (["--keep", "1", "2", "3"], "--keep: expected one or two numbers, got 3"),
        (["--keep", "-1"], "--keep: expected at least 0, got -1"),
        (["--keep", "6"], "expected head + tail < 12"),
        (["--predictor", "hold", "best"], "--predictor: expected one of hold, delta, forecast, damped, got 'best'"),
        (["--scheduler", "pndm"], "--scheduler: expected one of ddim"),
        (["--seeds", "1", "1"], "--seeds: expected different values, got 1 1"),
        (["--dtype", "int8"], "--dtype: expected one of float32"),
        (["--device", "abacus"], "--device: expected one torch can use, got 'abacus'"),
        (
            ["--model", "dit"],
            "expected one of dit-digits, dit-digits-skip, dit-digits-add, pixart-shapes, latte-digits, got 'dit'",
        ),
        (["--beside", "dit-digits"], "--beside: expected another model than --model"),
        (["--beside", "dit"], "expected one of dit-digits"),
        (["--beside", "dit-digits-skip", "--keep", "0"], "head = tail >= 1"),
        (["--batch", "1"], "--batch: expected at least 2, got 1"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--weights", "none.safetensors"], "expected weights at none.safetensors"),
        (["--compile"], "--compile: expected an option of `skipcache bench`, which does not take it"),
        (["--rounds", "3"], "`skipcache engines` does"),
        (["--targets", "2"], "`skipcache peers` does"),
        (["--methods", "pab"], "`skipcache peers` does"),
        (["--model", "dit-digits", "--presets"], "--presets: expected an option of `skipcache bench`"),
        (["--peers", "--targets", "2"], "type `skipcache peers`"),
        (["--preset", "dit-digits"], "type `skipcache engines PRESET`"),
        (["--batch", "99999999999999999999"], "--batch: expected at most 10000, got 99999999999999999999"),
        (["--threads", "99999999999999999999"], "--threads: expected at most 1024"),
        (["--seeds", "99999999999999999999"], "--seeds: expected at most 2147483647"),
        (["--guidance", "inf"], "--guidance: expected a finite number, got inf"),
        (["--device", "meta"], "--device: expected one torch can use, got 'meta'"),
        (["--weights", "/dev/zero"], "--weights: expected weights at /dev/zero, found something that is no file"),
        (["--weights", __file__], "expected weights of this DiTTransformer2DModel"),
    ],
)
def test_bad_options(arguments, message, capsys, tmp_path):
    assert main(["bench", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dit"], "PRESET: expected one of dit-xl-256"),
        (["dit-xl-256", "--seeds", "0"], "--seeds: expected an option of `skipcache engines`, which does not take it"),
        (["dit-xl-256", "--model", "dit-digits"], "--model: expected an option of `skipcache engines`"),
        (["dit-xl-256", "--targets", "2"], "`skipcache peers` does"),
        (["dit-xl-256", "--intervals", "1"], "--intervals: expected at least 2"),
    ],
)
def test_bad_options_of_engines(arguments, message, capsys, tmp_path):
    assert main(["engines", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_bad_option_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; from skipcache.benchmarks.cli.main import main; assert main(sys.argv[1:]) == 2;"
        "heavy = {'diffusers', 'matplotlib', 'safetensors', 'sklearn', 'torchmetrics', 'cache_dit'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    for arguments in (["bench", "--modle", "x"], ["bench", "--model", "x"], ["engines", "x"], ["train", "x"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True)


@pytest.mark.parametrize("arguments", [[], ["bench", "--steps", "x"], ["bake"]])
def test_what_argparse_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


def test_missing_extras_say_what_to_install(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "skipcache.benchmarks.fidelity.run":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.axes")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["bench"]) == 2
    assert "pip install 'skipcache[bench]'" in capsys.readouterr().err


def test_train_refuses_unknown_names(capsys, tmp_path):
    assert main(["train", "dit", "--out", str(tmp_path)]) == 2
    message = f"expected one of {', '.join([*REFERENCES, *JUDGES])}, got 'dit'"
    assert message in capsys.readouterr().err


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


def test_inspect_a_class_by_name(capsys):
    arguments = ["inspect", "DiTTransformer2DModel", "--config", "num_layers=10", "num_attention_heads=2"]
    assert main([*arguments, "--keep", "1", "2"]) == 0
    printed = capsys.readouterr().out
    assert "transformer_blocks.1 to .7 (BasicTransformerBlock)" in printed
    assert "num_layers=10" in printed and "1.54x" in printed  # interval 2 by blocks: 20 / 13


def test_inspect_a_folder(capsys, tmp_path):
    with torch.device("meta"):
        model = DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=8, num_layers=5)
    model.save_config(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "transformer_blocks.4" in printed and "by FLOPs" in printed


def test_inspect_prints_the_graphs(capsys):
    assert main(["inspect", "LatteTransformer3DModel", "--config", "num_layers=4", "--graph"]) == 0
    full, cached = capsys.readouterr().out.partition("graphs of the fx engine")[2].split("# cached step")
    nodes = [int(line.split()[1]) for line in full.splitlines() if line.split()[:1] in (["full"], ["cached"])]
    assert len(nodes) == 2 and nodes[1] < nodes[0]
    assert "transformer_blocks_2" in full or "transformer_blocks.2" in full or '"2"' in full
    assert full.count("def forward(self") == cached.count("def forward(self") == 1


def test_inspect_says_why_there_are_no_graphs(capsys):
    arguments = ["Lumina2Transformer2DModel", "--config", "num_layers=4", "hidden_size=96", "sample_size=16"]
    assert main(["inspect", *arguments]) == 0
    assert "graphs: none, since" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Nothing"], "expected a model class of diffusers"),
        (["DDIMScheduler"], "expected a model class of diffusers"),
        (["AutoencoderKL"], "no timestep argument"),
        (["DiTTransformer2DModel", "--config", "layers=3"], "has no setting layers"),
        (["DiTTransformer2DModel", "--config", "layers"], "expected KEY=VALUE"),
        (["HunyuanDiT2DModel"], "cannot be built from its defaults"),
        (["DiTTransformer2DModel", "--config", "patch_size=0"], "cannot be built from"),
        (["DiTTransformer2DModel", "--config", "sample_size=-1"], "sample_size"),
        (["DiTTransformer2DModel", "--config", "norm_type=x"], "norm_type"),
    ],
)
def test_inspect_says_what_is_wrong(arguments, message, capsys):
    assert main(["inspect", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())

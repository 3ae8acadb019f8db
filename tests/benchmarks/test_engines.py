"""`skipcache engines` on the CPU: real sizes reduced, references as they are. No figure of time is judged."""

import json

import pytest

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.engines.presets import CONDITIONS
from skipcache.benchmarks.names.models import REFERENCES
from skipcache.benchmarks.names.presets import PRESETS, REAL_SIZES

SHORT = ["--steps", "5", "--intervals", "2", "--rounds", "2", "--threads", "1"]


def run(capsys, tmp_path, *arguments):
    """(what was printed, the result file's name, its content)."""
    assert main(["engines", *arguments, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    return capsys.readouterr().out, path.name, json.loads(path.read_text())


def test_names():
    assert set(PRESETS) == {*REAL_SIZES, *REFERENCES}
    assert all(size.cls in CONDITIONS for size in REAL_SIZES.values())


@pytest.mark.parametrize("name", REAL_SIZES)
def test_reduced_presets_run_on_both_engines(name, capsys, tmp_path):
    printed, file, result = run(capsys, tmp_path, name, *SHORT)
    layers = REAL_SIZES[name].changes(True, None)["num_layers"]
    assert file == f"cpu-{name}.json" and f"not of real size: num_layers={layers}" in printed
    hooks, fx = result["rows"]
    assert (hooks["engine"], fx["engine"]) == ("hooks", "fx") and hooks["against"] == fx["against"] == "plain"
    # 3 full steps and 2 of the two outer blocks of six; the rest of the model is not in proportion.
    assert 5 / (3 + 2 * 2 / 6) * 0.9 < fx["ideal"] == pytest.approx(hooks["ideal"], rel=1e-3)
    for row in (hooks, fx):
        assert len(row["ratios"]) == len(row["over_hooks"]) == 2 and row["syncs_per_step"] is None
        assert min(row["first_step"], row["full_step"], row["cached_step"]) > 0
    assert hooks["over_hooks"] == [1, 1]


def test_compiled_presets_stand_beside_the_compiled_model(capsys, tmp_path):
    printed, file, result = run(capsys, tmp_path, "dit-xl-256", *SHORT, "--compile", "aot_eager")
    assert file == "cpu-dit-xl-256-compile.json" and "interval 2, Damped, fx, aot_eager" in printed
    assert [row["against"] for row in result["rows"]] == ["plain", "plain, aot_eager"]


def test_a_reference_of_any_predictor_without_blocks_on_cached_steps(capsys, tmp_path):
    arguments = ["latte-digits", *SHORT, "--predictor", "hold", "delta", "--keep", "0", "--batch", "3"]
    printed, file, result = run(capsys, tmp_path, *arguments)
    assert file == "cpu-latte-digits-keep-0-0-batch-3.json" and "reduced" not in printed and result["batch"] == 3
    assert [(row["predictor"], row["engine"]) for row in result["rows"]] == [
        ("hold", "hooks"),
        ("hold", "fx"),
        ("delta", "hooks"),
        ("delta", "fx"),
    ]

"""`skipcache engines` and `gpu` on the CPU: real sizes reduced or cut. No figure of time is judged."""

import json
import sys

import pytest
import torch

from skipcache.benchmarks.cli.main import COMMANDS, main, make_parser
from skipcache.benchmarks.engines import gpu
from skipcache.benchmarks.engines import run as engines_run
from skipcache.benchmarks.engines.gpu import commands
from skipcache.benchmarks.engines.memory import check_fits, need
from skipcache.benchmarks.engines.presets import CONDITIONS, find_preset
from skipcache.benchmarks.engines.turns import Run, in_turns
from skipcache.benchmarks.names.models import REFERENCES
from skipcache.benchmarks.names.presets import PARTS, PRESETS, REAL_SIZES, TEST_PART
from skipcache.benchmarks.options.engines import GpuSettings

SHORT = ["--steps", "5", "--intervals", "2", "--rounds", "2", "--threads", "1", "--one-shot", "0"]


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


def test_the_first_image_of_all_has_default_arguments(capsys, tmp_path):
    printed, _, result = run(capsys, tmp_path, "dit-xl-256", *SHORT, "--one-shot", "12", "--cpu-time")
    first = result["one_shot"]
    assert (first["steps"], first["interval"], first["engine"]) == (12, 3, "hooks")
    assert first["full_steps"] == 7 and 1 < first["ideal"] < 12 / 7 and first["first_step"] > 0
    assert "first image of all, interval=3, 12 steps, auto (hooks)" in printed and "CPU time" in printed


class Clockwork:
    """A pipeline that notes its turns."""

    def __init__(self, name, turns):
        self.name, self.turns = name, turns

    def begin(self, noise, conditions, steps):
        self.turns.append((self.name, steps))

    def advance(self):
        self.turns.append(self.name)
        return 2.0, 3.0


def test_pipelines_take_turns_step_by_step():
    turns = []
    found = in_turns({name: Clockwork(name, turns) for name in "abc"}, (torch.zeros(1), {}), 3, {"b": 1})
    assert turns == [("a", 3), ("b", 3), ("c", 3), *"abc", *"ca", *"ca"]
    assert found["a"] == Run(9.0, (2.0, 2.0, 2.0)) and found["b"] == Run(3.0, (2.0,))


def test_a_step_is_compared_with_the_same_step():
    """A machine that becomes three times slower changes nothing."""
    plain, cached = Run(0, (1.0, 3.0, 1.0, 3.0)), Run(0, (0.5, 1.5, 0.9, 1.5))
    assert cached.over(plain, range(4)) == 0.5


@pytest.mark.parametrize(("name", "layers"), [("dit-xl-256", 28), ("flux-dev", 19)])
def test_what_does_not_fit_is_refused_with_its_bytes(name, layers):
    preset = find_preset(name, False, None)
    needed = need(preset, 1, torch.float32)
    check_fits(preset, 1, torch.float32, needed.bytes)
    half = needed.bytes // 2
    with pytest.raises(ValueError, match=f"of {layers} layers, batch 1, float32: .* GiB, of which weights") as error:
        check_fits(preset, 1, torch.float32, half)
    said = str(error.value)
    blocks = int(said.split("--blocks ")[1].split()[0])
    assert need(find_preset(name, False, blocks), 1, torch.float32).bytes <= half
    assert need(find_preset(name, False, blocks + 1), 1, torch.float32).bytes > half
    assert "--dtype bfloat16" in said
    with pytest.raises(ValueError, match="take a machine with more memory"):
        check_fits(preset, 1, torch.float32, 0)


@pytest.mark.parametrize(("name", "millions"), {"dit-xl-256": 750, "flux-dev": 11900, "wan-1.3b": 1420}.items())
def test_parameters_of_real_sizes(name, millions):
    """Those of the model cards; a DiT of diffusers embeds time in each block, and so has 750, not 675.

    What is needed counts them, with buffers, by one and two layers.
    """
    preset = find_preset(name, False, None)
    model = preset.build(torch.device("meta"), torch.float32)
    count = sum(x.numel() for x in model.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.015)
    held = sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    assert need(preset, 1, torch.float32).weights == held


def test_a_refusal_comes_before_anything_is_built(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(engines_run, "bytes_at_hand", lambda device: 5 * 2**30)
    arguments = ["wan-1.3b", "--size", "real", "--threads", "1", "--out", str(tmp_path / "out")]
    assert main(["engines", *arguments]) == 2
    assert "got 5.0 GiB; give --blocks" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_preset_of_fewer_blocks(capsys, tmp_path):
    """Flux keeps two blocks of one stream for each block of two."""
    arguments = ["flux-dev", *SHORT, "--blocks", "1", "--keep", "0"]
    _, file, result = run(capsys, tmp_path, *arguments)
    assert file == "cpu-flux-dev-keep-0-0-blocks-1.json"
    assert (result["reduced"]["num_layers"], result["reduced"]["num_single_layers"]) == (1, 2)


@pytest.mark.thorough
def test_a_preset_of_real_size_with_one_block(capsys, tmp_path):
    _, file, result = run(capsys, tmp_path, "dit-xl-256", *SHORT, "--size", "real", "--blocks", "2", "--keep", "0")
    assert file == "cpu-dit-xl-256-keep-0-0-real-blocks-2.json" and result["reduced"] == {"num_layers": 2}


def test_a_part_of_what_a_gpu_is_for(capsys, tmp_path):
    """Its peers, too, run one block at the start."""
    assert main(["gpu", "--device", "cpu", "--parts", "peers", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "parts.json").read_text())["peers"].startswith("done, ")
    result = json.loads((tmp_path / "cpu-dit-xl-256-batch-2-peers.json").read_text())
    rows = {row["method"]: row for row in result["peers"]}
    assert rows["skipcache, hooks, Hold"]["cached_step"] > 0 and rows["skipcache, fx, Damped"]["error"] is None
    assert rows["diffusers, FirstBlockCache"]["error"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys, tmp_path):
    assert main(["gpu", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--device: expected one torch can use, got 'cuda'; try cpu" in line
    assert not (tmp_path / "out").exists()


def test_parts_are_commands_that_the_parser_knows(tmp_path):
    settings = GpuSettings(device="cpu", out=tmp_path)
    parser = make_parser()
    for name, command in commands(settings).items():
        if name != TEST_PART:
            COMMANDS["engines"].settings_of(parser.parse_args(command[3:]))
    assert list(commands(settings)) == [*PARTS, TEST_PART]


def test_a_part_that_fails_or_has_no_time_is_told():
    python = [sys.executable, "-c"]
    assert gpu._state([*python, "raise SystemExit(3)"], 60) == "failed with exit code 3"
    assert gpu._state([*python, "import time; time.sleep(60)"], 0.2) == "cut, out of time"
    assert gpu._state([], 0) == "no time left"

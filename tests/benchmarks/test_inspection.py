"""`skipcache inspect`: what it prints, and what it says of a model that cannot be built."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.inspection.run import ideal


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
        (["DiTTransformer2DModel", "--config", "num_layers=99999999999999999999"], "num_layers: expected at most 1000"),
    ],
)
def test_inspect_says_what_is_wrong(arguments, message, capsys):
    assert main(["inspect", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_ideal_speedup_by_hand():
    assert ideal(3, full=28, cached=2) == pytest.approx(84 / 32)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", '{"_class_name": 3}', '{"_class_name": "DiTTransformer2DModel", "num_layers": "x"}']
)
def test_a_config_that_cannot_be_read_gets_one_line(content, capsys, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("skipcache: error: ")

"""Branches on disk: saved, loaded, and refused where they are for another model."""

import json

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file

import skipcache
from skipcache.branches.modules import branches_of
from tests.models.grafted import grafted
from tests.models.originals import OriginalDiT
from tests.models.sampling import build, equal, sample, state


@pytest.mark.parametrize("where", ["branches.safetensors", "folder"])
@pytest.mark.parametrize("fuse", ["add", "concat"])
def test_branches_come_back(fuse, where, tmp_path):
    model = grafted("sd3", fuse)
    file = skipcache.save_branches(model, tmp_path / where)
    assert file.stat().st_size < 100_000
    for other in (build("sd3"), skipcache.graft(build("sd3"), fuse)):
        assert skipcache.load_branches(other, tmp_path / where) is other
        assert equal(sample("sd3", other), sample("sd3", model))


def test_a_grafted_model_of_diffusers_is_saved_and_comes_back(tmp_path):
    model = grafted("dit", "concat")
    model.save_pretrained(tmp_path)
    other = DiTTransformer2DModel.from_pretrained(tmp_path).eval()
    assert branches_of(other) is None
    skipcache.load_branches(other, tmp_path)
    assert equal(sample("dit", other), sample("dit", model))
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    other = skipcache.load_branches(build("dit"), tmp_path / "shards")
    assert equal(list(branches_of(other).parameters()), list(branches_of(model).parameters()))


def test_branches_for_another_model_name_both_sides(tmp_path):
    file = skipcache.save_branches(grafted("original_dit", "concat"), tmp_path)
    for other, message in (
        (build("yesterday"), "for a OriginalDiT, but the model is a Yesterday"),
        (OriginalDiT(depth=6), "of 4, but OriginalDiT has 6 units"),
        (OriginalDiT(width=32), "branches of width 16, but the blocks of OriginalDiT work on 32"),
    ):
        before = state(other)
        with pytest.raises(ValueError, match=message):
            skipcache.load_branches(other, file)
        assert state(other) == before
    other = skipcache.graft(build("original_dit"), "add")
    values = {name: x.clone() for name, x in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"of concat branches .* has add branches"):
        skipcache.load_branches(other, file)
    assert all(torch.equal(x, values[name]) for name, x in other.state_dict().items())


def test_files_that_are_no_branches(tmp_path):
    model = build("original_dit")
    before = state(model)
    file = skipcache.save_branches(grafted("original_dit", "concat"), tmp_path)
    whole = file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("cut.safetensors", "cannot be read"),
        ("other.safetensors", "has no skip branches"),
        ("empty", "found neither"),
        ("none.safetensors", "found none"),
    ):
        with pytest.raises(ValueError, match=message):
            skipcache.load_branches(model, tmp_path / name)
    save_file({"1.0.norm.weight": torch.zeros(32)}, tmp_path / "few.safetensors", metadata=metadata(file))
    with pytest.raises(ValueError, match=r"missing keys: 0\.0\.linear\.bias"):
        skipcache.load_branches(model, tmp_path / "few.safetensors")
    assert state(model) == before
    with pytest.raises(ValueError, match="graft first"):
        skipcache.save_branches(model, tmp_path)


def metadata(file):
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
    assert json.loads(facts["skipcache"])["backbone"] == "OriginalDiT"
    return facts


def test_files_are_float16_or_any_dtype(tmp_path):
    model = grafted("original_dit", "concat")
    file = skipcache.save_branches(model.half(), tmp_path)
    assert all(x.dtype == torch.float16 for x in load_file(file).values())
    other = skipcache.load_branches(build("original_dit"), file)
    assert all(p.dtype == torch.float32 for p in branches_of(other).parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"fuse": "add"}', r"hostile\.safetensors: expected the layout of skip branches: .* \(KeyError"),
        ('{"fuse": "add", "pairs": [[0, 3]], "depth": 4, "widths": []}', "expected the layout of skip branches"),
        ('{"fuse": "add", "pairs": [[0, 3]], "depth": 4, "widths": [16, 16]}', "missing keys"),
        ('{"fuse": "add", "pairs": [[0, 3]], "depth": 4, "widths": [16], "backbone": 3}', "branches for a 3"),
        ('{"fuse": ', "expected the layout of skip branches as JSON"),
        ("[" * 100_000, "expected the layout of skip branches as JSON"),
        ("3", "has no skip branches"),
    ],
)
def test_metadata_that_anyone_may_have_written_is_refused_before_the_model_is_touched(text, message, tmp_path):
    model, tensors = build("original_dit"), {"0.0.norm.weight": torch.zeros(32)}
    before = state(model)
    save_file(tensors, tmp_path / "hostile.safetensors", metadata={"skipcache": text})
    with pytest.raises(ValueError, match=message):
        skipcache.load_branches(model, tmp_path / "hostile.safetensors")
    assert state(model) == before


@pytest.mark.parametrize("held", [[1], torch.zeros(1), {"a": 1}, {}, {3: torch.zeros(1)}], ids=str)
def test_a_file_of_torch_that_holds_anything_else_is_refused(held, tmp_path):
    torch.save(held, tmp_path / "branches.pt")
    with pytest.raises(ValueError, match=r"expected a state dict of tensors"):
        skipcache.load_branches(build("original_dit"), tmp_path / "branches.pt")


def test_branches_in_a_file_of_torch_are_read(tmp_path):
    model = grafted("original_dit", "concat")
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    other = skipcache.load_branches(build("original_dit"), tmp_path / "whole.pt")
    assert equal(list(branches_of(other).parameters()), list(branches_of(model).parameters()))

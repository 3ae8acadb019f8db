"""The code of docs/recipes/ runs as it stands there, on tiny stand-ins of the released pipelines."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import skipcache
from tests.models.pages import sections
from tests.models.released import RELEASED, from_hub, released  # noqa: F401

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/recipes").glob("*.md"))
FAMILIES = [
    (page.name, heading, blocks)
    for page in PAGES
    if page.name != "weights.md"
    for heading, blocks in sections(page).items()
    if blocks
]

pytestmark = pytest.mark.usefixtures("from_hub")


def run(blocks, names=None):
    """The names that the blocks make, one after the other. The device is the one that is here."""
    names = {} if names is None else names
    for block in blocks:
        code = block.replace('"cuda"', '"cpu"').replace("torch.bfloat16", "torch.float32")
        exec(compile(code, "docs/recipes", "exec"), names)
    return names


def reports(pipe):
    found = skipcache.report(pipe)
    return found if isinstance(found, dict) else {"": found}


@pytest.mark.parametrize(("page", "heading", "blocks"), FAMILIES, ids=[heading for _, heading, _ in FAMILIES])
def test_families(page, heading, blocks):
    pipe = run(blocks[:1])["pipe"]
    assert skipcache.report(pipe)
    steps = int(re.search(r"num_inference_steps=(\d+)", blocks[0]).group(1))
    found = reports(pipe).values()
    assert sum(report.full_steps + report.cached_steps for report in found) == steps
    for report in found:
        assert report.cached_steps >= report.full_steps and report.reasons == ()
    assert sum(report.full_steps for report in found) >= 10


def test_every_address_has_a_recipe_and_a_stand_in():
    named = {address for page in PAGES for address in re.findall(r'"([\w.-]+/[\w.-]+)"', page.read_text())}
    assert named == set(RELEASED)


def test_the_table_begins_with_what_the_recipes_do():
    table = (ROOT / "docs/recipes/index.md").read_text()
    rows = re.findall(r"\]\((\w+\.md)#([\w-]+)\) \| `interval=(\d)` in (\d+) steps", table)
    assert len(rows) == len(RELEASED)
    for page, anchor, interval, steps in rows:
        (block,) = (
            blocks[0]
            for name, heading, blocks in FAMILIES
            if name == page and heading.lower().replace(" ", "-") == anchor
        )
        assert f"interval={interval})" in block and f"num_inference_steps={steps}" in block


def test_two_transformers_with_settings_of_their_own():
    blocks = sections(ROOT / "docs/recipes/videos.md")["Wan with two transformers"]
    pipe = run(blocks[:2])["pipe"]
    first, second = skipcache.report(pipe).values()
    assert first.full_at[:3] == (0, 2, 4) and second.full_at[:3] == (0, 3, 6)


@pytest.mark.thorough
def test_two_transformers_are_calibrated():
    names = run(sections(ROOT / "docs/recipes/videos.md")["Wan with two transformers"])
    names["run"]()
    for name, calibration in (("transformer", names["first"]), ("transformer_2", names["second"])):
        report = skipcache.report(getattr(names["pipe"], name))
        assert report.full_at == calibration.full_steps and report.reasons == ()


# docs/recipes/weights.md


def weights(heading):
    found = sections(ROOT / "docs/recipes/weights.md")
    return found[""] + found[heading][:1], found[heading]


def sample(pipe):
    return pipe("a fox", num_inference_steps=28, generator=torch.Generator().manual_seed(0)).images


def caches(pipe):
    report = skipcache.report(pipe)
    return report.cached_steps == report.full_steps == 14


def test_quantised_by_torchao():
    pytest.importorskip("torchao")
    pipe = run(weights("Quantised")[0])["pipe"]
    assert caches(pipe)
    assert any("Int8Tensor" in reason for reason in skipcache.report(pipe).reasons)


def test_casting_by_layer():
    start, blocks = weights("Quantised")
    pipe = run([start[0], blocks[1]])["pipe"]
    assert caches(pipe)
    assert torch.float8_e4m3fn in {p.dtype for p in pipe.transformer.parameters()}


def test_lora(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = released("stabilityai/stable-diffusion-3.5-medium").transformer
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(model)
    StableDiffusion3Pipeline.save_lora_weights(tmp_path, layers, weight_name="style.safetensors")
    (code,) = weights("LoRA")[1]
    first, second = code.split("\n\n")
    names = run([weights("LoRA")[0][0]])
    plain = sample(names["pipe"])
    with_style = sample(run([first], names)["pipe"])
    assert caches_twice(names["pipe"])
    without = sample(run([second], names)["pipe"])
    assert not torch.equal(with_style, without)
    skipcache.restore(names["pipe"])
    assert torch.equal(sample(names["pipe"]), plain)


def caches_twice(pipe):
    report = skipcache.report(pipe)
    return report.cached_steps == report.full_steps == 28


def test_offload():
    assert caches(run(weights("Offload")[0])["pipe"])


@pytest.mark.thorough
@pytest.mark.parametrize("place", [0, 1], ids=["whole", "blocks"])
def test_compile(place):
    torch._dynamo.reset()
    start, blocks = weights("Compile")
    assert caches(run([start[0], blocks[place]])["pipe"])
    torch._dynamo.reset()

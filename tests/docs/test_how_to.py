"""The code of docs/how-to.md and of README.md runs, as it stands there."""

import configparser
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

import skipcache
from skipcache.engines import Engine
from tests.models import pages

ROOT = Path(__file__).parents[2]


def sections(page):
    return pages.sections(ROOT / page)


def run(*headings):
    """The names that the introduction and these sections make."""
    names = {"__name__": "how_to"}
    for heading in ("", *headings):
        for block in sections("docs/how-to.md")[heading]:
            exec(compile(block, f"docs/how-to.md, {heading or 'introduction'}", "exec"), names)
    return names


def test_every_section_has_code():
    found = sections("docs/how-to.md")
    assert all(found.values()) and len(found) == 7


def test_several_devices():
    both, one = (run("On several devices")[name] for name in ("both", "reports"))
    assert both.full_steps == 2 * one[0].full_steps > 0


def test_a_predictor():
    names = run("A predictor")
    model, sample = names["model"], names["sample"]
    plain = sample(model)
    for engine in ("fx", "hooks"):
        with skipcache.accelerated(model, interval=3, predictor=names["MyDelta"](), engine=engine):
            assert torch.equal(sample(model), names["mine"])
            assert skipcache.report(model).engine == engine
    assert not torch.equal(plain, names["mine"])


def test_a_policy():
    names = run("A policy")
    assert isinstance(names["Alternate"](), skipcache.Policy)
    assert not torch.equal(names["sample"](names["model"]), names["mine"])


def test_an_adapter(monkeypatch):
    names = run("An adapter")
    model = names["MyDenoiser"]().eval()
    with pytest.raises(ValueError, match="no timestep argument"):
        skipcache.find_stack(model)
    point = SimpleNamespace(load=lambda: names["describe"])
    monkeypatch.setattr("skipcache.stack.discovery.entry_points", lambda group: [point])
    assert skipcache.find_stack(model).units == (("first",), ("second",), ("third",), ("fourth",))
    assert names["describe"](names["model"]) is None
    with torch.no_grad(), skipcache.accelerated(model, interval=2):
        for level in (0.9, 0.6, 0.3):
            model(torch.ones(2, 8), torch.tensor(level))
        assert skipcache.report(model).cached_steps == 1


def test_the_entry_point_of_an_adapter():
    (block,) = re.findall(r"^```ini\n(.*?)^```", (ROOT / "docs/how-to.md").read_text(), re.MULTILINE | re.DOTALL)
    config = configparser.ConfigParser()
    config.read_string(block)
    (line,) = config["options.entry_points"]["skipcache.adapters"].split("\n")[1:]
    assert re.fullmatch(r"\w+ = [\w.]+:describe", line.strip())


def test_an_engine(monkeypatch, capsys):
    names = run("An engine")
    model, sample, Timed = names["model"], names["sample"], names["Timed"]
    with skipcache.accelerated(model, interval=3, engine="hooks"):
        expected = sample(model)
    members = {name for name in (*vars(Engine), *Engine.__annotations__) if not name.startswith("_")}
    assert {"name", "stack", "full", "cached"} <= members
    monkeypatch.setattr("skipcache.runtime.forward.make_engines", lambda model, s: [Timed(model, s.stack, s.plan)])
    with skipcache.accelerated(model, interval=3):
        assert torch.equal(sample(model), expected)
        assert skipcache.report(model).engine == "timed"
        assert all(hasattr(Timed(model, skipcache.find_stack(model), skipcache.make_plan(4)), name) for name in members)
    assert "a full step of 4 blocks" in capsys.readouterr().out


def test_a_reference_model(monkeypatch):
    from skipcache.benchmarks.names.models import REFERENCES
    from skipcache.benchmarks.references.registry import find_reference, find_task

    names = run("A reference model")
    module = ModuleType("skipcache.benchmarks.references.dit_small")
    module.reference = names["reference"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(REFERENCES, "dit-small", "dit_small")
    assert find_reference("dit-small").name == find_task("dit-small").name == names["task"].name
    assert names["samples"].shape == (2, 1, 8, 8)


# README.md


class TinyPipeline(DiTPipeline):
    """A real pipeline of tiny parts."""

    def __call__(self, class_labels, **kwargs):
        return super().__call__(class_labels, **{"num_inference_steps": 30, "output_type": "pt", **kwargs})


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=6,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1001,
        norm_num_groups=1,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16)
    made = TinyPipeline(model.eval(), vae.eval(), DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    return made


def readme(heading, place=0):
    return sections("README.md")[heading][place]


def test_the_one_line(pipe, capsys):
    before = pipe(class_labels=[207], generator=torch.Generator().manual_seed(0)).images
    exec(readme("One line on a pipeline"), {"pipe": pipe})
    assert "cached steps" in capsys.readouterr().out
    assert torch.equal(pipe(class_labels=[207], generator=torch.Generator().manual_seed(0)).images, before)


def test_interval_and_speedup(pipe):
    for line in readme("`interval` and `speedup`").splitlines():
        exec(line, {"pipe": pipe, "skipcache": skipcache})
        pipe(class_labels=[207])
        assert skipcache.report(pipe).cached_steps > 10
        skipcache.restore(pipe)


def test_a_length_for_a_loop_of_ones_own(pipe):
    exec(readme("`interval` and `speedup`", 1), {"model": pipe.transformer, "skipcache": skipcache})
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        for t in range(980, -1, -20):
            x = x - 0.02 * pipe.transformer(x, torch.tensor([t]), class_labels=torch.tensor([207])).sample[:, :4]
    assert skipcache.report(pipe.transformer).full_steps == 16


def test_the_calibration(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(readme("`calibrate`"), {"pipe": pipe, "skipcache": skipcache, "torch": torch})
    pipe(class_labels=[207])
    assert skipcache.report(pipe).cached_steps > 0
    assert skipcache.Calibration.load(tmp_path / "dit-50-steps.json").depth == 6


def test_a_promised_error(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"pipe": pipe, "skipcache": skipcache, "torch": torch}
    exec(readme("`calibrate`"), names)
    skipcache.restore(pipe)
    code = readme("`calibrate`", 1)
    assert "range(100, 110)" in code and "max_error=0.05" in code
    exec(code.replace("range(100, 110)", "range(100, 102)").replace("max_error=0.05", "speedup=1.5"), names)
    assert len(names["found"].errors) == 20


def test_training_of_branches(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = readme("Skip branches", 1)
    assert "range(1000)" in code
    names = {"pipe": pipe, "model": pipe.transformer, "skipcache": skipcache, "torch": torch}
    exec(code.replace("range(1000)", "range(2)"), names)
    assert (tmp_path / "branches.safetensors").is_file()
    skipcache.ungraft(pipe.transformer)
    skipcache.load_branches(pipe.transformer, "branches.safetensors")


@pytest.mark.parametrize(
    ("policy", "predictor"),
    re.findall(r"policy=(skipcache\.\w+\([^)]*\))(?:, predictor=([^)]*\)))?", (ROOT / "README.md").read_text()),
)
def test_settings_in_tables(policy, predictor):
    assert isinstance(eval(policy), skipcache.Policy)
    assert not predictor or isinstance(eval(predictor), skipcache.Predictor)


def test_every_block_of_the_readme_is_python():
    for heading, blocks in sections("README.md").items():
        for block in blocks:
            compile(block, heading, "exec")

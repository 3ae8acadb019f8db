"""The node in ComfyUI's own sampling code, where SKIPCACHE_COMFYUI names a checkout of it (never committed)."""

import pytest
import torch

import skipcache
from skipcache import comfyui
from tests.models.comfy_families import CHECKOUT, FAMILIES, patcher, sample

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        not CHECKOUT, reason="SKIPCACHE_COMFYUI names no checkout of ComfyUI: the stand-in alone was run"
    ),
]
each_family = pytest.mark.parametrize("name", FAMILIES)
POLICY = skipcache.Interval(3)
GRAPHS = ("aura", "wan", "wan_5b", "qwen")  # the fx engine takes these
WRITERS = ("flux", "schnell", "ltxv", "hunyuan_video", "lumina", "hunyuan_3d")  # these write to features in place


def state(model):
    return {path: {n: id(v) for n, v in m.__dict__.items()} for path, m in model.model.diffusion_model.named_modules()}


@each_family
def test_steps_are_the_policy_s_own_and_the_model_is_left_as_it_was(name):
    model = patcher(name)
    plain = sample(model, name)
    before = state(model)
    assert torch.equal(sample(comfyui.attach(model, interval=1), name), plain)
    cached = comfyui.attach(model, policy=POLICY)
    assert not torch.equal(sample(cached, name), plain)
    said = comfyui.report_of(cached).splitlines()
    assert (said[0], said[2]) == ("skipcache: 4 full and 6 cached steps", "full at: 0 3 6 9")
    assert state(model) == before and torch.equal(sample(model, name), plain)


def bare(name):
    """Graphs take no objects, so that ids and wrappers are left out of the options: these models read neither."""

    def apply(executor, x, t, c_concat, c_crossattn, control, options, **more):
        kept = {"cond_or_uncond": options["cond_or_uncond"]}
        return executor(x, t, c_concat, c_crossattn, control, kept, **more)

    model = patcher(name)
    model.add_wrapper_with_key("apply_model", "bare", apply)
    return model, model.model.diffusion_model


@pytest.mark.parametrize("name", GRAPHS)
def test_both_engines_give_one_result(name):
    outputs = []
    for engine in ("hooks", "fx"):
        model, module = bare(name)
        with skipcache.accelerated(module, policy=POLICY, engine=engine, training="ignore"):
            outputs.append(sample(model, name))
            report = skipcache.report(module, flops=False)
        assert (report.engine, report.full_steps, report.cached_steps) == (engine, 4, 6)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", WRITERS)
def test_graphs_refuse_by_name_what_writes_in_place(name):
    model, module = bare(name)
    with (
        skipcache.accelerated(module, policy=POLICY, engine="fx", training="ignore"),
        pytest.raises(RuntimeError, match=r"engine=.fx. cannot serve .* in place"),
    ):
        sample(model, name)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "uni_pc", "ddpm", "dpm_2", "dpmpp_sde"])
def test_steps_are_the_policy_s_own_with_many_samplers(sampler):
    model = comfyui.attach(patcher("wan"), policy=POLICY)
    sample(model, "wan", sampler=sampler)
    assert "full at: 0 3 6 9" in comfyui.report_of(model)


def test_clones_in_turns_do_not_mix():
    model = patcher("flux")
    clones = [comfyui.attach(model, policy=skipcache.Interval(n)) for n in (2, 3)]
    alone = [sample(clone, "flux") for clone in clones]
    assert all(torch.equal(sample(clone, "flux"), out) for clone, out in zip(clones[::-1], alone[::-1]))

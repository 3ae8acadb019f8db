"""Calls of other shapes within one step are lanes: areas of one image, and passes of one half beside both."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import skipcache
from tests.models.odd import noise, tiny
from tests.models.pipelines import denoiser
from tests.models.reuse import count, watched, wrong
from tests.models.zoo import ZOO

ENGINES = ["fx", "hooks"]
STEPS = 7


def areas(model, steps=STEPS):
    """The whole image, in a batch of two for guidance, and a corner of it alone, with a text of its own."""
    x, texts = noise(side=8, batch=1), [torch.zeros(1), torch.ones(1)]
    for t in torch.linspace(950, 50, steps):
        areas.now = "whole"
        cond, uncond = model(torch.cat([x, x]), t.expand(2), text=texts[0]).chunk(2)
        areas.now = "corner"
        e = uncond + 2 * (cond - uncond)
        e[..., :4, :4] += model(x[..., :4, :4], t.expand(1), text=texts[1])
        x = x - e / steps
    return x


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_areas_of_one_image(engine):
    plain = areas(tiny())
    assert torch.equal(areas(skipcache.accelerate(tiny(), interval=1, engine=engine)), plain)
    model = skipcache.accelerate(tiny(), policy=skipcache.Interval(3), engine=engine)
    for _ in range(2):
        with watched(lambda: areas.now) as log:
            areas(model)
        assert not wrong(log) and count(log, "cached") == 2 * 4
    report = skipcache.report(model)
    assert (report.cached_steps, report.reasons) == (2 * 4, ())


class Pipe:
    def __init__(self, model):
        self.transformer, self.scheduler = model, FlowMatchEulerDiscreteScheduler()


PASSES = {
    "cond_uncond": {"isolate_modalities": False, "spatio_temporal_guidance_blocks": None},
    "uncond_stg": {"isolate_modalities": False, "spatio_temporal_guidance_blocks": [3]},
    "uncond_modality": {"isolate_modalities": True, "spatio_temporal_guidance_blocks": None},
}
TEXTS = (
    "encoder_hidden_states",
    "audio_encoder_hidden_states",
    "encoder_attention_mask",
    "audio_encoder_attention_mask",
)


@torch.no_grad()
def ltx2(pipe, passes, steps=STEPS):
    """As LTX-2's pipeline: guidance in one call of two halves, and other passes of the conditional half."""
    rest = dict(ZOO["ltx2"].inputs(0))
    samples = [rest.pop("hidden_states")[:1], rest.pop("audio_hidden_states")[:1]]
    del rest["timestep"]
    texts = {name: rest.pop(name) for name in TEXTS}
    halves = {name: text[1:] for name, text in texts.items()}
    schedulers = [pipe.scheduler, FlowMatchEulerDiscreteScheduler()]
    for scheduler in schedulers:
        scheduler.set_timesteps(steps)
    for t in pipe.scheduler.timesteps:
        found = {}
        for name in passes:
            rows, given = (2, texts) if name == "cond_uncond" else (1, halves)
            x, a = (torch.cat([one] * rows) for one in samples)
            ltx2.now, time = name, t.expand(rows)
            kwargs = {"hidden_states": x, "audio_hidden_states": a, "timestep": time, "sigma": time}
            with pipe.transformer.cache_context(name):
                found[name] = pipe.transformer(**kwargs, **given, **rest, **PASSES[name], return_dict=False)
        for i, scheduler in enumerate(schedulers):
            uncond, cond = found["cond_uncond"][i].chunk(2)
            e = cond + 2 * (cond - uncond) + sum(cond - found[name][i] for name in passes[1:])
            samples[i] = scheduler.step(e, t, samples[i], return_dict=False)[0]
    return samples[0]


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("passes", [tuple(PASSES), tuple(PASSES)[::2]], ids=len)
def test_passes_of_ltx2(passes):
    def made():
        return Pipe(denoiser("ltx2", num_layers=5))

    plain, outputs = ltx2(made(), passes), []
    for engine in ENGINES:
        assert torch.equal(ltx2(skipcache.accelerate(made(), interval=1, engine=engine), passes), plain)
        pipe = skipcache.accelerate(made(), policy=skipcache.Interval(3), engine=engine)
        with watched(lambda: ltx2.now) as log:
            outputs.append(ltx2(pipe, passes))
        assert not wrong(log) and count(log, "cached") == len(passes) * 4
        assert (skipcache.report(pipe).cached_steps, skipcache.report(pipe).reasons) == (4, ())
    assert torch.equal(*outputs)


def crops(model, kind, steps=20):
    """The whole image, and a crop of it by another call."""
    x, texts = noise(side=8, batch=1), [torch.zeros(1), torch.ones(1)]
    for t in torch.linspace(950, 50, steps):
        e = torch.zeros_like(x)

        def call(name, y, which=0, t=t):
            crops.now = name
            return model(y, t.expand(len(y)), text=texts[which])

        if kind == "crop first":
            e[..., :4, :4] += call("crop", x[..., :4, :4], 1)
        e += call("whole", x)
        if kind in ("one text", "three"):
            e[..., :4, :4] += call("crop", x[..., :4, :4].clone())
        if kind == "three":
            e[..., 2:, :] += call("rest", x[..., 2:, :])
        if kind == "one of both":
            cond, uncond = call("both", torch.cat([x, x])).chunk(2)
            e = cond + 4 * (cond - uncond) + 3 * (cond - call("crop", x, 1))
        x = x - e / steps


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "calls"), [("crop first", 2), ("one text", 2), ("three", 3), ("one of both", 3)])
@torch.no_grad()
def test_twenty_steps_of_several_shapes(kind, calls, engine):
    model = skipcache.accelerate(tiny(), interval=3, engine=engine)
    with watched(lambda: crops.now) as log:
        crops(model, kind)
    assert not wrong(log)
    assert count(log, "cached") == 13 * calls
    assert skipcache.report(model).full_at == tuple(range(0, 20, 3))

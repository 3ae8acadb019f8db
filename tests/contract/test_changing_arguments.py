"""Arguments that change on each call, beside others that stay: a ControlNet's residuals, numbers, fresh objects."""

import contextlib

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3ControlNetModel, StableDiffusion3ControlNetPipeline

import skipcache
from tests.models.devices import as_on_device
from tests.models.odd import Tiny, run, tiny
from tests.models.pipelines import denoiser, quiet, randn, run_sd3, sd3, vae
from tests.models.zoo import randomise

ENGINES = ["fx", "hooks"]
STEPS = 7
PLACES = {"host": contextlib.nullcontext, "device": as_on_device}
SHARED = (
    "sample_size", "patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
    "caption_projection_dim", "pooled_projection_dim", "out_channels", "pos_embed_max_size",
)  # fmt: skip


def controlled():
    """Stable Diffusion 3 with a ControlNet: its residuals turn by 0.6 radians at first, and later by 0.2 to 0.4."""
    config = sd3().transformer.config
    torch.manual_seed(3)
    net = randomise(SD3ControlNetModel(num_layers=2, **{name: config[name] for name in SHARED}), 5).eval()
    nothing = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    parts = {"transformer": denoiser("sd3"), "vae": vae(config.in_channels), "controlnet": net}
    return quiet(StableDiffusion3ControlNetPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts, **nothing))


@pytest.mark.parametrize("place", PLACES)
def test_residuals_of_a_controlnet_keep_their_savings(place):
    """They cost the first run of all one more full step, and those after it none."""
    plain, image, outputs = controlled(), randn(1, 3, 16, 16), []
    expected = run_sd3(plain, STEPS, control_image=image)
    for engine in ENGINES:
        pipe = skipcache.accelerate(controlled(), interval=1, engine=engine)
        assert torch.equal(run_sd3(pipe, STEPS, control_image=image), expected)
        pipe = skipcache.accelerate(controlled(), policy=skipcache.Interval(3), keep=1, engine=engine)
        with PLACES[place]():
            for lost in (1, 0):
                before = skipcache.report(pipe).blocks_saved
                outputs.append(run_sd3(pipe, STEPS, control_image=image))
                assert skipcache.report(pipe).blocks_saved - before == (4 - lost) * (
                    len(pipe.transformer.transformer_blocks) - 2
                )
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])


class Told(Tiny):
    """It is told more than it uses."""

    def before(self, h, x, t, text=None, more=None):
        return h + text


CHANGING = {
    "a number": lambda i: i / 7,
    "an object": lambda i: object(),
    "a tensor": lambda i: torch.full((2, 9), 1.0 + i),
}


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("kind", CHANGING)
def test_what_changes_on_each_call_costs_one_step_of_the_first_run_alone(kind):
    model, text = skipcache.accelerate(tiny(Told), interval=3, engine="hooks"), torch.ones(1)
    for run_number in range(3):
        before = skipcache.report(model).cached_steps
        run(model, STEPS, text=text, more=CHANGING[kind])
        assert skipcache.report(model).cached_steps - before == (3 if run_number == 0 else 4)


def test_the_timestep_once_more_costs_nothing():
    """LTX-2's `sigma`."""
    model, x = skipcache.accelerate(tiny(Told), interval=3), torch.randn(2, 4, 4, 4)
    text = torch.ones(1)
    with torch.no_grad():
        for t in torch.linspace(950, 50, STEPS):
            time = t.expand(2)
            x = x - model(x, time, text=text, more=time) / STEPS
    assert (skipcache.report(model).cached_steps, skipcache.report(model).reasons) == (4, ())


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_texts_of_later_runs_that_are_new_on_each_step_reuse_nothing(place, engine):
    """Earlier runs have shown that the text changes. Each starts with a token that is large, and the same in all."""
    model, plain = (denoiser("sd3") for _ in range(2))
    model, config = skipcache.accelerate(model, interval=3, engine=engine), model.config
    pooled = randn(1, config.pooled_projection_dim)
    with PLACES[place]():
        for number in range(3):
            x = randn(1, config.in_channels, 8, 8, seed=number)
            for i, t in enumerate(torch.linspace(950, 50, STEPS)):
                text = randn(1, 6, config.joint_attention_dim, seed=100 + 10 * number + i)
                text[:, 0] = 100
                kwargs = {"encoder_hidden_states": text, "pooled_projections": pooled, "timestep": t.expand(1)}
                got = model(x, **kwargs, return_dict=False)[0]
                assert torch.equal(got, plain(x, **kwargs, return_dict=False)[0]), (number, i)
                x = x - got / STEPS
    assert any("a call had no features of its own" in reason for reason in skipcache.report(model).reasons)

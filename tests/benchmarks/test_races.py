"""`skipcache.benchmarks.race` on tiny pipelines: figures by hand, copies, contexts, and what is refused."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, FirstBlockCacheConfig
from PIL import Image

import skipcache
from skipcache.benchmarks import race
from skipcache.benchmarks.peers.run import find_methods
from skipcache.benchmarks.races.task import OwnTask, RaceSettings, one_per_step
from skipcache.benchmarks.sampling.metrics import compare
from skipcache.benchmarks.sampling.outputs import as_samples
from tests.models.pipelines import denoiser, dit, quiet, run_wan, vae, wan


def small():
    model = denoiser("dit", num_layers=6, num_embeds_ada_norm=1001)
    return quiet(DiTPipeline(model, vae(model.config.in_channels), DDIMScheduler()))


def run(pipe, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    return pipe([1, 2], num_inference_steps=steps, generator=generator, output_type="pt")


def video(pipe, steps, seed):
    return run_wan(pipe, steps, seed).sigmoid()


@pytest.mark.thorough
def test_a_race(tmp_path):
    pipe = small()
    before = vars(pipe.transformer).keys(), run(pipe, 4, 0).images
    found = race(pipe, run, speedup=1.4, steps=10, seeds=(0, 1), methods=("skipcache", "fewer-steps"))
    assert vars(pipe.transformer).keys() == before[0] and torch.equal(run(pipe, 4, 0).images, before[1])
    assert found.plain_untouched and not any(row.error for row in found.rows)
    plain, *rows = found.rows
    assert (plain.label, plain.blocks) == ("plain, 10 steps", 60)
    by_name = {row.method: row for row in rows}
    assert list(by_name) == ["skipcache", "fewer-steps"] and all(row.flop_speedup > 1.2 for row in rows)
    assert all(len(row.ratios) == 2 for row in rows)

    fewer = by_name["fewer-steps"].setting["steps"]
    pairs = [torch.cat([run(pipe, steps, seed).images for seed in (0, 1)]) for steps in (fewer, 10)]
    assert by_name["fewer-steps"].psnr == compare(*pairs).psnr
    assert by_name["fewer-steps"].blocks == fewer * 6

    printed = str(found)
    assert "DiTTransformer2DModel, 10 steps: 1.4x" in printed and "skipcache, calibrated" in printed
    found.save(tmp_path / "race.json")
    saved = json.loads((tmp_path / "race.json").read_text())
    assert saved["settings"]["steps"] == 10 and [row["psnr"] for row in saved["rows"]] == [r.psnr for r in found.rows]


@pytest.mark.thorough
def test_a_peer_has_the_contexts_of_the_pipeline():
    """Wan calls its denoiser twice a step, each time in a context of its own: as by hand, with nothing in between."""
    task = OwnTask(wan(), video, RaceSettings(6, (0,), (1.5,), ("fbcache",)))
    assert task.calls == 6 and task.plain_work.blocks == 2 * 6 * len(task.stack.blocks)
    (method,) = find_methods(("fbcache",))
    by_hand = wan()
    by_hand.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    expected = video(by_hand, 6, 3)
    found = task.run(method.attach(task, {"threshold": 10.0}), 3)
    assert torch.equal(found, as_samples(expected)) and not torch.equal(found, task.run(task.plain, 3))


def test_copies_share_weights_and_nothing_else():
    task = OwnTask(small(), run, RaceSettings(4, (0,), (1.5,), ()))
    one, other = task.pipe(), task.pipe()
    assert one.transformer is not other.transformer and one.scheduler is not other.scheduler
    assert one.vae is other.vae is task.source.vae
    for a, b in zip(one.transformer.parameters(), task.model.parameters()):
        assert a is b
    assert [len(task.timesteps_of(n)) for n in (1, 2, 4)] == [1, 2, 4] and task.timesteps_of(4) == task.timesteps


def test_timesteps_of_several_calls_per_step():
    assert one_per_step([9, 9, 5, 5], 2) == [9, 5]
    assert one_per_step([9, 5, 5, 1], 4) == [9, 5, 5, 1]  # Heun's
    assert one_per_step([9, 9, 5], 2) == [9, 5]  # guidance stops
    assert one_per_step([9, 5], 0) == [9, 5]


def unseeded(pipe, steps, seed):
    return pipe([1, 2], num_inference_steps=steps, output_type="pt")


def one_seed(pipe, steps, seed):
    return run(pipe, steps, 0)


def fixed_steps(pipe, steps, seed):
    return run(pipe, 4, seed)


def latents(pipe, steps, seed):
    return run(pipe, steps, seed).images * 2 - 1


def nothing(pipe, steps, seed):
    run(pipe, steps, seed)


def offloaded():
    pipe = small()
    pipe.transformer._hf_hook = object()
    return pipe


@pytest.mark.parametrize(
    ("make", "function", "options", "message"),
    [
        (small, unseeded, {}, "expected equal samples of equal seeds"),
        (small, one_seed, {}, "expected other samples of another seed"),
        (small, fixed_steps, {}, "expected your function to take 5 sampler steps"),
        (small, latents, {}, r"expected samples in \[0, 1\] from your function, got -"),
        (small, nothing, {}, "expected a tensor, an array or a list of images from your function, got NoneType"),
        (lambda: small().transformer, run, {}, "expected a pipeline of diffusers with a transformer"),
        (lambda: wan(two=True), run, {}, "transformer_2"),
        (offloaded, run, {}, "without offloading"),
        (lambda: skipcache.accelerate(dit()), run, {}, r"call skipcache.restore\(pipe\) first"),
        (dit, run, {"speedup": 1.0}, "speedup: expected a number above 1, got 1.0"),
        (dit, run, {"steps": 3}, "steps: expected at least 4, got 3"),
        (dit, run, {"seeds": (0, 0)}, r"seeds: expected different numbers, and not 1000"),
        (dit, run, {"seeds": (1000,)}, "on which methods are tuned"),
        (dit, run, {"methods": ("pab",)}, "methods: expected names among skipcache, .* got 'pab'"),
        (dit, run, {"methods": ("teacache",)}, "got 'teacache'"),
    ],
)
def test_what_cannot_be_raced(make, function, options, message):
    with pytest.raises(ValueError, match=message):
        race(make(), function, **{"steps": 5, "seeds": (0,), **options})


def test_outputs_of_all_kinds_become_samples():
    x = np.random.default_rng(0).integers(0, 255, (2, 8, 6, 3), dtype=np.uint8)
    expected = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    pictures = [Image.fromarray(one) for one in x]
    for output in (pictures, x, torch.from_numpy(x).permute(0, 3, 1, 2), list(expected), expected):
        assert torch.equal(as_samples(output), expected)
    frames = expected[None].expand(2, -1, -1, -1, -1)  # (N, frames, C, H, W), with C = 3
    for output in ([pictures, pictures], np.stack([x, x]), torch.cat([frames, frames[:, :2]], 1)[:, :2], frames):
        found = as_samples(output)
        assert torch.equal(found, frames.transpose(1, 2))
    with pytest.raises(ValueError, match=r"got the shape \(8, 6\)"):
        as_samples(torch.zeros(8, 6))
    with pytest.raises(ValueError, match="got nan to nan"):
        as_samples(torch.full((1, 3, 4, 4), torch.nan))

"""vLLM-Omni's cache backend, against a stand-in of a pipeline: a module that holds its denoisers and a scheduler."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

import skipcache
from skipcache.clients.vllm_omni import Denoisers, SkipCacheBackend
from tests.models.odd import noise, tiny


class Pipeline(nn.Module):
    """The scheduler may be another object in each request."""

    def __init__(self, names=("transformer",)):
        super().__init__()
        for name in names:
            setattr(self, name, tiny(depth=6))
        self.scheduler = DDIMScheduler(clip_sample=False)

    @torch.no_grad()
    def forward(self, steps=20, seed=1):
        x = noise(seed=seed)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.transformer(x, t.expand(len(x))), t, x).prev_sample
        return x


def kept(pipeline):
    return {path: {n: id(v) for n, v in m.__dict__.items()} for path, m in pipeline.named_modules()}


def test_a_request_is_what_the_library_gives_a_pipeline():
    plain, pipeline = Pipeline(), Pipeline()
    backend = SkipCacheBackend({"speedup": 2})
    assert not backend.is_enabled()
    backend.enable(pipeline)
    assert backend.is_enabled()
    holder = SimpleNamespace(transformer=plain.transformer)
    expected = plain(20)
    backend.refresh(pipeline, 20)
    found = pipeline(20)
    assert not torch.equal(found, expected) and backend.report().cached_steps == 10
    assert torch.equal(pipeline(20), found), "a second request is as the first"
    backend.refresh(pipeline, 30, verbose=False)
    pipeline(30)
    assert backend.report().cached_steps == 2 * 10 + 15
    assert holder.transformer is plain.transformer


def test_full_steps_follow_the_scheduler_that_the_request_has():
    pipeline, backend = Pipeline(), SkipCacheBackend({"speedup": 2})
    backend.enable(pipeline)
    pipeline(20)
    before = backend.report().full_at
    pipeline.scheduler = DDIMScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2")
    pipeline(20)
    assert backend.report().full_at != before and len(backend.report().full_at) == len(before) == 10


def test_an_interval_of_one_is_exact_and_disable_restores():
    pipeline, backend = Pipeline(), SkipCacheBackend({"interval": 1})
    before, plain = kept(pipeline), pipeline()
    backend.enable(pipeline)
    assert torch.equal(pipeline(), plain)
    backend.disable(pipeline)
    assert kept(pipeline) == before and not backend.is_enabled()
    backend.disable(pipeline)
    backend.refresh(pipeline, 20)
    assert backend.is_enabled()


def test_settings_are_those_that_are_not_vllm_omni_s_own():
    config = SimpleNamespace(rel_l1_thresh=0.2, _extra_params={"interval": 4})
    assert SkipCacheBackend(config).settings == {"interval": 4}
    assert SkipCacheBackend().settings == SkipCacheBackend(SimpleNamespace()).settings == {}


@pytest.mark.parametrize(
    ("names", "declared", "expected"),
    [
        (("transformer", "transformer_2", "text"), None, {"transformer", "transformer_2"}),
        (("transformer", "dit"), ["dit"], {"dit"}),
        (("transformer",), ["transformer.blocks", "gone"], {"transformer_blocks"}),
    ],
)
def test_denoisers_are_those_that_a_pipeline_names(names, declared, expected):
    pipeline = Pipeline(names)
    if declared:
        pipeline._dit_modules = declared
    found = {name for name, value in vars(Denoisers(pipeline)).items() if isinstance(value, nn.Module)}
    assert found == expected


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="call enable"):
        SkipCacheBackend().report()
    backend = SkipCacheBackend({"interval": 3})
    with pytest.raises(TypeError, match=r"expected an nn\.Module or a pipeline"):
        backend.enable(Pipeline(()))
    assert not backend.is_enabled()


def test_two_denoisers_have_a_report_each():
    pipeline, backend = Pipeline(("transformer", "transformer_2")), SkipCacheBackend({"speedup": 2})
    backend.enable(pipeline)
    pipeline(20)
    assert (
        backend.report()["transformer"].cached_steps == 10 and skipcache.report(pipeline.transformer_2).full_steps == 0
    )

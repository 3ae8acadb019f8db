"""Calls that must run as if nothing were there."""

import pytest
import torch
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

import skipcache
from skipcache.runtime.plain import why_plain
from tests.models.odd import Tiny, noise, tiny
from tests.models.pipelines import denoiser, randn

OTHER_CACHES = {
    "is_cache_enabled": "diffusers' own cache",
    "_is_cached": "cache-dit or ParaAttention",
    "enable_teacache": "TeaCache",
    "magcache_thresh": "MagCache",
}


def test_the_reasons():
    model, x = tiny(), noise()
    with torch.no_grad():
        assert why_plain(model, (x,), {}) is None
        for name, said in OTHER_CACHES.items():
            setattr(model, name, True)
            assert said in why_plain(model, (x,), {})
            with pytest.raises(ValueError, match=said):
                skipcache.accelerate(model)
            delattr(model, name)
        assert "training mode" in why_plain(model.train(), (x,), {})
    model.eval()
    assert why_plain(model, (x,), {}) is None, "nothing requires gradients"
    assert "autograd" in why_plain(model, (), {"x": x.requires_grad_()})


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("engine", ["fx", "hooks"])
@torch.no_grad()
def test_forward_mode_gives_what_the_plain_model_gives(engine):
    plain, model = (denoiser("wan", num_layers=6) for _ in range(2))
    skipcache.accelerate(model, interval=3, engine=engine)
    kwargs = {"encoder_hidden_states": randn(1, 6, 12, seed=1), "return_dict": False}
    with sdpa_kernel(SDPBackend.MATH):
        for i, t in enumerate((900.0, 800.0, 700.0)):
            x, kwargs["timestep"] = randn(1, 4, 3, 8, 8, seed=i), torch.full((1,), t)
            got, want = (jvp(lambda x, m=m: m(x, **kwargs)[0], (x,), (torch.ones_like(x),)) for m in (model, plain))
            assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert "forward-mode AD" in skipcache.report(model).reasons[0]


@torch.no_grad()
def test_a_default_device_other_than_the_model_s_is_no_matter():
    model = skipcache.accelerate(tiny(Tiny), interval=3, engine="fx")
    outputs = []
    for t in (900.0, 800.0):
        torch.set_default_device("meta")
        try:
            outputs.append(model(noise_on_cpu(), torch.full((2,), t, device="cpu")))
        finally:
            torch.set_default_device(None)
    assert all(x.device.type == "cpu" for x in outputs) and skipcache.report(model).cached_steps == 1


def noise_on_cpu():
    with torch.device("cpu"):
        return noise()

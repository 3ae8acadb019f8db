"""Calls that must run as if nothing were there."""

import pytest
import torch
from torch.func import jvp, vmap

import skipcache
from skipcache.runtime.plain import why_plain
from tests.models.odd import Tiny, noise, tiny


def test_the_reasons():
    model, x = tiny(), noise()
    with torch.no_grad():
        assert why_plain(model, (x,), {}) is None
        model.is_cache_enabled = True
        assert "disable_cache" in why_plain(model, (x,), {})
        del model.is_cache_enabled
        assert "training mode" in why_plain(model.train(), (x,), {})
    model.eval()
    assert why_plain(model, (x,), {}) is None, "nothing requires gradients"
    assert "autograd" in why_plain(model, (), {"x": x.requires_grad_()})


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("engine", ["fx", "hooks"])
@torch.no_grad()
def test_forward_mode_and_vmap_give_what_the_plain_model_gives(engine):
    plain, model = tiny(Tiny), skipcache.accelerate(tiny(Tiny), interval=3, engine=engine)
    t = torch.full((2,), 700.0)
    for i in range(4):
        x = noise(seed=i)
        got, want = (jvp(lambda x, m=m: m(x, t), (x,), (torch.ones_like(x),)) for m in (model, plain))
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    stacked = torch.stack([noise(seed=i) for i in range(3)])
    got, want = (vmap(lambda x, m=m: m(x, t))(stacked) for m in (model, plain))
    assert torch.equal(got, want)


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

"""Calls that must run as if nothing were there."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

import skipcache
from skipcache.runtime.plain import TrainingMode, why_plain
from tests.models.odd import Tiny, noise, run, tiny
from tests.models.pipelines import denoiser, randn
from tests.models.sampling import build, equal, sample

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
        assert why_plain(model, (x,), {}, "ignore") is None
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


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_replicas_of_data_parallel_are_refused_by_name(engine):
    """They would have their own weights and the original's forward."""
    model = skipcache.accelerate(tiny(), interval=3, engine=engine)
    for made in (model, nn.Sequential(model)[0], deepcopy(model)):
        with pytest.raises(ValueError, match="DataParallel: its replicas would run the weights of this one module"):
            made._replicate_for_data_parallel()
    assert type(skipcache.restore(model)._replicate_for_data_parallel()) is type(model)


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


class Drops(Tiny):
    """A block whose own code drops features, as F.dropout does by an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks[2].drop_prob = 0.1


class Labels(Tiny):
    """An embedder that drops labels in training, as DiT's, or captions, as PixArt's."""

    def __init__(self, name="dropout_prob", **kwargs):
        super().__init__(**kwargs)
        setattr(self.time, name, 0.1)


def holding(layer):
    class Holds(Tiny):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.extra = layer()

        def after(self, h, x, t):
            return self.extra(h.transpose(1, 2)).transpose(1, 2)

    return Holds


SAME = {
    "plain": Tiny,
    "dropout that drops nothing": holding(lambda: nn.Dropout(0.0)),
    "a norm of each sample": holding(lambda: nn.InstanceNorm1d(16)),
    "a norm of each token": holding(lambda: nn.GroupNorm(4, 16)),
}
OTHER = {
    "dropout": (holding(lambda: nn.Dropout(0.1)), r"extra \(Dropout\)"),
    "dropout of channels": (holding(lambda: nn.Dropout1d(0.1)), r"extra \(Dropout1d\)"),
    "batch norm": (holding(lambda: nn.BatchNorm1d(16)), r"extra \(BatchNorm1d\)"),
    "instance norm with statistics": (
        holding(lambda: nn.InstanceNorm1d(16, track_running_stats=True)),
        r"extra \(InstanceNorm1d\)",
    ),
    "drawn slopes": (holding(nn.RReLU), r"extra \(RReLU\)"),
    "a block's own dropout": (Drops, r"blocks\.2 \(Block\)"),
    "labels": (Labels, r"time \(Embed\)"),
    "captions": (lambda: Labels("uncond_prob"), r"time \(Embed\)"),
}


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("kind", SAME)
def test_training_mode_that_changes_nothing_can_be_ignored(kind, engine):
    expected = run(skipcache.accelerate(tiny(SAME[kind]), interval=3, engine=engine))
    model = tiny(SAME[kind]).train()
    for block in model.blocks:
        block.attn.eval()  # torch's own attention takes another kernel in training mode, which rounds in another way
    skipcache.accelerate(model, interval=3, engine=engine, training="ignore")
    assert equal(run(model), expected)
    assert skipcache.report(model).cached_steps == 4 and skipcache.report(model).reasons == ()


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("kind", OTHER)
def test_training_mode_that_changes_the_output_is_not_ignored_and_the_report_says_where(kind, engine):
    made, where = OTHER[kind]
    model = skipcache.accelerate(tiny(made).train(), interval=3, engine=engine, training="ignore")
    with pytest.warns(UserWarning, match=f"in which {where} computes something else"):
        run(model)
    assert skipcache.report(model).cached_steps == skipcache.report(model).full_steps == 0
    run(model.eval())
    assert skipcache.report(model).cached_steps == 4, "in eval mode nothing differs"


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_models_of_diffusers_are_cached_in_training_mode_but_for_one_that_drops_labels(engine):
    expected = sample("wan", skipcache.accelerate(build("wan"), interval=3, engine=engine))
    model = skipcache.accelerate(build("wan").train(), interval=3, engine=engine, training="ignore")
    assert equal(sample("wan", model), expected) and skipcache.report(model).cached_steps > 0
    model = skipcache.accelerate(build("dit").train(), interval=3, engine=engine, training="ignore")
    with pytest.warns(UserWarning, match=r"class_embedder \(LabelEmbedding\) computes something else"):
        sample("dit", model)


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_only_modules_that_are_in_training_mode_themselves_count(engine):
    model = tiny(OTHER["dropout"][0]).train()
    model.extra.eval()
    skipcache.accelerate(model, interval=3, engine=engine, training="ignore")
    run(model)
    assert skipcache.report(model).cached_steps == 4


@torch.no_grad()
def test_modules_are_looked_up_anew_when_the_model_has_others():
    model = tiny().train()
    mode = TrainingMode(model)
    first = object()
    assert mode.why_plain(first) is None
    model.outlet = nn.Sequential(model.outlet, nn.Dropout(0.5))
    assert mode.why_plain(object()).startswith("the model is in training mode, in which outlet.1 (Dropout)")
    model.outlet[1].p = 0.0
    assert mode.why_plain(first) is None
    model.eval()
    assert mode.why_plain(object()) is None


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_autograd_still_runs_plain_where_training_mode_is_ignored(engine):
    model = skipcache.accelerate(tiny().train().requires_grad_(True), interval=3, engine=engine, training="ignore")
    with pytest.warns(UserWarning, match="autograd is recording"):
        model(noise(), torch.full((2,), 900.0))
    assert skipcache.report(model).full_steps == 0

"""A model over two devices, as `device_map="balanced"` places it: H lies on the first one, D on the second.

The second one is the meta device, which refuses to compute with tensors of another one as an accelerator does.
"""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

import skipcache
from tests.models.odd import noise, tiny

PREDICTORS = [skipcache.Hold(), skipcache.Delta(), skipcache.Forecast(1), skipcache.Damped()]


def over_two_devices():
    model = tiny()
    for module in (*model.blocks[2:], model.outlet):
        module.to("meta")
        add_hook_to_module(module, AlignDevicesHook(execution_device="meta"))
    return model


@torch.no_grad()
def run(model):
    return [model(noise(), torch.full((2,), t)) for t in (900.0, 800.0, 700.0, 600.0, 500.0)]


@pytest.mark.parametrize("keep", [1, 0, 3])
@pytest.mark.parametrize("predictor", PREDICTORS, ids=lambda predictor: type(predictor).__name__)
def test_the_hooks_bring_the_head_s_feature_to_the_deep_one(predictor, keep):
    model = skipcache.accelerate(over_two_devices(), interval=3, keep=(keep, 1), predictor=predictor, engine="hooks")
    assert all(output.is_meta and output.shape == noise().shape for output in run(model))
    report = skipcache.report(model)
    assert (report.full_steps, report.cached_steps, report.reasons) == (2, 3, ())


def test_fx_refuses_and_says_why():
    model = skipcache.accelerate(over_two_devices(), interval=3)
    run(model)
    report = skipcache.report(model)
    assert report.engine == "hooks" and report.cached_steps == 3
    model = skipcache.accelerate(over_two_devices(), interval=3, engine="fx")
    with pytest.raises(RuntimeError, match="lie on two devices"):
        run(model)

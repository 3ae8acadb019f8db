"""What only a GPU shows. Skipped without one; trajectory/test_devices.py has the rule for the CPU."""

import pytest
import torch
from diffusers import DDIMScheduler

import skipcache
from skipcache import Damped, Hold, Interval, Spread
from tests.models import pipelines

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def strictly(model):
    """From here on a wait for the device within a call of `model` is an error."""

    def begin(module, args):
        torch.cuda.set_sync_debug_mode("error")

    def end(module, args, output):
        torch.cuda.set_sync_debug_mode("default")

    return [model.register_forward_pre_hook(begin), model.register_forward_hook(end, always_call=True)]


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("settings", [{"interval": 3}, {"policy": Spread(0.5), "keep": 0}, {"policy": Interval(2)}])
@pytest.mark.parametrize("predictor", [Hold(), Damped()])
def test_a_static_policy_adds_no_wait_to_a_step(engine, settings, predictor):
    pipe = pipelines.dit()
    pipe.scheduler = DDIMScheduler()
    pipe.to("cuda")
    for accelerate in (False, True):
        if accelerate:
            skipcache.accelerate(pipe, engine=engine, predictor=predictor, **settings)
        pipelines.run_dit(pipe, steps=30)  # the first step of all is proved, and compared on the host
        handles = strictly(pipe.transformer)
        try:
            pipelines.run_dit(pipe, steps=30)
        finally:
            for handle in handles:
                handle.remove()
    assert skipcache.report(pipe).cached_steps > 4

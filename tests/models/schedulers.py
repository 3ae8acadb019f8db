"""Started schedulers of diffusers, and the ways in which a loop hands on their timesteps."""

from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    PNDMScheduler,
    RePaintScheduler,
)


def started(scheduler, *args, **kwargs):
    scheduler.set_timesteps(*args, **kwargs)
    return scheduler


SCHEDULERS = {
    "ddim": lambda: started(DDIMScheduler(), 8),
    "flow": lambda: started(FlowMatchEulerDiscreteScheduler(), 8),
    "heun": lambda: started(HeunDiscreteScheduler(), 6),
    "pndm": lambda: started(PNDMScheduler(), 8),
    "plms": lambda: started(PNDMScheduler(skip_prk_steps=True), 8),
    "kdpm2 ancestral": lambda: started(KDPM2AncestralDiscreteScheduler(use_karras_sigmas=True), 6),
    "repaint": lambda: started(RePaintScheduler(), 20, jump_length=4, jump_n_sample=2),
}

WAYS = {
    "views": lambda t: t,
    "expanded": lambda t: t.expand(2),
    "copies": lambda t: t.clone(),
    "vectors": lambda t: t.repeat(2),
    "floats": lambda t: t.item(),
}

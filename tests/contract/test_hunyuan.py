"""HunyuanDiT with ControlNet, whose residuals the model pops off a list, on cached steps too."""

import pytest
import torch

import skipcache
from tests.models.sampling import build, equal, first, inputs


def controlled(model, steps=7, as_list=True):
    """A run with a residual for every branch, new at every step and near the last one, as a ControlNet's are."""
    kwargs, x_name, t_name = inputs("hunyuan_dit", model)
    x, generator, outputs = kwargs.pop(x_name), torch.Generator().manual_seed(0), []
    joined = [block for block in model.blocks if block.skip_linear is not None]
    width = joined[0].skip_linear.out_features
    tokens = (x.shape[-1] // model.config.patch_size) * (x.shape[-2] // model.config.patch_size)
    bases = [torch.randn(len(x), tokens, width, generator=generator) for _ in joined]
    for t in torch.linspace(950, 50, steps):
        controls = [base + 0.2 * torch.randn(base.shape, generator=generator) for base in bases]
        given = list(controls) if as_list else tuple(controls)
        with torch.no_grad():
            output = model(**{x_name: x, t_name: t.expand(len(x)), **kwargs}, controlnet_block_samples=given)
        outputs.append(first(output))
        x = x - outputs[-1][tuple(map(slice, x.shape))] / steps
    return outputs


class ByHand:
    """All blocks compute; what enters the last one is replaced on cached steps. A step is full again where told."""

    def __init__(self, model, full_at):
        self.model, self.full_at, self.step, self.x = model, full_at, 0, None
        model.blocks[-1].register_forward_pre_hook(self.enter)

    def enter(self, module, args):
        if self.step in self.full_at:
            self.x = args[0]
        self.step += 1
        return (self.x, *args[1:])


@pytest.mark.parametrize("engine", ["fx", "hooks", "auto"])
def test_controls_of_a_controlnet(engine):
    plain = controlled(build("hunyuan_dit"))
    model = build("hunyuan_dit")
    skipcache.accelerate(model, interval=1, engine=engine)
    assert equal(controlled(model), plain)
    skipcache.restore(model)
    skipcache.accelerate(model, interval=3, engine=engine)
    outputs = controlled(model)
    report = skipcache.report(model)
    assert report.cached_steps >= 3
    other = build("hunyuan_dit")
    ByHand(other, report.full_at)
    assert equal(outputs, controlled(other))
    assert not equal(outputs, plain)

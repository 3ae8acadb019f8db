"""Torch function modes are after a call what they were before."""

import torch
from torch.overrides import BaseTorchFunctionMode, _get_current_function_mode_stack

import skipcache
from skipcache.engines.hooks.modes import same_modes
from tests.models.odd import Tiny, run, tiny


class Switches(Tiny):
    """A torch function mode of the forward's own that ends behind the deep blocks."""

    def forward(self, x, t):
        with torch.device("cpu"):
            h, c = self.inlet(x.flatten(2).transpose(1, 2)), self.time(t)
            for block in self.blocks:
                h = block(h, c)
        return self.outlet(h).transpose(1, 2).reshape(x.shape)


def test_torch_function_modes_are_left_as_they_were():
    model = skipcache.accelerate(tiny(Switches), interval=3, engine="hooks")
    run(model)
    assert _get_current_function_mode_stack() == []
    with torch.device("cpu"):
        outer = _get_current_function_mode_stack()
        run(model)
        assert _get_current_function_mode_stack() == outer
    assert skipcache.report(model).cached_steps == 8


def test_a_mode_that_was_left_on_or_closed_inside_is_put_right():
    outer, inner = BaseTorchFunctionMode(), BaseTorchFunctionMode()
    with outer:
        with same_modes():
            inner.__enter__()
        assert _get_current_function_mode_stack() == [outer]
        with same_modes():
            outer.__exit__(None, None, None)
        assert _get_current_function_mode_stack() == [outer]
    assert _get_current_function_mode_stack() == []

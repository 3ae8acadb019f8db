"""What moves weights around a model (accelerate's and diffusers' hooks) survives, put on before or after."""

from functools import partial

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.hooks.hooks import HookRegistry

import skipcache
from tests.models.sampling import build, equal, sample

pytestmark = pytest.mark.thorough

CPU = torch.device("cpu")


def sequential(model):
    """What enable_sequential_cpu_offload does: weights wait outside, each module fetches its own."""
    cpu_offload(model, execution_device=CPU)


def whole(model):
    """What enable_model_cpu_offload does: one hook around the model."""
    add_hook_to_module(model, ModelHook())


def grouped(model):
    apply_group_offloading(
        model, onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )


def leaves(model):
    apply_group_offloading(model, CPU, CPU, offload_type="leaf_level")


def casting(model):
    apply_layerwise_casting(model, storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


WAYS = [sequential, whole, grouped, leaves, casting]


def places(model):
    """By module: the names of its attributes, and what its forwards are."""
    kept = {}
    for path, module in model.named_modules():
        refs = [vars(ref) for ref in getattr(module.__dict__.get("_diffusers_hook"), "_fn_refs", ())]
        forwards = [d.get(n) for d in (module.__dict__, *refs) for n in ("forward", "_old_forward", "original_forward")]
        kept[path] = (sorted(module.__dict__), [repr(type(f)) for f in forwards])
    return kept


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["dit", "latte", "flux_dev"])
def test_offload_before_or_after_accelerating(name, way):
    def prepared(*actions):
        model = build(name).requires_grad_(False)
        for action in actions:
            action(model)
        return model

    plain = sample(name, prepared(way))
    before = places(prepared(way))

    def accelerate(model, interval=3):
        skipcache.accelerate(model, interval=interval)

    exact = prepared(way, lambda model: accelerate(model, interval=1))
    assert equal(sample(name, exact), plain)

    first, last = prepared(way, accelerate), prepared(accelerate, way)
    expected = sample(name, first)
    assert skipcache.report(first).cached_steps == 4 and not equal(expected, plain)
    assert equal(sample(name, last), expected)
    for model in (first, last):
        assert equal(sample(name, model), expected)
        skipcache.restore(model)
        assert places(model) == before
        assert equal(sample(name, model), plain)


def test_hooks_that_are_taken_off_again_leave_the_override_on():
    model = build("dit").requires_grad_(False)
    skipcache.accelerate(model, interval=3)
    expected = sample("dit", model)
    whole(model)
    remove_hook_from_module(model)
    assert equal(sample("dit", model), expected)
    skipcache.restore(model)
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_diffusers_registry_hooks_that_replace_the_forward():
    from diffusers.hooks.hooks import ModelHook as DiffusersHook

    class Counting(DiffusersHook):
        calls = 0

        def new_forward(self, module, *args, **kwargs):
            Counting.calls += 1
            return self.fn_ref.original_forward(*args, **kwargs)

    model = build("dit").requires_grad_(False)
    HookRegistry.check_if_exists_or_initialize(model).register_hook(Counting(), "counting")
    plain = sample("dit", model)
    skipcache.accelerate(model, interval=3)
    Counting.calls = 0
    assert not equal(sample("dit", model), plain)
    assert Counting.calls == 7
    skipcache.restore(model)
    assert equal(sample("dit", model), plain)


@pytest.mark.parametrize("way", [sequential, grouped, casting], ids=lambda way: way.__name__)
def test_a_calibration_is_made_and_used_under_offload(way):
    model = build("dit").requires_grad_(False)
    way(model)
    run = partial(sample, "dit", model, 12, 5)
    found = skipcache.calibrate(model, run, full_steps=5, keep=0, progress=False)
    assert found.corrections is not None
    skipcache.accelerate(model, calibration=found)
    ours = sample("dit", model, steps=12)
    skipcache.restore(model)
    if way is casting:  # to bfloat16 and back: another model than the plain one
        return
    plain = build("dit")
    again = skipcache.calibrate(plain, partial(sample, "dit", plain, 12, 5), full_steps=5, keep=0, progress=False)
    assert again == found
    assert equal(sample("dit", skipcache.accelerate(plain, calibration=found), steps=12), ours)

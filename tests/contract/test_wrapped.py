"""What wraps the blocks, offloading, hooks and compiled code, is skipped with them by either engine."""

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry
from diffusers.hooks.hooks import ModelHook as DiffusersHook

import skipcache
from skipcache.blocks import Override, override_of
from tests.models.odd import run, tiny
from tests.models.sampling import equal

ENGINES = ["fx", "hooks"]


class Fetches(DiffusersHook):
    """As group offloading: weights come before the block, and go after it."""

    def __init__(self, fetched):
        super().__init__()
        self.fetched = fetched

    def pre_forward(self, module, *args, **kwargs):
        self.fetched.append(module)
        return args, kwargs


def through_diffusers(block, fetched):
    HookRegistry.check_if_exists_or_initialize(block).register_hook(Fetches(fetched), "fetches")


def through_torch(block, fetched):
    """As FSDP2 does."""
    block.register_forward_pre_hook(lambda module, args: fetched.append(module))


@pytest.mark.parametrize("offloaded_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("way", [through_diffusers, through_torch])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_skipped_block_fetches_no_weights(engine, way, offloaded_first):
    model, fetched = tiny(), []
    if not offloaded_first:
        skipcache.accelerate(model, interval=3, engine=engine)
    for block in model.blocks:
        way(block, fetched)
    if offloaded_first:
        skipcache.accelerate(model, interval=3, engine=engine)
    run(model)  # the first full step makes trials
    fetched.clear()
    run(model)
    assert len(fetched) == 3 * 5 + 4 * 2, "full steps have five blocks, cached ones the two at the ends"


class Casts:
    """A block whose hooks change what leaves it, as mixed precision of FSDP does."""

    @staticmethod
    def put_on(model):
        for block in model.blocks:
            block.register_forward_hook(lambda module, args, output: output.bfloat16())
            block.register_forward_pre_hook(lambda module, args: tuple(x.float() for x in args))
        model.outlet.register_forward_pre_hook(lambda module, args: (args[0].float(),))
        return model


def test_hooks_that_change_a_block_s_output_are_seen_alike_by_both_engines():
    fx, hooks = (skipcache.accelerate(Casts.put_on(tiny()), interval=3, engine=engine) for engine in ENGINES)
    assert equal(run(fx), run(hooks))
    assert skipcache.report(fx).cached_steps == skipcache.report(hooks).cached_steps == 4


@pytest.mark.parametrize("compiled_first", [True, False], ids=["before", "after"])
def test_compiled_blocks_stay_compiled_under_the_hooks_and_are_not_compiled_again(compiled_first):
    """The override is outside of what torch.compile sees. `fullgraph` raises where it is not."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = tiny()
    if not compiled_first:
        skipcache.accelerate(model, interval=3, engine="hooks")
        run(model)
    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True)
    if compiled_first:
        skipcache.accelerate(model, interval=3, engine="hooks")
    skipcache.reset(model)
    first = run(model, steps=4)
    made = len(graphs)
    assert made and equal(run(model, steps=4), first) and len(graphs) == made
    report = skipcache.report(model)
    assert report.engine == "hooks" and report.cached_steps == 4 and not report.reasons
    skipcache.restore(model)
    run(model)
    assert len(graphs) == made and all(override_of(block, Override) is None for block in model.blocks)
    assert all(block._compiled_call_impl is not None for block in model.blocks)

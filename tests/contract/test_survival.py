"""What an accelerated model may go through: both engines must then give what each gives on a model changed before."""

import copy
import threading

import pytest
import torch
from peft import LoraConfig
from torch import nn

import skipcache
from tests.models.odd import programs, run, tiny
from tests.models.sampling import build, equal, sample

pytestmark = pytest.mark.thorough


def both(name):
    return tuple(skipcache.accelerate(build(name), interval=3, engine=engine) for engine in ("fx", "hooks"))


def test_gradient_checkpointing_may_be_on():
    for name in ("dit", "flux_dev", "latte"):
        model, hooked = build(name), build(name)
        for one, engine in ((model, "fx"), (hooked, "hooks")):
            one.enable_gradient_checkpointing()
            skipcache.accelerate(one, interval=3, engine=engine)
        expected = sample(name, hooked)
        assert equal(sample(name, model), expected)
        for one in (model, hooked):
            one.disable_gradient_checkpointing()
        assert equal(sample(name, model), expected)
        model.enable_gradient_checkpointing()
        assert equal(sample(name, model), expected)


def test_inference_mode():
    model, hooked = both("latte")
    expected = sample("latte", hooked)
    with torch.inference_mode():
        assert equal(sample("latte", model), expected)
    assert equal(sample("latte", model), expected)


def lora(model, name, seed=0):
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "proj_out"], init_lora_weights=False), name)
    torch.manual_seed(seed)
    for key, x in sorted(model.named_parameters()):
        if f".{name}." in key:
            x.data.normal_(std=0.3)
    model.requires_grad_(False)


@pytest.mark.parametrize("name", ["sd3", "flux_dev"])
def test_adapters_may_come_change_and_go(name):
    """At each stage the accelerated model gives what a plain one in its state gives, cached by hooks."""
    ours, theirs = both(name)

    def scaled(one, scale):
        given = {} if scale is None else {"joint_attention_kwargs": {"scale": scale}}
        return lambda **kwargs: one(**kwargs, **given)

    seen = []

    def compare(scale=None):
        outputs = [sample(name, one, call=scaled(one, scale)) for one in (ours, theirs)]
        assert equal(*outputs)
        plain = copy.deepcopy(theirs)
        skipcache.restore(plain)
        assert equal(outputs[0][:1], sample(name, plain, call=scaled(plain, scale))[:1])
        seen.append(outputs[0])

    def act(action):
        for one in (ours, theirs):
            action(one)
        compare()

    compare()
    act(lambda one: lora(one, "first", 1))
    for scale in (0.5, 0.25, 1.0) if name == "flux_dev" else ():
        compare(scale)
    act(lambda one: lora(one, "second", 2))
    act(lambda one: one.set_adapter("first"))
    act(lambda one: one.set_adapter(["first", "second"]))
    act(lambda one: one.disable_adapters())
    assert equal(seen[-1], seen[0])
    act(lambda one: one.enable_adapters())
    act(lambda one: one.delete_adapters("first"))
    act(lambda one: one.delete_adapters("second"))
    assert equal(seen[-1], seen[0]) and not equal(seen[1], seen[0])
    if name == "flux_dev":
        assert not equal(seen[2], seen[1]) and not equal(seen[3], seen[2]) and equal(seen[4], seen[1])
    assert skipcache.report(ours).engine == "fx"


def test_a_lora_scale_is_applied_on_every_call_and_taken_back():
    ours, theirs = both("flux_dev")
    for one in (ours, theirs):
        lora(one, "first")
    for scale in (0.5, 2.0, 0.5):
        outputs = [
            sample("flux_dev", one, call=lambda one=one, s=scale, **kw: one(**kw, joint_attention_kwargs={"scale": s}))
            for one in (ours, theirs)
        ]
        assert equal(*outputs)
        for module in ours.modules():
            assert getattr(module, "scaling", {"first": 1.0})["first"] == 4.0 or not hasattr(module, "scaling")


def swap_outlet(model):
    name = next(n for n in ("proj_out", "proj_out_2", "final_layer") if hasattr(model, n))
    new = copy.deepcopy(getattr(model, name))
    for x in new.parameters():
        x.data = x.data * 2 + 0.1
    setattr(model, name, new)


def swap_for_another_class(model):
    name = next(n for n in ("proj_out", "proj_out_2", "final_layer") if hasattr(model, n))
    setattr(model, name, nn.Sequential(getattr(model, name), nn.Tanh()))


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("unit", range(4))
@pytest.mark.parametrize("name", ["dit", "latte"])
def test_a_block_may_be_replaced(name, unit, engine):
    """In the head, in the deep part or in the tail: as if the model had been accelerated with it."""

    def change(model):
        for path in skipcache.find_stack(model).units[unit]:
            parent, _, at = path.rpartition(".")
            block = copy.deepcopy(build(name).get_submodule(path))
            for x in block.parameters():
                x.data *= 1.5
            model.get_submodule(parent)[int(at)] = block

    model, other = build(name), build(name)
    before = sample(name, skipcache.accelerate(model, interval=3, engine=engine))
    for one in (model, other):
        change(one)
    after = sample(name, model)
    assert equal(after, sample(name, skipcache.accelerate(other, interval=3, engine=engine)))
    assert not equal(after, before) and skipcache.report(model).cached_steps == 8
    skipcache.restore(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_lost_blocks_is_left_alone_by_hooks():
    model, other = build("dit"), build("dit")
    sample("dit", skipcache.accelerate(model, interval=3, engine="hooks"))
    skipcache.reset(model)
    for one in (model, other):
        del one.transformer_blocks[3]
    with pytest.warns(UserWarning, match="caches nothing: the model has lost blocks since"):
        assert equal(sample("dit", model), sample("dit", other))
    skipcache.restore(model)
    assert equal(sample("dit", skipcache.accelerate(model, interval=1)), sample("dit", other))


class Louder:
    """An attention processor around another."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, attn, hidden_states, *args, **kwargs):
        output = self.inner(attn, hidden_states, *args, **kwargs)
        return tuple(2 * x for x in output) if isinstance(output, tuple) else 2 * output


def processors(model):
    if hasattr(model, "set_attn_processor"):
        model.set_attn_processor({name: Louder(inner) for name, inner in model.attn_processors.items()})
    else:
        for module in model.modules():
            if hasattr(module, "processor"):
                module.processor = Louder(module.processor)


def bfloat16(model):
    model.to(torch.bfloat16)


def float64(model):
    model.to(torch.float64)


def new_weights(model):
    model.load_state_dict({key: x * 1.25 for key, x in model.state_dict().items()})


CHANGES = [swap_outlet, swap_for_another_class, processors, bfloat16, float64, new_weights]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["dit", "latte", "flux_dev"])
def test_the_model_may_change_after_it_was_accelerated(name, change):
    ours, theirs = both(name)
    dtype = {bfloat16: torch.bfloat16, float64: torch.float64}.get(change)

    def outputs(one):
        def call(**kwargs):
            floats = {
                k: x.to(dtype) for k, x in kwargs.items() if x.is_floating_point() and dtype and "timestep" not in k
            }
            return one(**{**kwargs, **floats})

        return sample(name, one, call=call)

    dtype, target = None, dtype
    before = outputs(ours)
    assert equal(before, outputs(theirs))
    for one in (ours, theirs):
        change(one)
    dtype = target
    after = outputs(ours)
    assert equal(after, outputs(theirs)) and not equal(after, before)
    plain = build(name)
    change(plain)
    assert equal(after[:1], outputs(plain)[:1])
    assert skipcache.report(ours).engine == "fx" and skipcache.report(ours).cached_steps == 8


@pytest.mark.parametrize("name", ["dit", "flux_dev"])
def test_the_model_may_change_in_the_middle_of_a_run(name):
    """The third call is cached, and was to run the program of another outlet."""
    for change in (swap_outlet, swap_for_another_class, processors):
        runs = []
        for one in both(name):
            calls = []

            def call(one=one, calls=calls, change=change, **kwargs):
                calls.append(0)
                if len(calls) == 3:
                    change(one)
                return one(**kwargs)

            runs.append(sample(name, one, call=call))
        full = change is not processors
        assert equal(runs[0][:2], runs[1][:2])
        assert full or equal(*runs)


@pytest.mark.parametrize("name", ["dit", "latte", "flux_dev", "wan"])
def test_autocast_may_be_on(name):
    ours, theirs = both(name)

    def cast(one, dtype=torch.bfloat16):
        with torch.autocast("cpu", dtype):
            return sample(name, one)

    plain = sample(name, ours)
    assert equal(plain, sample(name, theirs))
    outputs = cast(ours)
    assert equal(outputs, cast(theirs)) and not equal(outputs, plain)
    assert equal(sample(name, ours), plain)
    assert equal(outputs[:1], cast(build(name))[:1])
    assert equal(cast(ours, torch.float16), cast(theirs, torch.float16))
    assert skipcache.report(ours).engine == "fx"


@pytest.mark.parametrize("name", ["dit", "flux_dev"])
def test_saved_weights_are_those_of_the_plain_model(name, tmp_path):
    model = skipcache.accelerate(build(name), interval=3, engine="fx")
    outputs = sample(name, model)
    build(name).save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "accelerated")
    files = [sorted(p.name for p in (tmp_path / kind).iterdir()) for kind in ("plain", "accelerated")]
    assert files[0] == files[1]
    for file in files[0]:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "accelerated" / file).read_bytes()
    loaded = type(model).from_pretrained(tmp_path / "accelerated").eval()
    assert equal(sample(name, skipcache.accelerate(loaded, interval=3)), outputs)


def test_one_thread_may_trace_while_another_runs():
    sides = (4, 6, 8, 2)
    hooked = skipcache.accelerate(tiny(), interval=3, engine="hooks")
    expected = {side: run(hooked, side=side) for side in sides}
    model = skipcache.accelerate(tiny(), interval=3, engine="fx")
    assert equal(run(model, side=4), expected[4])
    failures, done = [], threading.Event()

    def steadily():
        while not done.is_set():
            if not equal(run(model, side=4), expected[4]):
                failures.append("the steady thread")

    def anew(side):
        failures.append(side)
        if equal(run(model, side=side), expected[side]):
            failures.remove(side)

    steady = threading.Thread(target=steadily)
    steady.start()
    others = [threading.Thread(target=anew, args=(side,)) for side in sides[1:] * 2]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    done.set()
    steady.join()
    assert not failures and len(programs(model)) == 4
    compiled = torch.compile(lambda x: x + 1, backend=lambda graph, inputs: lambda *args: ["compiled"])
    assert compiled(torch.ones(1)) == "compiled", "the trials of two threads left torch.compile switched off"

"""The fx engine: what it refuses, what it must survive, and what its graphs contain."""

import copy
import random

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import skipcache
from skipcache import Damped, Forecast, Hold
from skipcache.predictor import remembered
from tests.originals import OriginalDiT
from tests.sampling import build, equal, inputs, sample, state
from tests.zoo import randomise


class Odd(OriginalDiT):
    """A denoiser whose forward does something more to the feature that enters the blocks, or to the output."""

    def __init__(self, trick):
        super().__init__()
        self.trick, self.count, self.hidden = trick, 0, None
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x, t, y, strength=1.0):
        n, channels, height, side = x.shape
        h = self.x_embedder(x.flatten(2).transpose(1, 2))
        c = self.t_embedder(t) + self.y_embedder(y)
        h = TRICKS[self.trick](self, h) * strength
        for block in self.blocks:
            h = block(h, c)
        return self.final_layer(h, c).transpose(1, 2).reshape(n, channels, height, side)


def count(model, h):
    model.count += 1
    return h * (1 + 0.1 * model.count)


def in_place(model, h):
    h.mul_(2)
    return h


def in_place_operator(model, h):
    h += 1
    return h


def autocast(model, h):
    with torch.autocast("cpu", torch.bfloat16):
        return (h @ torch.eye(16)).float()


TRICKS = {
    "draws": lambda model, h: h + 0 * torch.randn(h.shape[-1]),
    "draws from Python": lambda model, h: h * (1 + random.random()),
    "draws from NumPy": lambda model, h: h * (1 + float(np.random.rand())),
    "counts": count,
    "writes in place": in_place,
    "writes in place by an operator": in_place_operator,
    "branches on a value": lambda model, h: h * 2 if h.sum().item() > 0 else h * 3,
    "autocasts": autocast,
    "switches grad mode": lambda model, h: torch.enable_grad()(lambda: h * 2)(),
    "keeps a tensor": lambda model, h: setattr(model, "hidden", h) or h,
}
STATEFUL = ("draws from Python", "draws from NumPy", "counts")  # differ from call to call


def odd(trick):
    torch.manual_seed(0)
    return randomise(Odd(trick)).eval().requires_grad_(False)


@pytest.mark.parametrize("trick", TRICKS)
def test_what_a_graph_would_lose_is_refused(trick):
    with pytest.raises(RuntimeError, match=r"engine='fx' cannot serve Odd: .*; use engine='auto'"):
        sample("original_dit", skipcache.accelerate(odd(trick), interval=3, engine="fx"))


@pytest.mark.parametrize("trick", sorted(set(TRICKS) - set(STATEFUL)))
def test_auto_serves_by_hooks_what_fx_refuses(trick):
    model = odd(trick)
    expected = sample("original_dit", skipcache.accelerate(copy.deepcopy(model), interval=3, engine="hooks"))
    skipcache.accelerate(model, interval=3)
    assert equal(sample("original_dit", model), expected)
    report = skipcache.report(model)
    assert report.engine == "hooks" and report.cached_steps == 4
    assert len(report.reasons) == 1 and report.reasons[0].startswith("fx: ")


@pytest.mark.parametrize("trick", ["draws", "draws from Python", "draws from NumPy"])
def test_trials_take_no_random_numbers_from_the_run(trick):
    """What a forward draws is what it would have drawn alone, however often the model was tried out."""

    def draws(model):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        outputs = sample("original_dit", model)
        return outputs, random.random(), np.random.rand(), torch.rand(()).item()

    plain, *rest = draws(odd(trick))
    for engine in ("auto", "hooks"):
        outputs, *left = draws(skipcache.accelerate(odd(trick), interval=100, engine=engine))
        assert left == rest
        assert torch.equal(outputs[0], plain[0])


@pytest.mark.parametrize("name", ["dit", "latte", "flux_dev", "sd3", "original_latte"])
def test_tracing_leaves_nothing_on_the_model(name):
    model, call = build(name), nn.Module.__call__
    sample(name, model)  # some models fill caches of their own on the first call
    before, keys = state(model), list(model.state_dict())
    skipcache.accelerate(model, interval=3, engine="fx")
    sample(name, model)
    assert nn.Module.__call__ is call
    assert list(model.state_dict()) == keys
    held = [x for m in model.modules() for x in (*m._parameters.values(), *m._buffers.values(), *vars(m).values())]
    assert not any(isinstance(x, FakeTensor) for x in held)
    skipcache.restore(model)
    assert state(model) == before


def programs(model):
    (engine,) = (e for e in model.__dict__["forward"].engines if e.name == "fx")
    return [p for p in engine._programs.values() if not isinstance(p, str)]


@pytest.mark.parametrize("name", ["dit", "pixart_alpha", "latte", "sd3", "flux_dev", "cogvideox", "wan"])
def test_no_deep_block_is_in_a_cached_program(name):
    model = skipcache.accelerate(build(name), interval=3, engine="fx")
    sample(name, model)
    blocks = skipcache.find_stack(model).units
    deep = {path for unit in blocks[1:-1] for path in unit}
    (made,) = programs(model)
    for program in made.cached_programs.values():
        called = {node.target for node in program.graph.nodes if node.op == "call_module"}
        assert not called & deep and set(blocks[-1]) <= called


def test_the_glue_of_skipped_pairs_is_gone():
    """Latte reshapes the feature twice per pair: with twice the depth the cached program is no longer."""
    from tests.pipelines import denoiser

    sizes = []
    for layers in (4, 8):
        model = denoiser("latte", num_layers=layers)
        skipcache.accelerate(model, interval=3, engine="fx")
        sample("latte", model)
        (made,) = programs(model)
        sizes.append(sorted(len(p.graph.nodes) for p in made.cached_programs.values()))
        assert max(sizes[-1]) < len(made.full_program.graph.nodes)
    assert sizes[0] == sizes[1]


def alike(name, change, calls=7, **settings):
    """`change` is made in the middle of use; fx and hooks must then give what each gives on a model changed before."""
    fx = skipcache.accelerate(build(name).requires_grad_(False), interval=3, engine="fx", **settings)
    sample(name, fx, steps=4)
    change(fx)
    hooks = build(name).requires_grad_(False)
    change(hooks)
    skipcache.accelerate(hooks, interval=3, engine="hooks", **settings)
    expected = sample(name, hooks, steps=calls)
    assert equal(sample(name, fx, steps=calls), expected)
    return fx, expected


def test_a_replaced_submodule_is_seen():
    def change(model):
        torch.manual_seed(1)
        model.proj_out_2 = nn.Linear(model.proj_out_2.in_features, model.proj_out_2.out_features).requires_grad_(False)

    _, changed = alike("dit", change)
    assert not equal(changed, sample("dit", skipcache.accelerate(build("dit"), interval=3)))


def test_a_replaced_block_is_seen():
    def change(model):
        model.transformer_blocks[1] = copy.deepcopy(model.transformer_blocks[0])

    alike("dit", change)


def test_attention_processors_are_seen():
    alike(
        "pixart_alpha",
        lambda model: [m.set_processor(AttnProcessor()) for m in model.modules() if hasattr(m, "set_processor")],
    )


def test_another_dtype_afterwards():
    model = skipcache.accelerate(build("dit"), interval=3, engine="fx")
    sample("dit", model)
    model.to(torch.bfloat16)
    other = skipcache.accelerate(build("dit").to(torch.bfloat16), interval=3, engine="hooks")

    def bf16(model):
        def call(hidden_states, **kwargs):
            return model(hidden_states=hidden_states.bfloat16(), **kwargs)

        return sample("dit", model, call=call)

    assert equal(bf16(model), bf16(other))
    assert skipcache.report(model).full_at == (0, 3, 6)


def test_weights_changed_in_place_are_seen():
    def change(model):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.9)

    alike("latte", change)


@pytest.mark.parametrize("name", ["sd3", "flux_dev"])
def test_lora_is_loaded_scaled_and_taken_off(name):
    def adapter(model, seed=0):
        torch.manual_seed(seed)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False), f"a{seed}")
        model.requires_grad_(False)

    model, with_lora = alike(name, adapter)
    plain = sample(name, skipcache.accelerate(build(name), interval=3))
    assert not equal(with_lora, plain)
    model.disable_adapters()
    assert equal(sample(name, model), plain)
    model.enable_adapters()
    assert equal(sample(name, model), with_lora)


def test_the_scale_of_a_lora_is_that_of_each_call():
    """Flux takes it by `joint_attention_kwargs`, and a decorator scales the layers around the forward."""

    def run(model, scale):
        return sample("flux_dev", model, call=lambda **kwargs: model(**kwargs, joint_attention_kwargs={"scale": scale}))

    def made(engine):
        model = build("flux_dev")
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
        return skipcache.accelerate(model.requires_grad_(False), interval=3, engine=engine)

    fx, hooks = made("fx"), made("hooks")
    whole, half = run(fx, 1.0), run(fx, 0.5)
    assert equal(whole, run(hooks, 1.0)) and equal(half, run(hooks, 0.5))
    assert not equal(whole, half)
    assert equal(run(fx, 1.0), whole)


def test_under_autocast():
    outputs = {}
    for engine in ("fx", "hooks"):
        model = skipcache.accelerate(build("dit"), interval=3, engine=engine)
        plain = sample("dit", model)
        with torch.autocast("cpu", torch.bfloat16):
            outputs[engine] = sample("dit", model)
        assert not equal(outputs[engine], plain)
    assert equal(*outputs.values())


def test_gradient_checkpointing_does_not_matter_while_sampling():
    model = build("dit").requires_grad_(False)
    model.enable_gradient_checkpointing()
    expected = sample("dit", skipcache.accelerate(build("dit"), interval=3))
    assert equal(sample("dit", skipcache.accelerate(model, interval=3, engine="fx")), expected)


def test_inference_mode():
    model = build("latte")
    expected = sample("latte", skipcache.accelerate(copy.deepcopy(model), interval=3, engine="hooks"))
    skipcache.accelerate(model, interval=3, engine="fx")
    with torch.inference_mode():
        assert equal(sample("latte", model), expected)
    assert equal(sample("latte", model), expected)


def test_a_timestep_that_is_a_python_number_is_left_to_hooks():
    model = skipcache.accelerate(build("dit"), interval=3)
    kwargs, _, _ = inputs("dit", model)
    calls = []
    with torch.no_grad():
        for t in (900.0, 800.0, 700.0, 600.0):
            try:
                calls.append(model(**kwargs, timestep=t))
            except AttributeError:
                pytest.skip("this version of the model takes no numbers")
    assert skipcache.report(model).engine == "hooks"


def test_the_values_of_a_mask_are_not_part_of_a_graph():
    model = build("original_pixart")
    kwargs, _, _ = inputs("original_pixart", model)
    twin = skipcache.accelerate(copy.deepcopy(model), interval=2, engine="hooks")
    skipcache.accelerate(model, interval=2, engine="fx")
    with torch.no_grad():
        for mask in (torch.ones(2, 6), torch.ones(2, 6).tril(), torch.zeros(2, 6)):
            for t in (900, 800, 700):
                call = {**kwargs, "mask": mask, "timestep": torch.full((2,), t)}
                assert torch.equal(model(**call), twin(**call))
    assert len(programs(model)) == 1


@pytest.mark.parametrize("name", ["cogvideox", "wan", "dit", "latte"])
def test_a_program_is_never_run_on_another_shape(name):
    model = build(name)
    skipcache.accelerate(model, interval=2, engine="fx")
    kwargs, _, t = inputs(name, model)
    single = {k: v[:1] if isinstance(v, torch.Tensor) and len(v) == 2 else v for k, v in kwargs.items()}
    with torch.no_grad():
        for call, batch in ((kwargs, 2), (single, 1), (kwargs, 2)):
            for step in (900, 800):
                output = model(**call, **{t: torch.full((batch,), step)})
                assert len(output[0]) == batch
    assert len(programs(model)) == 2


def test_an_argument_that_differs_on_every_call_does_not_grow_the_engine():
    model = randomise(OriginalDiTWithStrength()).eval().requires_grad_(False)
    skipcache.accelerate(model, interval=2)
    kwargs, _, _ = inputs("original_dit", model)
    with torch.no_grad():
        for i in range(40):
            strength = 1 + i / 100
            output = model(**kwargs, t=torch.full((2,), 900 - i), strength=strength)
            assert torch.equal(
                output, OriginalDiTWithStrength.forward(model, **kwargs, t=torch.full((2,), 900 - i), strength=strength)
            )
    fx, hooks = model.__dict__["forward"].engines
    assert len(fx._programs) <= 16 and len(hooks._wirings) <= 16
    assert any("on every call" in reason for reason in skipcache.report(model).reasons)


class OriginalDiTWithStrength(OriginalDiT):
    def forward(self, x, t, y, strength=1.0):
        return super().forward(x * strength, t, y)


def test_save_pretrained_of_an_accelerated_model(tmp_path):
    model, plain = build("dit"), build("dit")
    skipcache.accelerate(model, interval=3)
    expected = sample("dit", model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert {k: v.tolist() for k, v in loaded.state_dict().items()} == {
        k: v.tolist() for k, v in plain.state_dict().items()
    }
    assert equal(sample("dit", skipcache.accelerate(loaded, interval=3)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_the_same_as_a_tensor(dtype):
    """Programs take weights as 0-d tensors, the hook engine as numbers."""
    torch.manual_seed(0)
    H, R, older = ((torch.randn(4, 5).to(dtype),) for _ in range(3))
    for predictor in (Forecast(1), Forecast(2), Damped()):
        steps = (5, 2, 1)[: predictor.depth]
        kept, weights = remembered(predictor, [R, older, H], steps), predictor.weights(7, steps)
        tensors = [torch.tensor(w, dtype=torch.float64) for w in weights]
        assert torch.equal(predictor.predict(H, kept, weights)[0], predictor.predict(H, kept, tensors)[0])


def test_a_predictor_that_cannot_be_traced_is_left_to_hooks():
    class Fussy(Hold):
        def predict(self, H, kept, weights):
            return super().predict(H, kept, weights) if kept[0][0].sum().item() < 1e9 else ()

    model = skipcache.accelerate(build("dit"), interval=3, predictor=Fussy())
    sample("dit", model)
    report = skipcache.report(model)
    assert report.cached_steps > 0 and report.engine == "fx and hooks"

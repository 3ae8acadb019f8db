"""interval=1 and `restore` are exact, and cached runs equal a reference that computes every block."""

import inspect
import itertools

import pytest
import torch

import skipcache
from skipcache import Damped, Delta, Forecast, Hold
from tests.models.defaults import DEFAULT_POLICIES, DEFAULT_PREDICTORS
from tests.models.sampling import MODELS, build, deep, equal, inputs, sample, state
from tests.models.thorough import families

# The engines under the names that `accelerate` takes; "auto" must be whichever proves right.
ENGINES = ["fx", "hooks", "auto"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", families(MODELS))
def test_interval_one_and_restore_are_exact(name, engine):
    if engine == "fx" and name == "yesterday_in_place":
        pytest.skip("refused by fx: see the test of what it refuses")
    model = build(name)
    plain, before, keys = sample(name, model), state(model), list(model.state_dict())
    signature = inspect.signature(model.forward)

    assert skipcache.accelerate(model, interval=1, engine=engine) is model
    assert equal(sample(name, model), plain)
    assert list(model.state_dict()) == keys
    assert inspect.signature(model.forward) == signature
    skipcache.restore(model)
    assert state(model) == before

    skipcache.accelerate(model, interval=3, keep=1, engine=engine)
    assert not equal(sample(name, model), plain)
    assert skipcache.report(model).cached_steps == 4
    skipcache.restore(model)
    assert state(model) == before
    assert equal(sample(name, model), plain)


class Reference:
    """Skip-Cache with forward hooks alone: every block computes, and D-hat replaces the last deep block's output."""

    def __init__(self, model, stack, keep, interval, predictor, batch):
        head, tail = keep
        deep = stack.units[head : len(stack.units) - tail]
        self.shallow = stack.units[head - 1][-1] if head else None
        self.first, self.last = deep[0][0], deep[-1][-1]
        self.model, self.interval, self.predictor = model, interval, predictor
        self.transposed, self.batch = stack.transposed, batch
        self.step, self.kept = 0, []

    def canonical(self, path, x):
        if not self.transposed:
            return x
        x = x.reshape(self.batch, -1, *x.shape[1:])
        return x.transpose(1, 2).contiguous() if path in self.transposed else x

    def raw(self, path, x):
        if not self.transposed:
            return x
        x = x.transpose(1, 2).contiguous() if path in self.transposed else x
        return x.reshape(-1, *x.shape[2:])

    def __call__(self, **kwargs):
        full = self.step % self.interval == 0
        seen = {}

        def on_shallow(module, args, output):
            streams = output if isinstance(output, tuple) else (output,)
            seen["H"] = [self.canonical(self.shallow, x).clone() for x in streams]

        def on_last(module, args, output):
            streams = [x for x in (output if isinstance(output, tuple) else (output,)) if x is not None]
            if full:
                seen["D"] = [self.canonical(self.last, x).clone() for x in streams]
                return None
            D_hat = iter([self.raw(self.last, x) for x in self.predict(seen["H"])])
            return tuple(x if x is None else next(D_hat) for x in output) if isinstance(output, tuple) else next(D_hat)

        handles = [self.model.get_submodule(self.shallow).register_forward_hook(on_shallow)]
        handles.append(self.model.get_submodule(self.last).register_forward_hook(on_last))
        try:
            output = self.model(**kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if full:
            # SD3's last block drops the text stream: without it in D, D - H cannot be formed, and D itself is kept.
            self.residual = not isinstance(self.predictor, Hold) and len(seen["D"]) == len(seen["H"])
            R = [d - h for d, h in zip(seen["D"], seen["H"])] if self.residual else seen["D"]
            self.kept = [(self.step, R), *self.kept][:3]
        self.step += 1
        return output

    def predict(self, H):
        s, R_s = self.kept[0]
        base = [h + a for h, a in zip(H, R_s)] if self.residual else [x.clone() for x in R_s]
        if len(self.kept) < 2 or isinstance(self.predictor, (Hold, Delta)):
            return base
        r, R_r = self.kept[1]
        if isinstance(self.predictor, Damped) and len(self.kept) == 3:
            return [x + d for x, d in zip(base, self.damped())]
        return [x + (a - b) * ((self.step - s) / (s - r)) for x, a, b in zip(base, R_s, R_r)]

    def damped(self):
        (s, R_s), (r, R_r), (q, R_q) = self.kept
        for a, b, c in zip(R_s, R_r, R_q):
            y, x = (z.flatten(1) for z in (a - b, (b - c) * ((s - r) / (r - q))))
            share = ((y * x).sum(1) / (x * x).sum(1)).clamp(0, 1) * ((self.step - s) / (s - r))
            yield (a - b) * share.reshape(-1, *[1] * (a.ndim - 1))


@pytest.mark.parametrize(
    ("predictor", "keep"),
    [*itertools.product([Hold(), Delta(), Forecast(1)], [(1, 1), (2, 1), (1, 0)]), (Damped(), (2, 1))],
    ids=str,
)
@pytest.mark.parametrize("name", families(MODELS))
def test_a_cached_run_equals_the_reference(name, predictor, keep):
    """Both engines, full and cached steps: each equals the reference, so that they equal each other."""
    model = build(name)
    batch = len(next(iter(inputs(name, model)[0].values())))
    reference = Reference(model, skipcache.find_stack(model), keep, 3, predictor, batch)
    expected = sample(name, model, call=reference)

    for engine in ("hooks", "fx" if name != "yesterday_in_place" else "auto"):
        with skipcache.accelerated(model, interval=3, keep=keep, predictor=predictor, engine=engine):
            assert equal(sample(name, model), expected)
            assert equal(sample(name, model), expected), "a second run starts afresh"
            assert skipcache.report(model).full_at == (0, 3, 6)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.thorough
@pytest.mark.parametrize("name", [*(name for name in MODELS if "yesterday" not in name), "hunyuan_dit"])
def test_both_engines_give_the_same_under_every_policy_and_predictor(name, keep):
    """Each predictor under one policy, and each policy with one predictor."""
    model = deep(name, 6)
    pairs = [(DEFAULT_POLICIES[0], predictor) for predictor in DEFAULT_PREDICTORS]
    for policy, predictor in [*pairs, *((policy, Damped()) for policy in DEFAULT_POLICIES[1:])]:
        outputs = []
        for engine in ("hooks", "fx"):
            with skipcache.accelerated(model, policy=policy, predictor=predictor, keep=keep, engine=engine):
                outputs.append(sample(name, model))
                report = skipcache.report(model) if engine == "fx" else None
        assert equal(*outputs), (policy, predictor)
        assert report is not None and report.engine == "fx" and report.cached_steps


def test_the_paper_s_rule_written_out_for_dit():
    """Hold, keep 1, by hand over the blocks of diffusers' DiT: no hooks, no engine."""
    model = build("dit")
    kwargs, _, _ = inputs("dit", model)
    labels, blocks, cache = kwargs["class_labels"], model.transformer_blocks, {}

    def by_hand(hidden_states, timestep, class_labels):
        step = cache.setdefault("count", 0)
        cache["count"] += 1
        given = {"timestep": timestep, "class_labels": labels}
        x = model.pos_embed(hidden_states)
        x = blocks[0](x, **given)
        if step % 3 == 0:
            for block in blocks[1:-1]:
                x = block(x, **given)
            cache["D"] = x
        x = blocks[-1](cache["D"], **given)
        c = blocks[0].norm1.emb(timestep, labels, hidden_dtype=x.dtype)
        shift, scale = model.proj_out_1(torch.nn.functional.silu(c)).chunk(2, dim=1)
        x = model.proj_out_2(model.norm_out(x) * (1 + scale[:, None]) + shift[:, None])
        side, p = int(x.shape[1] ** 0.5), model.patch_size
        x = x.reshape(-1, side, side, p, p, model.out_channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, model.out_channels, side * p, side * p)

    expected = sample("dit", model, call=by_hand)
    skipcache.accelerate(model, interval=3, predictor=Hold())
    assert equal(sample("dit", model), expected)


@pytest.mark.parametrize("name", ["sd3", "auraflow", "chroma", "flux2"])
def test_streams_of_another_structure_fall_back_to_the_feature_itself(name):
    """Where D - H cannot be formed, Delta holds D."""
    keep = (1, 0) if name == "sd3" else 1
    outputs = []
    for predictor in (Hold(), Delta()):
        model = skipcache.accelerate(build(name), interval=3, keep=keep, predictor=predictor)
        outputs.append(sample(name, model))
        assert skipcache.report(model).cached_steps == 4
    assert equal(*outputs)


@pytest.mark.parametrize("name", ["dit", "latte", "flux_dev", "wan", "original_latte", "original_pixart"])
def test_no_block_runs_on_a_cached_step_with_keep_zero(name):
    model = build(name)
    ran = []
    stack = skipcache.find_stack(model)
    skipcache.accelerate(model, interval=7, keep=0)
    sample(name, model, steps=1)
    for path in stack.blocks:
        child = next(model.get_submodule(path).children())
        child.register_forward_hook(lambda *_, path=path: ran.append(path))
    sample(name, model, steps=7)
    assert set(ran) == set(stack.blocks) and len(ran) < 3 * len(stack.blocks)


def test_head_zero_delta_adds_to_what_enters_the_first_block():
    model = build("dit")
    kwargs, _, _ = inputs("dit", model)
    skipcache.accelerate(model, interval=2, keep=(0, 1), predictor=Delta(), engine="hooks")
    t = torch.full((2,), 500)
    seen = {}
    model.pos_embed.register_forward_hook(lambda m, args, output: seen.update(entered=output))
    model.transformer_blocks[3].register_forward_pre_hook(lambda m, args: seen.update(D=args[0]))
    with torch.no_grad():
        e = model(**kwargs, timestep=t).sample
        R = seen["D"] - seen["entered"]
        x = kwargs["hidden_states"] - 0.5 * e[:, : kwargs["hidden_states"].shape[1]]
        model(**{**kwargs, "hidden_states": x}, timestep=t - 10)
    assert skipcache.report(model).cached_steps == 1
    assert torch.equal(seen["D"], seen["entered"] + R)

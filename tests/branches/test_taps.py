"""What branches carry: runs with them equal Skip-DiT written out, on both engines and under autograd."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import skipcache
from skipcache import Hold
from skipcache.branches.modules import branches_of
from skipcache.branches.taps import SKIPS, Channel, Fuse, Tap
from tests.models.defaults import DEFAULT_PREDICTORS
from tests.models.grafted import grafted
from tests.models.sampling import build, equal, first, inputs, sample, state
from tests.models.thorough import families

FAMILIES = [
    "dit", "pixart_alpha", "latte", "sd3", "flux_dev", "cogvideox", "wan", "original_dit", "original_latte",
    "original_latte_pairs", "original_pixart", "yesterday", "yesterday_in_place",
]  # fmt: skip


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("name", families(FAMILIES))
def test_add_is_exact_at_the_start(name, engine):
    model = build(name)
    if engine == "fx" and name == "yesterday_in_place":
        pytest.skip("refused by fx: see the test of what it refuses")
    plain, before = sample(name, model), state(model)
    assert skipcache.graft(model) is model
    assert equal(sample(name, model), plain)
    skipcache.accelerate(model, interval=1, engine=engine)
    assert equal(sample(name, model), plain)
    skipcache.restore(model)
    expected = sample(name, skipcache.accelerate(build(name), 3, engine=engine))
    skipcache.accelerate(model, interval=3, engine=engine)
    assert equal(sample(name, model), expected)
    skipcache.restore(model)
    skipcache.ungraft(model)
    assert state(model) == before
    assert equal(sample(name, model), plain)


class SkipDiT:
    """Skip-DiT and Skip-Cache with forward hooks alone: everything computes on every step, and is replaced."""

    def __init__(self, model, plain, keep=1, interval=None):
        branches = branches_of(model)
        self.model, self.stack, self.layout = plain, branches.stack, branches.layout
        self.weights = {name: p.detach().clone() for name, p in branches.named_parameters()}
        self.keep, self.interval, self.step, self.D, self.outputs = keep, interval, 0, None, {}

    def fuse(self, pair, stream, x, skip):
        weights = {n.split(".", 2)[2]: p for n, p in self.weights.items() if n.startswith(f"{pair}.{stream}.")}
        both = torch.cat([x, skip], dim=-1)
        norm = F.layer_norm(both.float(), both.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-6)
        fused = F.linear(norm, weights["linear.weight"], weights["linear.bias"])
        return x + fused if self.layout.fuse == "add" else fused

    def as_spatial(self, skip, x):
        """(B * T, F, D) -> (B * F, T, D)"""
        if not self.stack.transposed:
            return skip
        frames, tokens = skip.shape[1], x.shape[1]
        return skip.reshape(-1, tokens, frames, skip.shape[-1]).transpose(1, 2).reshape(-1, tokens, skip.shape[-1])

    def __call__(self, **kwargs):
        full = self.interval is None or self.step % self.interval == 0
        depth, units = len(self.stack.units), self.stack.units
        handles, seen = [], {}

        def after(index):
            def hook(module, args, output):
                seen[index] = tuple(
                    x if x is None else x.clone() for x in (output if isinstance(output, tuple) else (output,))
                )
                if index != depth - 1 - self.keep or self.interval is None:
                    return None
                if full:
                    self.D = copy.deepcopy(output)
                return copy.deepcopy(self.D)

            return hook

        def before(pair, source, target):
            def hook(module, args, kwargs):
                skips = seen[source]
                if len(skips) == 1:
                    keys = [0] if args else [next(iter(kwargs))]
                else:
                    keys = ["encoder_hidden_states", "hidden_states"]
                    if self.model.__class__.__name__.startswith("CogVideoX"):
                        keys.reverse()
                args = list(args)
                for stream, (key, skip) in enumerate(zip(keys, skips)):
                    holder = args if isinstance(key, int) else kwargs
                    holder[key] = self.fuse(pair, stream, holder[key], self.as_spatial(skip, holder[key]))
                return tuple(args), kwargs

            return hook

        for index, unit in enumerate(units):
            handles.append(self.model.get_submodule(unit[-1]).register_forward_hook(after(index)))
        for pair, (source, target) in enumerate(self.layout.pairs):
            block = self.model.get_submodule(units[target][0])
            handles.append(block.register_forward_pre_hook(before(pair, source, target), with_kwargs=True))
        try:
            return self.model(**kwargs)
        finally:
            self.step += 1
            for handle in handles:
                handle.remove()


@pytest.mark.parametrize("fuse", ["add", "concat"])
@pytest.mark.parametrize("name", families(FAMILIES))
def test_a_grafted_model_and_its_cached_run_equal_the_reference(name, fuse):
    model = grafted(name, fuse)
    assert equal(sample(name, model), sample(name, build(name), call=SkipDiT(model, build(name))))
    reference = SkipDiT(model, build(name), keep=1, interval=3)
    expected = sample(name, reference.model, call=reference)
    for engine in ("fx", "hooks") if name != "yesterday_in_place" else ("hooks", "auto"):
        skipcache.accelerate(model, interval=3, predictor=Hold(), engine=engine)
        assert equal(sample(name, model), expected), engine
        assert skipcache.report(model).cached_steps == 4
        skipcache.restore(model)
    assert not equal(sample(name, model), expected)


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS, ids=repr)
@pytest.mark.parametrize("name", ["dit", "latte", "sd3", "flux_dev", "original_latte"])
def test_engines_agree(name, predictor):
    for fuse in ("add", "concat"):
        outputs = []
        for engine in ("fx", "hooks"):
            model = skipcache.accelerate(grafted(name, fuse), interval=3, predictor=predictor, engine=engine)
            outputs.append(sample(name, model))
        assert equal(*outputs)


def test_gradients_reach_the_branches():
    model = skipcache.graft(build("original_dit"))
    out = model(torch.randn(2, 4, 4, 4), torch.tensor([3, 3]), torch.tensor([1, 2]))
    out.square().mean().backward()
    for branch in branches_of(model).children():
        assert branch[0].linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["dit", "latte", "sd3"])
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        model = grafted(name, "concat").requires_grad_(True)
        model.train()  # diffusers checkpoints in training mode alone
        if checkpointing:
            model.enable_gradient_checkpointing()
        torch.manual_seed(0)  # of the classes that DiT drops in training
        kwargs, x_name, t_name = inputs(name, model)
        t = torch.full((len(kwargs[x_name]),), 500) if name != "sd3" else torch.full((len(kwargs[x_name]),), 0.5)
        for _ in range(2):
            first(model(**{**kwargs, t_name: t})).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert not branches_of(model).channel.seen
    assert equal(*gradients)


def test_a_run_that_raises_between_the_ends_of_a_branch_leaves_nothing():
    model = grafted("original_dit", "concat")
    expected = sample("original_dit", model)

    def fail(*_):
        raise RuntimeError("stopped")

    handle = model.blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stopped"):
        sample("original_dit", model, seed=1)
    handle.remove()
    assert equal(sample("original_dit", model), expected)


def test_blocks_that_run_out_of_order_are_told_of():
    model = skipcache.graft(build("original_dit"))
    with pytest.raises(RuntimeError, match="in the order of the stack"):
        model.blocks[3](torch.randn(2, 4, 16), torch.randn(2, 16))


def test_compiled_programs_have_branches():
    model = grafted("original_dit", "concat")
    expected = sample("original_dit", skipcache.accelerate(grafted("original_dit", "concat"), interval=3))
    skipcache.accelerate(model, interval=3, engine="fx", compile={"backend": "aot_eager"})
    for ours, theirs in zip(sample("original_dit", model), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


# The overrides alone


class Plus(torch.nn.Module):
    def forward(self, x, c=0.0):
        return x + 1


class Sum(torch.nn.Module):
    """A branch that keeps both of its inputs apart in the result."""

    def forward(self, x, skip):
        return 10 * x + skip


def joined():
    """A block that puts up what it returns, one between, and one that fuses it in."""
    channel, source, between, target = Channel(), Plus(), Plus(), Plus()
    branches = torch.nn.ModuleDict({"0": torch.nn.ModuleList([Sum()])})
    stack = skipcache.Stack((("source",), ("between",), ("target",)))
    fuse = Fuse(target, channel, stack, branches, "target", "between", "0", "source")
    for override in (Tap(source, channel, "source", True), Tap(between, channel, "between", False), fuse):
        override.put_on()
    return channel, source, between, target


def test_a_target_is_given_what_its_source_returned():
    channel, source, between, target = joined()
    x = torch.ones(1, 2)
    with torch.no_grad():
        assert torch.equal(target(between(source(x))), 10 * (x + 2) + (x + 1) + 1)
        assert torch.equal(target(x=between(source(x))), 10 * (x + 2) + (x + 1) + 1), "by name as by place"
    assert not channel.returned and not channel.copied, "nothing is left for the next call"


def test_a_source_that_has_not_run_is_told_by_name():
    _, _, between, target = joined()
    with torch.no_grad(), pytest.raises(RuntimeError, match="source has not run before target in this call"):
        target(between(torch.ones(1, 2)))


def test_what_a_source_put_up_is_seen_by_its_own_thread_alone():
    _, source, between, target = joined()
    with torch.no_grad():
        between(source(torch.ones(1, 2)))
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="source has not run"):
            pool.submit(torch.no_grad()(target), torch.ones(1, 2)).result()


def test_a_graph_hands_the_skip_over_as_an_argument_and_the_channel_stays_empty():
    channel, source, _, target = joined()
    x = torch.ones(1, 2)
    with torch.no_grad():
        assert torch.equal(source(x, **{SKIPS: {}}), x + 1) and not channel.returned
        assert torch.equal(target(x, **{SKIPS: {0: 5 * x}}), 10 * x + 5 * x + 1)


def test_a_feature_that_is_written_to_on_the_way_is_carried_as_it_was():
    channel, source, between, target = joined()
    x = torch.ones(1, 2)
    with torch.no_grad():
        for _ in range(2):
            shallow = source(x)
            deep = between(shallow)
            shallow.zero_()
            assert torch.equal(target(deep), 10 * (x + 2) + (x + 1) + 1)
    assert channel.copies == {"source": True}


def test_a_copy_of_a_channel_is_a_new_one():
    channel = Channel()
    channel.returned["a"] = ()
    assert not copy.deepcopy(channel).returned and channel.returned

"""Checkpoints in the four released layouts, against Skip-DiT written out by hand."""

import pickle
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import skipcache
from skipcache import Hold, Interval
from skipcache.branches.modules import branches_of
from tests.models.originals import OriginalDiT, OriginalLatte
from tests.models.sampling import build, equal, sample, state
from tests.models.skip_dit import Window, checkpoint, fuse, skip_cache
from tests.models.zoo import ZOO, randomise


def run(forward, steps=9):
    torch.manual_seed(0)
    x, outputs = torch.randn(2, 4, 4, 4), []
    for t in torch.linspace(990, 10, steps).long():
        with torch.no_grad():
            e = forward(x, torch.full((2,), int(t)), torch.tensor([1, 10]))
        outputs.append(e)
        x = x - e / steps
    return outputs


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_class_to_image(engine, tmp_path):
    """DiT: four blocks kept at each end, every second step full, window open until t <= 20; container `ema`."""
    plain = randomise(OriginalDiT(depth=10), 0).eval().requires_grad_(False)
    released = checkpoint(plain, 5, 16)
    torch.save({"ema": released, "args": None, "model": {}}, tmp_path / "DiT-XL-2.pt")
    window = Window(2, stop=20)

    def by_hand(x, t, y):
        shape, window_full = x.shape, window.full(int(t[0]))
        x = plain.x_embedder(x.flatten(2).transpose(1, 2))
        c = plain.t_embedder(t) + plain.y_embedder(y)
        units = [lambda x, block=block: block(x, c) for block in plain.blocks]
        x = skip_cache(units, lambda j, *xs: fuse(released, j, *xs), x, window.cache, 4, window_full)
        window.after(int(t[0]))
        return plain.final_layer(x, c).transpose(1, 2).reshape(shape)

    expected = run(by_hand)
    model = skipcache.load_skip_dit(OriginalDiT(depth=10).eval(), tmp_path / "DiT-XL-2.pt").requires_grad_(False)
    skipcache.accelerate(model, policy=Interval(2, stop=20), predictor=Hold(), keep=4, engine=engine)
    assert equal(run(model), expected)
    assert skipcache.report(model).cached_steps == 4
    skipcache.restore(model)
    assert not equal(run(model), expected)


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("paired", [False, True])
def test_class_to_video(paired, engine):
    """Latte: pairs of blocks, one kept at each end, cached between t = 900 and t = 50; strict, bare keys."""
    plain = randomise(OriginalLatte(depth=6, paired=paired), 0).eval().requires_grad_(False)
    released = checkpoint(plain, 3, 16)
    window = Window(2, start=900, stop=49)

    def by_hand(x, t, y):
        b, f, channels, height, side = x.shape
        full = window.full(int(t[0]))
        x = plain.x_embedder(x.flatten(0, 1).flatten(2).transpose(1, 2))
        tokens = x.shape[1]
        c = plain.t_embedder(t) + plain.y_embedder(y)
        c_spatial, c_temporal = c.repeat_interleave(f, 0), c.repeat_interleave(tokens, 0)

        def unit(i, spatial, temporal):
            def forward(x):
                x = spatial(x, c_spatial).reshape(b, f, tokens, -1).transpose(1, 2).reshape(b * tokens, f, -1)
                x = temporal(x + plain.temp_embed if i == 0 else x, c_temporal)
                return x.reshape(b, tokens, f, -1).transpose(1, 2).reshape(b * f, tokens, -1)

            return forward

        units = [unit(i, *pair) for i, pair in enumerate(plain.pairs())]
        x = skip_cache(units, lambda j, *xs: fuse(released, j, *xs), x, window.cache, 1, full)
        window.after(int(t[0]))
        return plain.final_layer(x, c_spatial).transpose(1, 2).reshape(b, f, channels, height, side)

    def video(forward):
        torch.manual_seed(0)
        x, outputs = torch.randn(2, 5, 4, 4, 4), []
        for t in torch.linspace(990, 10, 9).long():
            with torch.no_grad():
                e = forward(x, torch.full((2,), int(t)), torch.tensor([1, 10]))
            outputs.append(e)
            x = x - e / 9
        return outputs

    expected = video(by_hand)
    model = skipcache.load_skip_dit(OriginalLatte(depth=6, paired=paired).eval(), released).requires_grad_(False)
    skipcache.accelerate(model, policy=Interval(2, 900, 49), engine=engine)
    assert equal(video(model), expected)
    assert skipcache.report(model).cached_steps > 0


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_text_to_video(engine):
    """diffusers' Latte, each block run by itself; one pair kept at each end, cached between t = 700 and t = 50."""
    plain = build("latte")
    depth, width = len(plain.transformer_blocks), plain.transformer_blocks[0].attn1.to_q.in_features
    released = checkpoint(plain, depth // 2, width)
    window = Window(2, start=700, stop=50)

    def by_hand(**kwargs):
        """Blocks are given what the branches make, by pre-hooks; what is skipped computes, and is thrown away."""
        full, outputs, handles = window.full(int(kwargs["timestep"][0])), {}, []

        def spatial(x):
            b = kwargs["hidden_states"].shape[0]
            tokens, frames, width = x.shape[0] // b, x.shape[1], x.shape[2]
            return x.reshape(b, tokens, frames, width).transpose(1, 2).reshape(b * frames, tokens, width)

        def before(i):
            def hook(module, args):
                x = args[0]
                if i == depth - 1:
                    if full:
                        window.cache["x"] = x
                    x = window.cache["x"]
                if i >= depth - depth // 2:
                    x = fuse(released, i - (depth - depth // 2), x, spatial(outputs[depth - 1 - i]))
                return (x, *args[1:])

            return hook

        def after(i):
            return lambda module, args, output: outputs.__setitem__(i, output)

        for i in range(depth):
            handles.append(plain.transformer_blocks[i].register_forward_pre_hook(before(i)))
            handles.append(plain.temporal_transformer_blocks[i].register_forward_hook(after(i)))
        try:
            return plain(**kwargs)
        finally:
            window.after(int(kwargs["timestep"][0]))
            for handle in handles:
                handle.remove()

    expected = sample("latte", plain, steps=9, call=by_hand)
    model = skipcache.load_skip_dit(build("latte", seed=1), released)
    skipcache.accelerate(model, policy=Interval(2, 700, 50), engine=engine)
    assert equal(sample("latte", model, steps=9), expected)
    assert skipcache.report(model).cached_steps > 0


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_text_to_image(engine, tmp_path):
    """HunyuanDiT's own branches and weights: nothing is grafted; cached between t = 700 and t = 50."""
    source, model = build("hunyuan_dit"), build("hunyuan_dit", seed=1)
    save_file(source.state_dict(), tmp_path / "hunyuan.safetensors")
    keys = list(model.state_dict())
    skipcache.load_skip_dit(model, tmp_path / "hunyuan.safetensors")
    assert list(model.state_dict()) == keys and branches_of(model) is None
    window, depth = Window(2, start=700, stop=50), len(source.blocks)

    def by_hand(**kwargs):
        full = window.full(int(kwargs["timestep"][0]))
        hook = lambda module, args, kwargs: enter(full, args, kwargs)  # noqa: E731
        handle = source.blocks[depth - 1].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            return source(**kwargs)
        finally:
            handle.remove()
            window.after(int(kwargs["timestep"][0]))

    def enter(full, args, kwargs):
        if full:
            window.cache["x"] = args[0]
        return (window.cache["x"], *args[1:]), kwargs

    def in_thousandths(forward):
        return lambda **kwargs: forward(**{**kwargs, "timestep": kwargs["timestep"] * 1000})

    expected = sample("hunyuan_dit", source, steps=9, call=in_thousandths(by_hand))
    skipcache.accelerate(model, policy=Interval(2, 700, 50), engine=engine)
    assert equal(sample("hunyuan_dit", model, steps=9, call=in_thousandths(model)), expected)
    assert skipcache.report(model).cached_steps > 0


class TheirDiT(nn.Module):
    """The original DiT's names and arithmetic, as far as they matter to names: fused qkv, one embedder for all."""

    def __init__(self, model):
        super().__init__()
        self.names = {}
        blocks, ends = model.transformer_blocks, model
        first = blocks[0].norm1.emb
        self.add("x_embedder.proj", ends.pos_embed.proj)
        self.add("t_embedder.mlp.0", first.timestep_embedder.linear_1)
        self.add("t_embedder.mlp.2", first.timestep_embedder.linear_2)
        self.names["y_embedder.embedding_table.weight"] = first.class_embedder.embedding_table.weight
        self.add("final_layer.adaLN_modulation.1", ends.proj_out_1)
        self.add("final_layer.linear", ends.proj_out_2)
        for i, block in enumerate(blocks):
            qkv = [block.attn1.to_q, block.attn1.to_k, block.attn1.to_v]
            for rest in ("weight", "bias"):
                self.names[f"blocks.{i}.attn.qkv.{rest}"] = torch.cat([getattr(x, rest) for x in qkv])
            self.add(f"blocks.{i}.attn.proj", block.attn1.to_out[0])
            self.add(f"blocks.{i}.mlp.fc1", block.ff.net[0].proj)
            self.add(f"blocks.{i}.mlp.fc2", block.ff.net[2])
            self.add(f"blocks.{i}.adaLN_modulation.1", block.norm1.linear)
        self.names["pos_embed"] = torch.zeros(1, 4, 8)

    def add(self, name, module):
        self.names |= {f"{name}.{rest}": getattr(module, rest) for rest in ("weight", "bias")}


def one_embedder(model):
    """As it is in the original: all blocks embed alike."""
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    return model


def test_original_names_on_diffusers_dit():
    source = one_embedder(build("dit"))
    width = source.transformer_blocks[0].attn1.to_q.in_features
    theirs = {name: x.detach().clone() for name, x in TheirDiT(source).names.items()}
    released = checkpoint(source, 2, width)
    theirs |= {name: x for name, x in released.items() if name.startswith("skip_")}
    with_skips = skipcache.load_skip_dit(source, released)
    model = skipcache.load_skip_dit(build("dit", seed=1), theirs)
    assert equal(sample("dit", model), sample("dit", with_skips))
    for name, x, message in (
        ("blocks.0.attn.rope", torch.zeros(1), r"no part of diffusers' DiT is known for blocks\.0\.attn\.rope"),
        ("blocks.0.weight", torch.zeros(1), r"no part of diffusers' DiT is known for blocks\.0\.weight"),
        ("blocks.0.attn.qkv.weight", torch.tensor(1.0), r"no part .* is known for blocks\.0\.attn\.qkv\.weight"),
        ("blocks.x.attn.qkv.weight", torch.zeros(3, 1), r"unexpected keys: .*transformer_blocks\.x"),
    ):
        with pytest.raises(ValueError, match=message):
            skipcache.load_skip_dit(build("dit"), {**theirs, name: x})


def test_an_unregistered_model_takes_the_layout():
    plain = build("yesterday")
    model = skipcache.load_skip_dit(build("yesterday", seed=1), checkpoint(plain, 2, 16))
    assert branches_of(model).layout.pairs == ((0, 4), (1, 3))
    assert torch.equal(model.inlet.weight, plain.inlet.weight)


def test_training_checkpoints_are_unwrapped_and_may_hold_the_options_of_the_script(tmp_path):
    """As the authors' training scripts save them: averaged weights beside others, and an argparse.Namespace."""
    plain = build("original_dit")
    released, other = checkpoint(plain, 2, 16), checkpoint(OriginalDiT(), 2, 16, seed=1)
    expected = sample("original_dit", skipcache.load_skip_dit(build("original_dit", seed=1), released))
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))]).state_dict()
    beside = {"opt": optimizer, "args": Namespace(lr=1e-4, model="DiT-XL/2", folders=["a", "b"]), "step": 3}
    for saved in (
        {"model": other, "ema": released, **beside},
        {"ema": {}, "model": {f"module.{name}": x for name, x in released.items()}, **beside},
        {"state_dict": {"module": {f"module._orig_mod.{name}": x for name, x in released.items()}}},
        {"module": {f"_orig_mod.{name}": x for name, x in released.items()}, **beside},
    ):
        torch.save(saved, tmp_path / "training.pt")
        for given in (saved, tmp_path / "training.pt"):
            model = skipcache.load_skip_dit(build("original_dit", seed=1), given)
            assert equal(sample("original_dit", model), expected)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


def test_checkpoints_that_do_not_fit(tmp_path):
    plain = build("original_dit")
    released = checkpoint(plain, 2, 16)
    whole = tmp_path / "whole.pt"
    torch.save(released, whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"ema": Evil()}))
    torch.save({"ema": released, "args": Namespace(hook=Evil())}, tmp_path / "options.pt")
    torch.save([released], tmp_path / "list.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    wide = checkpoint(OriginalDiT(width=32), 2, 32)
    mixed = {**plain.state_dict(), **{n: x for n, x in wide.items() if n.startswith("skip_")}}
    cases = [
        (checkpoint(OriginalDiT(depth=6), 3, 16), r"unexpected keys: blocks\.4"),
        (wide, r"x_embedder\.weight is \(32, 4\), not \(16, 4\)"),
        (mixed, "branches of width 32, but the blocks of OriginalDiT work on 16"),
        (checkpoint(plain, 3, 16), r"unexpected keys: skip_linears\.2"),
        ({n: x for n, x in released.items() if n != "skip_norms.1.bias"}, r"missing keys: skip_norms\.1\.bias"),
        ({n: x for n, x in released.items() if n != "final_layer.linear.bias"}, r"missing keys: final_layer\.linear"),
        ({**released, "more": torch.zeros(1)}, "unexpected keys: more"),
        (dict(plain.state_dict()), "no checkpoint of a Skip-DiT"),
        ({}, "expected a state dict"),
        ({"weights": released, "step": 3}, "got other values for step, weights; pass what is in it"),
        ({"ema": {}, "model": {}}, "got other values for ema, model"),
        ({0: torch.zeros(1)}, "expected a state dict of tensors by name, got dict"),
        ({**released, "blocks.3.mlp.0.weight": released["blocks.3.mlp.0.weight"].char()}, "is int8, not float32"),
        (
            {**released, "final_layer.linear.bias": torch.zeros(4).to_sparse()},
            r"float32 \(torch\.sparse_coo\)|sparse_coo",
        ),
        ({**released, "final_layer.linear.bias": torch.zeros(4, device="meta")}, "float32 without values"),
        ({**released, "skip_norms.0.bias": torch.zeros(32, dtype=torch.complex64)}, "is complex64, not float32"),
        ({**released, "skip_linears.0.linear.bias": torch.tensor(1.0)}, "branches of width 1, but the blocks"),
        (tmp_path / "cut.pt", "cannot be read|refused"),
        (tmp_path / "evil.pt", "refused"),
        (tmp_path / "options.pt", "refused"),
        (tmp_path / "list.pt", "expected a state dict of tensors by name, got list"),
        (tmp_path / "cut.safetensors", "cannot be read"),
        (tmp_path / "none.pt", "found none"),
    ]
    model = build("original_dit", seed=1)
    before, values = state(model), {name: x.clone() for name, x in model.state_dict().items()}
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            skipcache.load_skip_dit(model, given)
        assert state(model) == before, message
        assert all(torch.equal(x, values[name]) for name, x in model.state_dict().items()), message
    skipcache.load_skip_dit(model, whole)
    with pytest.raises(ValueError, match="ungraft first"):
        skipcache.load_skip_dit(model, whole)


def test_the_zoo_has_a_hunyuan_with_branches():
    assert any(block.skip_linear is not None for block in ZOO["hunyuan_dit"].build(0).blocks)
    assert skipcache.find_stack(build("hunyuan_dit")).native_skips

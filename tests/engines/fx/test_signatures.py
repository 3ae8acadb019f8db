"""What is part of a signature, and what is not baked into its programs."""

import warnings

import pytest
import torch

import skipcache
from skipcache.engines import order
from skipcache.engines.fx.engine import MAX_FRUITLESS, MAX_PROGRAMS
from tests.models.odd import Tiny, fx_engine, programs, run, tiny
from tests.models.sampling import build, equal, first, inputs, sample


class Masks(Tiny):
    """The shape of what is computed depends on no value, the values on the mask."""

    def before(self, h, x, t, mask, scale=None):
        bias = (1 - mask.to(h.dtype)) * -10
        h = torch.where(mask.bool()[..., None], h, h * 0.5) + bias[..., None].softmax(1)
        return h if scale is None else h * scale


@pytest.mark.parametrize("name", ["pixart_alpha", "hunyuan_dit", "qwen_image", "original_pixart"])
def test_masks_of_the_same_shape_are_not_baked_in(name):
    given = inputs(name, build(name))[0]
    masks = [key for key, x in given.items() if "mask" in key and isinstance(x, torch.Tensor)]
    assert masks, "this model takes a mask"

    def outputs(engine):
        model = skipcache.accelerate(build(name), interval=2, engine=engine)

        def masked(keep):
            def call(**kwargs):
                for key in masks:
                    kwargs[key] = kwargs[key].clone()
                    kwargs[key].view(len(kwargs[key]), -1)[:, keep:] = 0
                return model(**kwargs)

            return call

        return [sample(name, model, steps=4, call=masked(keep)) for keep in (6, 2)], model

    (long, short), model = outputs("fx")
    assert len(programs(model)) == 1
    assert not equal(long, short)
    for ours, theirs in zip((long, short), outputs("hooks")[0]):
        assert equal(ours, theirs)


def test_masks_in_a_forward_of_one_s_own():
    masks = [torch.ones(2, 16), (torch.arange(16) < 5).float().expand(2, -1).contiguous()]
    model, hooked = (skipcache.accelerate(tiny(Masks), interval=3, engine=e) for e in ("fx", "hooks"))
    outputs = [run(model, mask=mask) for mask in masks]
    assert len(programs(model)) == 1 and not equal(*outputs)
    assert equal(outputs[0], run(hooked, mask=masks[0])) and equal(outputs[1], run(hooked, mask=masks[1]))


def test_a_change_of_shape_never_runs_another_signature_s_program():
    for name in ("cogvideox", "wan"):
        model, hooked = (skipcache.accelerate(build(name), interval=3, engine=e) for e in ("fx", "hooks"))
        kwargs, x_name, _ = inputs(name, model)
        sizes = [kwargs[x_name].shape[-1], kwargs[x_name].shape[-1] // 2]

        def resized(one, size, x_name=x_name, sizes=sizes):
            def call(**given):
                given[x_name] = given[x_name][..., :size, :size].contiguous()
                output = first(one(**given))
                assert output.shape[-1] == size
                return torch.nn.functional.pad(output, (0, sizes[0] - size, 0, sizes[0] - size))

            return call

        for size in (*sizes, *sizes):
            outputs = [sample(name, one, call=resized(one, size)) for one in (model, hooked)]
            assert equal(*outputs)
        assert len(programs(model)) == 2


def test_dtype_batch_and_size_have_programs_of_their_own():
    model, hooked = (skipcache.accelerate(tiny(), interval=3, engine=e) for e in ("fx", "hooks"))
    for side in (4, 6, 4, 2, 6):
        assert equal(run(model, side=side), run(hooked, side=side))
    assert len(programs(model)) == 3


class Scales(Tiny):
    def before(self, h, x, t, scale):
        return h * scale


@pytest.mark.filterwarnings("ignore:skipcache caches nothing. a call had no features:UserWarning")
def test_a_python_value_that_changes_at_every_step_makes_fx_give_up(monkeypatch):
    monkeypatch.setattr(order, "WORTH", 0)

    def scale(i):
        return 1.0 + i / 10

    steps = MAX_FRUITLESS + 5
    plain = run(tiny(Scales), steps=steps, scale=scale)
    model = skipcache.accelerate(tiny(Scales), interval=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert equal(run(model, steps=steps, scale=scale), plain), "no signature came twice: full steps"
        engine = fx_engine(model)
        assert len(programs(model)) <= MAX_FRUITLESS
        for round in range(3):
            run(model, steps=20, scale=lambda i, round=round: 100.0 * (round + 1) + i)
    assert any("differ in more than their tensors" in r for r in skipcache.report(model).reasons)
    assert len(engine._programs) <= MAX_PROGRAMS and len(programs(model)) <= MAX_FRUITLESS
    with pytest.raises(RuntimeError, match="differ in more than their tensors"):
        run(skipcache.accelerate(tiny(Scales), interval=3, engine="fx"), steps=steps, scale=scale)


def test_a_python_value_that_stays_is_part_of_the_signature():
    model, hooked = (skipcache.accelerate(tiny(Scales), interval=3, engine=e) for e in ("fx", "hooks"))
    for scale in (1.0, 2.0, 1.0, 1, True):
        assert equal(run(model, scale=scale), run(hooked, scale=scale))


def test_a_timestep_that_is_a_python_number_is_not_baked_in(monkeypatch):
    monkeypatch.setattr(order, "WORTH", 0)
    with pytest.raises(RuntimeError, match="Python number"):
        run(skipcache.accelerate(tiny(), interval=3, engine="fx"), number=True)
    model, hooked = (skipcache.accelerate(tiny(), interval=3, engine=e) for e in ("auto", "hooks"))
    assert equal(run(model, number=True), run(hooked, number=True))
    assert skipcache.report(model).engine == "hooks" and skipcache.report(model).cached_steps == 4
    assert equal(run(model), run(hooked))
    assert skipcache.report(model).engine == "hooks and fx"


@pytest.mark.parametrize("name", ["cogvideox", "wan", "dit", "latte"])
def test_a_program_is_never_run_on_another_batch(name):
    model = skipcache.accelerate(build(name), interval=2, engine="fx")
    kwargs, _, t = inputs(name, model)
    single = {k: v[:1] if isinstance(v, torch.Tensor) and len(v) == 2 else v for k, v in kwargs.items()}
    with torch.no_grad():
        for call, batch in ((kwargs, 2), (single, 1), (kwargs, 2)):
            for step in (900, 800):
                assert len(model(**call, **{t: torch.full((batch,), step)})[0]) == batch
    assert len(programs(model)) == 2

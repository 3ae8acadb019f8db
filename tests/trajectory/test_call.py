"""What a call shows: its structure, the memory of its arguments, and whether that was written to."""

import pytest
import torch

from skipcache import Interval
from skipcache.trajectory.call import CallReader
from tests.models.calls import NAMES, Denoiser, tensor


@pytest.mark.parametrize(
    "x",
    [tensor(3, 4), tensor(2, 5), tensor(2, 4, 1), tensor(2, 4, dtype=torch.float64), [tensor(), tensor()]],
    ids=["batch", "size", "rank", "dtype", "number"],
)
def test_a_sample_of_another_kind_starts_a_trajectory(x):
    model, text = Denoiser(), tensor()
    model.run([900, 800], text)
    assert model(700, text, x=x) == (0, True, 0)
    assert model(600, text, x=x)[0] in (0, 1)


def test_a_list_of_samples_is_told_by_all_of_them():
    model, text, x, y = Denoiser(), tensor(), tensor(), tensor()
    assert model(900, text, x=[x, y]) == (0, True, 0)
    assert model(800, text, x=[x * 0.9, y * 0.8]) == (1, False, 0)
    assert model(700, text, x=[tensor(), tensor(2, 6)]) == (0, True, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"text": tensor(2, 9)},
        {"text": tensor(dtype=torch.float64)},
        {"text": None},
        {"text": [tensor()]},
        {"text": tensor(), "extra": 1},
    ],
    ids=["shape", "dtype", "none", "nesting", "more"],
)
def test_arguments_of_another_structure_at_a_new_timestep_start_a_trajectory(changed):
    model, text = Denoiser(), tensor()
    model.run([900, 800], text=text)
    assert model(700, **changed) == (0, True, 0)


def test_a_timestep_of_another_shape_starts_a_trajectory():
    model, text = Denoiser(), tensor()
    model.run([torch.tensor(900), torch.tensor(800)], text)
    assert model(torch.tensor([700, 700]), text) == (0, True, 0)


def test_a_call_without_sample_or_timestep_is_none():
    assert CallReader(NAMES, "hidden_states", "timestep").read((tensor(),), {}) is None
    assert CallReader(NAMES, "hidden_states", "timestep").read((None, 900), {}) is None
    assert CallReader(NAMES, "hidden_states", "timestep").read(([], 900), {}) is None
    assert CallReader(NAMES, "hidden_states", "timestep").read((tensor(), None), {}) is None


def test_arguments_by_name_and_by_place_are_the_same():
    model, text = Denoiser(), tensor()
    model(900, text)
    assert model(800, text=text) == (1, False, 0)


@pytest.mark.parametrize("lanes", [1, 2])
def test_conditioning_that_is_rewritten_in_place(lanes):
    """One buffer for all calls: what it held before is lost, so that nothing tells a lane."""
    model, buffer = Denoiser(Interval(5)), tensor()
    for step, t in enumerate(range(900, 100, -100)):
        x = model.goes_on()
        assert all(model(t, buffer.normal_(), x=x)[:2] == (step, True) for _ in range(lanes))


@pytest.mark.parametrize("copies", [False, True], ids=["one sample", "copies"])
def test_conditioning_that_is_rewritten_in_place_under_inference_mode(copies):
    """Inference tensors count no writes, so that their values tell whose turn it is."""
    with torch.inference_mode():
        model, buffer, texts = Denoiser(), tensor(), (tensor(), tensor())
        for step, t in enumerate([900, 800, 700, 600, 500]):
            x = model.goes_on()
            for lane, text in enumerate(texts):
                found = model(t, buffer.copy_(text), x=x.clone() if copies else x)
                assert found == (step, step % 3 == 0, lane)


def test_what_a_buffer_holds_now_is_not_what_it_held_at_the_call():
    with torch.inference_mode():
        model, buffer = Denoiser(Interval(9)), tensor()
        model(900, buffer), model(800, buffer)
        assert model(700, buffer.normal_().clone())[:2] == (2, True)


def test_inference_tensors_of_equal_values_are_the_same_conditioning():
    with torch.inference_mode():
        text, model = tensor(), Denoiser()
        for step, t in enumerate([900, 800, 700]):
            x = model.goes_on()
            assert model(t, text.clone(), x=x) == (step, step == 0, 0)
            assert model(t, text.clone(), x=x) is None


def test_a_sample_that_was_written_to_in_place_under_inference_mode_is_another_one():
    with torch.inference_mode():
        model, text, x = Denoiser(Interval(9)), tensor(), tensor()
        model(900, text, x=x), model(800, text, x=x.mul_(0.9))
        assert model(800, text, x=x.mul_(0.9)) == (2, True, 0)


def test_stable_conditioning_that_is_rewritten_once_is_full():
    model, text = Denoiser(Interval(9)), tensor()
    model.run([900, 800, 700], text)
    text.normal_()
    assert model(600, text)[:2] == (3, True)
    assert model(500, text)[:2] == (4, False)


def test_a_sample_that_was_written_to_in_place_is_another_one():
    model, text, x = Denoiser(Interval(9)), tensor(), tensor()
    model(900, text, x=x), model(800, text, x=x.mul_(0.9))
    assert model(800, text, x=x.mul_(0.9)) == (2, True, 0)
    assert model(700, text, x=x.mul_(0.9)) == (3, False, 0)

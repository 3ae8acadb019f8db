"""Which lane a call takes, by its conditioning, by its context's name, or by the order of calls."""

import random

import pytest

from skipcache import Interval
from skipcache.trajectory.lanes import MAX_LANES
from tests.models.calls import Denoiser, Near, tensor
from tests.models.defaults import DEFAULT_PREDICTORS


@pytest.mark.parametrize("copies", [False, True], ids=["one sample", "copies"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["conditional first", "unconditional first"])
def test_lanes_are_told_by_conditioning_whatever_the_sample(copies, order):
    model, texts = Denoiser(), (tensor(), tensor())
    for step, t in enumerate([900, 800, 700, 600, 500]):
        x = model.goes_on()
        for lane, which in enumerate(order):
            found = model(t, texts[which], x=x.clone() if copies else x)
            assert found == (step, step % 3 == 0, lane)


def test_the_order_of_lanes_may_change_from_step_to_step():
    model, a, b = Denoiser(Interval(4)), tensor(), tensor()
    assert [model(900, a)[2], model(900, b)[2]] == [0, 1]
    assert [model(800, b), model(800, a)] == [(1, False, 1), (1, False, 0)]
    assert [model(700, a), model(700, b)] == [(2, False, 0), (2, False, 1)]


def test_views_of_one_tensor_are_different_lanes():
    model, both = Denoiser(), tensor(4, 4)
    for step, t in enumerate([900, 800]):
        assert [model(t, both[:2]), model(t, both[2:])] == [(step, step == 0, 0), (step, step == 0, 1)]


def test_plain_values_are_conditioning():
    model, text = Denoiser(), tensor()
    for step, t in enumerate([900, 800, 700]):
        x = model.goes_on()
        assert model(t, text, x=x, scale=1.0) == (step, step == 0, 0)
        assert model(t, text, x=x, scale=7.5) == (step, step == 0, 1)


def test_another_sample_that_goes_on_from_one_of_the_step_opens_the_next_one():
    """A second evaluation of the step at its time, told other values: no lane of it."""
    model, text = Denoiser(), tensor()
    assert model(900, text, x=model.goes_on(), scale=1.0) == (0, True, 0)
    assert model(900, text, x=model.goes_on(), scale=7.5) == (1, True, 1)


@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_guidance_that_starts_half_way(start):
    """The new lane is full at its first step; the other goes on as if nothing had come."""
    model, negative, positive = Denoiser(Interval(3)), tensor(), tensor()
    for step, t in enumerate(range(900, 100, -100)):
        if step >= start:
            assert model(t, negative) == (step, step % 3 == 0 or step == start, 1)
        assert model(t, positive) == (step, step % 3 == 0, 0)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [0, 1], ids=["negative first", "positive first"])
def test_guidance_that_stops_half_way(stop, first):
    model, negative, positive = Denoiser(Interval(3)), tensor(), tensor()
    for step, t in enumerate(range(900, 100, -100)):
        calls = [positive, negative] if first else [negative, positive]
        for lane, text in enumerate(calls):
            if step < stop or text is positive:
                assert model(t, text) == (step, step % 3 == 0, lane)
    assert len(model.trajectory.tensors) == 1


def test_guidance_that_stops_and_starts_again():
    model, negative, positive = Denoiser(Interval(3)), tensor(), tensor()
    guided = [True, True, False, False, True, True, True]
    found = []
    for t, on in zip(range(900, 100, -100), guided):
        if on:
            found.append(model(t, negative))
        model(t, positive)
    assert [(step, full) for step, full, _ in found] == [(0, True), (1, False), (4, True), (5, False), (6, True)]


def test_a_lane_that_was_not_called_at_the_last_full_step_is_full_and_keeps_nothing():
    model, a, b = Denoiser(Interval(2)), tensor(), tensor()
    model(900, a), model(900, b)
    assert len(model.trajectory.tensors) == 2
    model(800, a), model(800, b)
    model(700, a)
    model(600, a)
    assert len(model.trajectory.tensors) == 1
    assert model(600, b) == (3, True, 1)
    assert model(500, b) == (4, True, 1)
    assert model(400, b) == (5, False, 1)


def test_lanes_of_different_length():
    model, short, long = Denoiser(), tensor(2, 3, 4), tensor(2, 7, 4)
    for step, t in enumerate([900, 800, 700, 600, 500]):
        assert model(t, short) == (step, step % 3 == 0, 0)
        assert model(t, long) == (step, step % 3 == 0, 1)


def test_a_missing_argument_is_a_lane_of_its_own():
    model, text = Denoiser(), tensor()
    for step, t in enumerate([900, 800, 700, 600]):
        assert model(t, text) == (step, step % 3 == 0, 0)
        assert model(t, None) == (step, step % 3 == 0, 1)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_conditioning_that_is_rebuilt_with_equal_values(lanes):
    model, texts = Denoiser(), [tensor() for _ in range(3)]
    for step, t in enumerate([900, 800, 700, 600, 500]):
        for lane in range(lanes):
            assert model(t, texts[lane].clone(), tensor(2, 2) * 0) == (step, step % 3 == 0, lane)


def test_equal_values_in_different_tensors_are_no_other_lane():
    model, text = Denoiser(), tensor()
    one, other = text.clone(), text.clone()
    for step, t in enumerate([900, 800, 700]):
        x = model.goes_on()
        assert model(t, one, x=x) == (step, step == 0, 0)
        assert model(t, other, x=x) is None, "the second call repeats the first"


def test_texts_in_turns_share_nothing():
    """Three texts in turns, or another one on each step: nothing is taken from one for another."""
    model, texts, owner = Denoiser(Interval(9)), [tensor() for _ in range(3)], {}
    for i, t in enumerate(range(900, 0, -50)):
        full = model(t, texts[i % 3].clone(), 1.0)[1]
        if full:
            owner[model.lane] = i % 3
        assert owner[model.lane] == i % 3
    model = Denoiser(Interval(9))
    assert all(model(t, tensor(), 1.0)[1] for t in range(900, 0, -100))


def test_another_state_of_the_model_is_another_lane():
    model, text = Denoiser(Interval(4)), tensor()
    for step, t in enumerate(range(900, 100, -100)):
        x = model.goes_on()
        states = ("plain", "perturbed") if step > 2 else ("plain",)
        found = [model(t, text, x=x, state=state) for state in states]
        assert found[0] == (step, step % 4 == 0, 0)
        assert found[1:] in ([], [None]), "the second pass repeats the first, and runs plain"


def test_a_state_that_comes_first_takes_no_features_of_another():
    model, text = Denoiser(Interval(9)), tensor()
    for t in (900, 800, 700):
        model(t, text, state="plain")
    assert model(600, text, state="perturbed")[:2] == (3, True)
    assert model(500, text, state="perturbed")[:2] == (4, False)


def test_values_that_never_stay_beside_stable_ones():
    """A ControlNet's residuals: full until they are found out at the second step they miss, then the text decides."""
    model, texts, near = Denoiser(Interval(5)), (tensor(), tensor()), Near()
    seen = []
    for step, t in enumerate(range(900, 100, -100)):
        order = (0, 1) if step % 2 == 0 else (1, 0)
        found = {which: model(t, texts[which], (near(), near())) for which in order}
        for which in order:
            assert found[which][:2] == (step, step % 5 == 0 or step == 1)
        seen.append((found[0][2], found[1][2]))
    assert len(set(seen[1:])) == 1 and seen[1][0] != seen[1][1]
    assert len(model.trajectory.lanes.all) == 2


def test_stable_text_is_never_mistaken_where_residuals_never_stay():
    model, a, b, c, near = Denoiser(Interval(8)), tensor(), tensor(), tensor(), Near()
    for t in (900, 800, 700):
        model(t, a, near())
    assert model(600, a, near())[1] is False
    new = model(600, b, near())
    assert new[:2] == (3, True)
    assert model(500, c, near())[:2] == (4, True)
    assert model(500, a, near())[1] is False


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_where_all_conditioning_moves_a_little_the_order_of_calls_decides(lanes):
    model, near = Denoiser(Interval(5)), Near()
    places = []
    for step, t in enumerate(range(900, 100, -100)):
        found = [model(t, near()) for _ in range(lanes)]
        assert [f[:2] for f in found] == [(step, step % 5 == 0 or step == 1)] * lanes
        places.append([f[2] for f in found])
    assert all(p == places[1] for p in places[2:])
    assert len(set(places[1])) == lanes
    assert len(model.trajectory.lanes.all) == lanes


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 3), (2, 3)])
def test_where_the_order_is_all_there_is_and_calls_are_added(before, after):
    """That the first calls are the old lanes cannot be known, so at the next step they are full; then order decides."""
    model, near = Denoiser(Interval(20)), Near()
    for t in (900, 800, 700, 600):
        [model(t, near()) for _ in range(before)]
    assert [model(500, near())[1] for _ in range(after)] == [False] * before + [True] * (after - before)
    assert [model(400, near())[1] for _ in range(after)] == [True] * before + [False] * (after - before)
    for t in (300, 200, 100):
        found = [model(t, near()) for _ in range(after)]
        assert not any(full for _, full, _ in found)
        assert len({lane for *_, lane in found}) == after


@pytest.mark.parametrize(("before", "after"), [(2, 1), (3, 1), (3, 2)])
def test_where_the_order_is_all_there_is_and_calls_are_dropped(before, after):
    """Seen at the step after: that one is full for all, and then the order decides again."""
    model, near = Denoiser(Interval(20)), Near()
    for t in (900, 800, 700, 600, 500):
        [model(t, near()) for _ in range(before if t > 500 else after)]
    assert [model(400, near())[1] for _ in range(after)] == [True] * after
    for t in (300, 200, 100):
        assert [model(t, near())[1] for _ in range(after)] == [False] * after
    assert len(model.trajectory.lanes.all) == after


def test_at_most_eight_lanes():
    model, texts = Denoiser(Interval(5)), [tensor() for _ in range(MAX_LANES + 3)]
    for step, t in enumerate([900, 800, 700]):
        for text in texts:
            assert model(t, text)[:2] == (step, True)
            assert len(model.trajectory.lanes.all) <= MAX_LANES
    assert len(model.trajectory.tensors) <= MAX_LANES


@pytest.mark.parametrize("rebuilt", [False, True])
@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_no_call_is_given_the_features_of_another_text(seed, residuals, rebuilt):
    """Calls come and go in any order, once all were seen to stay: what is reused was recorded by the same text."""
    draw, texts, near = random.Random(seed), [tensor() for _ in range(11)], Near()
    some = draw.sample(range(11), draw.choice([1, 2, 3, 9, 11]))
    model, last, cached = Denoiser(Interval(9)), {}, 0
    for t in range(900, 0, -50):
        for which in some if t > 800 else draw.sample(some, draw.randint(1, len(some))):
            text = texts[which].clone() if rebuilt else texts[which]
            full = model(t, text, near() if residuals else None)[1]
            if full:
                last[model.lane] = which
            assert last[model.lane] == which
            cached += not full
    assert cached or len(some) > MAX_LANES


def test_eight_lanes_are_served():
    model, texts = Denoiser(Interval(3)), [tensor() for _ in range(MAX_LANES)]
    for step, t in enumerate([900, 800, 700, 600]):
        for lane, text in enumerate(texts):
            assert model(t, text) == (step, step % 3 == 0, lane)


def test_a_context_names_the_lane():
    model, text = Denoiser(), tensor()
    for step, t in enumerate([900, 800, 700, 600]):
        x = model.goes_on()
        assert model(t, text, x=x, context="cond") == (step, step % 3 == 0, 0)
        assert model(t, text, x=x, context="uncond") == (step, step % 3 == 0, 1)


def test_a_context_names_the_lane_where_conditioning_never_stays():
    model, near = Denoiser(Interval(4)), Near()
    for step, t in enumerate([900, 800, 700, 600, 500]):
        names = ("cond", "uncond") if step % 2 == 0 else ("uncond", "cond")
        for name in names:
            found = model(t, near(), context=name)
            assert step in (1, 2) or found[:2] == (step, step % 4 == 0), "full until it is known that it never stays"


def test_a_context_does_not_hide_stable_conditioning_that_changes():
    model, a, b = Denoiser(Interval(9)), tensor(), tensor()
    for t in (900, 800, 700):
        model(t, a, context="cond")
    assert model(600, b, context="cond")[:2] == (3, True)


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS)
def test_no_more_is_kept_than_the_predictor_says(predictor):
    model, a, b = Denoiser(Interval(2), predictor), tensor(), tensor()
    for _ in range(2):
        for t in range(900, 100, -100):
            model(t, a), model(t, b)
            assert len(model.trajectory.tensors) == 2 * predictor.depth

"""The recogniser alone: calls made by hand go in, (step, full, lane) come out."""

import contextlib
import random

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    PNDMScheduler,
    RePaintScheduler,
)

from skipcache import Delta, Forecast, Hold, Interval, Schedule
from skipcache.trajectory.call import CallReader
from skipcache.trajectory.lanes import MAX_LANES
from skipcache.trajectory.trajectory import Trajectory

NAMES = ("hidden_states", "timestep", "text", "residuals")


def tensor(*shape, dtype=torch.float32):
    return torch.randn(shape or (2, 4), dtype=dtype)


class Denoiser:
    """Stands for a model: makes the call, and records random features where the visit is full."""

    def __init__(self, policy=None, predictor=None, schedulers=(), **settings):
        self.trajectory = Trajectory(policy or Interval(3), predictor or Delta(), **settings)
        self.schedulers = list(schedulers)
        self._lanes, self._known = None, []

    def __call__(self, t, *conditioning, x=None, context=None, **kwargs):
        x = tensor() if x is None else x
        call = CallReader(NAMES, "hidden_states", "timestep").read((x, t, *conditioning), kwargs, context)
        visit = self.trajectory.visit(call, self.schedulers)
        self.lane = visit.lane
        assert visit.full or visit.lane.cache.kept, "a cached step without a feature"
        if visit.full:
            self.trajectory.record(visit, (tensor(),), (tensor(),))
        if self._lanes is not self.trajectory.lanes:
            self._lanes, self._known = self.trajectory.lanes, []
        if not any(visit.lane is lane for lane in self._known):
            self._known.append(visit.lane)
        return visit.step, visit.full, [visit.lane is lane for lane in self._known].index(True)

    def run(self, timesteps, *conditioning, **kwargs):
        """(step, full) of one call per timestep."""
        return [self(t, *conditioning, **kwargs)[:2] for t in timesteps]


def every(interval, steps):
    return [(i, i % interval == 0) for i in range(steps)]


def indices(found):
    return [step for step, *_ in found]


def full_at(found):
    return [step for step, full, *_ in found if full]


# Direction -----------------------------------------------------------------------------------------------------------


def test_a_falling_run():
    model, text = Denoiser(), tensor()
    assert model.run([900, 800, 700, 600, 500], text) == every(3, 5)


def test_a_rising_run_is_full_at_its_second_step_until_rising_is_known():
    model, text = Denoiser(), tensor()
    assert model.run([0.0, 0.2, 0.4, 0.6, 0.8], text) == [(0, True), (1, True), (2, False), (3, True), (4, False)]
    assert model.run([0.0, 0.2, 0.4, 0.6, 0.8], text) == every(3, 5)


def test_direction_is_learned_anew_in_each_trajectory():
    model, text = Denoiser(), tensor()
    for _ in range(2):
        assert model.run([800, 700, 600, 500], text) == every(3, 4)
        assert model.run([600, 700, 800, 900], text) == [(0, True), (1, True), (2, False), (3, True)]


def test_a_run_after_one_that_stopped_at_its_first_step_shares_nothing_with_it():
    model, text = Denoiser(), tensor()
    model.run([500], text)
    found = model.run([900, 800, 700, 600], text)
    assert [full for _, full in found[:2]] == [True, True]
    assert found[1:] == every(3, 3)


@pytest.mark.parametrize(("timesteps", "back"), [([900, 800, 700], 800), ([0.1, 0.2, 0.3], 0.2)])
def test_a_value_against_the_direction_starts_a_trajectory(timesteps, back):
    model, text = Denoiser(), tensor()
    model.run(timesteps, text)
    assert model(back, text) == (0, True, 0)
    assert len(model.trajectory.tensors) == 1


def test_a_repeated_value_does_not_unlearn_the_direction():
    model, text = Denoiser(), tensor()
    model.run([900, 800, 700, 700], text)
    assert model(750, text) == (0, True, 0)


def test_strides_need_not_be_even():
    model, text = Denoiser(Interval(4)), tensor()
    assert model.run([999.0, 998.0, 500.0, 499.5, 3.0, 0.0], text) == every(4, 6)


# Samples and structure -----------------------------------------------------------------------------------------------


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
    model, text = Denoiser(), tensor()
    assert model(900, text, x=[tensor(), tensor()]) == (0, True, 0)
    assert model(800, text, x=[tensor(), tensor()]) == (1, False, 0)
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


def test_drop_forgets_the_run():
    model, text = Denoiser(), tensor()
    model.run([900, 800], text)
    model.trajectory.drop()
    assert model.trajectory.tensors == []
    assert model.run([700, 600], text) == every(3, 2)


# Lanes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [False, True], ids=["one sample", "copies"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["conditional first", "unconditional first"])
def test_lanes_are_told_by_conditioning_whatever_the_sample(copies, order):
    model, texts = Denoiser(), (tensor(), tensor())
    for step, t in enumerate([900, 800, 700, 600, 500]):
        x = tensor()
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
        assert model(t, text, scale=1.0) == (step, step == 0, 0)
        assert model(t, text, scale=7.5) == (step, step == 0, 1)


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


def test_lanes_with_equal_values_in_different_tensors_are_two():
    model, text = Denoiser(), tensor()
    one, other = text.clone(), text.clone()
    for step, t in enumerate([900, 800, 700]):
        assert [model(t, one), model(t, other)] == [(step, step == 0, 0), (step, step == 0, 1)]


def test_values_that_never_stay_beside_stable_ones():
    """A ControlNet's residuals: full until they are found out at the second step they miss, then the text decides."""
    model, texts = Denoiser(Interval(5)), (tensor(), tensor())
    seen = []
    for step, t in enumerate(range(900, 100, -100)):
        order = (0, 1) if step % 2 == 0 else (1, 0)
        found = {which: model(t, texts[which], (tensor(), tensor(2, 2))) for which in order}
        for which in order:
            assert found[which][:2] == (step, step % 5 == 0 or step == 1)
        seen.append((found[0][2], found[1][2]))
    assert len(set(seen[1:])) == 1 and seen[1][0] != seen[1][1]
    assert len(model.trajectory.lanes.all) == 2


def test_stable_text_is_never_mistaken_where_residuals_never_stay():
    model, a, b, c = Denoiser(Interval(8)), tensor(), tensor(), tensor()
    for t in (900, 800, 700):
        model(t, a, tensor())
    assert model(600, a, tensor())[1] is False
    new = model(600, b, tensor())
    assert new[:2] == (3, True)
    assert model(500, c, tensor())[:2] == (4, True)
    assert model(500, a, tensor())[1] is False


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_where_all_conditioning_differs_each_time_the_order_of_calls_decides(lanes):
    model = Denoiser(Interval(5))
    places = []
    for step, t in enumerate(range(900, 100, -100)):
        found = [model(t, tensor()) for _ in range(lanes)]
        assert [f[:2] for f in found] == [(step, step % 5 == 0 or step == 1)] * lanes
        places.append([f[2] for f in found])
    assert all(p == places[1] for p in places[2:])
    assert len(set(places[1])) == lanes
    assert len(model.trajectory.lanes.all) == lanes


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 3), (2, 3)])
def test_where_the_order_is_all_there_is_and_calls_are_added(before, after):
    """That the first calls are the old lanes cannot be known, so at the next step they are full; then order decides."""
    model = Denoiser(Interval(20))
    for t in (900, 800, 700, 600):
        [model(t, tensor()) for _ in range(before)]
    assert [model(500, tensor())[1] for _ in range(after)] == [False] * before + [True] * (after - before)
    assert [model(400, tensor())[1] for _ in range(after)] == [True] * before + [False] * (after - before)
    for t in (300, 200, 100):
        found = [model(t, tensor()) for _ in range(after)]
        assert not any(full for _, full, _ in found)
        assert len({lane for *_, lane in found}) == after


@pytest.mark.parametrize(("before", "after"), [(2, 1), (3, 1), (3, 2)])
def test_where_the_order_is_all_there_is_and_calls_are_dropped(before, after):
    """Seen at the step after: that one is full for all, and then the order decides again."""
    model = Denoiser(Interval(20))
    for t in (900, 800, 700, 600, 500):
        [model(t, tensor()) for _ in range(before if t > 500 else after)]
    assert [model(400, tensor())[1] for _ in range(after)] == [True] * after
    for t in (300, 200, 100):
        assert [model(t, tensor())[1] for _ in range(after)] == [False] * after
    assert len(model.trajectory.lanes.all) == after


@pytest.mark.parametrize("lanes", [1, 2])
def test_conditioning_that_is_rewritten_in_place(lanes):
    """One buffer for all calls: its memory tells nothing; the order of calls does from the third step on."""
    model, buffer = Denoiser(Interval(5)), tensor()
    for step, t in enumerate(range(900, 100, -100)):
        found = [model(t, buffer.normal_()) for _ in range(lanes)]
        assert [f[:2] for f in found] == [(step, step % 5 == 0 or step == 1)] * lanes
        assert len({f[2] for f in found}) == lanes


@pytest.mark.parametrize("copies", [False, True], ids=["one sample", "copies"])
def test_conditioning_that_is_rewritten_in_place_under_inference_mode(copies):
    """Inference tensors count no writes, so that their values tell whose turn it is."""
    with torch.inference_mode():
        model, buffer, texts = Denoiser(), tensor(), (tensor(), tensor())
        for step, t in enumerate([900, 800, 700, 600, 500]):
            x = tensor()
            for lane, text in enumerate(texts):
                found = model(t, buffer.copy_(text), x=x.clone() if copies else x)
                assert found == (step, step % 3 == 0, lane)


def test_what_a_buffer_holds_now_is_not_what_it_held_at_the_call():
    with torch.inference_mode():
        model, buffer = Denoiser(Interval(9)), tensor()
        model(900, buffer), model(800, buffer)
        assert model(700, buffer.normal_().clone())[:2] == (2, True)


def test_inference_tensors_with_equal_values_are_two_lanes():
    with torch.inference_mode():
        text = tensor()
        one, other, model = text.clone(), text.clone(), Denoiser()
        for step, t in enumerate([900, 800, 700]):
            assert [model(t, one), model(t, other)] == [(step, step == 0, 0), (step, step == 0, 1)]


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
    draw, texts = random.Random(seed), [tensor() for _ in range(11)]
    some = draw.sample(range(11), draw.choice([1, 2, 3, 9, 11]))
    model, last, cached = Denoiser(Interval(9)), {}, 0
    for t in range(900, 0, -50):
        for which in some if t > 800 else draw.sample(some, draw.randint(1, len(some))):
            text = texts[which].clone() if rebuilt else texts[which]
            full = model(t, text, tensor() if residuals else None)[1]
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
        x = tensor()
        assert model(t, text, x=x, context="cond") == (step, step % 3 == 0, 0)
        assert model(t, text, x=x, context="uncond") == (step, step % 3 == 0, 1)


def test_a_context_names_the_lane_where_conditioning_never_stays():
    model = Denoiser(Interval(4))
    for step, t in enumerate([900, 800, 700, 600, 500]):
        names = ("cond", "uncond") if step % 2 == 0 else ("uncond", "cond")
        for name in names:
            found = model(t, tensor(), context=name)
            assert found == (step, step % 4 == 0, ("cond", "uncond").index(name))


def test_a_context_does_not_hide_stable_conditioning_that_changes():
    model, a, b = Denoiser(Interval(9)), tensor(), tensor()
    for t in (900, 800, 700):
        model(t, a, context="cond")
    assert model(600, b, context="cond")[:2] == (3, True)


@pytest.mark.parametrize("predictor", [Hold(), Delta(), Forecast(1), Forecast(2)])
def test_no_more_is_kept_than_the_predictor_says(predictor):
    model, a, b = Denoiser(Interval(2), predictor), tensor(), tensor()
    for _ in range(2):
        for t in range(900, 100, -100):
            model(t, a), model(t, b)
            assert len(model.trajectory.tensors) == 2 * predictor.depth


# The same timestep again ---------------------------------------------------------------------------------------------


def test_another_sample_at_the_first_timestep_starts_a_trajectory():
    model, text = Denoiser(), tensor()
    assert model.run([999] * 5, text) == [(0, True)] * 5
    assert model.run([900, 800, 700], text)[1:] == [(2, False), (3, True)]


def test_another_sample_at_the_first_timestep_starts_a_trajectory_with_two_lanes():
    model, a, b = Denoiser(), tensor(), tensor()
    for _ in range(3):
        x = tensor()
        assert [model(999, a, x=x), model(999, b, x=x)] == [(0, True, 0), (0, True, 1)]


def test_another_sample_later_is_a_full_step_that_does_not_shift_the_count():
    """Heun without a scheduler."""
    model, text = Denoiser(Interval(5)), tensor()
    found = model.run([900, 800, 800, 700, 700, 600, 600, 500, 500, 400, 400], text)
    assert indices(found) == list(range(11))
    assert full_at(found) == [0, 2, 4, 5, 6, 8, 10]


def test_two_lanes_at_a_timestep_that_repeats():
    model, a, b = Denoiser(Interval(9)), tensor(), tensor()
    found = [[model(t, a), model(t, b)] for t in (900, 800, 800, 700)]
    assert found == [[(step, step in (0, 2), 0), (step, step in (0, 2), 1)] for step in range(4)]


@pytest.mark.parametrize("after", [[], [900], [900, 800, 700]])
@pytest.mark.parametrize("lanes", [1, 2])
def test_nothing_grows_in_a_timing_loop(after, lanes):
    model, x, texts = Denoiser(predictor=Forecast(2)), tensor(), [tensor() for _ in range(lanes)]
    for t in after:
        for text in texts:
            model(t, text)
    sizes = set()
    for i in range(20):
        found = [model(600, text, x=x) for text in texts]
        if i > 1:
            assert found == [(0, True, lane) for lane in range(lanes)]
            sizes.add((len(model.trajectory.lanes.all), len(model.trajectory.tensors)))
    assert sizes == {(lanes, 3 * lanes)}


@pytest.mark.parametrize("way", ["plain", "views", "vectors", "floats"])
@pytest.mark.parametrize("tiles", [2, 3])
@pytest.mark.parametrize("lanes", [1, 2])
def test_samples_in_turns_share_nothing(way, tiles, lanes):
    """Tiles of one image, under one text: which of them a call belongs to cannot be told."""
    scheduler, texts, last = started(DDIMScheduler(), 8), [tensor() for _ in range(lanes)], {}
    model = Denoiser(schedulers=[] if way == "plain" else [scheduler])
    for t in scheduler.timesteps:
        for tile in range(tiles):
            x = tensor()
            for text in texts:
                full = model(t.item() if way == "plain" else WAYS[way](t), text, x=x)[1]
                if full:
                    last[model.lane] = tile
                assert last[model.lane] == tile


def test_a_run_after_a_warm_up_on_its_own_first_sample():
    model, text, x = Denoiser(), tensor(), tensor()
    model(900, text, x=x)
    assert [model(900, text, x=x)[:2], *model.run([800, 700, 600], text)] == every(3, 4)


def test_a_run_after_one_that_was_left_at_its_first_step_is_full_once_more():
    model, text = Denoiser(), tensor()
    model(900, text)
    assert model.run([900, 800, 700, 600, 500], text) == [(0, True), (1, True), (2, False), (3, True), (4, False)]
    assert model.run([900, 800, 700], text) == every(3, 3)


def test_a_sample_that_was_written_to_in_place_is_another_one():
    model, text, x = Denoiser(Interval(9)), tensor(), tensor()
    model(900, text, x=x), model(800, text, x=x.mul_(0.9))
    assert model(800, text, x=x.mul_(0.9)) == (2, True, 0)
    assert model(700, text, x=x.mul_(0.9)) == (3, False, 0)


# Timesteps of all kinds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        float,
        int,
        lambda t: torch.tensor(t),
        lambda t: torch.tensor([t, t]),
        lambda t: torch.tensor(t, dtype=torch.bfloat16),
        lambda t: torch.tensor([float(t)]).expand(2),
    ],
    ids=["float", "int", "scalar", "vector", "bfloat16", "expanded"],
)
def test_timesteps_of_every_type(make):
    model, a, b = Denoiser(), tensor(), tensor()
    for _ in range(2):
        for step, t in enumerate([900, 800, 700, 600]):
            assert [model(make(t), text) for text in (a, b)] == [(step, step % 3 == 0, lane) for lane in (0, 1)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_timestep_that_is_rewritten_in_place(lanes, mode):
    with mode():
        model, texts, buffer = Denoiser(), (tensor(), tensor()), torch.zeros(2)
        for _ in range(2):
            for step, t in enumerate([900, 800, 700, 600, 500]):
                buffer.fill_(t)
                found = [model(buffer, text) for text in texts[:lanes]]
                assert found == [(step, step % 3 == 0, lane) for lane in range(lanes)]


def test_vectors_of_unequal_timesteps_are_compared_whole():
    model, text = Denoiser(Interval(9)), tensor()
    vectors = [[900, 900], [900, 800], [800, 800], [0, 800], [0, 700]]
    assert model.run([torch.tensor(v) for v in vectors], text) == every(9, 5)
    assert model(torch.tensor([0, 900]), text) == (0, True, 0)


def test_two_lanes_at_unequal_timesteps():
    model, a, b = Denoiser(Interval(9)), tensor(), tensor()
    for step, v in enumerate([[900, 400], [800, 300], [700, 200]]):
        assert [model(torch.tensor(v), text) for text in (a, b)] == [(step, step == 0, 0), (step, step == 0, 1)]


def test_batched_guidance_is_one_lane():
    model, texts = Denoiser(), tensor(4, 4)
    found = [model(torch.tensor(t).expand(4), texts, x=torch.cat([tensor()] * 2)) for t in (900, 800, 700, 600)]
    assert found == [(step, full, 0) for step, full in every(3, 4)]


def test_the_window_sees_the_values():
    model, text = Denoiser(Interval(4, start=800, stop=500)), tensor()
    assert full_at(model.run([900, 800, 700, 600, 500, 400, 300], text)) == [0, 1, 4, 5, 6]


@pytest.mark.parametrize("hidden", [False, True], ids=["host", "device"])
def test_the_window_sees_a_timestep_that_is_rewritten_in_place_as_it_was(blind, hidden):
    scheduler, text, buffer = started(DDIMScheduler(), 10), tensor(), torch.zeros(2, dtype=torch.long)
    model = Denoiser(Interval(3, None, 500), schedulers=[scheduler])
    timesteps = scheduler.timesteps.tolist()
    with blind(allowed=True) if hidden else contextlib.nullcontext():
        found = [model(buffer.fill_(t), text) for t in timesteps]
    assert full_at(found) == [0, 3, 5, 6, 7, 8, 9]


def test_a_window_that_does_not_fit_raises_at_the_second_step():
    model, text = Denoiser(Interval(2, start=900, stop=50)), tensor()
    model(0.9, text)
    with pytest.raises(ValueError, match="own units"):
        model(0.8, text)


def test_schedule_counts_from_the_start_of_each_trajectory():
    model, text = Denoiser(Schedule([0, 2])), tensor()
    for _ in range(2):
        assert full_at(model.run([900, 800, 700, 600, 500], text)) == [0, 2, 3, 4]


# Schedulers ----------------------------------------------------------------------------------------------------------


def started(scheduler, *args, **kwargs):
    scheduler.set_timesteps(*args, **kwargs)
    return scheduler


SCHEDULERS = {
    "ddim": lambda: started(DDIMScheduler(), 8),
    "flow": lambda: started(FlowMatchEulerDiscreteScheduler(), 8),
    "heun": lambda: started(HeunDiscreteScheduler(), 6),
    "pndm": lambda: started(PNDMScheduler(), 8),
    "plms": lambda: started(PNDMScheduler(skip_prk_steps=True), 8),
    "kdpm2 ancestral": lambda: started(KDPM2AncestralDiscreteScheduler(use_karras_sigmas=True), 6),
    "repaint": lambda: started(RePaintScheduler(), 20, jump_length=4, jump_n_sample=2),
}
WAYS = {
    "views": lambda t: t,
    "expanded": lambda t: t.expand(2),
    "copies": lambda t: t.clone(),
    "vectors": lambda t: t.repeat(2),
    "floats": lambda t: t.item(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_step_is_the_position_in_the_scheduler(kind, way):
    """Whatever repeats, rises or falls; with two lanes as with one."""
    scheduler, texts = SCHEDULERS[kind](), (tensor(), tensor())
    for lanes in (1, 2):
        model = Denoiser(schedulers=[scheduler])
        for step, t in enumerate(scheduler.timesteps):
            found = [model(WAYS[way](t), text) for text in texts[:lanes]]
            assert found == [(step, step % 3 == 0, lane) for lane in range(lanes)]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_window_fits_a_run_that_falls_on_the_whole(kind):
    scheduler, text = SCHEDULERS[kind](), tensor()
    timesteps = scheduler.timesteps.tolist()
    model = Denoiser(Interval(3, 700, 200), schedulers=[scheduler])
    full = [i for i, t in enumerate(timesteps) if i % 3 == 0 or t >= 700 or (i and timesteps[i - 1] <= 200)]
    assert full_at(model.run(scheduler.timesteps, text)) == full
    with pytest.raises(ValueError, match="fall"):
        Denoiser(Interval(3, 200, 700), schedulers=[scheduler]).run(scheduler.timesteps, text)


def test_schedulers_are_as_irregular_as_the_tests_want():
    """Otherwise the tests above would prove nothing."""
    changes = {kind: make().timesteps.double().diff() for kind, make in SCHEDULERS.items()}
    assert all((changes[kind] == 0).any() for kind in ("heun", "pndm", "plms"))
    assert all((changes[kind] > 0).any() for kind in ("repaint", "kdpm2 ancestral"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_set_timesteps_starts_a_trajectory_wherever_the_last_one_stopped(kind):
    texts, make = tensor(), SCHEDULERS[kind]
    scheduler = make()
    model = Denoiser(schedulers=[scheduler])
    for stop in (1, 2, 4, 5):
        assert model.run(scheduler.timesteps[:stop], texts) == every(3, stop)
        scheduler.set_timesteps(len(scheduler.timesteps))
        assert model(scheduler.timesteps[0], texts) == (0, True, 0)
        scheduler.set_timesteps(len(scheduler.timesteps) + 1)


def test_a_run_again_without_set_timesteps():
    scheduler, text = started(DDIMScheduler(), 6), tensor()
    model = Denoiser(schedulers=[scheduler])
    for way in ("views", "views", "copies", "views"):
        assert model.run(map(WAYS[way], scheduler.timesteps), text) == every(3, 6)


def test_a_run_that_enters_the_schedule_half_way_counts_from_there():
    scheduler, text = started(DDIMScheduler(), 10), tensor()
    model = Denoiser(schedulers=[scheduler])
    for way in ("views", "copies"):
        scheduler.set_timesteps(10)
        assert model.run(map(WAYS[way], scheduler.timesteps[4:]), text) == every(3, 6)


@pytest.mark.parametrize("way", WAYS)
def test_repaint_calls_on_falls_alone_and_steps_go_on(way):
    """Steps without a call are counted where timesteps are views; values that repeat cannot tell of them."""
    scheduler, text = SCHEDULERS["repaint"](), tensor()
    timesteps = scheduler.timesteps
    called = [0] + [i for i in range(1, len(timesteps)) if timesteps[i] < timesteps[i - 1]]
    model = Denoiser(schedulers=[scheduler])
    found = indices([model(WAYS[way](timesteps[i]), text) for i in called])
    assert found == sorted(set(found))
    assert found == called or way not in ("views", "expanded")


def test_a_scheduler_is_replaced_between_runs():
    text, model = tensor(), Denoiser()
    for way in ("copies", "views", "copies"):
        for cls in (DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler):
            scheduler = started(cls(), 5)
            model.schedulers = [scheduler]
            count = len(scheduler.timesteps)
            assert model.run(map(WAYS[way], scheduler.timesteps), text) == every(3, count)


@pytest.mark.parametrize("way", WAYS)
def test_two_schedulers_of_two_pipelines(way):
    text, one, other = tensor(), DDIMScheduler(), HeunDiscreteScheduler()
    model = Denoiser(schedulers=[one, other])
    for stop in (3, 5, 2):
        one.set_timesteps(6)
        assert model.run(map(WAYS[way], one.timesteps[:stop]), text) == every(3, stop)
        other.set_timesteps(4)
        assert model.run(map(WAYS[way], other.timesteps[:stop]), text) == every(3, stop)


def test_two_runs_in_turns_share_nothing_where_timesteps_are_views():
    text, one, other = tensor(), started(DDIMScheduler(), 5), started(DDIMScheduler(), 5)
    model = Denoiser(schedulers=[one, other])
    for a, b in zip(one.timesteps, other.timesteps):
        assert model(a, text)[:2] == (0, True)
        assert model(b, text)[:2] == (0, True)


def test_a_scheduler_that_was_not_started_says_nothing():
    model, text = Denoiser(schedulers=[DDIMScheduler()]), tensor()
    assert model.run([900, 800, 700, 600], text) == every(3, 4)


def test_a_run_from_before_says_nothing_of_a_loop_of_one_s_own():
    scheduler, text = started(DDIMScheduler(), 50), tensor()
    model = Denoiser(schedulers=[scheduler], ignored=(scheduler.timesteps,))
    assert model.run([900, 800, 700, 600], text) == every(3, 4)
    assert model.run(scheduler.timesteps[:4], text) == every(3, 4)


def test_a_thousandth_of_the_timestep():
    """Flux: neither the memory nor the value is the scheduler's; its step_index is."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 5):
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        found = []
        for t in scheduler.timesteps:
            found.append(model(t.expand(2) / 1000, text, x=x)[:2])
            x = scheduler.step(tensor(), t, x).prev_sample
        assert found == every(3, steps)


def test_a_thousandth_that_is_by_chance_a_timestep_costs_a_full_step_at_most():
    """1000 / 1000 is the last timestep of this run: the first call seems to be its last, the second a new beginning."""
    scheduler, text, x = started(FlowMatchEulerDiscreteScheduler(), 7), tensor(), tensor()
    assert scheduler.timesteps[-1] == 1
    model, found = Denoiser(schedulers=[scheduler]), []
    for t in scheduler.timesteps:
        found.append(model(t.expand(2) / 1000, text, x=x)[1])
        x = scheduler.step(tensor(), t, x).prev_sample
    assert found[0] and found.count(True) <= 4
    assert False in found


@pytest.mark.parametrize("time", [lambda t: 1 - t / 1000, lambda t: t.bfloat16() / 1000], ids=["turned", "rounded"])
def test_a_model_s_own_time_on_the_scheduler_s_count(time):
    """Some count time from noise to image, some round it: the count holds as long as both move together."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(shift=3.0), tensor(), tensor()
    model, found = Denoiser(schedulers=[scheduler]), []
    scheduler.set_timesteps(sigmas=[1 - i / 100 for i in range(100)])
    assert (scheduler.timesteps.bfloat16().diff() == 0).any()
    for t in scheduler.timesteps:
        found.append(model(time(t.expand(2)), text, x=x)[:2])
        x = scheduler.step(tensor(), t, x).prev_sample
    assert found == every(3, 100)


@pytest.mark.parametrize("stepped", [True, False], ids=["after a step", "before a step"])
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_a_loop_of_one_s_own_is_not_placed_by_the_count_of_a_scheduler_that_stands_still(stop, stepped):
    """The pipeline's run ended, or was left; its step_index says nothing of another run's timesteps."""
    text, mine = tensor(), FlowMatchEulerDiscreteScheduler()
    scheduler = FlowMatchEulerDiscreteScheduler()
    model = Denoiser(schedulers=[scheduler])

    def run(its, count, stop=None):
        its.set_timesteps(sigmas=[1 - i / count for i in range(count)])
        x, found = tensor(), []
        for i, t in enumerate(its.timesteps):
            found.append(model(t.expand(2) / 1000, text, x=x)[:2])
            if i != stop or stepped:
                x = its.step(tensor(), t, x).prev_sample
            if i == stop:
                break
        return found

    assert run(scheduler, 7, stop) == every(3, stop + 1)
    full = [0, 1, 3] if stop == 0 and not stepped else [0, 3]  # the same timestep again may be samples in turns
    found = run(mine, 5)
    assert indices(found) == [0, 1, 2, 3, 4] and full_at(found) == full
    assert run(scheduler, 7) == every(3, 7)


def test_another_sample_at_one_count_starts_a_trajectory():
    """Schedulers that evaluate a step twice count both."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    scheduler.set_timesteps(sigmas=[1 - i / 7 for i in range(7)])
    for t in scheduler.timesteps[:4]:
        model(t.expand(2) / 1000, text, x=x)
        x = scheduler.step(tensor(), t, x).prev_sample
    t = scheduler.timesteps[4] / 1000
    assert model(t.expand(2), text) == (4, False, 0)
    assert model(t.expand(2), text) == (0, True, 0)


def test_another_sample_at_one_count_whose_timestep_repeats():
    scheduler, text, x = FlowMatchHeunDiscreteScheduler(), tensor(), tensor()
    model, found = Denoiser(Interval(20), schedulers=[scheduler]), []
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[3] == scheduler.timesteps[4]
    for t in scheduler.timesteps[:3]:
        found.append(model(t.expand(2) / 900, text, x=x)[:2])
        x = scheduler.step(tensor(), t, x).prev_sample
    assert found == every(20, 3)
    t = scheduler.timesteps[3] / 900
    assert model(t.expand(2), text) == (3, False, 0)
    assert model(t.expand(2), text) == (0, True, 0)


def test_single_step_runs_are_full():
    scheduler, text = DDIMScheduler(), tensor()
    model = Denoiser(schedulers=[scheduler])
    for way in ("views", "copies"):
        for _ in range(3):
            scheduler.set_timesteps(1)
            assert model.run(map(WAYS[way], scheduler.timesteps), text) == [(0, True)]


def test_a_timing_loop_at_a_scheduler_s_timestep():
    scheduler, text, x = started(DDIMScheduler(), 5), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    model.run(scheduler.timesteps[:2], text)
    for i in range(10):
        found = model(scheduler.timesteps[2], text, x=x)
        if i:
            assert found == (0, True, 0)
            assert len(model.trajectory.lanes.all) == len(model.trajectory.tensors) == 1


# Devices -------------------------------------------------------------------------------------------------------------


class Blind:
    """Inside, all tensors are as on a device, and to read one is an error."""

    def __init__(self, patch):
        self._patch, self.reads = patch, 0

    @contextlib.contextmanager
    def __call__(self, allowed=False):
        def refuse(*args, **kwargs):
            raise AssertionError("a device was read")

        with self._patch.context() as patch:
            patch.setattr("skipcache.trajectory.call.on_host", lambda value: not isinstance(value, torch.Tensor))
            patch.setattr("skipcache.trajectory.clock.on_host", lambda value: not isinstance(value, torch.Tensor))
            tolist = torch.Tensor.tolist

            def count(x):
                self.reads += 1
                return tolist(x)

            for name in ("item", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, refuse)
            patch.setattr(torch.Tensor, "tolist", count if allowed else refuse)
            patch.setattr(torch, "equal", refuse)
            yield


@pytest.fixture
def blind(monkeypatch):
    return Blind(monkeypatch)


@pytest.mark.parametrize("way", ["copies", "vectors"])
def test_no_device_is_read_in_a_ddim_run(blind, way):
    """No memory is shared and there is no step_index: the conditioning alone tells that a step has gone by."""
    scheduler, text = DDIMScheduler(), tensor(4, 4)
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 4):
        scheduler.set_timesteps(steps)
        timesteps = list(map(WAYS[way], scheduler.timesteps))
        with blind():
            assert model.run(timesteps, text) == every(3, steps)


@pytest.mark.parametrize("buffer", [False, True], ids=["new", "rewritten"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_device_is_read_in_a_ddim_run_of_two_lanes(blind, mode, buffer):
    """Both calls of a step are given one timestep tensor."""
    scheduler, texts = DDIMScheduler(), (tensor(), tensor())
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 4):
        scheduler.set_timesteps(steps)
        with mode():
            memory = torch.zeros(2, dtype=torch.long)
            for step, t in enumerate(scheduler.timesteps.tolist()):
                given = memory.fill_(t) if buffer else torch.full((2,), t)
                with blind():
                    found = [model(given, text) for text in texts]
                assert found == [(step, step % 3 == 0, lane) for lane in (0, 1)]


@pytest.mark.parametrize("tiles", [2, 3])
def test_samples_in_turns_share_nothing_on_a_device(blind, tiles):
    scheduler, text, last = started(DDIMScheduler(), 8), tensor(), {}
    model = Denoiser(schedulers=[scheduler])
    for t in scheduler.timesteps:
        given = t.repeat(2)
        with blind(allowed=True):
            for tile in range(tiles):
                full = model(given, text)[1]
                if full:
                    last[model.lane] = tile
                assert last[model.lane] == tile


@pytest.mark.parametrize("start", [1, 2, 4])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["old first", "new first"])
def test_guidance_that_starts_half_way_on_a_device(blind, start, order):
    scheduler, texts = started(DDIMScheduler(), 8), (tensor(), tensor())
    model, seen = Denoiser(schedulers=[scheduler]), []
    for step, t in enumerate(scheduler.timesteps):
        given = t.repeat(2)
        with blind(allowed=True):
            for which in order if step >= start else (0,):
                found = model(given, texts[which])
                assert found[:2] == (step, step % 3 == 0 or (which == 1 and step == start))
                assert found[2] == which
        seen.append(blind.reads)
    assert seen[-1] <= 2


def test_a_loop_of_one_s_own_on_a_device_after_a_run_that_ended(blind):
    """The count is past the end: nothing of that run is reused."""
    scheduler, text, x = FlowMatchEulerDiscreteScheduler(), tensor(), tensor()
    model = Denoiser(schedulers=[scheduler])
    scheduler.set_timesteps(sigmas=[1 - i / 8 for i in range(8)])
    for t in scheduler.timesteps:
        model(t.expand(2) / 1000, text, x=x)
        x = scheduler.step(tensor(), t, x).prev_sample
    with blind(allowed=True):
        assert model.run([torch.full((2,), t) for t in (0.9, 0.8, 0.7, 0.6)], text) == every(3, 4)


def test_a_second_lane_on_a_device_costs_one_read_in_a_run_where_the_timestep_is_made_anew(blind):
    scheduler, texts = DDIMScheduler(), (tensor(), tensor())
    model = Denoiser(schedulers=[scheduler])
    for _ in range(2):
        scheduler.set_timesteps(7)
        timesteps = [t.clone() for t in scheduler.timesteps]
        blind.reads = 0
        with blind(allowed=True):
            for step, t in enumerate(timesteps):
                found = [model(t.clone(), text) for text in texts]
                assert found == [(step, step % 3 == 0, lane) for lane in (0, 1)]
        assert 0 < blind.reads <= 2


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("divisor", [1, 1000])
def test_no_device_is_read_in_a_flow_run(blind, lanes, divisor):
    scheduler, texts, x = FlowMatchEulerDiscreteScheduler(), (tensor(), tensor()), tensor()
    model = Denoiser(schedulers=[scheduler])
    for steps in (7, 4):
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(0)
        for step, t in enumerate(scheduler.timesteps):
            given = t.expand(2) / divisor
            with blind():
                found = [model(given, text, x=x) for text in texts[:lanes]]
            assert found == [(step, step % 3 == 0, lane) for lane in range(lanes)]
            x = scheduler.step(tensor(), t, x).prev_sample


@pytest.mark.parametrize("way", ["views", "expanded"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_no_device_is_read_where_timesteps_are_views(blind, kind, way):
    scheduler, texts = SCHEDULERS[kind](), (tensor(), tensor())
    timesteps = list(map(WAYS[way], scheduler.timesteps))
    model = Denoiser(schedulers=[scheduler])
    with blind():
        for step, t in enumerate(timesteps):
            found = [model(t, text) for text in texts]
            assert found == [(step, step % 3 == 0, lane) for lane in (0, 1)]


def test_no_device_is_read_where_timesteps_are_floats(blind):
    model, texts = Denoiser(), (tensor(), tensor())
    with blind():
        for step, t in enumerate([900.0, 800.0, 700.0, 600.0]):
            assert [model(t, text)[:2] for text in texts] == [(step, step % 3 == 0)] * 2

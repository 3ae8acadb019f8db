"""Whether a sample goes on from the last one: how far it has turned, and how far it may."""

import math

import pytest
import torch

from skipcache.trajectory.sample import Seen
from skipcache.trajectory.span import GROWTH, KNOWN, LEAST, RECENT, Turn

NEAR_ONE = 0.95  # 256 numbers, of which a few vectors explain a few hundredths at most
SHAPE = (2, 4, 8, 8)


def noise(*shape, seed=0):
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def seen(x, e, before=None):
    """A step at which the model was given `x` and gave `e`."""
    found = Seen([x], before)
    found.note(e)
    return found


def turned(x, e, after, before=None):
    return seen(x, e, before).turn([after]).size


# Samples that go on ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [torch.cat, lambda pair: pair[0].repeat_interleave(2, 0)], ids=["apart", "beside"])
def test_euler_with_guidance_goes_on(order):
    """One batch with each image twice: all images for one text and then all for the other, or image by image."""
    x = noise()
    apart = order is torch.cat
    e = noise(4, *SHAPE[1:], seed=1)
    one, other = e.chunk(2) if apart else (e[0::2], e[1::2])
    after = x - 0.1 * (other + 7.5 * (one - other))
    assert turned(order([x, x]), e, order([after, after])) < 1e-4


def test_of_rows_that_differ_each_has_its_own_output_alone():
    x, e = noise(), noise(seed=1)
    assert turned(x, e, x + 0.5 * e) < 1e-4
    assert turned(x, e, x + 0.5 * e.flip(0)) > 0.3


def test_heun_goes_on_after_both_of_its_evaluations():
    x, e, second = noise(), noise(seed=1), noise(seed=2)
    ahead = x - 0.4 * e
    assert turned(x, e, ahead) < 1e-4
    assert turned(ahead, second, x - 0.2 * (e + second), before=seen(x, e)) < 1e-4


def test_a_rule_of_second_order_goes_on_from_the_last_two_outputs():
    x, e, second = noise(), noise(seed=1), noise(seed=2)
    middle = 0.9 * x - 0.3 * e
    after = 0.8 * middle - 0.6 * second + 0.25 * e
    assert turned(middle, second, after, before=seen(x, e)) < 1e-4
    assert turned(middle, second, after) > 0.1, "the step before is needed"


def test_no_more_than_the_step_before_is_held():
    first = seen(noise(), noise(seed=1))
    second = seen(noise(seed=2), noise(seed=3), first)
    third = Seen([noise(seed=4)], second)
    assert third.before is second and second.before is None


def test_inputs_that_are_scaled_for_the_model_go_on():
    x, e = 14.0 * noise(), noise(seed=1)
    after = x + (9.0 - 14.0) * e
    assert turned(x / math.hypot(14, 1), e, after / math.hypot(9, 1)) < 1e-4


def test_a_model_that_answers_for_fewer_channels_changes_those_alone():
    x, e = noise(2, 9, 8, 8), noise(seed=1)
    after = torch.cat([x[:, :4] - 0.5 * e, x[:, 4:]], dim=1)
    assert turned(x, e, after) < 1e-4
    after[:, 4:] = noise(2, 5, 8, 8, seed=2)
    assert turned(x, e, after) > 0.5, "another mask or picture in the other channels"


def test_learned_variances_are_no_part_of_the_change():
    x, e = noise(), noise(2, 8, 8, 8, seed=1)
    assert turned(x, e, x - 0.5 * e[:, :4]) < 1e-4
    assert turned(x, e, x - 0.5 * e[:, 4:]) > 0.3


def test_outputs_of_all_lanes_of_a_step_count():
    x, outputs = noise(), [noise(seed=seed) for seed in (1, 2, 3)]
    step = Seen([x], None)
    for e in outputs:
        step.note({"sample": e})
    assert step.turn([x + 0.3 * outputs[0] - 0.2 * outputs[1] + 0.4 * outputs[2]]).size < 1e-4


def test_sixteen_bits_round_by_less_than_what_is_allowed_for():
    x, e = noise().bfloat16(), noise(seed=1).bfloat16()
    turn = seen(x, e).turn([x - 0.5 * e])
    assert 1e-4 < turn.size < 0.03 == turn.least, "rounding can be seen, and is allowed"
    assert seen(x.float(), e.float()).turn([x.float()]).least == 0.01


# Samples that do not --------------------------------------------------------------------------------------------------


def test_another_noise_has_turned_away():
    assert turned(noise(), noise(seed=1), noise(seed=2)) > NEAR_ONE


def test_one_image_of_a_batch_that_was_replaced_is_enough():
    x, e = noise(), noise(seed=1)
    after = x - 0.5 * e
    after[1] = noise(seed=2)[1]
    assert turned(x, e, after) > NEAR_ONE
    assert turned(x, e, x - 0.5 * e) < 1e-4


def test_of_several_samples_the_one_that_did_most_counts():
    xs, es = [noise(), noise(2, 6, 6, seed=1)], [noise(seed=2), noise(2, 6, 6, seed=3)]
    step = Seen(xs, None)
    step.note(es)
    on = [x - 0.5 * e for x, e in zip(xs, es)]
    assert step.turn(on).size < 1e-4
    assert step.turn([on[0], noise(2, 6, 6, seed=4)]).size > 0.8


def test_zeros_go_on_from_zeros_alone():
    x, e, zeros = noise(), noise(seed=1), torch.zeros(SHAPE)
    assert turned(zeros, zeros, zeros) == 0
    assert turned(zeros, zeros, x) > NEAR_ONE
    assert turned(x, e, zeros) > NEAR_ONE


def test_of_what_is_not_a_number_nothing_is_known():
    x, e = noise(), noise(seed=1)
    after = x - 0.5 * e
    after[0, 0, 0, 0] = math.nan
    assert turned(x, e, after) == 1


def test_an_output_that_is_no_change_of_the_sample_is_left_out():
    x, step = noise(), Seen([noise()], None)
    for output in (None, noise(3, 4, 8, 8), noise(2, 4, 4, 4), torch.ones(SHAPE, dtype=torch.long)):
        step.note(output)
    assert step.outputs == [] and step.turn([2 * x]).size < 1e-4


# What is held ---------------------------------------------------------------------------------------------------------


def test_what_a_loop_writes_later_changes_nothing():
    x, e = noise(), noise(seed=1)
    was, step = x.clone(), seen(x, e)
    after = x - 0.5 * e
    x.normal_(), e.normal_()
    assert step.turn([after]).size < 1e-4 and step.is_of([was]) and not step.is_of([x])


def test_what_is_asked_twice_is_measured_once_unless_it_was_written_to():
    x, e = noise(), noise(seed=1)
    step, after = seen(x, e), x - 0.5 * e
    first = step.turn([after])
    assert step.turn([after]) is first
    assert step.turn([after.clone()]) is first, "lanes may be given copies"
    after.copy_(noise(seed=2))
    assert step.turn([after]).size > NEAR_ONE


def test_samples_of_other_shapes_or_of_another_number_do_not_fit():
    step = Seen([noise(), noise(2, 6)], None)
    assert step.fits([noise(seed=1), noise(2, 6, seed=1)])
    assert not step.fits([noise()]) and not step.fits([noise(), noise(2, 7)])


# How far one may turn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "most"),
    [({}, 0.9), ({"known": True}, KNOWN), ({"strict": True}, 0.01), ({"strict": True, "known": True}, 0.01)],
)
def test_at_its_second_step_a_run_is_allowed_what_is_known_of_it(given, most):
    assert Turn(most, 0.9, 0.01).fits([], **given)
    assert not Turn(most + 0.001, 0.9, 0.01).fits([], **given)


@pytest.mark.parametrize("given", [{}, {"known": True}, {"strict": True}])
def test_later_it_is_allowed_three_times_its_own_largest_turn(given):
    assert Turn(GROWTH * 0.1, 0.9, 0.01).fits([0.02, 0.1], **given)
    assert not Turn(GROWTH * 0.1 + 0.001, 0.9, 0.01).fits([0.02, 0.1], **given)


def test_a_history_without_turns_allows_a_little_and_one_of_large_turns_not_all():
    assert Turn(LEAST, 0.9, 0.01).fits([0.0, 0.0]) and not Turn(LEAST + 0.001, 0.9, 0.01).fits([0.0, 0.0])
    assert Turn(0.9, 0.9, 0.01).fits([0.8]) and not Turn(0.901, 0.9, 0.01).fits([0.8])


def test_turns_of_long_ago_allow_nothing():
    history = [0.3] + [0.02] * (RECENT - 1)
    assert Turn(0.5, 0.9, 0.01).fits(history) and not Turn(0.5, 0.9, 0.01).fits([*history, 0.02])


def test_small_samples_are_explained_by_chance_and_must_fit_better():
    large = seen(noise(2, 4, 32, 32), noise(2, 4, 32, 32, seed=1)).turn([noise(2, 4, 32, 32, seed=2)])
    small = seen(noise(2, 16), noise(2, 16, seed=1)).turn([noise(2, 16, seed=2)])
    assert 0 <= small.most < large.most == math.sqrt(0.8)

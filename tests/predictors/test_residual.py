"""The formulas for R = D - H: `Delta`, `Forecast` and `Damped`, on features made by hand."""

import pytest
import torch

from skipcache import Damped, Delta, Forecast
from tests.models.features import features, predict


def test_delta_adds_the_last_update_to_the_fresh_feature():
    H, R = features(2, streams=2)
    assert all(torch.equal(x, h + r) for x, h, r in zip(predict(Delta(), 5, [4], [R], H), H, R))
    assert Delta().residual


@pytest.mark.parametrize(("i", "s", "r"), [(1, 0, -1), (5, 4, 2), (8, 6, 3), (9, 6, 3), (50, 40, 39), (7, 5, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_first_order_forecast_to_the_bit(i, s, r, dtype):
    (H, H2), (R_s, R_s2), (R_r, R_r2) = features(3, streams=2, seed=i, dtype=dtype)
    first, second = predict(Forecast(1), i, [s, r], [(R_s, R_s2), (R_r, R_r2)], (H, H2))
    assert torch.equal(first, H + R_s + (R_s - R_r) * ((i - s) / (s - r)))
    assert torch.equal(second, H2 + R_s2 + (R_s2 - R_r2) * ((i - s) / (s - r)))


@pytest.mark.parametrize("order", [1, 2])
def test_with_one_full_step_behind_it_a_forecast_is_delta(order):
    H, R = features(2)
    assert torch.equal(predict(Forecast(order), 3, [1], [R], H)[0], predict(Delta(), 3, [1], [R], H)[0])


@pytest.mark.parametrize("order", [2])
def test_with_two_full_steps_behind_it_a_forecast_is_of_first_order(order):
    H, R_s, R_r = features(3)
    got, want = (predict(Forecast(n), 7, [5, 2], [R_s, R_r], H)[0] for n in (order, 1))
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("order", "full_steps"),
    [
        (1, [4, 2]),
        (2, [4, 2, 0]),
        (2, [5, 3, 2]),
        (2, [9, 8, 2]),
        (2, [6, 4]),
    ],
)
@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_polynomials_of_the_order_are_followed_exactly(order, full_steps, ahead):
    """Thirds are no binary fractions: the last bits may differ. An error in the formula would be of order one."""
    degree = len(full_steps) - 1
    factors = torch.arange(1, 13, dtype=torch.float64).reshape(3, 4)[:, :, None] % (torch.arange(5) + 2)

    def R(step):
        return (sum(factors[..., k] * step**k for k in range(degree + 1)),)

    H = (torch.ones(3, 4, dtype=torch.float64) * 3,)
    step = full_steps[0] + ahead
    (got,) = predict(Forecast(order), step, full_steps, [R(s) for s in full_steps], H)
    torch.testing.assert_close(got, H[0] + R(step)[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("full_steps", [[4, 2, 0], [2, 1, 0], [12, 8, 4]])
def test_second_order_is_exact_to_the_bit_where_widths_are_powers_of_two(full_steps):
    def R(step):
        return (torch.tensor([3.0, -1.0], dtype=torch.float64) * step**2 - 7 * step + 1,)

    H = (torch.tensor([5.0, 2.0], dtype=torch.float64),)
    for step in range(full_steps[0] + 1, full_steps[0] + 5):
        (got,) = predict(Forecast(2), step, full_steps, [R(s) for s in full_steps], H)
        assert torch.equal(got, H[0] + R(step)[0])


def test_a_forecast_of_a_lower_order_does_not_follow_a_parabola():
    kept = [(torch.tensor([float(s * s)]),) for s in (4, 2, 0)]
    H = (torch.zeros(1),)
    assert predict(Forecast(2), 6, [4, 2, 0], kept, H)[0] == 36
    assert predict(Forecast(1), 6, [4, 2], kept[:2], H)[0] == 28


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -2.0, 3.0])
def test_damped_follows_as_much_of_the_slope_as_came_true(scale):
    H, R_q, slope = features(3)
    R_r = tuple(q + 2 * d for q, d in zip(R_q, slope))
    R_s = tuple(r + scale * 3 * d for r, d in zip(R_r, slope))  # steps 0, 2 and 5
    (got,) = predict(Damped(), 7, [5, 2, 0], [R_s, R_r, R_q], H)
    share = min(1, max(0, scale))
    torch.testing.assert_close(got, H[0] + R_s[0] + share * (R_s[0] - R_r[0]) * (2 / 3))


def test_damped_takes_each_row_by_itself_and_is_a_line_or_delta_where_little_is_known():
    H, R_s, R_r, R_q = features(4)
    (whole,) = predict(Damped(), 7, [5, 2, 0], [R_s, R_r, R_q], H)
    for i in range(2):
        rows = [tuple(x[i : i + 1] for x in R) for R in (R_s, R_r, R_q, H)]
        (row,) = predict(Damped(), 7, [5, 2, 0], rows[:3], rows[3])
        assert torch.equal(row, whole[i : i + 1])
    assert torch.equal(predict(Damped(), 7, [5], [R_s], H)[0], H[0] + R_s[0])
    line = predict(Forecast(1), 7, [5, 2], [R_s, R_r], H)[0]
    assert torch.equal(predict(Damped(), 7, [5, 2], [R_s, R_r], H)[0], line), "one slope is known, and taken whole"
    assert torch.equal(predict(Damped(), 7, [5, 2], [R_s, R_s], H)[0], H[0] + R_s[0]), "of which nothing is left"
    (still,) = predict(Damped(), 7, [5, 2, 0], [R_s, R_r, R_r], H)
    assert torch.equal(still, H[0] + R_s[0])
    (without,) = predict(Damped(), 7, [5, 2, 0], [R_s, R_r, R_q], None)
    torch.testing.assert_close(without, whole - H[0])
    bf16 = [tuple(x.bfloat16() for x in R) for R in (R_s, R_r, R_q, H)]
    assert predict(Damped(), 7, [5, 2, 0], bf16[:3], bf16[3])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("order", [1, 2])
def test_a_forecast_remembers_one_step_more_than_its_order(order):
    assert Forecast(order).depth == order + 1
    assert len(Forecast(order).weights(9, range(8, 7 - order, -1))) == order


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        (1.0, TypeError, "expected an int for order, got 1.0"),
        (True, TypeError, "got True"),
        ("2", TypeError, "got '2'"),
        (None, TypeError, "got None"),
        (0, ValueError, "order 0 is Delta"),
        (3, ValueError, "got 3"),
        (-1, ValueError, "got -1"),
    ],
)
def test_forecast_says_what_is_wrong(order, error, message):
    with pytest.raises(error, match=message):
        Forecast(order)

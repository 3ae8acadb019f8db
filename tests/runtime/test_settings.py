"""What `accelerate` was asked for, checked by itself, and what follows from it for one model."""

import pytest

import skipcache
from skipcache import Damped, Delta, Hold, Interval, Schedule, Spread
from skipcache.runtime.settings import Request
from tests.models.sampling import build


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"interval": 2, "policy": Interval(2)}, ValueError, "interval=2 and policy=.* exclude each other"),
        ({"interval": 2, "speedup": 2.0}, ValueError, r"interval=2 and speedup=2\.0 exclude each other"),
        ({"policy": Interval}, TypeError, "policy: expected Interval"),
        ({"policy": 3}, TypeError, "another Policy, got 3"),
        ({"interval": 0}, ValueError, "at least 1, got 0"),
        ({"predictor": Hold}, TypeError, "predictor: expected Hold"),
        ({"predictor": "hold"}, TypeError, "another Predictor, got 'hold'"),
        ({"engine": "graph"}, ValueError, "'auto', 'fx' or 'hooks', got 'graph'"),
        ({"training": "cache"}, ValueError, "training: expected 'plain' or 'ignore', got 'cache'"),
        ({"training": True}, ValueError, "training: expected 'plain' or 'ignore', got True"),
        ({"compile": "yes"}, TypeError, "True, False or a dict of options"),
        ({"compile": True, "engine": "hooks"}, ValueError, "which has no graphs to compile"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_without_a_model(asked, error, message):
    with pytest.raises(error, match=message):
        Request(**asked)


def test_what_was_not_said_follows_from_the_rest():
    model = build("original_dit")
    usual = Request().settings(model)
    assert (usual.policy, usual.predictor) == (Interval(3), Damped())
    assert (usual.plan.head, usual.plan.tail, usual.engine, usual.compile) == (1, 1, "auto", False)
    assert Request(interval=5).settings(model).policy == Interval(5)
    assert Request(policy=Schedule([0, 4])).settings(model).policy == Schedule([0, 4])
    assert Request(keep=(0, 2)).settings(model).plan.tail == 2
    assert Request(predictor=Delta()).settings(model).predictor == Delta()


def test_in_a_pipeline_or_with_its_length_an_interval_is_placed_and_keeps_no_unit():
    model = build("original_dit")
    for found in (Request().settings(model, in_pipeline=True), Request(interval=3).settings(model, in_pipeline=True)):
        assert found.policy == Spread.every(3, None, 0, 4) and found.predictor == Damped()
        assert (found.plan.head, found.plan.tail) == (0, 0)
        assert hash(found.policy) == hash(Spread.every(3, None, 0, 4))
    told = Request(interval=2, steps=50, keep=(1, 0)).settings(model)
    assert told.policy == Spread.every(2, 50, 1, 4) and told.plan.head == 1
    assert Request(speedup=1.5, steps=50).settings(model).policy == Spread.reaching(1.5, 0, 4, 50)
    assert Request(interval=1).settings(model, in_pipeline=True).policy == Interval(1), "exactly plain"
    strict = Request(policy=Interval(3)).settings(model, in_pipeline=True)
    assert strict.policy == Interval(3) and strict.plan.head == 1
    branched = Request(interval=3).settings(build("hunyuan_dit"), in_pipeline=True)
    assert branched.plan.head == 1 and isinstance(branched.policy, Spread) and branched.predictor == Hold()


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps >= 1, got 0"),
        ({"steps": "50"}, TypeError, "an int for steps, got '50'"),
        ({"steps": 50, "policy": Interval(3)}, ValueError, "steps=50: .*Interval.* has settings of its own"),
    ],
)
def test_a_length_that_cannot_be_is_refused(asked, error, message):
    with pytest.raises(error, match=message):
        Request(**asked)


def test_a_speedup_keeps_no_unit_unless_told_and_is_reached():
    model = build("original_dit")
    found = Request(speedup=1.5).settings(model)
    assert (found.plan.head, found.plan.tail) == (0, 0) and found.policy == Spread.reaching(1.5, 0, 4)
    assert Request(speedup=1.5, keep=(1, 0)).settings(model).policy == Spread.reaching(1.5, 1, 4)


@pytest.mark.parametrize("make", [lambda: build("hunyuan_dit"), lambda: skipcache.graft(build("dit"), "concat")])
def test_with_branches_that_carry_h_hold_is_the_predictor_and_a_speedup_needs_a_keep(make):
    model = make()
    assert Request().settings(model).predictor == Hold()
    with pytest.raises(ValueError, match=r"speedup: .* has skip branches"):
        Request(speedup=1.2).settings(model)
    assert Request(speedup=1.2, keep=1).settings(model).plan.head == 1


def test_branches_that_only_add_leave_the_predictor_as_it_is():
    assert Request().settings(skipcache.graft(build("dit"), "add")).predictor == Damped()


def test_equal_settings_may_share_a_model():
    assert Request().settings(build("original_dit")) == Request().settings(build("original_dit"))

"""What every policy does, and one of the user's own."""

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from skipcache import Interval, Schedule, Spread, policies
from skipcache.policies.base import Policy, Step, check_count, check_number, mismatch_of, note_of, reads_drift
from tests.models.defaults import DEFAULT_POLICIES
from tests.models.steps import steps

every_policy = pytest.mark.parametrize("policy", DEFAULT_POLICIES, ids=repr)


class Never:
    """A policy of the user's own: two members, no base class."""

    caches = True

    def full(self, step):
        return False


def test_a_policy_of_one_s_own_has_two_methods():
    for policy in (Never(), Interval(2), Schedule([0]), Spread(0.5)):
        assert isinstance(policy, Policy)


@every_policy
def test_a_policy_is_a_frozen_value(policy):
    assert isinstance(policy, Policy) and policy.caches
    twin = pickle.loads(pickle.dumps(policy))
    assert twin == copy.deepcopy(policy) == policy and hash(twin) == hash(policy)
    assert [other for other in DEFAULT_POLICIES if other == policy] == [policy]
    with pytest.raises(FrozenInstanceError):
        setattr(policy, fields(policy)[0].name, None)


@every_policy
def test_the_first_step_is_full_and_some_are_cached_each_time_alike(policy):
    run = [replace(step, drift=lambda: 0.0) for step in steps(range(950, 0, -150))]
    full = [policy.full(step) for step in run]
    assert full[0] and False in full
    assert [policy.full(step) for step in run] == full, "a policy keeps nothing of a run"


def test_members_that_a_policy_may_leave_out():
    first = steps([900])[0]
    assert not reads_drift(Never()) and note_of(Never(), first) is None and mismatch_of(Never(), first) is None

    class Talks(Never):
        reads_drift = True

        def note(self, step):
            return f"begins at {step.timesteps()[0]}"

        def mismatch(self, step):
            return "never fits"

    assert reads_drift(Talks())
    assert note_of(Talks(), first) == "begins at 900" and mismatch_of(Talks(), first) == "never fits"


def test_what_is_not_known_of_a_drift_is_infinitely_far():
    unread = Step(1, lambda: (1.0,), None, lambda: 0)
    assert unread.drift() == float("inf")


def test_numbers_and_counts_are_checked_by_name():
    for value, error in (("1", TypeError), (True, TypeError), (float("nan"), ValueError), (float("inf"), ValueError)):
        with pytest.raises(error, match=r"Owner: expected a .*number for it"):
            check_number("Owner", "it", value)
    check_number("Owner", "it", float("inf"), finite=False)
    for value, error in ((1.0, TypeError), (True, TypeError), (0, ValueError), (9, ValueError)):
        with pytest.raises(error, match=r"Owner: expected .*it"):
            check_count("Owner", "it", value, most=8)
    check_count("Owner", "it", 8, most=8)


def test_the_matrix_has_every_policy_of_the_library():
    names = set(policies.__all__) - {"Policy", "Step"}
    kinds = {value for value in map(policies.__dict__.get, names) if isinstance(value, type)}
    assert {type(policy) for policy in DEFAULT_POLICIES} == kinds

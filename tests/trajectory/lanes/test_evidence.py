"""What calls show of their conditioning: what stays, and what changes on every call."""

from skipcache.trajectory.lanes import Evidence


def known(evidence):
    return evidence.proven, evidence.missed, evidence.volatile


def test_a_leaf_that_is_missed_at_two_steps_changes_on_every_call():
    once = Evidence().with_misses({0, 1}, last_step=3)
    assert known(once) == (set(), {0: 3, 1: 3}, set())
    twice = once.with_misses({1}, last_step=4)
    assert known(twice) == (set(), {0: 3, 1: 3}, {1})


def test_lanes_of_one_step_that_miss_a_leaf_are_one_miss():
    evidence = Evidence()
    for _ in range(3):
        evidence = evidence.with_misses({0}, last_step=3)
    assert known(evidence) == (set(), {0: 3}, set())


def test_a_leaf_that_stayed_once_is_never_taken_for_one_that_changes():
    evidence = Evidence().with_proven({0}).with_misses({0, 1}, 3).with_misses({0, 1}, 4)
    assert known(evidence) == ({0}, {1: 3}, {1})


def test_what_is_proven_adds_up_and_leaves_the_misses():
    evidence = Evidence().with_misses({0}, 3).with_proven({1}).with_proven({2})
    assert known(evidence) == ({1, 2}, {0: 3}, set())


def test_what_was_known_before_is_not_written_to():
    """A call is looked at for several runs, of which one takes it."""
    before = Evidence({0}, {1: 2}, set())
    after = before.with_misses({1, 2}, 3).with_proven({3})
    assert known(after) == ({0, 3}, {1: 2, 2: 3}, {1})
    assert known(before) == ({0}, {1: 2}, set())

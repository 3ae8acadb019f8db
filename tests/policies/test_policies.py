"""What every policy does, and one of the user's own."""

from skipcache import Interval, Schedule, Spread
from skipcache.policies.base import Policy


def test_a_policy_of_one_s_own_has_two_methods():
    class Never:
        caches = True

        def full(self, step):
            return False

    for policy in (Never(), Interval(2), Schedule([0]), Spread(0.5)):
        assert isinstance(policy, Policy)

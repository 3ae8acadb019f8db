"""One matrix: a new policy or predictor joins the tests of all of them by one line here.

A policy must cache some steps of a run of seven, as `tests.models.sampling.sample` makes it, and run some in full.
"""

from skipcache import Damped, Delta, Forecast, Hold, Interval, Schedule, Spread, Threshold
from skipcache.policies import Placed

DEFAULT_POLICIES = [
    Interval(2),
    Schedule([0, 1, 3]),
    Spread(0.5, steps=7),
    Threshold(4.0),
    Placed((0, 1, 4), (950.0, 800.0, 650.0, 500.0, 350.0, 200.0, 50.0)),
]

DEFAULT_PREDICTORS = [
    Hold(),
    Delta(),
    Forecast(1),
    Forecast(2),
    Damped(),
]

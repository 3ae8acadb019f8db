"""Which placement is taken: goals as numbers of full steps, bisection, and corrections only where they help."""

from types import SimpleNamespace

import pytest

from skipcache import Spread
from skipcache.calibration.runs import Cost
from skipcache.calibration.search import DAMPED, Goal, Search
from skipcache.predictors import Damped
from skipcache.runtime import Corrections

COST = Cost(full=100, cached=0)


@pytest.mark.parametrize(
    ("goal", "count"),
    [
        (Goal("full_steps", 7), 7),
        (Goal("speedup", 2), 10),
        (Goal("speedup", 2.1), 9),
        (Goal("speedup", 10), 2),
        (Goal("speedup", 11), None),
        (Goal("speedup", 1), 20),
        (Goal("max_error", 0.1), 20),
    ],
    ids=str,
)
def test_a_goal_is_a_number_of_full_steps(goal, count):
    assert goal.full_steps(COST, 20) == count


class Runs:
    """Runs that are made up: errors by number of full steps, by whether corrections help, and by predictor."""

    def __init__(self, helps=True, damped=2.0, steps=20, flow_times=None):
        self.helps, self.damped, self.steps, self.tried = helps, damped, steps, []
        plan = SimpleNamespace(depth=4, head=0, tail=0)
        self.engines, self.costs, self.scheduler, self.model = [SimpleNamespace(plan=plan)], [COST], None, object()
        self.uncached = SimpleNamespace(
            correctable=True,
            knots=(1, 2, 3),
            errors=dict,
            timesteps=lambda: tuple(range(self.steps, 0, -1)),
            flow_times=flow_times,
        )

    def alike(self, value):
        """One process alone."""
        return value

    def sample_uncached(self, longest):
        self.longest = longest(self.costs, self.steps)

    def trial(self, engine, full_steps, *, fit=False, corrections=None, predictor=None):
        self.tried.append((full_steps, "fit" if fit else "bare", predictor))
        better = fit or corrections is not None
        error = (1 if better is self.helps else 2) * (self.damped if isinstance(predictor, Damped) else 1)
        found = Corrections(((), (0.1,))) if better else None
        return SimpleNamespace(error=error / len(full_steps), corrections=found, is_joint=True)

    def maps(self, engine):
        return SimpleNamespace(error=lambda trial: trial.error, guidance=None)


def test_the_nearest_of_the_ways_to_place_is_taken_with_its_corrections():
    runs = Runs()
    found = Search(runs, Goal("full_steps", 5), correct=True).found()
    assert len(found.full_steps) == 5 and found.full_steps[0] == 0 and found.error == 1 / 5
    assert found.corrections is not None and found.speedup == COST.speedup(5, 20)
    assert len(set(runs.tried)) >= 2, "more than one way was tried"


def test_corrections_that_do_not_help_are_left_out():
    found = Search(Runs(helps=False), Goal("full_steps", 5), correct=True).found()
    assert found.corrections is None and found.error == 1 / 5


def test_nothing_is_fitted_where_it_is_not_asked_for():
    runs = Runs()
    found = Search(runs, Goal("full_steps", 5), correct=False).found()
    assert found.corrections is None and {kind for _, kind, _ in runs.tried} == {"bare"}


def test_what_accelerate_does_by_itself_is_one_of_the_ways():
    search = Search(Runs(damped=0.1), Goal("full_steps", 5), correct=True)
    found = search.found()
    assert found.predictor == Damped() and found.corrections is None and search._way == DAMPED
    assert found.full_steps == Spread(5 / 20).places(20)


def test_full_steps_are_placed_by_the_scheduler_s_flow_times():
    times = tuple(1 - i / 20 for i in range(20))
    found = Search(Runs(flow_times=times), Goal("full_steps", 5), correct=True).found()
    assert found.full_steps == Spread(5 / 20).places(20, times) != Spread(5 / 20).places(20)


def test_an_error_is_reached_with_the_fewest_full_steps():
    runs = Runs()
    found = Search(runs, Goal("max_error", 0.1), correct=True).found()
    assert len(found.full_steps) == 10 and found.error <= 0.1
    assert len({len(places) for places, _, _ in runs.tried}) <= 6, "by bisection"
    assert Search(Runs(), Goal("max_error", 0.01), correct=True).found() is None


def test_what_is_out_of_reach_is_told():
    search = Search(Runs(), Goal("speedup", 50), correct=True)
    assert search.found() is None and search.most == 10
    with pytest.raises(ValueError, match="full_steps: expected at most 20, the steps of the run, got 40"):
        Search(Runs(), Goal("full_steps", 40), correct=True).found()


@pytest.mark.parametrize(("goal", "longest"), [(Goal("full_steps", 5), 12), (Goal("full_steps", 20), 3)], ids=str)
def test_distances_are_tried_up_to_thrice_the_mean(goal, longest):
    runs = Runs()
    Search(runs, goal, correct=True).found()
    assert runs.longest == longest

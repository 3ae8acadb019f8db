"""What a client says of its calls, as it is checked and handed on, and what it is told."""

import pytest
import torch

from skipcache import Interval, Schedule, Threshold
from skipcache.runtime.client import Run, named_run
from skipcache.runtime.forward import CachedForward
from skipcache.runtime.report import Report
from skipcache.runtime.settings import Request
from skipcache.trajectory import Word, said_of
from tests.models.odd import noise, tiny

TIMES = [900.0, 600.0, 300.0]


def accelerated(*names, **asked):
    """Forwards by the names of components; without names that of one model."""
    forwards = {}
    for name in names or ("",):
        model = tiny(depth=6)
        forwards[name] = CachedForward(model, Request(**{"engine": "hooks", **asked}).settings(model))
        forwards[name].put_on()
    return forwards


def named(forwards, name="r", timesteps=None, interval=None, policy=None, speedup=None, times=None):
    return named_run(forwards, name, timesteps, interval, policy, speedup, times)


def word_of(forwards):
    return said_of(next(iter(forwards.values())).module)


def call(forward, t=900.0):
    with torch.no_grad():
        return forward.module(noise(), torch.full((2,), t))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"name": ""}, TypeError, "a name, a str that is not empty, got ''"),
        ({"name": None}, TypeError, "a name, a str that is not empty, got None"),
        ({"timesteps": "soon"}, TypeError, "timesteps as numbers, got 'soon'"),
        ({"timesteps": [None]}, TypeError, "timesteps as numbers"),
        ({"timesteps": []}, ValueError, "a list of finite numbers"),
        ({"timesteps": 900.0}, ValueError, "a list of finite numbers"),
        ({"timesteps": [[900.0]]}, ValueError, "a list of finite numbers"),
        ({"timesteps": [900.0, float("inf")]}, ValueError, "a list of finite numbers"),
        ({"times": [1.0, 0.5]}, ValueError, "as many times as timesteps, got 2 and 0; give both"),
        ({"timesteps": TIMES, "times": [1.0, 0.5]}, ValueError, "got 2 and 3"),
        ({"timesteps": TIMES, "times": TIMES}, ValueError, r"from 0 \(data\) to 1 \(noise\)"),
        ({"timesteps": TIMES, "times": "soon"}, TypeError, "expected times as numbers"),
        ({"interval": 2, "policy": Interval(2)}, ValueError, "interval and policy exclude each other"),
        ({"policy": Interval(2), "speedup": 2.0}, ValueError, "policy and speedup exclude each other"),
        ({"policy": Interval}, TypeError, "another Policy, got <class"),
        ({"policy": 3}, TypeError, "another Policy, got 3"),
        ({"interval": 0}, ValueError, "at least 1, got 0"),
        ({"policy": Threshold(0.1)}, ValueError, "follows H, which is not kept for Interval"),
    ],
)
def test_what_cannot_be_said_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        named(accelerated(), **given)


def test_a_policy_that_follows_h_is_taken_where_the_model_keeps_it():
    forwards = accelerated(policy=Threshold(0.2))
    with named(forwards, policy=Threshold(0.1)):
        assert word_of(forwards).policy == Threshold(0.1)


def test_one_model_of_a_pipeline_that_does_not_keep_h_is_enough_to_refuse():
    forwards = {**accelerated("a", policy=Threshold(0.2)), **accelerated("b", interval=3)}
    with pytest.raises(ValueError, match="not kept for Interval"):
        named(forwards, policy=Threshold(0.1))


@pytest.mark.parametrize(
    ("given", "policy"), [({}, None), ({"interval": 4}, Interval(4)), ({"policy": Schedule([0, 2])}, Schedule([0, 2]))]
)
def test_what_is_said_is_handed_on(given, policy):
    forwards = accelerated("a", "b")
    with named(forwards, "mine", TIMES, **given) as run:
        words = [said_of(forward.module) for forward in forwards.values()]
        assert isinstance(run, Run) and run.name == "mine" and words[0] is words[1]
    assert (words[0].name, words[0].policy, words[0].step, words[0].lane) == ("mine", policy, None, None)
    assert words[0].timesteps.tolist() == TIMES


def test_a_speedup_of_a_run_is_that_of_the_plan():
    forwards = accelerated(keep=1)
    with named(forwards, speedup=2.0):
        policy = word_of(forwards).policy
    assert policy == Request(speedup=2.0, keep=1).settings(tiny(depth=6)).policy != Request().settings(tiny()).policy


def test_steps_nest_and_end():
    forwards = accelerated()
    with named(forwards, timesteps=TIMES) as run:
        with run.step(1) as same:
            assert same is run and (word_of(forwards).step, word_of(forwards).lane) == (1, None)
            with run.step(2, lane="cond"):
                assert (word_of(forwards).step, word_of(forwards).lane) == (2, "cond")
            assert word_of(forwards).step == 1
        assert word_of(forwards).step is None and word_of(forwards).name == "r"
    assert word_of(forwards) is None


def test_a_run_may_be_entered_twice():
    forwards = accelerated()
    run = named(forwards)
    with run, run:
        pass
    assert word_of(forwards) is None
    with pytest.raises(RuntimeError), run:
        raise RuntimeError
    assert word_of(forwards) is None


@pytest.mark.parametrize(
    ("index", "error", "said"),
    [
        (3, ValueError, "of which 3 were given, got 3"),
        (-1, ValueError, "of which 3 were given, got -1"),
        (1.0, TypeError, r"expected an int, got 1\.0"),
        (True, TypeError, "expected an int, got True"),
    ],
)
def test_steps_outside_of_the_run_are_refused(index, error, said):
    forwards = accelerated()
    run = named(forwards, timesteps=TIMES)
    with pytest.raises(error, match=said), run.step(index):
        pass
    assert word_of(forwards) is None, "nothing was said"


def test_without_timesteps_a_lane_can_be_said_and_no_step():
    forwards = accelerated()
    with named(forwards).step(lane="cond"):
        assert word_of(forwards).lane == "cond"
    with pytest.raises(ValueError, match="of which none were given, got 0"), named(forwards).step(0):
        pass


def test_the_report_is_of_the_run_and_of_each_denoiser():
    forwards = accelerated("a", "b")
    with named(forwards) as run:
        for t in TIMES[:2]:
            call(forwards["a"], t)
        call(forwards["b"])
    call(forwards["b"], 200.0)
    found = run.report()
    assert list(found) == ["a", "b"] and all(isinstance(report, Report) for report in found.values())
    assert [(report.full_steps, report.cached_steps) for report in found.values()] == [(1, 1), (1, 0)]
    assert forwards["b"].report().full_steps == 2


def test_of_one_denoiser_the_report_is_no_dict():
    forwards = accelerated("transformer")
    with named(forwards) as run:
        call(forwards["transformer"])
    assert isinstance(run.report(), Report) and run.report().full_at == (0,)


def test_the_times_of_a_run_are_handed_on():
    forwards = accelerated()
    with named(forwards, timesteps=TIMES, times=torch.tensor([1.0, 0.5, 0.25])):
        assert word_of(forwards).run.times == (1.0, 0.5, 0.25)


def test_a_run_that_has_ended_is_forgotten_by_all_denoisers():
    forwards = accelerated("a", "b")
    with named(forwards) as run:
        call(forwards["a"]), call(forwards["b"])
    run.end()
    assert all(forward.runs.named == {} and forward.report().full_steps == 1 for forward in forwards.values())
    with pytest.raises(ValueError, match="no call was made in a run called 'r'"):
        run.report()


def test_a_run_is_made_of_a_word():
    forwards = accelerated()
    word = Word((forwards[""].module,), "r")
    with Run(forwards, word):
        assert word_of(forwards) is word

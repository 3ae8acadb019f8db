"""`Threshold`: the rule alone, and whole runs against a reference that keeps every H."""

import copy
import math
import pickle
import threading

import pytest
import torch

import skipcache
from skipcache import Forecast, Hold, Interval, Schedule, Stack, Threshold
from skipcache.policies.base import Policy, Step
from tests.models.odd import run, tiny
from tests.models.pipelines import dit, run_dit
from tests.models.sampling import build, equal, sample

ENGINES = ["hooks", "fx"]


def step(index, since=1, drift=None):
    def unread():
        raise AssertionError("read")

    return Step(index, unread, unread, unread, since=since, drift=unread if drift is None else lambda: drift)


@pytest.mark.parametrize(
    ("drift", "full"), [(0.0, False), (0.099, False), (0.1, True), (7.0, True), (math.inf, True), (math.nan, True)]
)
def test_a_step_is_full_from_the_limit_on(drift, full):
    assert Threshold(0.1).full(step(3, drift=drift)) is full


def test_bounds_decide_without_a_look_at_the_device():
    policy = Threshold(0.1, most=2)
    assert [policy.full(step(i, drift=None if i < 1 else 0.0)) for i in range(3)] == [True, False, False]
    assert not policy.full(step(9, since=2, drift=0.0))
    assert policy.full(step(9, since=3))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"limit": "0.1"}, TypeError, "a number for limit, got '0.1'"),
        ({"limit": True}, TypeError, "a number for limit, got True"),
        ({"limit": None}, TypeError, "a number for limit"),
        ({"limit": 0}, ValueError, "limit > 0, got 0"),
        ({"limit": -0.1}, ValueError, "limit > 0, got -0.1"),
        ({"limit": math.nan}, ValueError, "limit > 0, got nan"),
        ({"most": 0}, ValueError, "most >= 1, got 0"),
        ({"most": 2.5}, TypeError, "an int for most, got 2.5"),
        ({"agree": 1}, TypeError, "the name of a mesh dimension for agree, got 1; True is the default process group"),
    ],
)
def test_it_says_what_is_wrong(settings, error, message):
    with pytest.raises(error, match=message):
        Threshold(**{"limit": 0.1, **settings})


def test_it_is_a_policy_that_is_copied_pickled_and_compared():
    policy = Threshold(0.1, agree=True)
    assert isinstance(policy, Policy)
    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == Threshold(0.1, agree=True) != Threshold(0.1)
    assert len({policy, Threshold(0.1, agree=True), Threshold(0.2)}) == 2


class Shallow:
    """H of every step, from a hook of its own on the last block of the head, or before the first one."""

    def __init__(self, model, keep):
        stack = skipcache.find_stack(model)
        self.steps = []
        if keep:
            block = model.get_submodule(stack.units[keep - 1][-1])
            block.register_forward_hook(lambda module, args, output: self.add(output))
        else:
            block = model.get_submodule(stack.blocks[0])
            block.register_forward_pre_hook(lambda module, args, kwargs: self.add((*args, kwargs)), with_kwargs=True)

    def add(self, output):
        """Of block inputs the first tensor, which the models that are tried with an empty head hand on alone."""
        tensors = [output] if torch.is_tensor(output) else [x for x in output if torch.is_tensor(x)]
        self.steps.append(torch.cat([x.double().flatten() for x in tensors]))

    def full_at(self, limit, most=8):
        changes = [0.0]
        changes += [((b - a).norm() / a.norm()).item() for a, b in zip(self.steps, self.steps[1:])]
        full = [0]
        for t in range(1, len(self.steps)):
            since = changes[full[-1] + 1 : t]
            if t - full[-1] > most or sum(since) + changes[t - 1] >= limit:
                full.append(t)
        return tuple(full)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "keep", "limit"),
    [
        ("dit", 1, 0.15),
        ("latte", 1, 0.15),
        ("sd3", 1, 0.2),
        ("flux_dev", 1, 0.6),
        ("original_latte", 1, 1.0),
        ("original_pixart", 1, 1.5),
    ],
)
def test_a_run_is_the_one_of_the_schedule_that_the_reference_finds(name, keep, limit, engine):
    model = build(name)
    shallow = Shallow(model, keep)
    skipcache.accelerate(model, policy=Threshold(limit), keep=keep, engine=engine)
    sample(name, model, steps=1)  # traced and proved, which runs blocks too
    shallow.steps.clear()
    outputs = sample(name, model, steps=9)
    expected = shallow.full_at(limit)
    found = skipcache.report(model).full_at  # which counts FLOPs, by more calls
    assert found == expected
    assert 1 < len(found) < 9

    scheduled = skipcache.accelerate(build(name), policy=Schedule([*found, 9]), keep=keep, engine=engine)
    assert equal(outputs, sample(name, scheduled, steps=9))


@pytest.mark.parametrize("predictor", [Hold(), Forecast(1)])
@pytest.mark.parametrize(
    ("name", "keep"),
    [("dit", 0), ("cogvideox", 1), ("wan", 1), ("flux_dev", 1), ("latte", 0), ("original_latte_pairs", 1)],
)
def test_both_engines_decide_alike(name, keep, predictor):
    found = []
    for engine in ENGINES:
        policy = Threshold(0.4)
        model = skipcache.accelerate(build(name), policy=policy, keep=keep, predictor=predictor, engine=engine)
        outputs = sample(name, model)
        report = skipcache.report(model)
        found.append((report.full_at, report.blocks_saved))
        if engine == "hooks":
            expected = outputs
    assert equal(outputs, expected) and found[0] == found[1]
    assert skipcache.report(model).cached_steps > 0


def test_hold_runs_the_head_only_where_the_policy_reads_it():
    head = "transformer_blocks.0"
    for policy, runs in ((Interval(3), False), (Threshold(0.15), True)):
        model = skipcache.accelerate(build("dit"), policy=policy, predictor=Hold(), engine="fx")
        sample("dit", model)
        assert skipcache.report(model).cached_steps
        assert (head in {node.target for node in skipcache.graphs(model).cached.nodes}) is runs


@pytest.mark.parametrize("engine", ENGINES)
def test_runs_repeat_themselves_after_others_of_another_shape_reset_copy_and_pickle(engine):
    model = skipcache.accelerate(build("dit"), policy=Threshold(0.15), engine=engine)
    expected, full_at = sample("dit", model), skipcache.report(model).full_at
    assert 1 < len(full_at) < 7
    with torch.no_grad():
        for t in (900, 800, 700):
            model(torch.ones(3, 4, 8, 8), torch.full((3,), t), torch.tensor([1, 2, 3]))
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), skipcache.reset(model)):
        assert equal(sample("dit", same), expected)
        assert skipcache.report(same).full_at == full_at
    with torch.inference_mode():
        assert equal(sample("dit", model), expected)
    assert equal(sample("dit", model), expected), "H of an inference run is left behind"


def test_two_threads_decide_each_for_itself():
    model, alone = build("dit"), {}
    for seed in (0, 1):
        single = skipcache.accelerate(build("dit"), policy=Threshold(0.15))
        alone[seed] = sample("dit", single, seed=seed, steps=9)
    skipcache.accelerate(model, policy=Threshold(0.15))
    sample("dit", model, seed=2, steps=1)  # proofs of two threads at once may cost one of them a cached step
    found, barrier = {}, threading.Barrier(2)

    def run(seed):
        barrier.wait()
        found[seed] = sample("dit", model, seed=seed, steps=9)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(found[seed], alone[seed]) for seed in alone)


def test_bfloat16_and_both_engines():
    outputs = []
    for engine in ENGINES:
        model = skipcache.accelerate(build("dit").bfloat16(), policy=Threshold(0.3), engine=engine)
        x = torch.ones(2, 4, 8, 8, dtype=torch.bfloat16)
        with torch.no_grad():
            outputs.append(
                [model(x + t / 900, torch.full((2,), t), torch.tensor([1, 2])).sample for t in range(900, 100, -100)]
            )
        assert skipcache.report(model).cached_steps and outputs[0][0].dtype == torch.bfloat16
    assert equal(*outputs)


def test_a_pipeline_is_sampled_and_restored():
    pipe = dit()
    before = run_dit(pipe)
    run_dit(skipcache.accelerate(pipe, policy=Threshold(0.02)))
    report = skipcache.report(pipe)
    assert report.full_steps + report.cached_steps == 7 and report.full_at[0] == 0
    skipcache.restore(pipe)
    assert torch.equal(run_dit(pipe), before)


def test_under_a_tiny_limit_all_steps_are_full_but_the_second_before_which_no_change_was_seen():
    found = []
    for policy in (Threshold(1e-9), Schedule([0, *range(2, 7)])):
        pipe = skipcache.accelerate(dit(), policy=policy)
        found.append(run_dit(pipe))
        assert skipcache.report(pipe).full_at == (0, 2, 3, 4, 5, 6)
    assert torch.equal(*found)


def test_the_features_that_are_held_are_counted():
    sizes = {}
    for policy in (Interval(8), Threshold(math.inf)):
        model = skipcache.accelerate(build("dit"), policy=policy)
        sample("dit", model, steps=3)
        sizes[policy] = skipcache.report(model).cache_bytes
    kept, held = sizes.values()
    assert held == kept + 2 * 16 * 16 * 4  # batch, tokens, width, bytes


@pytest.mark.parametrize("engine", ENGINES)
def test_where_the_shallow_feature_is_not_known_all_steps_are_full_and_the_report_says_why(engine):
    units = (("blocks.0", "blocks.1"), ("blocks.2", "blocks.3"))
    model, stack = build("original_dit"), Stack(units, "x", "t")
    plain = sample("original_dit", model)
    skipcache.accelerate(model, policy=Threshold(10.0), keep=0, stack=stack, engine=engine)
    with pytest.warns(UserWarning, match="caches nothing: the policy follows what enters the first block"):
        outputs = sample("original_dit", model)
    report = skipcache.report(model)
    assert report.full_at == tuple(range(7))
    assert any("cannot be told apart" in reason for reason in report.reasons)
    assert equal(outputs, plain)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_limit_that_nothing_can_meet_still_caches_the_second_step_as_the_docstring_says(engine):
    model = skipcache.accelerate(tiny(), policy=Threshold(1e-9), engine=engine)
    run(model, steps=6)
    assert skipcache.report(model).full_at == (0, 2, 3, 4, 5)
    assert "second step of a run is cached whatever the limit" in " ".join(Threshold.__doc__.split())

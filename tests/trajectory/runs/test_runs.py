"""Which run a call is of: runs in turns, runs that change threads, and runs that the client names."""

import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from skipcache import Delta, Interval
from skipcache.trajectory.call import CallReader
from skipcache.trajectory.places import Repeat
from skipcache.trajectory.runs import MAX_NAMED, MAX_RUNS, Runs
from skipcache.trajectory.word import Word
from tests.models.calls import NAMES, Denoiser, every, full_at, tensor

TIMES = [900.0, 800.0, 700.0, 600.0, 500.0, 400.0]
SIZE = 2 * 64 * 4  # bytes of what one lane of `Denoiser`, or one call of `Named`, holds


class Request:
    """A sampling loop of its own on a shared denoiser; each step is called once for each text.

    Its samples follow the output for one of them.
    """

    def __init__(self, model, *texts, follows=-1):
        self.model, self.texts, self.follows = model, texts, follows
        self.x, self.e = tensor(), torch.zeros(2, 64)

    def step(self, t):
        """(step, full) of the calls, and their lanes."""
        self.x, found, lanes, outputs = self.x + 0.1 * self.e, [], [], []
        for text in self.texts:
            found.append(self.model(t, text, x=self.x)[:2])
            lanes.append(self.model.lane)
            outputs.append(self.model.e)
        self.e = outputs[self.follows]
        return found, lanes


def on_a_thread(function):
    """What `function` returns on a thread that ends with it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


# Runs that nobody names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one text", "own texts", "own texts and negatives"])
def test_two_requests_in_turns_keep_their_own_lanes(kind):
    model, text = Denoiser(), tensor()
    texts = {"one text": lambda: [text], "own texts": lambda: [tensor()]}.get(kind, lambda: [tensor(), tensor()])
    requests, lanes = [Request(model, *texts()) for _ in range(2)], {}
    for step, t in enumerate(TIMES):
        for i, request in enumerate(requests):
            found, now = request.step(t)
            assert found == [(step, step % 3 == 0)] * len(now)
            assert lanes.setdefault(i, now) == now, "the lanes of its first step"
    assert not set(map(id, lanes[0])) & set(map(id, lanes[1]))


def test_two_requests_in_turns_that_share_one_of_two_texts_reuse_nothing_of_each_other():
    """Of the second one a call more is full: its first one was taken for a lane of the first request."""
    model, negative, last, cached = Denoiser(), tensor(), {}, 0
    requests = [Request(model, tensor(), negative) for _ in range(2)]
    for step, t in enumerate(TIMES):
        for request in requests:
            found, lanes = request.step(t)
            assert [at for at, _ in found] == [step, step]
            for which, ((_, full), lane) in enumerate(zip(found, lanes)):
                if full:
                    last[lane] = request, which
                assert last[lane] == (request, which)
                cached += not full
    assert cached >= 4 * 4 - 1


def test_a_lane_that_was_left_is_not_taken_by_another_request():
    """The first request was called once. The other one's first text is taken for a lane beside it: of another image."""
    model, negative = Denoiser(), tensor()
    one, other = Request(model, negative), Request(model, tensor(), negative, follows=0)
    one.step(900.0)
    left, found = model.lane, []
    for t in TIMES[:3]:
        found += other.step(t)[1]
    assert left not in found


def test_a_request_that_comes_while_another_one_runs_begins_at_its_own_first_step():
    model = Denoiser()
    one, other = Request(model, tensor()), Request(model, tensor())
    assert [one.step(t)[0] for t in TIMES[:2]] == [[(0, True)], [(1, False)]]
    assert [request.step(t)[0] for t, request in ((900.0, other), (700.0, one), (800.0, other), (600.0, one))] == [
        [(0, True)],
        [(2, True)],
        [(1, False)],
        [(3, True)],
    ], "of one that was not seen to take turns the features are freed: one full step more"


def test_a_run_that_changes_threads_goes_on():
    model, text = Denoiser(), tensor()
    request = Request(model, text)
    request.step(TIMES[0])
    ready, done = threading.Event(), threading.Event()
    found = []

    def elsewhere():
        found.extend(request.step(t)[0][0] for t in TIMES[1:4])
        ready.set()
        done.wait(20)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert ready.wait(20)
    found += [request.step(t)[0][0] for t in TIMES[4:]]
    done.set()
    thread.join()
    assert found == every(3, 6)[1:] and len(model.runs.all) == 1


def test_of_the_runs_of_other_threads_the_one_that_knows_the_lane_goes_on():
    """Two texts of one run, each first called on a thread of its own, and the next step on a third one."""
    model, texts, x = Denoiser(Interval(2)), (tensor(), tensor()), tensor()
    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(3)]

        def call(thread, t, text, x):
            threads[thread].submit(model, t, text, x=x).result()
            return model.lane, model.e

        (lane, e), (_, other) = call(0, 900.0, texts[0], x), call(1, 900.0, texts[1], x)
        for number, (thread, t) in enumerate([(2, 800.0), (0, 700.0), (1, 600.0)]):
            x = x + 0.1 * e + 0.1 * other
            found, e = call(thread, t, texts[0], x)
            assert found is lane, number
            _, other = call((thread + 1) % 3, t, texts[1], x)


def test_the_runs_of_a_thread_that_has_ended_are_freed():
    model = Denoiser()
    on_a_thread(lambda: Request(model, tensor()).step(900.0) and len(model.runs.tensors))
    model.lane = model._lanes = model._known = None
    gc.collect()
    assert model.runs.all == [] and model.runs.tensors == []


def test_each_thread_has_its_own_runs():
    model = Denoiser()
    request = Request(model, tensor())
    request.step(900.0)
    here = model.trajectory
    assert on_a_thread(lambda: Request(model, tensor()).step(900.0) and model.trajectory) is not here
    on_a_thread(model.runs.drop)
    assert model.trajectory is here, "a thread forgets its own"


def test_of_many_requests_the_last_ones_are_known():
    model, text = Denoiser(), tensor()
    requests = [Request(model, text) for _ in range(MAX_RUNS + 3)]
    for request in requests:
        request.step(900.0)
    assert len(model.runs.all) == MAX_RUNS
    assert [request.step(800.0)[0][0] for request in requests[3:]] == [(1, False)] * MAX_RUNS
    assert requests[0].step(800.0)[0][0] == (0, True)


def test_one_run_of_the_thread_can_be_forgotten():
    model, text = Denoiser(), tensor()
    one, other = Request(model, text), Request(model, text)
    one.step(900.0), other.step(900.0)
    model.runs.drop(model.trajectory)
    assert one.step(800.0)[0] == [(1, False)] and other.step(800.0)[0] == [(0, True)]


def test_released_runs_go_on_with_a_full_step():
    model, text = Denoiser(Interval(9)), tensor()
    model.run(TIMES[:2], text)
    model.runs.release()
    assert model.runs.tensors == []
    assert model.run(TIMES[2:], text) == [(2, True), (3, False), (4, False), (5, False)]


# Runs that the client names -------------------------------------------------------------------------------------------


class Named:
    """Calls under a name; what each is of comes out."""

    def __init__(self, policy=None):
        self.runs = Runs(policy or Interval(3), Delta())
        self.x = tensor()

    def visit(self, name, t, x=None, **said):
        call = CallReader(NAMES, "hidden_states", "timestep").read(
            (self.x if x is None else x, t), {}, said.pop("lane", None)
        )
        visit = self.runs.visit_named(call, Word((self,), name, **said))
        if not isinstance(visit, Repeat) and visit.full:
            visit.run.record(visit, (tensor(),), (tensor(),))
        return visit

    def __call__(self, name, t, **given):
        visit = self.visit(name, t, **given)
        return None if isinstance(visit, Repeat) else (visit.step, visit.full)


def test_a_named_run_is_known_by_its_name_whatever_its_samples_are():
    named = Named()
    for step, t in enumerate(TIMES):
        for name in "ab":
            assert named(name, t, x=tensor()) == (step, step % 3 == 0)
    assert [run.named for run in named.runs.all] == ["a", "b"]


def test_a_named_run_has_its_own_policy():
    named = Named()
    found = {name: [] for name in "ab"}
    for t in TIMES:
        found["a"].append(named("a", t, policy=Interval(2)))
        found["b"].append(named("b", t))
    assert full_at(found["a"]) == [0, 2, 4] and full_at(found["b"]) == [0, 3]


def test_the_step_that_is_said_counts_and_not_the_timestep():
    named, times = Named(), torch.tensor(TIMES)
    assert [named("r", 500.0, timesteps=times, step=i) for i in range(6)] == every(3, 6)
    assert named("r", 500.0, timesteps=times, step=5) is None, "the same call of the same step"
    assert named("r", 500.0, timesteps=times, step=0) == (0, True), "another run by this name"


def test_steps_that_are_passed_over_are_counted():
    named, times = Named(), torch.tensor(TIMES)
    assert [named("r", t, timesteps=times) for t in (900.0, 800.0, 500.0)] == [(0, True), (1, False), (4, True)]


def test_timesteps_that_begin_again_begin_another_run_by_the_name():
    named = Named()
    assert [named("r", t) for t in TIMES[:3]] == every(3, 3)
    before = named.runs.named["r"]
    assert named("r", 900.0) == (0, True) and named.runs.named["r"] is not before
    assert len(named.runs.all) == 1


def test_lanes_that_are_said_are_told_apart():
    named = Named()
    for step, t in enumerate(TIMES[:3]):
        visits = [named.visit("r", t, lane=lane) for lane in ("cond", "uncond")]
        assert [(visit.step, visit.opens_step) for visit in visits] == [(step, True), (step, False)]
        assert visits[0].lane is not visits[1].lane


def test_of_many_names_the_one_called_longest_ago_is_forgotten():
    named = Named()
    for i in range(MAX_NAMED):
        named(str(i), 900.0)
    named("0", 800.0), named("new", 900.0)
    assert len(named.runs.named) == MAX_NAMED
    assert named("0", 700.0) == (2, False) and named("1", 800.0) == (0, True)


def test_a_run_that_has_ended_holds_nothing():
    named = Named()
    named("a", 900.0), named("b", 900.0)
    named.runs.forget("a"), named.runs.forget("never called")
    assert [run.named for run in named.runs.all] == ["b"]
    named.runs.drop(named.runs.named["b"])
    assert named.runs.all == []


def test_named_runs_stand_beside_those_of_the_thread():
    named, call = Named(), CallReader(NAMES, "hidden_states", "timestep").read((tensor(), 900.0), {})
    visit = named.runs.visit(call)
    named("r", 900.0)
    assert named.runs.all == [named.runs.named["r"], visit.run] and named.runs.latest is visit.run


# A limit of what they hold --------------------------------------------------------------------------------------------


def test_the_run_called_longest_ago_loses_its_features_first():
    named = Named()
    for name in "abc":
        named(name, 900.0)
    named("a", 800.0)
    a, b, c = (named.runs.named[name] for name in "abc")
    assert named.runs.keep_to(2 * SIZE, a) == 1
    assert [bool(run.tensors) for run in (a, b, c)] == [True, False, True]
    assert [named(name, 700.0)[1] for name in "abc"] == [False, True, False]


def test_the_run_that_is_under_way_loses_its_features_last():
    named = Named()
    for name in "ab":
        named(name, 900.0)
    a, b = (named.runs.named[name] for name in "ab")
    assert named.runs.keep_to(SIZE, a) == 1 and a.tensors and not b.tensors
    assert named.runs.keep_to(SIZE - 1, a) == 1 and not a.tensors, "the limit holds for it too"


def test_runs_that_hold_nothing_are_not_counted_as_losses():
    named = Named()
    for name in "abc":
        named(name, 900.0)
    named.runs.named["a"].release()
    assert named.runs.keep_to(SIZE, named.runs.named["c"]) == 1


@pytest.mark.parametrize("limit", [None, 2 * SIZE])
def test_nothing_is_lost_within_the_limit(limit):
    named = Named()
    named("a", 900.0)
    latest = named.visit("b", 900.0).run
    assert named.runs.keep_to(limit, latest) == 0 and len(named.runs.tensors) == 2

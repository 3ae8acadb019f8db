"""Processes that hold one model together place each call alike. What the other one says is made up here."""

import pytest

import skipcache
from skipcache import Interval
from skipcache.trajectory.processes import DIFFERED, RAISED, Processes, Sharing, processes_of
from tests.models.calls import Denoiser, every, full_at, tensor
from tests.models.sampling import build, equal, sample

TIMES = [900.0, 800.0, 700.0, 600.0, 500.0, 400.0, 300.0]
FAILED, REPEAT, STEP, BEFORE, LANE, LANES, FULL = range(7)


class Beside(Processes):
    """With one other process, which says what `other` makes of what is said here."""

    def __init__(self, other):
        super().__init__([])
        self.other, self.asked = other, 0

    def _extremes(self, numbers, device):
        self.asked += 1
        pairs = list(zip(numbers, self.other(list(numbers))))
        return [min(pair) for pair in pairs], [max(pair) for pair in pairs]


def sampled(other, text, policy=None):
    denoiser = Denoiser(policy or Interval(3))
    denoiser.runs.processes = Beside(other)
    return denoiser, denoiser.run(TIMES, text)


def changed(numbers, place, value):
    numbers[place] = value
    return numbers


def test_where_all_say_the_same_nothing_changes():
    denoiser, found = sampled(lambda numbers: numbers, tensor())
    assert found == every(3, 7)
    assert denoiser.runs.processes.asked == 7, "samples on the host are read on each call"


def test_a_step_is_full_where_another_process_says_so_and_the_interval_counts_from_there_on_no_other():
    def other(numbers):
        return changed(numbers, FULL, int(numbers[STEP] == 4 or numbers[FULL]))

    assert full_at(sampled(other, tensor())[1]) == [0, 3, 4, 6]


def test_where_another_process_is_elsewhere_all_begin_a_run():
    moved = []

    def other(numbers):
        if numbers[STEP] == 4 and not moved:
            moved.append(True)
            return changed(numbers, STEP, 0)
        return numbers

    found = sampled(other, tensor())[1]
    assert found == [(0, True), (1, False), (2, False), (3, True), (0, True), (1, False), (2, False)]


def test_why_a_run_began_is_said():
    denoiser = Denoiser(Interval(3))
    calls = iter([0, 0, 1])
    processes = denoiser.runs.processes = Beside(lambda numbers: changed(numbers, LANES, 9) if next(calls) else numbers)
    seen, settle = [], processes.settle
    processes.settle = lambda *given: seen.append(settle(*given)) or seen[-1]
    denoiser.run(TIMES[:3], tensor())
    assert [visit.doubt for visit in seen] == [None, None, DIFFERED] and seen[-1].full


def test_where_another_process_fails_this_one_fails_too_and_begins_anew():
    failing = [False]
    denoiser = Denoiser(Interval(3))
    denoiser.runs.processes = Beside(lambda numbers: changed(numbers, FAILED, int(failing[0])))
    text = tensor()
    denoiser.run(TIMES[:2], text)
    failing[0] = True
    with pytest.raises(RuntimeError, match=RAISED):
        denoiser(TIMES[2], text)
    failing[0] = False
    assert denoiser(TIMES[2], text)[:2] == (0, True)


def test_its_own_failure_is_told_to_the_others_before_it_is_raised():
    told = []
    policy = Interval(3, start=0.5)
    denoiser = Denoiser(policy)
    denoiser.runs.processes = Beside(lambda numbers: told.append(numbers[FAILED]) or numbers)
    with pytest.raises(ValueError, match="the model's own units"):
        denoiser.run(TIMES[:2], tensor())
    assert told == [0, 1]


def test_alone_it_is_the_first_and_has_all_tokens():
    alone, x = Processes([]), tensor()
    assert alone.first("word") == "word" and alone.total(x) is x and alone.agree(False, x.device)


def test_without_a_process_group_there_is_nobody_to_agree_with():
    model = build("dit")
    assert processes_of(model) is None and processes_of(model, True) is None
    assert Sharing(model, True, "replica").processes("state") is None


def test_it_looks_again_where_the_model_has_changed(monkeypatch):
    looked = []
    monkeypatch.setattr("skipcache.trajectory.processes.processes_of", lambda *given: looked.append(given))
    model, one, other = build("dit"), object(), object()
    sharing = Sharing(model, False)
    for state in (one, one, other, other):
        sharing.processes(state)
    assert looked == [(model, False)] * 2


def test_asking_to_agree_changes_nothing_in_one_process():
    outputs = [sample("dit", skipcache.accelerate(build("dit"), interval=3, agree=agree)) for agree in (False, True)]
    assert equal(*outputs)


def test_what_cannot_be_asked_for_raises():
    with pytest.raises(TypeError, match="agree: expected True, False or the name of a mesh dimension, got 3"):
        skipcache.accelerate(build("dit"), agree=3)

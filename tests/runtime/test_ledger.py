"""What was done, in all and by name, and the reports of it."""

import logging
from types import SimpleNamespace

import pytest
import torch

from skipcache import Interval
from skipcache.engines import StepResult
from skipcache.runtime.ledger import MAX_NAMED, Ledger
from skipcache.trajectory.call import CallReader
from tests.models.odd import noise, tiny

DEPTH = 6


class Noted(Interval):
    def note(self, step):
        return f"a note on step {step}"


def ledger():
    engine = SimpleNamespace(name="hooks", serves=lambda call: False)
    return Ledger(tiny(depth=DEPTH), [engine], DEPTH)


def a_call(side=4):
    return CallReader(("x", "t"), "x", "t").read((noise(side), torch.full((2,), 900.0)), {})


def count(ledger, index, *calls, name=None, policy=None, side=4):
    """One step: each of its calls is full or not."""
    run = SimpleNamespace(named=name, policy=policy or Interval(3))
    at = SimpleNamespace(index=index, view=index, counted_full=False)
    for i, full in enumerate(calls):
        visit = SimpleNamespace(run=run, at=at, step=index, opens_step=i == 0)
        ledger.count(a_call(side), visit, StepResult(None, DEPTH if full else 2, full, engine="fx" if full else ""))


def steps(report):
    return report.full_steps, report.cached_steps, report.full_at


def test_before_the_first_call_nothing_is_known():
    report = ledger().report(None, [])
    assert steps(report) == (0, 0, ()) and report.ideal_speedup is None
    assert (report.engine, report.reasons, report.evictions, report.cache_bytes) == ("hooks", (), 0, 0)


def test_calls_count_in_all_and_under_the_name_of_their_run():
    made = ledger()
    count(made, 0, True, True, name="a"), count(made, 0, True, name="b"), count(made, 1, False, False, name="a")
    count(made, 0, True)
    assert steps(made.report("a", [])) == (1, 1, (0,)) and made.report("a", []).blocks_run == 2 * DEPTH + 2 * 2
    assert steps(made.report("b", [])) == (1, 0, (0,)) and made.report("b", []).engine == "fx"
    assert made.report(None, []).full_steps == 3 and made.report(None, []).blocks_run == 4 * DEPTH + 2 * 2


@pytest.mark.parametrize("calls", [(True, False), (False, True), (False, True, True)])
def test_a_step_is_full_once_in_all_and_by_name(calls):
    """Both are told alike which call was the step's first full one."""
    made = ledger()
    count(made, 0, *[True] * len(calls), name="a"), count(made, 1, *calls, name="a")
    assert steps(made.report("a", [])) == steps(made.report(None, [])) == (2, 0, (0, 1))


def test_a_repeated_call_costs_a_full_one_and_is_no_step():
    made = ledger()
    count(made, 0, True, name="a"), count(made, 1, False, name="a")
    made.repeat(a_call(), "a"), made.repeat(a_call(), None)
    assert [made.report(name, []).blocks_run for name in ("a", None)] == [2 * DEPTH + 2, 3 * DEPTH + 2]
    assert steps(made.report("a", [])) == steps(made.report(None, [])) == (1, 1, (0,))


def test_losses_add_up_and_are_logged(caplog):
    made = ledger()
    with caplog.at_level(logging.INFO, logger="skipcache"):
        made.evict(0)
        assert not caplog.records
        made.evict(2), made.evict(1)
    assert made.report(None, []).evictions == 3
    assert "the features of 2 runs were dropped" in caplog.text


def test_a_reason_is_logged_once_and_reported_with_those_that_are_seen_only_now(caplog):
    made = ledger()
    with caplog.at_level(logging.INFO, logger="skipcache"):
        made.because("it draws"), made.because("it draws")
    assert [record.message for record in caplog.records] == ["it draws"]
    assert made.report(None, [], ["no pipeline called"]).reasons == ("it draws", "no pipeline called")


def test_a_policy_s_note_is_asked_for_where_a_run_begins():
    made = ledger()
    with pytest.warns(UserWarning, match="skipcache: a note on step 0"):
        count(made, 0, True, True, policy=Noted(3))
    count(made, 1, False, policy=Noted(3)), count(made, 0, True, policy=Noted(3))  # warned of once
    assert made.report(None, [], []).reasons[0] == "a note on step 0" and len(made.all.reasons) == 1


def test_what_is_held_is_given_in_bytes():
    held = [torch.zeros(3, 5), torch.zeros(7, dtype=torch.bfloat16)]
    assert ledger().report(None, held).cache_bytes == 3 * 5 * 4 + 7 * 2


def test_a_name_that_no_run_had_is_refused():
    made = ledger()
    count(made, 0, True, name="a")
    made.forget("a"), made.forget("never called")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=f"no call was made in a run called '{name}'"):
            made.report(name, [])
    assert made.report(None, []).full_steps == 1, "what was done in all stays"


def test_of_many_names_the_oldest_is_forgotten():
    made = ledger()
    for i in range(MAX_NAMED + 1):
        count(made, 0, True, name=str(i))
    with pytest.raises(ValueError, match="run called '0'"):
        made.report("0", [])
    assert [made.report(name, []).full_steps for name in ("1", str(MAX_NAMED))] == [1, 1]


def test_where_flops_cannot_be_counted_blocks_are():
    made = ledger()
    made._costs.model.forward = lambda *_: 1 / 0
    count(made, 0, True), count(made, 1, False)
    report = made.report(None, [])
    assert report.ideal_speedup == 2 * DEPTH / (DEPTH + 2)
    assert "is that of blocks, since FLOPs cannot be counted" in report.reasons[-1]

"""The report as a value and as a table."""

from dataclasses import FrozenInstanceError

import pytest

from skipcache.runtime.report import Report

REPORT = Report(
    7, 13, 92, 68, 1.739, 3 * 2**20, "hooks", full_at=(0, 3, 6), reasons=("fx: the forward draws",), largest_gap=3
)


def test_it_shows_all_that_it_knows():
    rows = [line.split() for line in str(REPORT).splitlines()]
    shown = {" ".join(row[1:-1]) for row in rows}
    for expected in (
        "full steps │ 7",
        "cached steps │ 13",
        "blocks run │ 92",
        "blocks saved │ 68",
        "ideal speedup │ 1.74x",
        "cache │ 3.00 MiB",
        "engine │ hooks",
        "full at │ 0 3 6",
        "largest gap │ 3",
        "because │ fx: the forward draws",
    ):
        assert expected in shown, expected


def test_what_is_not_known_yet_is_a_dash():
    shown = str(Report(0, 0, 0, 0, None, 0, "fx"))
    assert shown.count(" - ") == 2 and "because" not in shown


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        REPORT.full_steps = 0


def test_reports_of_several_processes_merge():
    other = Report(3, 7, 100, 300, 4.0, 2**20, "fx", full_at=(0, 4), reasons=("why",), evictions=1, largest_gap=4)
    both = sum([REPORT, other])
    assert (both.full_steps, both.cached_steps, both.blocks_run, both.blocks_saved) == (10, 20, 192, 368)
    assert both.ideal_speedup == pytest.approx(560 / (160 / 1.739 + 400 / 4))
    assert (both.cache_bytes, both.engine, both.full_at) == (4 * 2**20, "hooks and fx", (0, 3, 6))
    assert both.reasons == (*REPORT.reasons, "why") and (both.evictions, both.largest_gap) == (1, 4)


def test_a_process_that_did_nothing_changes_nothing():
    idle = Report(0, 0, 0, 0, None, 0, "hooks")
    assert sum([REPORT, idle]) == REPORT and sum([idle]) is idle and sum([idle, idle]).ideal_speedup is None


def test_in_a_notebook_it_is_text_as_well(monkeypatch):
    """There rich would show the table aside, and leave the text empty."""
    expected = str(REPORT)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(REPORT) == expected

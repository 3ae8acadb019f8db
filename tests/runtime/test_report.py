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

"""`skipcache overhead`: what a call costs the host. Times are not tested, but which of them are compared."""

import json
import sys

import pytest

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.overhead import worker
from skipcache.benchmarks.overhead.run import BESIDE, HERE, ratios_of, rows_of
from skipcache.benchmarks.publish.studies import overhead


def times(plain, cached, floor=1.0):
    """A round of one version."""
    kinds = {"plain": plain, "first": 2 * plain, "full": plain, "cached": cached, "mean": plain / 2}
    found = {way: {"plain": plain, "call": plain} if way == "interval=1" else kinds for way in worker.WAYS}
    return {**found, "floor, keep=0": {"call": floor}, "floor, keep=1": {"call": 2 * floor}}


def test_each_call_is_compared_with_the_plain_one_of_its_moment():
    rows = rows_of(HERE, [times(10, 1), times(20, 3, floor=2), times(30, 6)])
    found = {(row["way"], row["kind"]): row for row in rows}
    cached = found["hooks, keep=0", "cached"]
    assert (cached["ms"], cached["over_plain"]) == (3, 0.15) and cached["over_floor"] == 1.5
    assert found["fx, keep=1", "cached"]["over_floor"] == 0.75
    assert found["hooks, keep=0", "first"]["over_plain"] == 2 and found["interval=1", "call"]["over_plain"] == 1
    assert found["hooks, keep=0", "full"]["over_floor"] is None


def test_versions_are_compared_round_by_round():
    rounds = [{HERE: times(10, 2), BESIDE: times(20, 2)}, {HERE: times(10, 3), BESIDE: times(10, 1)}]
    found = {(one["way"], one["kind"]): one for one in ratios_of(rounds)}
    cached = found["hooks, keep=0", "cached"]
    assert [cached[name] for name in ("ratio", "least", "most")] == pytest.approx([2.5, 2.0, 3.0])
    assert not any(kind == "plain" for _, kind in found)


def test_the_docs_table():
    rounds = [{HERE: times(10, 2), BESIDE: times(20, 2)}]
    rows = [*rows_of(HERE, [rounds[0][HERE]]), *rows_of(BESIDE, [rounds[0][BESIDE]])]
    table = overhead([{"command": "skipcache overhead", "rows": rows, "against": ratios_of(rounds)}])
    assert "| hooks, keep=0 (this version) | 2.000 | 1.000 | 0.200 | 2.00 | 0.500 | 1.00 |" in table
    assert "| hooks, keep=0 (the other one) | 2.000 | 1.000 | 0.100 | 2.00 | 0.500 | - |" in table
    assert "interval=1" not in table and "`skipcache overhead`" in table


def test_a_program_that_is_none_is_refused(capsys, tmp_path):
    assert main(["overhead", "--beside", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "--beside: expected a program" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_command_times_every_way_in_both_versions(tmp_path):
    arguments = ["--rounds", "1", "--runs", "1", "--beside", sys.executable, "--out", str(tmp_path)]
    assert main(["overhead", *arguments]) == 0
    result = json.loads((tmp_path / "overhead.json").read_text())
    assert {row["way"] for row in result["rows"]} == set(worker.WAYS)
    assert {row["version"] for row in result["rows"]} == {HERE, BESIDE}
    assert all(row["ms"] > 0 for row in result["rows"]) and result["against"]

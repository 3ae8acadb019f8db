"""No process waits for ever in a collective that another one does not come to."""

import pytest

from tests.models.distributed import hangs
from tests.models.distributed.launch import launch

pytestmark = pytest.mark.thorough


def test_a_report_on_one_process_neither_hangs_nor_changes_anything():
    found, other = launch(hangs.reports)
    alone = found.pop("alone")
    assert all(same for same, _ in found.values()) and all(other[key][0] for key in found)
    assert found["fsdp", "wan"][1] == alone, "FLOPs are counted on whole weights"
    assert all(speedup > 1.2 for _, speedup in found.values())


def test_thresholds_agree_without_being_told_to():
    found, _ = launch(hangs.thresholds)
    for (way, limit), (ones, others) in found.items():
        assert ones == others and 1 < len(ones) < 8, (way, limit, ones, others)


def test_windows_are_alike_where_each_process_has_the_times_of_other_tokens():
    found, _ = launch(hangs.windows)
    for policy, (distance, (ones, others), alone) in found.items():
        assert distance < 1e-5 and ones == others == alone, policy
    assert len({alone for *_, alone in found.values()}) == 2, "a window that closes at once, and one that does not"


def test_where_one_process_raises_all_do():
    ones, others = launch(hangs.raising)
    assert ones == ["RuntimeError: " + hangs.RAISED] * 2
    assert others == ["ValueError: a policy of one process failed"] * 2


def test_where_one_process_begins_a_run_all_do():
    ((ones, others), reasons), _ = launch(hangs.strays)
    assert ones == others and ones[1] > 0
    assert any("did not place a call alike" in reason for reason in reasons)


def test_all_processes_find_the_same_calibration_and_run_it():
    found, _ = launch(hangs.calibrations)
    for key, ((ones, others), steps, name) in found.items():
        assert ones == others and ones.model == name and ones.corrections is not None, key
        assert steps == (4, 4), key


def test_replicas_beside_sharding_may_have_prompts_of_their_own():
    found = launch(hangs.replicas, processes=4)
    assert [len(runs) for runs in found] == [1, 1, 2, 2]
    assert found[0] == found[1] and found[2] == found[3]

"""Weights that are divided over processes: exact, and a block that is skipped moves none of them."""

import pytest

from tests.models.distributed import weights
from tests.models.distributed.launch import launch

pytestmark = pytest.mark.thorough


def test_skipped_blocks_gather_nothing_under_fsdp2():
    (found, speedup), other = launch(weights.gathered)
    assert other == (found, speedup)
    for engine, run in found.items():
        assert run["equal"] and run["exact"] and run["restored"], engine
        # 8 steps, 3 of them full; one unit is kept at each end. The root keeps its weights whole after the first run.
        ends, deep = {"blocks.0", "blocks.3"}, {"blocks.1", "blocks.2"}
        assert {path for path, n in run["gathers"].items() if n == 8} == ends, engine
        assert {path for path, n in run["gathers"].items() if n == 3} == deep, engine
        assert run["speedup"] == speedup and run["reasons"] == (), engine


def test_engines_are_equal_where_blocks_compute_in_half_precision():
    found, _ = launch(weights.mixed)
    assert all(found.values()), found


def test_tensor_parallelism_is_exact():
    found, other = launch(weights.parallel_tensors)
    assert found == other
    assert found["equal"] and found["exact"] and found["far"] < 1e-5


def test_branches_are_grafted_before_sharding_saved_whole_and_trained_together(tmp_path):
    found, other = launch(weights.branches, str(tmp_path))
    assert found == other
    assert "graft the model first, and shard it then" in found["late"]
    assert found["kept"] == found["loaded"] == found["loaded_sharded"] == 0
    assert found["trained"][0] == found["trained"][1] > 0, "branches begin as zeros"

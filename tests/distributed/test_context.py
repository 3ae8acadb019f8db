"""diffusers' context parallelism: uncached runs are exact, cached ones are those of a single process."""

import pytest

from tests.models.distributed import context
from tests.models.distributed.launch import launch

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", context.NAMES)
def test_both_engines_do_what_they_do_in_a_single_process(name):
    found, other = launch(context.exactness, name)
    assert found == other, "the processes have not the same outputs"
    assert found.pop("restored")
    for (keep, engine), run in found.items():
        assert run["uncached"], (keep, engine)
        assert run["far"] < 1e-5 < 0.01 < run["from_plain"], (keep, engine, run)
        assert run["as_alone"] and run["cached"] == 5 and run["engine"] == engine, (keep, engine, run)
        assert all("FLOPs" in reason for reason in run["reasons"]), run["reasons"]

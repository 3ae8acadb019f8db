"""Never a wrong reuse: sequences of calls are drawn, by class, and each feature is traced to the call it came from.

What counts as wrong stands in tests/models/fuzz/world.py. `make fuzz` runs many more of them; a class is run alone by
`pytest tests/fuzz -k 'requests'`. The environment variable FUZZ says how many sequences are drawn in all.

What no evidence can tell is not drawn: img2img with the very noise of a run that was stopped, and a run that goes on
inside of one `set_timesteps` at a later position than the run before (see the limits in README.md).
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.models.fuzz.programs import CLASSES, PLAIN
from tests.models.fuzz.world import World

# Programs share engines, which may have given up what earlier ones did in vain: a lost saving is no wrong reuse.
pytestmark = pytest.mark.filterwarnings("ignore:skipcache caches nothing:UserWarning")

SEQUENCES = int(os.environ.get("FUZZ", 200))
EACH = -(-SEQUENCES // (len(CLASSES) + 1))
drawn = settings(
    max_examples=EACH,
    derandomize="FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


@pytest.mark.parametrize("kind", CLASSES)
def test_no_call_uses_a_feature_of_another_run_lane_or_state_nor_an_old_one(kind):
    @drawn
    @given(CLASSES[kind])
    def check(program):
        world = World(program).run()
        assert not world.wrong, f"{len(world.wrong)} wrong reuses\n{world}"

    check()


@drawn
@given(PLAIN)
def test_plain_runs_save_what_the_policy_says(program):
    world = World(program).run()
    assert not world.wrong and not world.lost, f"{len(world.lost)} full calls too many\n{world}"

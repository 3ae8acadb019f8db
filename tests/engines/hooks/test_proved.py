"""What was proved holds for a signature and a state of the model, and no proof is bought again and again in vain."""

import pytest
import torch

import skipcache
from skipcache.engines.hooks.proved import (
    FRESH,
    MAX_FRUITLESS,
    MAX_STATES,
    MAX_TRIALS,
    MAX_UNPAID,
    UNSTEADY,
    Proved,
)
from skipcache.engines.hooks.wiring import Wiring
from skipcache.trajectory import CallReader
from tests.models.odd import Tiny, noise, run, tiny

READER = CallReader(("x", "t", "given"), "x", "t")


def call_of(given=None, state=None):
    return READER.read((noise(), torch.full((2,), 500), given), {}, state=state)


def test_objects_are_no_part_of_the_key_and_plain_values_are():
    proved = Proved()
    proved.put(call_of([object(), 2]), Wiring(first=1))
    assert proved.get(call_of([object(), 2])) == Wiring(first=1)
    assert proved.get(call_of([object(), 3])) is None and proved.get(call_of([object(), 2.0])) is None


def test_another_state_of_the_model_is_proved_anew_and_the_one_before_is_remembered():
    proved = Proved()
    proved.put(call_of(state=(1, 2)), Wiring(first=1))
    assert proved.get(call_of(state=(1, 3))) is None
    assert proved.get(call_of(state=(1, 2))) == Wiring(first=1)


def test_of_many_states_the_one_that_comes_again_and_again_is_remembered():
    """As with autoguidance: on each step the model as it is, and then in a state that never comes again."""
    proved = Proved()
    proved.put(call_of(state="own"), Wiring(first=1))
    for i in range(3 * MAX_STATES):
        assert proved.get(call_of(state=i)) is None
        assert proved.get(call_of(state="own")) == Wiring(first=1)


def test_a_signature_is_tried_twice_and_again_once_it_has_paid():
    proved, call = Proved(), call_of()
    for _ in range(MAX_TRIALS):
        assert proved.objection(call) is None
        proved.tries(call)
    assert proved.objection(call) == UNSTEADY
    proved.pays(call)
    assert proved.objection(call) is None


def test_each_state_has_its_trials_and_a_state_that_is_new_on_every_call_is_given_up():
    proved = Proved()
    states = [call_of(state=(i,)) for i in range(MAX_UNPAID + 1)]
    for call in states[:-1]:
        assert proved.objection(call) is None
        proved.tries(call)
    assert proved.objection(states[-1]) == UNSTEADY
    for call in states[:-1]:
        proved.pays(call)
    assert all(proved.objection(call) is None for call in states)


def test_after_many_signatures_in_vain_only_one_that_comes_again_is_tried():
    proved = Proved()
    for i in range(MAX_FRUITLESS):
        assert proved.objection(call_of(i)) is None
        proved.tries(call_of(i))
    assert proved.objection(call_of(99)) == FRESH and proved.objection(call_of(99)) is None


def test_a_wiring_in_the_place_of_a_dropped_one_takes_no_features_of_other_shapes():
    proved, call = Proved(), call_of()
    old, new = (torch.zeros(4, 3),), (torch.zeros(2, 3),)
    proved.put(call, Wiring(shapes=((2, 3),)))
    assert proved.get(call).suits([old]) and proved.get(call).suits([new])
    proved.drop(call)
    assert proved.get(call) is None
    proved.put(call, Wiring(shapes=((2, 3),)))
    assert proved.get(call).suits([new]) and not proved.get(call).suits([old])


class TakesMore(Tiny):
    def before(self, h, x, t, text, given):
        return h + text


class Fresh:
    pass


@pytest.mark.parametrize("engine", ["hooks", "auto"])
def test_a_fresh_object_on_each_call_costs_two_forwards_at_most_and_gives_cached_steps(engine):
    model, ran = skipcache.accelerate(tiny(TakesMore), interval=3, engine=engine), []
    for block in model.blocks:
        block.adaLN.register_forward_hook(lambda *_: ran.append(1))
    text = torch.randn(2, 1, 16)
    run(model, text=text, given=lambda i: {"window": Fresh()})
    first = len(ran)
    run(model, text=text, given=lambda i: {"window": Fresh()})
    second = len(ran) - first
    report = skipcache.report(model)
    assert report.cached_steps >= 5 and report.engine == "hooks"
    assert first <= (7 + 2) * 5 and first + second <= report.blocks_run + 2 * 5

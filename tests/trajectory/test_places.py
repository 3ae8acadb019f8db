"""The answers to where a call stands."""

from skipcache.trajectory.places import Ahead, NewRun, Visit
from tests.models.calls import Denoiser, tensor


def test_steps_ahead_compare_by_value_and_a_new_run_does_not():
    assert Ahead(1) == Ahead(1) != Ahead(0)
    assert NewRun() != NewRun()


def test_a_visit_tells_the_index_of_its_step():
    model, text = Denoiser(), tensor()
    model.run([900, 800], text)
    visit = Visit(model.lane, model.trajectory.at, full=False, opens_step=True)
    assert visit.step == 1

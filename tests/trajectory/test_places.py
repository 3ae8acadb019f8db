"""The answers to where a call stands."""

from skipcache.trajectory.places import NewRun, Visit
from tests.models.calls import Denoiser, tensor


def test_a_new_run_is_not_in_turns_unless_it_is_said():
    assert not NewRun().in_turns and NewRun(in_turns=True).in_turns


def test_a_visit_tells_the_index_of_its_step():
    model, text = Denoiser(), tensor()
    model.run([900, 800], text)
    run = model.trajectory
    visit = Visit(run, model.lane, run.at, full=False, opens_step=True)
    assert visit.step == 1

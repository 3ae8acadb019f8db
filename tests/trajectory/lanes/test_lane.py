"""One lane: whether a call's conditioning is near the last one, and which leaves tell who is called."""

import pytest
import torch

from skipcache.trajectory.call import CallReader
from skipcache.trajectory.lanes.lane import Lane, telling
from tests.models.calls import NAMES, tensor

READER = CallReader(NAMES, "hidden_states", "timestep")


def called(*conditioning, x=None, t=900.0):
    return READER.read((tensor() if x is None else x, t, *conditioning), {})


def words(seed):
    """A text as encoders give it: the first token is large, and the same in all texts."""
    text = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(seed))
    text[:, 0] = 100
    return text


def test_another_text_is_not_near_though_its_first_token_outweighs_all_others():
    lane, text = Lane.of(called(words(0))), words(0)
    assert lane.is_near(called(text + 0.2 * torch.randn(text.shape)), {0})
    assert not lane.is_near(called(words(1)), {0})


def test_what_was_written_to_since_is_not_near():
    text = words(0)
    lane = Lane.of(called(text))
    later = text.clone()
    text.mul_(1.0)
    assert not lane.is_near(called(later), {0})


@pytest.mark.parametrize("empty", [torch.zeros(0, 4), torch.zeros(2, 0, 4)], ids=str)
def test_nothing_is_near_to_nothing(empty):
    assert Lane.of(called(empty)).is_near(called(empty.clone()), {0})


def test_the_timestep_once_more_tells_nothing():
    times = torch.tensor([900.0, 800.0])
    assert telling(called(tensor(), times[0], t=times[0])) == {1}
    assert telling(called(times[0].expand(2), t=times[0])) == set(), "in any shape"
    assert telling(called(times[1], t=times[0])) == {0}, "another time is not this one"
    assert telling(called(1.0, t=900.0)) == {0}


def test_a_second_sample_goes_on_by_the_output_that_it_has():
    x, sound, e = tensor(2, 64), tensor(2, 48), (tensor(2, 64), tensor(2, 48))
    lane = Lane.of(called(sound, x=x))
    lane.note(e)
    assert lane.goes_on(called(sound - 3 * e[1], x=x), 0)
    assert not lane.goes_on(called(tensor(2, 48), x=x), 0)
    lane.note(e[0])
    assert not lane.goes_on(called(sound - 3 * e[1], x=x), 0), "the model has no output for it"

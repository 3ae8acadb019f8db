"""examples/context_parallel_video.py gives the video that a single process gives."""

import pytest

from tests.models.distributed import video
from tests.models.distributed.launch import launch

pytestmark = pytest.mark.thorough


def test_two_processes_make_the_video_of_one():
    found, other = launch(video.videos)
    assert found == other
    (apart, from_plain), alike, cached, _ = found
    assert apart < 1e-5 < from_plain and alike and cached > 0

"""How many streams a block returns and how wide they are, as its code and its layers show."""

import pytest
from torch import nn

from skipcache.branches.widths import stream_count, usual_width, widths_of
from skipcache.stack import Stack


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.out = nn.Linear(6, 24), nn.Linear(24, 6), nn.Linear(6, 6)

    def forward(self, x, c):
        return x


class OneOfTwo(One):
    def forward(self, x, c):
        return None, x


class Two(One):
    def forward(self, x, text):
        if text is None:
            return x
        return text, x


class NoLayers(nn.Module):
    def forward(self, x, c):
        return x


@pytest.mark.parametrize(("kind", "streams"), [(One, 1), (OneOfTwo, 1), (Two, 2)])
def test_streams_are_counted_in_the_code_that_returns_them(kind, streams):
    assert stream_count(kind()) == streams


def test_code_that_cannot_be_read_counts_as_one_stream():
    made = {}
    exec("def forward(self, x, c):\n    return c, x\n", made)
    assert stream_count(type("Made", (nn.Module,), {"forward": made["forward"]})()) == 1


def test_the_usual_width_is_what_most_linear_layers_take_in():
    assert usual_width(One()) == 6
    with pytest.raises(ValueError, match="NoLayers has no linear layer to tell it by"):
        usual_width(NoLayers())


def widths(*kinds, pairs=((0, 1),), streams=None, width=None):
    model = nn.Module()
    model.blocks = nn.ModuleList(kind() for kind in kinds)
    return widths_of(model, Stack(tuple((f"blocks.{i}",) for i in range(len(kinds)))), pairs, streams, width)


def test_what_is_given_goes_before_what_is_read():
    assert widths(One, One) == (6,) and widths(Two, Two) == (6, 6)
    assert widths(One, One, streams=2) == (6, 6)
    assert widths(Two, Two, width=9) == (9, 9) and widths(Two, Two, width=(9, 4)) == (9, 4)
    assert widths(NoLayers, NoLayers, width=3) == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": 0}, "streams: expected an int of at least 1, got 0"),
        ({"streams": 1.0}, r"streams: expected an int of at least 1, got 1\.0"),
        ({"width": (6, 6)}, "a positive int for each of 1 streams"),
        ({"width": 0}, "a positive int"),
        ({"width": (1.5,)}, "a positive int"),
    ],
)
def test_streams_and_widths_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        widths(One, One, **options)


def test_blocks_of_uneven_streams_cannot_be_joined_unless_told():
    with pytest.raises(ValueError, match=r"blocks\.0 returns 2 tensors and blocks\.1 1"):
        widths(Two, One)
    assert widths(Two, One, streams=1) == (6,)

"""How a block that does not run hands its streams through: in the order and nesting in which it would return them."""

import torch

from skipcache.blocks import Outline
from skipcache.engines.hooks.wiring import Outlet, Wiring

TEXT, IMAGE = torch.randn(2, 3, 4), torch.randn(2, 9, 4)


def outlet(shape, streams, inlets):
    return Outlet(shape, tuple(map(Outline.of, streams)), inlets)


def test_one_stream_goes_through_as_it_is():
    assert outlet(None, [IMAGE], (0,)).hand_through({0: IMAGE, 1: TEXT}) is IMAGE
    (found,) = outlet((...,), [IMAGE], ("x",)).hand_through({"x": IMAGE})
    assert found is IMAGE


def test_streams_come_out_in_another_order_than_they_came_in():
    both = outlet((..., ...), [TEXT, IMAGE], ("text", "image"))
    text, image = both.hand_through({"image": IMAGE, "text": TEXT, "temb": 1})
    assert text is TEXT and image is IMAGE
    assert outlet([None, ...], [IMAGE], (0,)).hand_through({0: IMAGE}) == [None, IMAGE]


def test_a_stream_that_came_in_by_no_argument_or_in_another_outline_is_blank():
    both = outlet((..., ...), [TEXT, IMAGE], (None, "image"))
    text, image = both.hand_through({"image": IMAGE[:1]})
    assert Outline.of(text) == Outline.of(TEXT) and Outline.of(image) == Outline.of(IMAGE)
    assert image is not IMAGE


def test_a_wiring_says_nothing_until_a_step_was_seen():
    wiring = Wiring()
    assert (wiring.shallow, wiring.first, wiring.last) == (-1, -1, -1)
    assert not wiring.outlets and not wiring.copies and wiring.refusal is None

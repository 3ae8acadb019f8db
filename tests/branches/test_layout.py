"""Pairs of units that branches may join, and the layout as a value that is written and read."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from skipcache.branches.layout import Layout, check_layout, layout_in, make_pairs

LAYOUT = Layout("concat", ((0, 5), (1, 4)), 6, (16, 8))


@pytest.mark.parametrize(
    ("depth", "pairs"), [(2, ((0, 1),)), (5, ((0, 4), (1, 3))), (6, ((0, 5), (1, 4), (2, 3)))], ids=str
)
def test_by_default_every_unit_of_the_first_half_has_its_mirror_image(depth, pairs):
    assert make_pairs(depth) == pairs


def test_pairs_come_out_by_source():
    assert make_pairs(8, [(2, 4), [0, 7]]) == ((0, 7), (2, 4))


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([(0, 2)], ValueError, r"a target in \[3, 5\), got \(0, 2\)"),
        ([(2, 3)], ValueError, r"a source in \[0, 2\)"),
        ([(0, 3), (1, 4)], ValueError, "which cross"),
        ([(0, 4), (0, 3)], ValueError, "each unit in one pair at most"),
        ([], ValueError, "at least one, got none"),
        ([(0, True)], TypeError, "pairs of ints"),
    ],
)
def test_pairs_that_cannot_be(pairs, error, message):
    with pytest.raises(error, match=message):
        make_pairs(5, pairs)


def test_a_layout_comes_back_from_json_and_from_an_extra_state():
    text = json.dumps(asdict(LAYOUT))
    assert Layout.of(json.loads(text)) == LAYOUT
    assert layout_in(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)) == LAYOUT


@pytest.mark.parametrize("change", [{"fuse": "add"}, {"pairs": ((0, 5),)}, {"depth": 7}, {"widths": (16,)}], ids=str)
def test_weights_of_another_layout_are_refused_and_both_are_named(change):
    check_layout(LAYOUT, replace(LAYOUT))
    with pytest.raises(ValueError, match="the weights are of concat branches of width 16 and 8 between the units 0-5"):
        check_layout(LAYOUT, replace(LAYOUT, **change))


FACTS = {"fuse": "add", "pairs": [[0, 5]], "depth": 6, "widths": [16]}
HOSTILE = [
    *({name: value for name, value in FACTS.items() if name != left_out} for left_out in FACTS),
    *({**FACTS, "fuse": fuse} for fuse in ("multiply", None, ["add"])),
    *({**FACTS, "pairs": pairs} for pairs in (None, [], 3, [[0]], [["0", "5"]], [[0, 1e9]], [[0, 9]], {"0": 5})),
    *({**FACTS, "depth": depth} for depth in ("6", 6.5, -1, True, None)),
    *({**FACTS, "widths": widths} for widths in ([], [0], [-1], ["16"], 16, None, [1.5], [True])),
    [],
    "add",
    None,
]


@pytest.mark.parametrize("facts", HOSTILE, ids=str)
def test_what_is_no_layout_is_refused_with_what_it_was(facts):
    assert Layout.of(FACTS) == Layout("add", ((0, 5),), 6, (16,))
    with pytest.raises(ValueError, match="expected the layout of skip branches: fuse 'add' or 'concat'"):
        Layout.of(facts)


@pytest.mark.parametrize(
    "state", [torch.zeros(3), torch.tensor(7), torch.tensor([300]), torch.tensor([123, 34])], ids=str
)
def test_an_extra_state_that_is_no_json_is_refused(state):
    with pytest.raises(ValueError, match="expected the layout of skip branches as JSON in bytes, got none"):
        layout_in(state)

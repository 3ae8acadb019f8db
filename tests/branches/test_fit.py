"""Tensors of a file are told from others before one of them is copied."""

import pytest
import torch

from skipcache.branches.fit import as_state, check_keys, check_names, shown

OURS = {"weight": torch.zeros(2, 3), "steps": torch.zeros(1, dtype=torch.long)}


def test_what_fits_may_have_another_precision():
    check_keys("file", {"weight": torch.zeros(2, 3, dtype=torch.float16), "steps": torch.zeros(1).int()}, OURS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(3, 2)}, r"file does not fit the model: weight is \(3, 2\), not \(2, 3\)"),
        ({"weight": torch.zeros(2, 3).char()}, "weight is int8, not float32"),
        ({"weight": torch.zeros(2, 3, dtype=torch.complex64)}, "weight is complex64, not float32"),
        ({"weight": torch.zeros(2, 3).to_sparse()}, r"weight is float32 \(sparse_coo\), not float32"),
        ({"weight": torch.zeros(2, 3, device="meta")}, "weight is float32 without values, not float32"),
        ({"steps": torch.zeros(1)}, "steps is float32, not int64"),
        ({"more": torch.zeros(1)}, "missing keys: none; unexpected keys: more"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_keys("file", OURS | change, OURS)


def test_long_lists_of_names_are_cut():
    assert shown([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more" and shown([]) == "none"
    with pytest.raises(ValueError, match="what: missing keys: a; unexpected keys: b"):
        check_names("what", {"b"}, {"a"})


@pytest.mark.parametrize("value", [None, [], {}, {3: torch.zeros(1)}, {"a": 1}, torch.zeros(1)], ids=str)
def test_what_is_no_state_dict_is_refused(value):
    assert as_state(OURS, "file") == OURS
    with pytest.raises(ValueError, match="file: expected a state dict of tensors"):
        as_state(value, "file")

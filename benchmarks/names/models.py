"""The reference denoisers, and the judges of their samples."""

from __future__ import annotations

# Name -> its module in `references`.
REFERENCES = {
    "dit-digits": "dit_digits",
    "dit-digits-skip": "dit_digits_skip",
    "dit-digits-add": "dit_digits_add",
    "pixart-shapes": "pixart_shapes",
    "latte-digits": "latte_digits",
}
# Classifiers of samples: name -> its module in `references.judges`.
JUDGES = {
    "digits-classifier": "digits",
    "shapes-judge": "shapes",
    "moving-digits-judge": "moving_digits",
}

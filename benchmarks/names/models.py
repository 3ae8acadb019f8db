"""The reference denoisers, and the judges of their samples."""

from __future__ import annotations

# Name -> its module in `references`.
REFERENCES = {
    "dit-digits": "dit_digits",
    "dit-digits-skip": "dit_digits_skip",
    "dit-digits-add": "dit_digits_add",
    "pixart-shapes": "pixart_shapes",
    "latte-digits": "latte_digits",
    "mmdit-emoji": "mmdit_emoji",
}
FLOWS = ("mmdit-emoji",)  # those of rectified flow: they have samplers of their own
# Classifiers of samples: name -> its module in `references.judges`.
JUDGES = {
    "digits-classifier": "digits",
    "shapes-judge": "shapes",
    "moving-digits-judge": "moving_digits",
    "emoji-judge": "emoji",
}
# Name -> its module in `references`, with the `task` that trains it.
AUTOENCODERS = {"emoji-autoencoder": "emoji_autoencoder"}
TRAINABLE = (*REFERENCES, *JUDGES, *AUTOENCODERS)

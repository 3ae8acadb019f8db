"""What the references are trained on: digits, scenes, videos, emoji.

Drawn or installed, so that nothing is downloaded; but for emoji, whose pictures are fetched to train, and only then.
"""

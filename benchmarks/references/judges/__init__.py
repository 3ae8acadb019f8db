"""Classifiers that say whether a sample shows what was asked for. Each has a `task()` to train it."""

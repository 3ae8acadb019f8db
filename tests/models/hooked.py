"""A tiny denoiser with a hook engine, and a call of it."""

import torch

from skipcache.engines.hooks.engine import HookEngine
from skipcache.stack import Stack, make_plan
from skipcache.trajectory import CallReader
from tests.models.odd import Tiny, noise, tiny


def made(kind=Tiny, keep=1, idle_head=False, depth=5):
    model = tiny(kind, depth=depth)
    stack = Stack(tuple((f"blocks.{i}",) for i in range(depth)), "x", "t")
    return model, HookEngine(model, stack, make_plan(depth, keep), idle_head)


def call_of(model, side=4, seed=0):
    return CallReader.of(model.forward, "x", "t").read((noise(side, seed), torch.full((2,), 500)), {})

"""Sequences that reused a wrong feature once, as they were drawn."""

from dataclasses import replace

import pytest

from tests.models.fuzz.clients import Given, Pass, Run, Served, Tiles
from tests.models.fuzz.world import Program, World

pytestmark = pytest.mark.filterwarnings("ignore:skipcache caches nothing:UserWarning")

FOUND = {
    "windows that go round the canvas under a scheduler that bends samples": Program(
        (Tiles("ddim", 3, starts=(0, 64), shift=16, late=1, served=Served("PNDM")),), interval=2
    ),
    "a run with the noise of one that ended with another text in between": Program(
        (Run(steps=8, turns=2), Run(steps=2)), interval=2
    ),
    "a run that was left at its first step": Program(
        (
            Run(steps=2, seed=1, other=Pass("layer skipped", place=0, start=0, stop=3)),
            Run("heun", 3, guidance="first", other=Pass("layer skipped", place=0, start=1, stop=4)),
        ),
        turns=(0, 1) * 13,
        interval=2,
    ),
    "a noisy run beside one of another thread": Program(
        (Run(steps=2, seed=2), Run("ddpm", 2), Run("ddpm", 3, seed=1, guidance="apart")), threads=((0,), (1,), (2,))
    ),
    "a run that hops over threads beside one with other arguments": Program(
        (Run("flow", 3, given=Given("copies")), Run("flow", 3, seed=1)), (1, 1), interval=2, threads=((1, 0), (0,))
    ),
    "tiles of a repeating schedule in turns with others, on a device": Program(
        (Tiles("ddim", 3, starts=(0, 64)), Tiles("ddim", 3, seed=1, starts=(0, 64), served=Served("PNDM"))),
        turns=(0, 1) * 13,
        interval=2,
        on_device=True,
    ),
    "a repeating schedule with texts that are rebuilt, on a device": Program(
        (Run(steps=2, seed=1, served=Served("PNDM"), given=Given("vectors", rebuilt=True)), Run(steps=2)),
        turns=(0, 0, 1),
        on_device=True,
        threads=((0,), (0,)),
    ),
    "a noisy run that hops over threads": Program(
        (Run("ddpm", 3, guidance="apart"),), interval=2, threads=((1, 1, 0, 0),)
    ),
    "a run that comes back to a thread when its scheduler counts, on a device": Program(
        (Run(steps=3, guidance="apart", served=Served("DPM++")),), interval=2, on_device=True, threads=((0, 1, 1, 1),)
    ),
    "two runs of one text in turns, each with a pass in another state": Program(
        (
            Run("flow", 2, text=1, other=Pass("layer skipped", 0, 0, 3), given=Given("copies")),
            Run("flow", 2, 1, 1, guidance="first", other=Pass("layer skipped", 0, 0, 3), given=Given("copies")),
        ),
        turns=(0, 1) * 13,
        interval=2,
    ),
    "tiles whose texts are rebuilt, under a noisy scheduler, in turns with others, on a device": Program(
        (
            Tiles("ddim", 3, starts=(0, 64), given=Given("vectors")),
            Tiles("ddim", 3, 2, starts=(0, 64), served=Served("Ancestral"), given=Given("vectors", rebuilt=True)),
        ),
        turns=(0, 1) * 12,
        interval=2,
        on_device=True,
    ),
    "a noisy run that comes back to a thread": Program(
        (Run(steps=2), Run("ddpm", seed=1, guidance="batched")), interval=2, threads=((0,), (0, 0, 1))
    ),
}


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("program", FOUND.values(), ids=list(FOUND))
def test_a_sequence_that_was_wrong_once_is_right(program, engine):
    assert not World(replace(program, engine=engine)).run().wrong

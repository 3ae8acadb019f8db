"""`python -m tests.models.fuzz.table [SEQUENCES]`: how many sequences of each class go wrong, and how, in a table."""

import sys
import time
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.models.fuzz.programs import CLASSES, PLAIN
from tests.models.fuzz.world import World


def tally(programs, sequences):
    """Counts over so many sequences."""
    counts = Counter()

    @seed(0)
    @settings(
        max_examples=sequences,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(programs)
    def check(program):
        world = World(program).run()
        counts["sequences"] += 1
        counts["rows"] += len(world.made)
        counts["cached rows"] += sum(not row.full for row in world.made)
        counts["wrong sequences"] += bool(world.wrong)
        counts["wrong rows"] += len(world.wrong)
        counts["lost rows"] += len(world.lost) if programs is PLAIN else 0
        counts.update(where for row in world.wrong for where in kinds(row, program))

    check()
    return counts


def kinds(row, program):
    old = any("old" in verdict for verdict in row.verdicts)
    yield "only too old" if old and len(row.verdicts) == 1 else "another's"
    yield "on a device" if program.on_device else "on the host"


COLUMNS = ("sequences", "rows", "cached rows", "wrong sequences", "wrong rows", "another's", "only too old")
COLUMNS += ("on the host", "on a device", "lost rows")


def main(sequences):
    torch.set_num_threads(1)
    print("| class |", " | ".join(COLUMNS), "| sequences/s |\n|---" * 1 + "|---" * (len(COLUMNS) + 1) + "|")
    for name, programs in {**CLASSES, "plain": PLAIN}.items():
        start = time.perf_counter()
        counts = tally(programs, sequences)
        rate = counts["sequences"] / (time.perf_counter() - start)
        print(f"| {name} |", " | ".join(str(counts[column]) for column in COLUMNS), f"| {rate:.1f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)

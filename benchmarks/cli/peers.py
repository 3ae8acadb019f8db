"""`skipcache peers`: other caches beside skipcache."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.peers import PeersSettings


def run(settings: PeersSettings, console: Console) -> None:
    from skipcache.benchmarks.peers.run import run_peers

    run_peers(settings, console)


COMMAND = Command("peers", "compare other caches (skipcache[peers]), tuned to the same compute", PeersSettings, run)

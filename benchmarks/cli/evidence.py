"""`skipcache evidence`: a study of skip branches."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.studies import EvidenceSettings


def run(settings: EvidenceSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.evidence import run_evidence

    run_evidence(settings, console)


COMMAND = Command("evidence", "how well models with and without skip branches cache", EvidenceSettings, run)

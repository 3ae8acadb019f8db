"""`skipcache evidence`: a study of skip branches; `skipcache default` and `half`: two of the default."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.studies import DefaultSettings, EvidenceSettings, HalfSettings


def run(settings: EvidenceSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.evidence import run_evidence

    run_evidence(settings, console)


def run_on_default(settings: DefaultSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.default import run_default

    run_default(settings, console)


def run_in_half(settings: HalfSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.half import run_half

    run_half(settings, console)


COMMAND = Command("evidence", "how well models with and without skip branches cache", EvidenceSettings, run)
DEFAULT = Command("default", "what interval= keeps, beside fewer sampler steps", DefaultSettings, run_on_default)
HALF = Command("half", "what interval= keeps in half precision", HalfSettings, run_in_half)

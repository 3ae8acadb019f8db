"""`skipcache evidence`: a study of skip branches; `default` and `half`: of the default; `promises`: of calibrations."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.studies import DefaultSettings, EvidenceSettings, HalfSettings, PromisesSettings


def run(settings: EvidenceSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.evidence import run_evidence

    run_evidence(settings, console)


def run_on_default(settings: DefaultSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.default import run_default

    run_default(settings, console)


def run_in_half(settings: HalfSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.half import run_half

    run_half(settings, console)


def run_on_promises(settings: PromisesSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.promises import run_promises

    run_promises(settings, console)


COMMAND = Command("evidence", "how well models with and without skip branches cache", EvidenceSettings, run)
DEFAULT = Command("default", "what interval= keeps, beside fewer sampler steps", DefaultSettings, run_on_default)
HALF = Command("half", "what interval= keeps in half precision", HalfSettings, run_in_half)
PROMISES = Command("promises", "how often a calibration's promised errors are kept", PromisesSettings, run_on_promises)

"""`skipcache publish`: the docs out of result files."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.publish import PublishSettings


def run(settings: PublishSettings, console: Console) -> None:
    from skipcache.benchmarks.publish.docs import publish

    written = publish(settings.runs, settings.root)
    lines = "\n".join(f"wrote {path}" for path in written) or "nothing has changed"
    console.print(lines, highlight=False, soft_wrap=True)


COMMAND = Command("publish", "write the docs' tables out of result files", PublishSettings, run)

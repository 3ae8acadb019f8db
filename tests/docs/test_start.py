"""docs/index.md: what it says to save as first.py runs, and prints what it shows."""

import re
from pathlib import Path

from tests.models.pages import sections

PAGE = Path(__file__).parents[2] / "docs/index.md"
NUMBER = re.compile(r"\d+\.\d+")


def lines(text):
    """Without decimals: they may round otherwise elsewhere."""
    return [NUMBER.sub("#", line).rstrip() for line in text.strip().splitlines()]


def test_the_first_program_prints_what_the_page_shows(capsys):
    (code,) = sections(PAGE)["The one line"]
    exec(compile(code, "first.py", "exec"), {"__name__": "__main__"})
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    printed = capsys.readouterr().out
    assert lines(printed) == lines(shown)
    assert float(NUMBER.findall(printed)[-1]) < 0.01, "the page calls it a few thousandths"

"""No measured figure is written by hand: tables equal their result files, and sentences hold no figures."""

import re
from pathlib import Path

import pytest

from skipcache.benchmarks.publish.docs import DOCS, MARKED, TABLES, fill

ROOT = Path(__file__).parents[2]
ANSWERS = ("README.md", "docs/evidence.md")
FIGURE = re.compile(r"\d\s*dB\b|\d\.\d+\s*(?:x\b|×|%)|\d\s*±|\b\d+\s*(?:x|×)(?!\w)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def prose(text):
    """Without marked tables and code."""
    return CODE.sub("", MARKED.sub("", text))


@pytest.mark.parametrize("name", DOCS)
def test_tables_equal_their_result_files(name):
    text = (ROOT / name).read_text()
    assert fill(text, ROOT) == text, "run `skipcache publish`"


@pytest.mark.parametrize("name", DOCS)
def test_every_table_has_figures(name):
    for match in MARKED.finditer((ROOT / name).read_text()):
        assert "| ---" in match.group(0), f"{match.group(2)}: its result file is missing"


def test_every_table_is_shown():
    shown = {match.group(2) for name in DOCS for match in MARKED.finditer((ROOT / name).read_text())}
    assert shown == set(TABLES)


@pytest.mark.parametrize("name", ANSWERS)
def test_sentences_hold_no_measured_figure(name):
    for line in prose((ROOT / name).read_text()).splitlines():
        assert not FIGURE.search(line), f"{line!r}: put the figure into a table that `skipcache publish` writes"


@pytest.mark.parametrize(
    "line", ["it keeps 47.9 dB", "2.04x faster", "a 2x speedup", "within 42.4 ± 0.2", "99.2% of them"]
)
def test_a_measured_figure_is_recognised(line):
    assert FIGURE.search(prose(line))


@pytest.mark.parametrize(
    "line", ["`speedup=2.2`", "50 DDIM steps of 12 blocks", "a DiT of 2M parameters", "H100", "4x4"]
)
def test_a_setting_is_no_figure(line):
    assert not FIGURE.search(prose(line))


def test_evidence_is_one_page():
    """Tables of 10 rows at most; the long ones are in the notebook."""
    text = (ROOT / "docs" / "evidence.md").read_text()
    assert len(text.splitlines()) <= 160
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len(table.splitlines()) <= 12, table[:80]

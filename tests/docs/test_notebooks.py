"""The notebooks of examples/ run, and give what they were saved with; decimals may differ by the machine."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def runner():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs/hooks/run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(cell):
    """What a cell shows: its text without decimals, and which kinds of data."""
    texts = [output.get("text") or output.data.get("text/plain", "") for output in cell.outputs]
    kinds = [sorted(output.get("data", {})) for output in cell.outputs]
    return [re.sub(r"\d+\.\d+|0x\w+", "#", text) for text in texts], kinds


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_saved_with_a_picture_and_no_place_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    assert any("image/png" in output.get("data", {}) for cell in cells(notebook) for output in cell.outputs)
    assert not any("traceback" in output for cell in cells(notebook) for output in cell.outputs)
    assert [cell.execution_count for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text())


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_run_gives_what_is_saved(path):
    saved, now = nbformat.read(path, as_version=4), runner().executed(path)
    for before, after in zip(cells(saved), cells(now), strict=True):
        assert shown(after) == shown(before), before.source

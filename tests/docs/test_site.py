"""The site: it has every public name, and builds with warnings as errors."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import skipcache

ROOT = Path(__file__).parents[2]


def hook(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/hooks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: skipcache\.(\w+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == set(skipcache.__all__) - {"__version__"} | {"training"}


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("readme.md", "docs/faq.md#a", "faq.md#a"),
        ("readme.md", "CONTRIBUTING.md", "contributing.md"),
        ("readme.md", "examples/first_run.ipynb", "notebooks/first_run.md"),
        ("faq.md", "../README.md#limits", "readme.md#limits"),
        ("recipes/images.md", "../../README.md", "../readme.md"),
        ("recipes/images.md", "../models.md", "../models.md"),
        ("notebooks/first_run.md", "../docs/recipes/index.md", "../recipes/index.md"),
        ("notebooks/first_run.md", "calibrate_your_model.ipynb", "calibrate_your_model.md"),
        ("faq.md", "https://arxiv.org/abs/2411.17616", "https://arxiv.org/abs/2411.17616"),
    ],
)
def test_links_lead_to_the_page_of_the_site(page, link, on_the_site):
    assert hook("root_pages").linked(page, f"a [b]({link}) c") == f"a [b]({on_the_site}) c"


def test_examples_of_docstrings_are_code_and_arguments_have_a_line_each():
    text = hook("examples").rewritten("One.\n\nArgs:\n    a, b: two\n        lines.\n\nExample:\n    f(1)\n")
    assert "    a: two\n        lines.\n    b: two\n        lines.\n" in text
    assert text.endswith("```python\nf(1)\n```\n")


@pytest.mark.thorough
def test_it_builds_and_asks_no_other_host_for_anything(tmp_path):
    """Strictly, as mkdocs.yml says: a link that leads nowhere fails."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text()
        assert not re.search(r"<(?:script|img)[^>]* src=.?https?:|<link[^>]*stylesheet[^>]*https?:", text), page.name

"""What the docs name is there: files, headings, make targets, commands with their options, and Python names."""

import argparse
import ast
import importlib
import re
from pathlib import Path

import pytest

from skipcache.benchmarks.cli.main import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_fences(page):
    return FENCED.sub("", page.read_text())


def spans(page):
    return SPAN.findall(without_fences(page))


def lines_of_code(page):
    """Code spans, and the lines of blocks that are not Python."""
    blocks = (body for kind, body in FENCED.findall(page.read_text()) if kind != "python")
    return [*spans(page), *(line.partition("#")[0].strip() for body in blocks for line in body.splitlines())]


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", without_fences(page), re.MULTILINE)}


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_make_targets_are_in_the_makefile(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines_of_code(page):
        found = re.match(r"make ([a-z]+)", line)
        assert not found or found.group(1) in targets, line


def commands():
    """Name of the command -> the options that it takes, out of the parser."""
    parser = make_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {name: {o for a in sub._actions for o in a.option_strings} for name, sub in action.choices.items()}


@each_page
def test_commands_are_those_of_the_parser(page):
    known = commands()
    for line in lines_of_code(page):
        found = re.match(r"(?:\.venv/bin/)?skipcache ([a-z]+)", line)
        if not found:
            continue
        assert found.group(1) in known, line
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= known[found.group(1)], line


@each_page
def test_python_names_are_there(page):
    for text in [*spans(page), *(body for kind, body in FENCED.findall(page.read_text()) if kind == "python")]:
        for name in re.findall(r"(?<![\w./-])skipcache(?:\.\w+)+", text):
            assert resolves(name), name
        for module, names in re.findall(r"^from (skipcache[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
            assert all(resolves(f"{module}.{name.strip()}") for name in names.split(",")), module


def resolves(name):
    """Whether the dotted name leads to a module or an attribute, as an import and getattr find them."""
    found, path = importlib.import_module("skipcache"), "skipcache"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        if not hasattr(found, part):
            try:
                importlib.import_module(path)
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("name", ["skipcache.stack", "skipcache.training", "skipcache.adapters"])
def test_public_modules(name):
    importlib.import_module(name)


def test_a_name_that_is_not_there():
    assert resolves("skipcache.accelerate") and not resolves("skipcache.speed_up")


@each_page
def test_files_are_there(page):
    """Paths in code spans: from the root, from the page, or anywhere in skipcache/. NAME in one stands for any."""
    for span in spans(page):
        if re.fullmatch(r"[a-z_.]+/[\w./*-]*", span) and not re.search(r"[A-Z]{3}", span):
            pattern = span.rstrip("/")
            places = [*ROOT.glob(pattern), *page.parent.glob(pattern), *(ROOT / "skipcache").rglob(pattern)]
            made = span.split("/")[0] in ("bench-out", ".venv", "site", "dist")
            assert places or made, span


def test_the_walks_name_methods_that_are_there():
    """`Class.method` in docs/architecture.md."""
    methods = {}
    for path in (ROOT / "skipcache").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                own = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                methods.setdefault(node.name, set()).update(own)
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 20
    for owner, method in named:
        assert method in methods[owner], f"{owner}.{method}"

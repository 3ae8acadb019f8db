"""Each message in docs/faq.md is one that the code has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAQ = (ROOT / "docs/faq.md").read_text()
MESSAGES = re.findall(r"^```text\n(.*?)\n```", FAQ, re.MULTILINE | re.DOTALL)
HOLE = "\0"  # what a message takes from the run


def texts(tree):
    """The strings of a program, each as a whole: parts side by side are one, and what is put in is a hole."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def docstrings(tree):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.fixture(scope="module")
def known():
    found = set()
    for path in (ROOT / "skipcache").rglob("*.py"):
        tree = ast.parse(path.read_text())
        found |= set(texts(tree)) - docstrings(tree)
    return found


def fixed_words(message):
    """What stands between the dots that mark what differs; dots of the message itself match them as well."""
    return [words for words in re.split(r"\.{3,4}", message) if words.strip(" ,:;=()'")]


def is_in(message, text):
    place = 0
    for words in fixed_words(message):
        place = text.find(words, place) + len(words)
        if place < len(words):
            return False
    return True


def test_there_are_messages():
    assert len(MESSAGES) > 20 and len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_the_code_has_the_message(message, known):
    assert sum(map(len, fixed_words(message))) > 20, "too few words to tell it by"
    assert any(is_in(message, text) for text in known)


def test_a_message_that_the_code_does_not_have(known):
    for message in ("the model is in a bad mood; call model.rest() first", "... has no blocks; pass stack=..."):
        assert not any(is_in(message, text) for text in known)


def test_each_heading_has_a_message_or_is_a_question():
    asked = FAQ.partition("## Questions without a message")[2]
    for part in re.split(r"^### ", FAQ.partition("## Questions without a message")[0], flags=re.MULTILINE)[1:]:
        assert part.count("```text\n") == 1, part.splitlines()[0]
    assert all(heading.endswith("?") for heading in re.findall(r"^### (.*)$", asked, re.MULTILINE))

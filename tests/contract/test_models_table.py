"""docs/models.md is what the installed diffusers gives."""

import pytest

from tests.models.models_table import PATH, classes, render, rows

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def table():
    return list(rows())


def test_no_class_gives_a_wrong_result(table):
    assert not [(row.cls, row.wrong) for row in table if row.wrong]


def test_most_classes_are_served_by_graphs(table):
    assert len(classes(table, "fx")) >= 40


def test_whatever_is_not_cached_has_its_reason(table):
    assert not [row.cls for row in table if row.engine != "fx" and not row.reason]


def test_the_file_is_up_to_date(table):
    assert render(table) == PATH.read_text(), "run python -m tests.models.models_table"

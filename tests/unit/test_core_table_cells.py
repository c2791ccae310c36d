"""Names go into tables as text, never as a formula of a spreadsheet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg.core.table_cells import from_cell, to_cell


@pytest.mark.parametrize(
    "name", ['=HYPERLINK("http://a.b")', "+1+2", "-cmd|calc", "@SUM(A1)", " =1"]
)
def test_formulas_are_marked_as_text(name):
    assert to_cell(name) == "'" + name


@pytest.mark.parametrize("name", ["Layer 2/3", "-1.5", "+3e4", "5'-end", "", "Å-region"])
def test_names_and_numbers_stay_as_they_are(name):
    assert to_cell(name) == name


def test_a_line_break_does_not_break_a_line():
    assert to_cell("Visual\r\narea\t1") == "Visual  area 1"


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_what_is_written_is_read_back(name):
    assert from_cell(to_cell(name)) == name

"""The pictures of the architecture are those of the code."""

from __future__ import annotations

import sys

import pytest
from workspaces import ROOT

sys.path.insert(0, str(ROOT / "docs/development"))

import draw_architecture
import layered_drawing


def test_pictures_and_table_of_the_architecture_are_current():
    for path, text in draw_architecture.drawings().items():
        assert path.is_file(), f"{path} is missing: run make docs"
        assert path.read_text(encoding="utf-8") == text, f"{path} is not current: run make docs"


def test_every_picture_of_the_page_is_drawn_and_none_is_left_over():
    drawn = {path.name for path in draw_architecture.HERE.glob("*.svg")}
    page = draw_architecture.PAGE.read_text(encoding="utf-8")
    assert {name for name in drawn if f"({name})" in page} == drawn
    assert len(drawn) == 1 + len(draw_architecture.STAGES)


def test_edges_that_a_path_implies_are_left_out():
    edges = {("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("a", "e")}
    assert layered_drawing.reduced(edges) == {("a", "b"), ("b", "c"), ("c", "d"), ("a", "e")}


def test_a_cycle_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="a > b > a"):
        layered_drawing.reduced({("a", "b"), ("b", "a")})


def test_arrows_go_down_and_boxes_do_not_overlap():
    edges = {("a", "b"), ("b", "c"), ("a", "d"), ("d", "c"), ("e", "c")}
    styles = {name: layered_drawing.Style() for name in "abcde"}
    text = layered_drawing.svg(edges, styles, "a test")
    boxes = {}
    for line in text.splitlines():
        if line.startswith("<rect x="):
            x, y, width = (
                float(line.split(f'{key}="')[1].split('"')[0]) for key in "x y width".split()
            )
            boxes[line.split("</text>")[0][-1]] = (x, y, width)
    assert boxes.keys() == styles.keys()
    assert all(boxes[a][1] < boxes[b][1] for a, b in edges)
    for a in boxes:
        for b in boxes:
            if a < b and boxes[a][1] == boxes[b][1]:
                first, second = sorted((boxes[a], boxes[b]))
                assert first[0] + first[2] <= second[0]

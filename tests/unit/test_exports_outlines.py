"""Outlines of wells and plates: boxes of a table, in the space of the volume."""

from __future__ import annotations

import pytest

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.exports.outlines import read_outlines
from terareg.exports.tiles import outlines_on

#: 100 x 200 um along y and x, whose first voxel begins at -1 um
FRAME = Frame((10, 50, 100), (4.0, 2.0, 2.0))
TABLE = """plate;well;y_um;x_um;height_um;width_um
p1;A1;-1;-1;40;60
p1;A2;-1;79;40;60
p2;A1;59;-1;40,5;60
"""


def written(tmp_path, text):
    path = tmp_path / "wells.csv"
    path.write_text(text)
    return path


def test_wells_and_the_plates_around_them_lie_on_their_pixels(tmp_path):
    boxes = read_outlines(written(tmp_path, TABLE), FRAME)
    assert list(boxes) == ["p1", "p2", "p1 A1", "p1 A2", "p2 A1"]
    found = {name: (edges, across) for name, edges, across in outlines_on(FRAME, boxes, "z")}
    assert found["p1 A1"] == ([0, 0, 30, 20], [0, 10])
    assert found["p1 A2"] == ([40, 0, 70, 20], [0, 10])
    assert found["p1"] == ([0, 0, 70, 20], [0, 10]), "around its wells"
    assert found["p2"] == found["p2 A1"] == ([0, 30, 30, 50.25], [0, 10])
    # seen from the side they go through all planes
    side = {name: edges for name, edges, _ in outlines_on(FRAME, boxes, "y")}
    assert side["p1 A2"] == [40, 0, 70, 10]


def test_wells_without_plates_have_their_own_names(tmp_path):
    table = "Well,y_um,x_um,height_um,width_um,note\nB2,0,0,10,10,empty\nB3,0,20,10,10,\n"
    assert list(read_outlines(written(tmp_path, table), FRAME)) == ["B2", "B3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("well,y_um,x_um,height_um\nA,0,0,9\n", "it has no column width_um"),
        (TABLE + "p1;A1;0;0;9;9\n", "line 5 names the well 'p1 A1' again"),
        (TABLE + "p1;;0;0;9;9\n", "line 5 names no well"),
        (TABLE + "p1;A9;0;0;9;\n", "line 5 has ('0', '0', '9', '') for y_um"),
        (TABLE + "p1;A9;0;0;-9;9\n", "give numbers, and sizes above 0"),
        (TABLE + ";p1;0;0;9;9\n", "a plate and a well of the name 'p1'"),
        (TABLE.splitlines()[0] + "\n", "it lists no well"),
        (TABLE.splitlines()[0] + "\np;A1;900;0;9;9\n", "lists 1 wells, of which none is inside"),
    ],
)
def test_mistakes_are_said_in_one_sentence(tmp_path, text, words):
    with pytest.raises(VolumeError) as error:
        read_outlines(written(tmp_path, text), FRAME)
    said = str(error.value)
    assert words in said and "wells.csv" in said and "; " in said and "\n" not in said


def test_a_table_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(VolumeError, match=r"wells\.csv cannot be read .No such file"):
        read_outlines(tmp_path / "wells.csv", FRAME)

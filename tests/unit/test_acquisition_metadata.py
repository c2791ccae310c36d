"""Experiment.ini and Scanned Cells.txt: every known way to write them, and every way to err."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg.acquisition.metadata import (
    SPACING_RANGE_UM,
    check_spacing,
    load_colm_metadata,
    neighbour_pairs,
    read_colm_metadata,
    tile_names,
)
from terareg.core.errors import AcquisitionError
from terareg.storage.foreign import decode_text
from terareg.storage.store import Store

INI = """[Experiment Settings]
X Resolution = "2048"
Num in stack (Top Left Corner) = "512"
Num Enabled Channels = "2"

[North Scan Region]
Num Horizontal = "4"
Num Vertical = "3"
Stack Step (mm) = "0.002500"

[North Scan Region Stats]
Actual Horizontal Overlap (%) = "12.5"
Actual Vertical Overlap (%) = "15.000000"

[Objectives]
North = "10x"
"""
CELLS = "0,1,1,1\n1,1,1,1\n1,1,1,0\n"


def change(key: str, value: str | None) -> str:
    """The ini file with another value of a key; None takes the line out."""
    lines = []
    for line in INI.splitlines():
        if not line.startswith(f"{key} ="):
            lines.append(line)
        elif value is not None:
            lines.append(f"{key} = {value}")
    return "\n".join(lines)


def read(ini: str = INI, cells: str = CELLS, **options):
    return read_colm_metadata(ini, cells, **options)


def test_all_statements() -> None:
    meta = read()
    assert (meta.rows, meta.columns, meta.planes) == (3, 4, 512)
    assert meta.tile_pixels == (2048, 2048)
    assert meta.overlap == (0.15, 0.125)
    assert meta.channels_stated == 2
    assert meta.problems == ()
    assert meta.scanned[0] == (False, True, True, True)
    assert tile_names(meta)[:2] == ["LOC001", "LOC002"]
    assert tile_names(meta)[-1] == "LOC010"


def test_d13_z_step_is_not_truncated() -> None:
    assert read().spacing_um == (2.5, 0.585, 0.585)


@pytest.mark.parametrize(
    ("text", "pixel_um"),
    [
        ('"10x"', 0.585),
        ('"04x"', 1.46),
        ('" 4x"', 1.46),
        ('"4x/0.28"', 1.46),
        ("25X", 0.234),
        ('"XLPLN10XSVMP"', 0.585),
    ],
)
def test_d14_objectives(text: str, pixel_um: float) -> None:
    assert read(change("North", text)).spacing_um[1:] == (pixel_um, pixel_um)


def test_d15_tiles_that_are_not_square() -> None:
    ini = change("X Resolution", '"1024"\nY Resolution = "512"')
    meta = read(ini)
    assert meta.tile_pixels == (512, 1024)
    assert meta.spacing_um == (2.5, 1.17, 1.17)
    assert "not square" in meta.problems[0]


@pytest.mark.parametrize(
    "cells",
    [
        CELLS,
        CELLS.strip(),
        CELLS.replace(",", ", ").replace("\n", " \r\n") + "\r\n\n",
        CELLS.replace(",", "\t"),
        "\ufeff" + CELLS,
        CELLS.replace("\n", ",\n"),
        CELLS.replace("0", "0.000").replace("1", "1.000"),
    ],
)
def test_d17_cells_with_spaces_and_other_signs(cells: str) -> None:
    assert read(cells=cells).scanned == read().scanned


def test_case_quotes_order_and_comments_do_not_matter() -> None:
    ini = INI.upper().replace('"', "").replace(" = ", "=").replace("[", " [ ").replace("]", " ]")
    assert read("; LabVIEW\n" + ini) == read()


def test_decimal_comma() -> None:
    assert read(change("Stack Step (mm)", '"0,002500"')).spacing_um[0] == 2.5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_encodings(encoding: str) -> None:
    text = INI.replace("[Objectives]", "[Objectives]\nNote = 0.585 \u00b5m")
    assert read(decode_text(text.encode(encoding))) == read()


def test_own_spacing_is_used_and_its_difference_reported() -> None:
    meta = read(spacing_um=(5, 0.6, 0.6))
    assert meta.spacing_um == (5.0, 0.6, 0.6)
    assert "5, 0.6, 0.6" in meta.problems[0] and "2.5, 0.585, 0.585" in meta.problems[0]
    assert read(spacing_um=(2.5, 0.585, 0.585)).problems == ()
    assert read(change("North", '"16x"'), spacing_um=(5, 1, 1)).spacing_um == (5.0, 1.0, 1.0)


def test_own_overlap_is_used_and_its_difference_reported() -> None:
    meta = read(change("Actual Vertical Overlap (%)", "0"), overlap=(0.2, 0.125))
    assert meta.overlap == (0.2, 0.125)
    assert len(meta.problems) == 1 and "input.overlap was used" in meta.problems[0]


def test_unusual_overlap_is_reported() -> None:
    assert "unusual" in read(change("Actual Vertical Overlap (%)", '"60"')).problems[0]


def test_overlap_along_a_single_row_does_not_matter() -> None:
    ini = change("Num Vertical", "1").replace('"15.000000"', '"NaN"')
    assert read(ini, "1,1,1,1").overlap == (0.0, 0.125)


ERRORS = {
    "key missing": (change("Num Horizontal", None), CELLS, "Num Horizontal is missing"),
    "key empty": (change("Num Horizontal", '""'), CELLS, "Num Horizontal is empty"),
    "section and key named": (
        change("Stack Step (mm)", None),
        CELLS,
        r"Experiment.ini \[North Scan Region\] Stack Step \(mm\) is missing; add it",
    ),
    "key twice": (
        change("Stack Step (mm)", '"0.005"\nstack step (mm) = "0.0025"'),
        CELLS,
        r"Stack Step \(mm\) appears twice with different values; keep the right one",
    ),
    "no number": (change("Num Vertical", '"three"'), CELLS, "is 'three', not a number"),
    "not finite": (change("Num Vertical", '"inf"'), CELLS, "is 'inf', not a number"),
    "zero rows": (change("Num Vertical", '"0"'), CELLS, "Num Vertical is 0, but must be a whole"),
    "half a row": (change("Num Vertical", '"2.5"'), CELLS, "is 2.5, but must be a whole number"),
    "negative planes": (
        change("Num in stack (Top Left Corner)", '"-1"'),
        CELLS,
        "is -1, but must be a whole number from 1",
    ),
    "no pixels": (change("X Resolution", '"0"'), CELLS, "X Resolution is 0"),
    "z step 0": (change("Stack Step (mm)", '"0"'), CELLS, "implausible voxel size of 0 um in z"),
    "z step in um": (change("Stack Step (mm)", '"2.5"'), CELLS, "voxel size of 2500 um in z"),
    "pixel too small": (change("X Resolution", '"60000"'), CELLS, "0.0199.* is implausible"),
    "objective": (change("North", '"16x"'), CELLS, "is '16x', but only .* 4x, 10x, 25x are known"),
    "objective text": (change("North", '"dry"'), CELLS, "'dry'.*set input.spacing_um"),
    "overlap 0": (
        change("Actual Vertical Overlap (%)", '"0"'),
        CELLS,
        r"Actual Vertical Overlap \(%\) is 0 of a tile.* correct it or set input.overlap",
    ),
    "overlap too large": (
        change("Actual Horizontal Overlap (%)", '"91"'),
        CELLS,
        "is 0.91 of a tile, but neighbours",
    ),
    "overlap missing": (
        change("Actual Vertical Overlap (%)", None),
        CELLS,
        "Actual Vertical Overlap .* is missing",
    ),
    "channels": (change("Num Enabled Channels", '"0"'), CELLS, "Num Enabled Channels is 0"),
    "no ini at all": ("nothing here", CELLS, "has no line 'key = value'"),
    "too few lines": (INI, "1,1,1,1\n1,1,1,1", r"has 2 lines, but Experiment.ini states 3 rows"),
    "ragged": (INI, "1,1,1,1\n1,1,1\n1,1,1,1", "line 2 has 3 cells, but .* 4 columns"),
    "too wide": (INI, "1,1,1,1,1\n" * 3, "line 1 has 5 cells"),
    "odd cell": (INI, CELLS.replace("0", "2"), "line 1 has a cell '2'; write 1"),
    "word in cell": (INI, CELLS.replace("0", "x"), "line 1 has a cell 'x'"),
    "empty cell": (INI, CELLS.replace("0,", ",", 1), "line 1 has a cell ''"),
    "nothing scanned": (INI, CELLS.replace("1", "0"), "marks no cell as scanned"),
    "no cells": (INI, "", "has 0 lines"),
}


@pytest.mark.parametrize(("ini", "cells", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(ini: str, cells: str, message: str) -> None:
    with pytest.raises(AcquisitionError, match=message) as caught:
        read(ini, cells)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spacing", [(0, 1, 1), (1, 1, 1.01 * SPACING_RANGE_UM[1]), (1, 1), (1, 1, float("nan")), "abc"]
)
def test_implausible_own_spacing(spacing) -> None:
    with pytest.raises(AcquisitionError, match=r"from here is implausible; set input.spacing_um"):
        check_spacing(spacing, "here")


def test_binary_file_is_no_text() -> None:
    with pytest.raises(ValueError, match="it is not a text file"):
        decode_text(b"PK\x03\x04\0\0\0")


def test_files_that_are_absent_or_unreadable(tmp_path) -> None:
    with pytest.raises(AcquisitionError, match=r"there is no Experiment.ini in .*point input.path"):
        load_colm_metadata(Store(str(tmp_path)))
    (tmp_path / "Experiment.ini").write_text(INI)
    with pytest.raises(AcquisitionError, match=r"there is no Scanned Cells.txt"):
        load_colm_metadata(Store(str(tmp_path)))
    (tmp_path / "Scanned Cells.txt").mkdir()
    with pytest.raises(AcquisitionError, match=r"Scanned Cells.txt cannot be read \(Is a dir"):
        load_colm_metadata(Store(str(tmp_path)))


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_names_and_pairs_of_any_grid(rows: int, columns: int, data) -> None:
    cells = data.draw(
        st.lists(
            st.lists(st.booleans(), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        ).filter(lambda table: any(map(any, table)))
    )
    ini = change("Num Vertical", str(rows)).replace('"4"', str(columns))
    meta = read(ini, "\n".join(",".join(str(int(c)) for c in row) for row in cells))
    places = {(r, c) for r in range(rows) for c in range(columns) if cells[r][c]}
    assert [divmod(int(name[3:]), columns) for name in tile_names(meta)] == sorted(places)
    pairs = neighbour_pairs(meta.scanned)
    expected = {
        (a, b, direction)
        for a in places
        for b in places
        for direction, step in (("EAST", (0, 1)), ("SOUTH", (1, 0)))
        if (a[0] + step[0], a[1] + step[1]) == b
    }
    assert set(pairs) == expected and len(pairs) == len(expected)
    assert [(a, d) for a, _, d in pairs] == sorted((a, d) for a, _, d in pairs)


def test_more_than_a_thousand_locations() -> None:
    ini = change("Num Vertical", "40").replace('"4"', "30")
    assert tile_names(read(ini, ("1," * 29 + "1\n") * 40))[-1] == "LOC1199"

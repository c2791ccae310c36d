"""Tables of tiles: every form of places and files, and one sentence for what is wrong with them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from terareg.acquisition.indexing import IndexSettings, check_files, index_acquisition
from terareg.acquisition.layout import LayoutOptions
from terareg.acquisition.model import Acquisition
from terareg.acquisition.plane_files import read_rows
from terareg.acquisition.raw import raw_state
from terareg.acquisition.table import GridOrder, TableLayout, number_spans
from terareg.acquisition.table_lines import read_table
from terareg.acquisition.tiles import TileSource
from terareg.core.errors import AcquisitionError, ConfigError, TeraregError
from terareg.stitching.terastitcher import reading, stages, writing
from terareg.storage.records import to_json
from terareg.storage.store import Store

SPACING = (2.5, 0.5, 0.5)
PIXELS = (20, 16)
CELLS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
STACKS = {
    cell: np.random.default_rng(k).integers(0, 60000, (5, *PIXELS), "uint16")
    for k, cell in enumerate(CELLS)
}


def name_of(cell):
    return "t{}{}".format(*cell)


def write_planes(root: Path, pattern="{tile}/img_C07_Z{z:03d}.tif", first=0) -> None:
    for cell, stack in STACKS.items():
        for z, plane in enumerate(stack):
            path = root / pattern.format(tile=name_of(cell), z=z + first)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, plane)


def write_pages(root: Path, **options) -> None:
    for cell, stack in STACKS.items():
        options = {"photometric": "minisblack"} | options
        tifffile.imwrite(root / f"{name_of(cell)}.tif", stack, **options)


def position(cell, off=(0, 0)):
    """Stage position: steps of 16 and 12 pixels."""
    return 500 + 8 * cell[0] + off[0], -20 + 6 * cell[1] + off[1]


def write_table(root: Path, columns: str, lines, name="tiles.tsv") -> None:
    root.mkdir(exist_ok=True)
    sign = "," if name.endswith("csv") else "\t"
    text = [columns.split(), *(map(str, line) for line in lines)]
    (root / name).write_text("\n".join(sign.join(line) for line in text) + "\n")


def layout(root, channels=None, table="tiles.tsv", grid=None, **options) -> TableLayout:
    options = {"spacing_um": SPACING, "channels": channels or {"signal": 0}} | options
    return TableLayout(Store(str(root)), LayoutOptions(**options), table, grid)


def index(root, *arguments, missing_planes="error", **options) -> Acquisition:
    settings = IndexSettings("s", "SAR", missing_planes)
    return index_acquisition(layout(root, *arguments, **options), settings)


def check_pixels(acquisition, channel="signal", depth=5) -> None:
    source = TileSource(acquisition, channel)
    assert len(acquisition.tiles) == len(CELLS)
    for tile in acquisition.tiles:
        read = source.read(tile.name, 0, depth)
        np.testing.assert_array_equal(read, STACKS[tile.row, tile.column][:depth])


@pytest.mark.parametrize("files", ["folder", "pattern", "pages"])
@pytest.mark.parametrize("places", ["cells", "positions", "both", "order"])
def test_every_form_of_files_and_places(tmp_path, files, places):
    write_pages(tmp_path) if files == "pages" else write_planes(tmp_path, first=1)
    path = {"folder": "{}", "pattern": "{}/*_Z*.tif", "pages": "{}.tif"}[files]
    lines, columns = [], "path"
    order = [CELLS[k] for k in (2, 1, 0, 3, 4, 5)]  # zigzag from the top right
    columns += {"cells": " row column", "positions": " y_um x_um", "order": "",
                "both": " row column y_um x_um"}[places]  # fmt: skip
    for cell in order:
        given = {"cells": cell, "positions": position(cell), "order": (),
                 "both": (*cell, *position(cell))}[places]  # fmt: skip
        lines.append((path.format(name_of(cell)), *given))
    write_table(tmp_path, columns, lines)
    grid = GridOrder(2, None, "zigzag_horizontal", "top_right") if places == "order" else None
    overlap = (0.2, 0.25) if places in ("cells", "order") else None
    acquisition = index(tmp_path, grid=grid, overlap=overlap)
    assert (acquisition.rows, acquisition.columns, acquisition.layout) == (2, 3, "table")
    assert [t.name for t in acquisition.tiles] == ["R{:02d}C{:02d}".format(*c) for c in CELLS]
    assert acquisition.overlap == pytest.approx((0.2, 0.25))
    for tile in acquisition.tiles:
        assert tile.origin_vox == pytest.approx((0, 16 * tile.row, 12 * tile.column))
    check_pixels(acquisition)
    assert Acquisition.from_json(json.loads(to_json(acquisition.to_json()))) == acquisition
    assert len([p for p in acquisition.problems if "numbered from 1" in p]) == (files != "pages")


def test_channels_names_and_separators(tmp_path):
    write_planes(tmp_path)
    (tmp_path / "red").mkdir()
    write_planes(tmp_path / "red", "{tile}_{z}.tif")
    lines = [(f"red/{name_of(c)}_*", "red", name_of(c), *position(c)) for c in CELLS]
    lines += [("nothing", "green", name_of(c), *position(c)) for c in CELLS]
    lines += [(name_of(c), "488", name_of(c), *position(c)) for c in CELLS[::-1]]
    write_table(tmp_path, "path channel tile y_um x_um", lines, "tiles.csv")
    channels = {"auto": 488, "signal": "red"}
    acquisition = index(tmp_path, channels, "tiles.csv")
    assert [t.name for t in acquisition.tiles] == [name_of(c) for c in CELLS]
    for name in channels:
        check_pixels(acquisition, name)
    key, _ = acquisition.plane_file(acquisition.tiles[1], "signal", 3)
    assert key == "red/t01_3.tif"
    state = raw_state(layout(tmp_path, channels, "tiles.csv"))
    os.utime(tmp_path / key, (1, 1))
    touched = raw_state(layout(tmp_path, channels, "tiles.csv"))
    assert touched.layout == state.layout
    assert touched.channels[0] == state.channels[0] and touched.channels[1] != state.channels[1]


def test_what_belongs_to_the_raw_data(tmp_path):
    write_pages(tmp_path)
    (tmp_path / "other.tif").touch()
    write_table(tmp_path, YX, POSITIONS)
    assert layout(tmp_path).raw_keys() == [*(f"{name_of(c)}.tif" for c in CELLS), "tiles.tsv"]
    write_planes(tmp_path, "in/{tile}_{z}.tif")
    write_planes(tmp_path, "{tile}_{z}.tif")
    lines = [("in/t00_*", 0, 0), ("t01_*", 0, 1)]
    write_table(tmp_path, RC, lines)
    keys = [f"t01_{z}.tif" for z in range(5)]
    assert layout(tmp_path, overlap=(0.1, 0.1)).raw_keys() == ["in", *keys, "tiles.tsv"]


def test_positions_of_a_stage_that_strays_are_kept(tmp_path):
    write_pages(tmp_path)
    rng = np.random.default_rng(3)
    off = {cell: rng.uniform(-0.8, 0.8, 2) for cell in CELLS}
    depth = {cell: 2.5 * (k % 3) for k, cell in enumerate(CELLS)}
    lines = [(f"{name_of(c)}.tif", *position(c, off[c]), 40 + depth[c]) for c in CELLS]
    write_table(tmp_path, "path y_um x_um z_um", lines)
    acquisition = index(tmp_path)
    first = off[0, 0]
    for tile in acquisition.tiles:
        cell = (tile.row, tile.column)
        y, x = np.subtract(position(cell, off[cell]), position((0, 0), first)) / 0.5
        assert tile.origin_vox == pytest.approx((depth[cell] / 2.5, y, x))
    xml = stages.from_acquisition(acquisition, "signal")
    assert [s.abs_vhd[2] for s in xml.stacks] == [0, 1, 2, 0, 1, 2]


def test_tiles_of_one_plane_whose_names_number_the_tiles(tmp_path):
    for k, cell in enumerate(CELLS):
        tifffile.imwrite(tmp_path / f"{name_of(cell)}_{k:02d}.tif", STACKS[cell][0])
    lines = [(f"{name_of(c)}_*.tif", *position(c)) for c in CELLS]
    write_table(tmp_path, "path y_um x_um", lines)
    acquisition = index(tmp_path)
    assert acquisition.tile_shape[0] == 1 and acquisition.problems == ()
    check_pixels(acquisition, depth=1)


def test_a_range_of_planes_begins_a_tile(tmp_path):
    write_planes(tmp_path, first=10)
    lines = [(name_of(c), *c, 11, 13) for c in CELLS]
    write_table(tmp_path, "path row column z_first z_last", lines)
    acquisition = index(tmp_path, overlap=(0.2, 0.25))
    assert acquisition.tile_shape[0] == 3 and acquisition.problems == ()
    read = TileSource(acquisition, "signal").read("R01C02", 0, 3)
    np.testing.assert_array_equal(read, STACKS[1, 2][1:4])
    (tmp_path / "t12" / "img_C07_Z012.tif").unlink()
    with pytest.raises(AcquisitionError, match=r"R01C02 channel signal: 1 of 3 planes missing"):
        index(tmp_path, overlap=(0.2, 0.25))


def test_a_range_of_pages(tmp_path):
    write_pages(tmp_path)
    lines = [(f"{name_of(c)}.tif", *c, 2, 4) for c in CELLS]
    write_table(tmp_path, "path row column z_first z_last", lines)
    acquisition = index(tmp_path, overlap=(0.2, 0.25))
    read = TileSource(acquisition, "signal").read("R01C02", 0, 3)
    np.testing.assert_array_equal(read, STACKS[1, 2][2:])


def test_files_of_pages_are_a_series_of_3d_files_in_the_project(tmp_path):
    write_pages(tmp_path)
    write_table(tmp_path, "path y_um x_um", [(f"{name_of(c)}.tif", *position(c)) for c in CELLS])
    xml = stages.from_acquisition(index(tmp_path), "signal")
    assert (xml.volume_format, xml.input_plugin) == ("TiledXY|3Dseries", "tiff3D")
    stack = reading.parse_xml(writing.format_xml(xml)).stack(1, 2)
    assert (stack.dir_name, stack.img_regex) == (".", "t12[.]tif")
    assert (stack.block_sizes, stack.blocks_abs_d) == ((5,), (0,))


def test_a_guessed_grid_is_said(tmp_path):
    write_pages(tmp_path)
    write_table(tmp_path, "path", [(f"{name_of(c)}.tif",) for c in CELLS])
    acquisition = index(tmp_path, grid=GridOrder(), overlap=(0.2, 0.2))
    assert (acquisition.rows, acquisition.columns) == (3, 2)
    assert acquisition.problems == (
        "the grid was guessed: 6 tiles as 3 rows of 2; if that is wrong, set input.grid.rows",
    )


def test_holes_and_an_empty_column_between_columns(tmp_path):
    write_pages(tmp_path)
    lines = [(f"{name_of(c)}.tif", c[0], c[1] if c[1] < 2 else 3) for c in CELLS[1:]]
    write_table(tmp_path, "path row column", lines)
    acquisition = index(tmp_path, overlap=(0.2, 0.25))
    assert acquisition.scanned() == ((False, True, False, True), (True, True, False, True))
    assert len(acquisition.pairs()) == 3
    assert acquisition.problems == (
        "column 2 of the grid (counted from 0) without any tile: the parts on either side "
        "are placed by the nominal steps of the stage alone",
    )
    xml = stages.from_acquisition(acquisition, "signal")
    assert [s.dir_name for s in xml.stacks] == ["", ".", "", ".", ".", ".", "", "."]


def lines_of(**changes):
    """Lines of the usual table (path, row, column); changes by number of the line."""
    lines = [(f"{name_of(c)}.tif", *c) for c in CELLS]
    for number, line in changes.items():
        lines[int(number[1:]) - 2] = line
    return lines


RC = "path row column"
YX = "path y_um x_um"
POSITIONS = [(f"{name_of(c)}.tif", *position(c)) for c in CELLS]
BAD = {
    "unknown column": ("path row colum", lines_of(), {}, "line 1: 'colum' is not a known column;"),
    "column twice": ("path row row", lines_of(), {}, "line 1: column row appears twice"),
    "half a pair": ("path row", [("a.tif", 1)], {}, "line 1: column column is missing; add it"),
    "no path": ("row column", [(0, 0)], {}, "line 1: column path is missing"),
    "no places": ("path", [("a.tif",)], {}, "tiles.tsv has neither columns row and c"),
    "two places": (RC, lines_of(), {"grid": GridOrder()}, "say where tiles are; remove one of"),
    "no channel": (RC, lines_of(), {"channels": {"a": 0, "b": 1}}, "line 1: column channel is mis"),
    "other channels": (f"{RC} channel", [("t00.tif", 0, 0, 5)], {}, "lists no tile of channels 0"),
    "short line": (RC, lines_of(l4=("a.tif", 0)), {}, "line 4: 2 values for 3 columns"),
    "empty value": (RC, lines_of(l5=("t10.tif", "", 0)), {}, "line 5: row is empty; fill it in"),
    "no number": (RC, lines_of(l3=("t01.tif", 0, "one")), {}, "line 3: column is 'one'; write a w"),
    "no position": (YX, [("t00.tif", "nan", 0)], {}, "line 2: y_um is 'nan'; write a number of"),
    "negative row": (RC, lines_of(l3=("t01.tif", -1, 0)), {}, "line 3: row is '-1'; write a whole"),
    "leaves": (RC, lines_of(l3=("../t01.tif", 0, 1)), {}, "line 3: path '../t01.tif' is outside"),
    "absolute": (RC, lines_of(l3=("/t01.tif", 0, 1)), {}, r"line 3: path '/t01.tif' is outside"),
    "absent": (RC, lines_of(l3=("t77.tif", 0, 1)), {}, r"line 3: t77.tif does not exist .*; corr"),
    "absent first": (RC, lines_of(l2=("t77.tif", 0, 0)), {}, r"line 2: t77.tif does not exist in"),
    "empty folder": (RC, [("none", 0, 0)], {}, "line 2: none contains no TIFF or PNG file in"),
    "one cell": (RC, lines_of(l6=("t11.tif", 0, 1)), {}, "line 6: the tile of line 3 is listed"),
    "one cell by name": (f"{RC} tile", [("t00.tif", 0, 0, "a"), ("t01.tif", 0, 0, "b")], {},
                         ("line 3: the tile is in row 0, column 0 of the grid, like that of "
"line 2")),
    "one file": (RC, lines_of(l6=("t01.tif", 1, 1)), {}, r"line 6: t01.tif is also on line 3;"),
    "two forms": (RC, lines_of(l6=("t11", 1, 1)), {}, r"line 6: t11 and t00.tif \(line 2\) are a"),
    "huge grid": (RC, lines_of(l6=("t11.tif", 999999, 1)), {}, "1000000 x 3 cells is too large"),
    "no overlap": (RC, lines_of(), {"overlap": None}, "key overlap is missing; tiles.tsv has no"),
    "too much overlap": (RC, lines_of(), {"overlap": (0.95, 0.1)}, r"input.overlap \(y\) is 0.95"),
    "far apart": (YX, POSITIONS, {"overlap": None, "spacing_um": (2.5, 0.3, 0.5)},
                  "27 pixels apart in y but tiles have 20, .* or set input.overlap$"),
    "x and y exchanged": ("path x_um y_um", POSITIONS, {"overlap": None},
                          "; with x and y exchanged they would overlap by 25% and 20%"),
    "too near": (YX, POSITIONS, {"overlap": None, "spacing_um": (2.5, 8, 0.5)},
                 "positions in tiles.tsv: overlap in y is 0.95 of a tile, but neighbours can"),
    "backwards": (f"{RC} y_um x_um", [(f"{name_of(c)}.tif", *c, -y, x) for c, (y, x) in
                                     ((c, position(c)) for c in CELLS)], {},
                  (r"positions in tiles.tsv fall in y from one row to the next; reverse the "
r"sign")),
    "exchanged": (f"{RC} y_um x_um",
                  [(f"{name_of(c)}.tif", *c, *position({(0, 0): (0, 1), (0, 1): (0, 0)}.get(c, c)))
                   for c in CELLS], {}, r"tiles.tsv: the positions do not form a grid:.* off it"),
    "one place": (YX, [*POSITIONS[:5], ("t12.tif", *position((1, 1), (0.1, 0)))], {},
                  (r"tiles.tsv: tiles line 6 and line 7 are in the same cell of the grid; "
r"remove one")),
    "no grid": (YX, [*POSITIONS[:4], ("t11.tif", *position((1, 1), (3.6, 0))), POSITIONS[5]], {},
                r"the positions do not form a grid: line 6 is off it, line 6 by \d+% of a step"),
    "no full grid": ("path", [(f"t0{c}.tif",) for c in range(3)], {"grid": GridOrder(rows=2)},
                     "tiles.tsv: 3 tiles do not fill a grid of 2 x 2; correct input.grid, or add"),
    "z range": (f"{RC} z_first z_last", [(*line, 3, 2) for line in lines_of()], {},
                "line 2: z_first is above z_last; swap them"),
    "pages": (f"{RC} z_first z_last", [(*line, 0, 5) for line in lines_of()], {},
              "line 2: t00.tif has 5 planes but planes 0 to 5 .* are needed"),
    "pattern of folders": (RC, [("t*/a.tif", 0, 0)], {}, "line 2: path 't./a.tif': only the file"),
    "one png": (RC, [("a.png", 0, 0)], {}, "line 2: path 'a.png' is one plane; give its folder or"),
    "tile name": (f"{RC} tile", [(*lines_of()[0], "a/b")], {}, "line 2: tile 'a/b': use letters"),
    "a tile elsewhere": (
        f"{RC} tile channel", [("t00.tif", 0, 0, "a", 0), ("t01.tif", 0, 1, "a", 1)],
        {"channels": {"x": 0, "y": 1}}, "line 3: the tile has another position than on line 2"),
    "a channel less": (
        f"{RC} channel", [(*line, k != 3) for k, line in enumerate(lines_of(), 2)][:2],
        {"channels": {"x": "True", "y": "False"}}, r"R00C00 has no plane of channel y \(False\)"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "lines", "options", "message"), BAD.values(), ids=BAD)
def test_bad_tables(tmp_path, columns, lines, options, message):
    write_pages(tmp_path)
    (tmp_path / "t11").mkdir()
    write_table(tmp_path, columns, lines)
    with pytest.raises(TeraregError, match=message) as caught:
        index(tmp_path, **{"overlap": (0.2, 0.25)} | options)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named_with_their_line(tmp_path):
    write_pages(tmp_path)
    write_table(tmp_path, YX, POSITIONS)
    path = tmp_path / "t10.tif"
    good = path.read_bytes()
    tifffile.imwrite(path, np.zeros((5, 20, 17), "uint16"), photometric="minisblack")
    with pytest.raises(AcquisitionError, match=r"tiles.tsv line 5: t10.tif has 20 x 17 pixels"):
        index(tmp_path)
    tifffile.imwrite(path, np.zeros((5, 20, 16), "uint8"), photometric="minisblack")
    with pytest.raises(AcquisitionError, match=r"line 5: t10.tif is uint8 but the other planes"):
        index(tmp_path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(AcquisitionError, match=r"line 5: t10.tif is truncated at \d+ bytes"):
        index(tmp_path)
    path.write_bytes(b"<html>")
    with pytest.raises(AcquisitionError, match=r"line 5: t10.tif is truncated at 6 bytes"):
        index(tmp_path)
    tifffile.imwrite(path, STACKS[1, 0][:3], photometric="minisblack")
    for look in (index, lambda root: check_files(layout(root), IndexSettings("s", "SAR"))):
        with pytest.raises(AcquisitionError, match="R01C00 channel signal: 2 of 5 planes missing"):
            look(tmp_path)
    with pytest.raises(AcquisitionError, match=r"R01C00 channel signal: 2 of 5 planes missing \(f"):
        index(tmp_path)
    assert index(tmp_path, missing_planes="blank").planes["R01C00"]["signal"].missing == (3, 4)


def test_no_table_and_another_kind_of_file(tmp_path):
    with pytest.raises(AcquisitionError, match=r"there is no tiles.tsv in .*; correct input.path"):
        index(tmp_path)
    (tmp_path / "tiles.tsv").write_text("\n")
    with pytest.raises(AcquisitionError, match=r"tiles.tsv cannot be read \(it is empty\); list"):
        index(tmp_path)
    (tmp_path / "tiles.xlsx").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"'tiles.xlsx' must be a .tsv or .csv file"):
        index(tmp_path, None, "tiles.xlsx")


@pytest.mark.parametrize(
    ("names", "spans"),
    [
        (["a_1.tif", "a_02.tif"], [(2, 3), (2, 4)]),
        (["z1_c3.ome.tif", "z2_c3.ome.tif"], [(1, 2), (1, 2)]),
        (["scan7.tif"], [(4, 5)]),
        (["plane.tif"], [(5, 5)]),
    ],
)
def test_the_number_that_differs_is_that_of_the_plane(names, spans):
    assert number_spans(names) == spans


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["z1_c1.tif", "z2_c2.tif"], "names such as z1_c1.tif differ in 2 numbers; give a pattern"),
        (["z1.tif", "bias1.tif"], r"bias1.tif and z1.tif are files of different kinds; give a"),
    ],
)
def test_names_that_do_not_tell_the_plane(names, message):
    with pytest.raises(AcquisitionError, match=message):
        number_spans(names)


# ------------------------------------------------------------------ S3
@pytest.mark.slow
@pytest.mark.parametrize("pages", [True, False], ids=["pages", "planes"])
def test_s3_equals_folder(tmp_path, bucket, pages):
    write_pages(tmp_path) if pages else write_planes(tmp_path)
    lines = [(f"{name_of(c)}{'.tif' if pages else ''}", *position(c)) for c in CELLS]
    write_table(tmp_path, YX, lines)
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        key = f"run 1/{path.relative_to(tmp_path).as_posix()}"
        bucket.put_object(Bucket="scope", Key=key, Body=path.read_bytes())
    local, remote = (index(root) for root in (tmp_path, "s3://scope/run 1"))
    assert replace(remote, raw=local.raw) == local
    check_pixels(remote)
    states = [raw_state(layout(root)) for root in (tmp_path, "s3://scope/run 1")]
    assert states[0].layout == states[1].layout


def test_brackets_in_a_name_that_is_there_are_no_pattern(tmp_path):
    """Names such as those of the UltraMicroscope Blaze."""
    lines = []
    for column in range(2):
        name = f"süß {{x}}/raw_Blaze[00 x {column:02d}]_C00.ome.tif"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        planes = np.random.default_rng(column).integers(1, 99, (3, 20, 16)).astype(np.uint16)
        tifffile.imwrite(tmp_path / name, planes)
        lines.append(f"{name};0;{column}")
    (tmp_path / "tiles.csv").write_text("path;row;column\n" + "\n".join(lines) + "\n")
    table = {"table": "tiles.csv", "overlap": (0.25, 0.25)}
    assert [t.name for t in index(tmp_path, **table).tiles] == ["R00C00", "R00C01"]
    # a folder with brackets, and a pattern in it
    for column in range(2):
        folder = tmp_path / f"stack[{column}]"
        folder.mkdir()
        for plane in range(3):
            tifffile.imwrite(folder / f"img_{plane}.tif", np.eye(20, 16, dtype=np.uint16))
    text = "path;row;column\n" + "".join(f"stack[{n}]/img_*.tif;0;{n}\n" for n in range(2))
    (tmp_path / "tiles.csv").write_text(text)
    assert index(tmp_path, **table).tile_shape == (3, 20, 16)


def test_positions_with_decimal_commas():
    lines = read_table(b"path;x_um;y_um\na;0;0\nb;12,5;-0,25\n", "t.csv", ["a"])
    assert [line.yx_um for line in lines] == [(0.0, 0.0), (-0.25, 12.5)]
    with pytest.raises(AcquisitionError, match="line 2: x_um is '12,5'; write a number of micro"):
        read_table(b'path,x_um,y_um\na,"12,5",0\n', "t.csv", ["a"])


def test_a_table_may_lie_elsewhere(tmp_path):
    """The folder of the microscope need not be written to; a changed table is noticed."""
    raw = tmp_path / "raw"
    write_planes(raw)
    lines = [[name_of(cell), *position(cell)] for cell in CELLS]
    write_table(tmp_path / "own", "path y_um x_um", lines)
    table = str(tmp_path / "own/tiles.tsv")
    acquisition = index(raw, table=table)
    assert (acquisition.rows, acquisition.columns) == (2, 3)
    found = layout(raw, table=table)
    assert table not in found.raw_keys() and "t00" in found.raw_keys()
    before = raw_state(found).layout
    write_table(tmp_path / "own", "path y_um x_um", lines[::-1])
    assert raw_state(layout(raw, table=table)).layout != before
    with pytest.raises(AcquisitionError, match=r"there is no /.*/none.tsv; correct input.path"):
        index(raw, table=str(tmp_path / "none.tsv"))


@pytest.mark.parametrize("order", ["ZCYX", "CZYX"])
def test_channels_of_one_file_are_told_apart_by_pages(tmp_path, order):
    """Pages are counted channel by channel, in whatever order the file holds them."""
    stacks = {}
    for k in range(2):
        both = np.random.default_rng(k).integers(0, 60000, (2, 5, *PIXELS), "uint16")
        pages = both if order == "CZYX" else both.swapaxes(0, 1)
        tifffile.imwrite(tmp_path / f"{k}.tif", pages, ome=True, metadata={"axes": order})
        stacks[k] = both
    columns = "path channel row column z_first z_last"
    lines = [[f"{k}.tif", c, 0, k, 5 * c, 5 * c + 4] for c in range(2) for k in range(2)]
    write_table(tmp_path, columns, lines)
    channels = {"a": 0, "b": 1}
    acquisition = index(tmp_path, channels=channels, overlap=(0.2, 0.2))
    for c, name in enumerate(channels):
        for k, tile in enumerate(acquisition.tiles):
            planes = [acquisition.plane_file(tile, name, z) for z in range(5)]
            read = [
                read_rows(Store(str(tmp_path)), key, (PIXELS, "uint16"), page=page)[0]
                for key, page in planes
            ]
            np.testing.assert_array_equal(read, stacks[k][c])
    write_table(tmp_path, columns, [["0.tif", 0, 0, 0, 0, 9], ["1.tif", 0, 0, 1, 0, 9]])
    with pytest.raises(
        AcquisitionError, match=r"contains 2 channels of 5 planes; list.* \(0 to 4, 5"
    ):
        index(tmp_path, overlap=(0.2, 0.2))


def test_tiles_that_are_arrays_in_one_file(tmp_path):
    """State, and what may not be removed, are of the file; what was never written is told."""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        for name in "ab":
            data = file.create_dataset(name, (4, 16, 16), "u2", chunks=(2, 16, 16))
            data[: 4 if name == "a" else 2] = np.arange(16)
        file.create_dataset("none", (4, 16, 16), "u2", chunks=(2, 16, 16))
        file["signed"] = np.zeros((4, 16, 16), np.int16)

    def layout(*parts: str) -> TableLayout:
        rows = [f"scan.h5#{part}\t0\t{k}" for k, part in enumerate(parts)]
        (tmp_path / "tiles.tsv").write_text("\n".join(["path\trow\tcolumn", *rows]) + "\n")
        options = LayoutOptions({"signal": 0}, (5.0, 1.0, 1.0), (0.2, 0.2))
        return TableLayout(Store(str(tmp_path)), options, "tiles.tsv")

    good = layout("a", "b")
    assert good.raw_keys() == ["scan.h5", "tiles.tsv"] and good.survey.planes == 4
    problems = index_acquisition(good, IndexSettings("brain", "SAR")).problems
    assert "line 3: 1 of 2 chunks of scan.h5#b were never written" in problems[-1]
    before = raw_state(good)
    os.utime(tmp_path / "scan.h5", (1, 1))
    assert raw_state(good).channels != before.channels and raw_state(good).layout == before.layout
    for part, words in [
        ("none", r"line 3: scan.h5#none has a shape but no values, so it was never written"),
        ("signed", "scan.h5#signed is int16, but tiles have unsigned integers"),
        ("absent", "it has no 'absent' .no 'absent', but 'a', 'b', 'none', 'signed'."),
    ]:
        with pytest.raises(AcquisitionError, match=words):
            index_acquisition(layout("a", part), IndexSettings("brain", "SAR"))
    with pytest.raises(AcquisitionError, match=r"line 3: scan.h5#a is also on line 2; remove"):
        _ = layout("a", "a").survey

"""Fiji's tile configurations: read as people have them, written, and taken as nominal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_stitching_terastitcher import acquisition_of

from terareg.core.errors import StitchingError
from terareg.stitching.nominal import own_positions, read_positions, with_positions
from terareg.stitching.render import write_tilespecs
from terareg.stitching.solver import place
from terareg.stitching.terastitcher import stages, writing
from terareg.stitching.tile_configuration import (
    match_tiles,
    read_tile_configuration,
    write_tile_configuration,
)

FIJI_2D = """\
# Define the number of dimensions we are working on
dim = 2

# Define the image coordinates
LOC000.tif; ; (0.0, 0.0)
tile 2;with spaces.tif; (83.5, -1.25)
VW0/LOC003.ome.tif; ; (1e2,+90)
"""
FIJI_3D = """\
\tDIM=3
multiseries = true
brain.czi; 0; (0, 0, 0)
brain.czi;1;(  85.0 ,-2 , 3.5 )
"""


def write(folder, text, name="TileConfiguration.txt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---------------------------------------------------------------- reading
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_two_dimensions(tmp_path, newline, mark):
    found = read_tile_configuration(write(tmp_path, mark + FIJI_2D.replace("\n", newline)))
    assert found.dimensions == 2
    assert [(t.name, t.series, t.origin_vox, t.line) for t in found.tiles] == [
        ("LOC000.tif", "", (0.0, 0.0, 0.0), 5),
        ("tile 2", "with spaces.tif", (0.0, -1.25, 83.5), 6),
        ("VW0/LOC003.ome.tif", "", (0.0, 90.0, 100.0), 7),
    ]


def test_three_dimensions_and_series(tmp_path):
    found = read_tile_configuration(write(tmp_path, FIJI_3D))
    assert found.dimensions == 3
    assert [(t.name, t.series, t.origin_vox) for t in found.tiles] == [
        ("brain.czi", "0", (0.0, 0.0, 0.0)),
        ("brain.czi", "1", (3.5, -2.0, 85.0)),
    ]


def test_the_configuration_of_a_real_mosaic(root):
    path = Path(root).parent / "shared/data/tiles_mosaic2d/TileConfiguration.txt"
    if not path.is_file():
        pytest.skip("no real mosaic in ../shared/data")
    found = read_tile_configuration(path)
    assert found.dimensions == 2 and len(found.tiles) == 27


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dim = 4\n", r"line 1: 'dim = 4' is no number of dimensions; write dim = 2 or 3"),
        ("\na; ; (1, 2)\n", r"line 2: 'a; ; \(1, 2\)' comes before the dimensions; write dim = 3"),
        ("dim = 3\na; ; (1, 2)\n", r"line 2: .* has 2 coordinates but dim = 3; correct one"),
        ("dim = 2\na; ; (1, 2, 3)\n", r"line 2: .* has 3 coordinates but dim = 2; correct one"),
        ("dim = 2\na; ; (1, two)\n", r"line 2: 'a; ; \(1, two\)' has a coordinate that is no"),
        ("dim = 2\na; ; (1, nan)\n", r"line 2: .* no number of pixels; correct it"),
        ("dim = 2\na; ; (1, 1e300)\n", r"line 2: .* no number of pixels; correct it"),
        ("dim = 2\n#\na 1 2\n", r"line 3: 'a 1 2' is no tile; write it as name; ; \(x, y\)"),
        ("dim = 3\n ; ; (1, 2, 3)\n", r"line 2: .* is no tile; write it as name; ; \(x, y, z\)"),
        ("dim = 3\na; ; (1, 2, 3) 4\n", r"line 2: .* is no tile; write it as"),
        ("dim = 2\na; ; (1, 2)\r\na; ; (3, 4)", r"line 3: .* names the tile of line 2 again"),
        ("dim = 2\n", "lists no tiles"),
        ("", "lists no tiles"),
        (b"dim = 2\n\x00\xfe\n", "it is not a text file"),
    ],
)
def test_a_bad_line_is_one_sentence_with_its_number(tmp_path, text, words):
    with pytest.raises(StitchingError, match=words) as error:
        read_tile_configuration(write(tmp_path, text))
    message = str(error.value)
    assert message.startswith(str(tmp_path / "TileConfiguration.txt"))
    assert "\n" not in message and ";" in message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(StitchingError, match=r"absent\.txt cannot be read .* correct the path"):
        read_tile_configuration(tmp_path / "absent.txt")
    with open(write(tmp_path, FIJI_2D), "ab") as stream:
        stream.truncate(65 * 2**20)
        path = stream.name
    with pytest.raises(StitchingError, match="it has more than 64 MiB"):
        read_tile_configuration(path)


# ---------------------------------------------------------------- writing
def test_what_is_written_is_read(tmp_path):
    origins = {"LOC000": (0.0, -0.0, -4e-9), "LOC001": (-1.0, 2 / 3, 85.1234567)}
    write_tile_configuration(tmp_path / "new/t.txt", origins)
    found = read_tile_configuration(tmp_path / "new/t.txt")
    assert found.dimensions == 3
    for entry in found.tiles:
        np.testing.assert_allclose(entry.origin_vox, origins[entry.name], atol=5.1e-7)
    lines = (tmp_path / "new/t.txt").read_text().splitlines()
    assert (lines[1], lines[-2]) == ("dim = 3", "LOC000; ; (0.0, 0.0, 0.0)")
    assert lines[-1] == "LOC001; ; (85.123457, 0.666667, -1.0)"


# ---------------------------------------------------------------- as nominal positions
@pytest.mark.parametrize(
    "pattern", ["{}", "{}.tif", "VW0/{}", "D:\\brain\\{}.ome.tif", "/data/x.y/{}.tiff"]
)
def test_lines_find_their_tiles_and_the_first_tile_stays(tmp_path, pattern):
    acquisition = acquisition_of(2, 2, missing=[(0, 0)])
    text = "dim = 3\n" + "".join(
        f"{pattern.format(name)}; ; ({x}, {y}, {z})\n"
        for name, (z, y, x) in {
            "LOC003": (3.5, 1090.0, 1084.0),
            "LOC001": (1.0, 1000.5, 1081.0),
            "LOC002": (2.0, 1091.0, 1000.0),
        }.items()
    )
    files = {"configuration": [write(tmp_path, text)]}
    found = own_positions(acquisition, files)
    assert {t.name: t.origin_vox for t in found.tiles} == {
        "LOC001": (0.0, 0.0, 85.0),  # where it was
        "LOC002": (1.0, 90.5, 4.0),
        "LOC003": (2.5, 89.5, 88.0),
    }
    # tiles have 100 pixels; the steps are 89.5 (y) and 84 (x)
    assert found.overlap == pytest.approx((0.105, 0.16))
    assert stages.from_acquisition(found, "ch0").default_displ == (89, 84)


def test_without_a_file_nothing_changes():
    acquisition = acquisition_of()
    assert own_positions(acquisition, {"nominal": [], "configuration": []}) is acquisition


def test_xml_is_taken_as_before(tmp_path):
    acquisition = acquisition_of(1, 2)
    xml = stages.from_acquisition(acquisition, "ch0")
    stacks = (xml.stacks[0], replace(xml.stacks[1], abs_vhd=(3, 80, 1)))
    writing.write_xml(tmp_path / "i.xml", replace(xml, stacks=stacks))
    found = own_positions(acquisition, {"nominal": [tmp_path / "i.xml"]})
    assert found.tiles[1].origin_vox == (1.0, 3.0, 80.0)


@pytest.mark.parametrize("name", ["positions.json", "positions.json.gz"])
def test_tile_specifications_are_positions_as_well(tmp_path, name):
    acquisition = acquisition_of(2, 2)
    moved = {"LOC001": (1.0, 2.0, 83.0)}
    tiles = tuple(replace(t, origin_vox=moved.get(t.name, t.origin_vox)) for t in acquisition.tiles)
    placement = place(replace(acquisition, tiles=tiles), [])
    write_tilespecs(tmp_path / name, acquisition, placement, "ch0")
    found = own_positions(acquisition, {"configuration": [tmp_path / name]})
    for tile in found.tiles:
        z, y, x = placement.tiles[tile.name].origin_vox
        assert tile.origin_vox == (round(z), y, x)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"LOC000": (0, 0)}, "has no line for LOC001; give the configuration of this"),
        (
            {"LOC000": (0, 0), "LOC001": (85, 0), "LOC002": (170, 0)},
            "line 4: 'LOC002' is no tile of the acquisition, whose tiles are LOC000, LOC001;",
        ),
        (
            {"LOC000": (0, 0), "LOC001": (85, 0), "a/LOC001.tif": (85, 0)},
            "line 4: 'a/LOC001.tif' is the second line of tile LOC001",
        ),
        ({"LOC000": (0, 0), "LOC001": (-85, 0)}, r"puts LOC001 -85 pixels from LOC000 \(EAST\)"),
        ({"LOC000": (0, 0), "LOC001": (0, 85)}, "puts LOC001 0 pixels from LOC000"),
        ({"LOC000": (0, 0), "LOC001": (201, 0)}, "201 pixels from LOC000 .* 100 pixels wide; give"),
    ],
)
def test_a_configuration_of_something_else_is_refused(tmp_path, lines, words):
    acquisition = acquisition_of(1, 2)
    text = "dim = 2\n" + "".join(f"{n}; ; ({x}, {y})\n" for n, (x, y) in lines.items())
    path = write(tmp_path, text)
    with pytest.raises(StitchingError, match=words) as error:
        origins = read_positions(path, acquisition, "mine.txt")
        with_positions(acquisition, origins, "mine.txt")
    assert str(error.value).startswith("mine.txt")


def test_two_dimensions_leave_z_alone(tmp_path):
    acquisition = acquisition_of(1, 2)
    path = write(tmp_path, "dim = 2\nLOC000; ; (5, 5)\nLOC001; ; (91, 4)\n")
    origins = match_tiles(read_tile_configuration(path), acquisition, "t")
    found = with_positions(acquisition, origins, "t")
    np.testing.assert_array_equal(found.tiles[1].origin_vox, (0.0, -1.0, 86.0))

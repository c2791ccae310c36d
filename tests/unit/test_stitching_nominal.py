"""Nominal positions of the user's own: from Fiji, Render or TeraStitcher."""

from dataclasses import replace

import numpy as np
import pytest
from test_stitching_terastitcher import acquisition_of
from test_stitching_tile_configuration import write

from terareg.core.errors import StitchingError
from terareg.stitching.nominal import own_positions, read_positions, with_positions
from terareg.stitching.render import write_tilespecs
from terareg.stitching.solver import place
from terareg.stitching.terastitcher import stages, writing
from terareg.stitching.tile_configuration import (
    match_tiles,
    read_tile_configuration,
)


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
            "line 4: 'LOC002' is not a tile of the acquisition, whose tiles are LOC000, LOC001;",
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

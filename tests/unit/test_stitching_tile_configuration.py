"""Fiji's tile configurations: read as people have them, written, and taken as nominal."""

from pathlib import Path

import numpy as np
import pytest

from terareg.core.errors import StitchingError
from terareg.stitching.tile_configuration import (
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
        ("dim = 4\n", r"line 1: 'dim = 4' is not a number of dimensions; write dim = 2 or 3"),
        ("\na; ; (1, 2)\n", r"line 2: 'a; ; \(1, 2\)' comes before the dimensions; write dim = 3"),
        ("dim = 3\na; ; (1, 2)\n", r"line 2: .* has 2 coordinates but dim = 3; correct one"),
        ("dim = 2\na; ; (1, 2, 3)\n", r"line 2: .* has 3 coordinates but dim = 2; correct one"),
        ("dim = 2\na; ; (1, two)\n", r"line 2: 'a; ; \(1, two\)' has a coordinate that is not"),
        ("dim = 2\na; ; (1, nan)\n", r"line 2: .* not a number of pixels; correct it"),
        ("dim = 2\na; ; (1, 1e300)\n", r"line 2: .* not a number of pixels; correct it"),
        (
            "dim = 2\n#\na 1 2\n",
            r"line 3: 'a 1 2' is not a line for a tile; write it as name; ; \(x, y\)",
        ),
        (
            "dim = 3\n ; ; (1, 2, 3)\n",
            r"line 2: .* is not a line for a tile; write it as name; ; \(x, y, z\)",
        ),
        ("dim = 3\na; ; (1, 2, 3) 4\n", r"line 2: .* is not a line for a tile; write it as"),
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
    with pytest.raises(StitchingError, match="it is larger than 64 MiB"):
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

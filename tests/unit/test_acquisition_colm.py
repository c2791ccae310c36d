"""Indexing a COLM acquisition: every layout known, every kind of bad input by its message."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from terareg.acquisition.colm import ColmLayout, plane_of
from terareg.acquisition.indexing import IndexSettings, check_files, index_acquisition
from terareg.acquisition.layout import LayoutOptions
from terareg.acquisition.model import Acquisition, Channel, load_acquisition
from terareg.acquisition.raw import PlaneFiles, raw_state
from terareg.core.errors import AcquisitionError, ConfigError, StoreError, TeraregError
from terareg.storage.records import to_json, write_json
from terareg.storage.store import Store

INI = """[Experiment Settings]
X Resolution = "{shape[1]}"
Y Resolution = "{shape[0]}"
Num in stack (Top Left Corner) = "{planes}"
Num Enabled Channels = "{channels}"
[North Scan Region]
Num Horizontal = "{columns}"
Num Vertical = "{rows}"
Stack Step (mm) = "0.0025"
[North Scan Region Stats]
Actual Horizontal Overlap (%) = "20"
Actual Vertical Overlap (%) = "20"
[Objectives]
North = "25x"
"""
SHORT = "CHN{channel:02d}_PLN{plane:04d}.tif"
LONG = "VW0_{tile}D_CM0_CHN{channel:02d}_PLN{plane:04d}.tif"


def write_image(path: Path, image: np.ndarray, **options) -> None:
    if path.suffix.lower() == ".png":
        Image.fromarray(image).save(path)
    else:
        tifffile.imwrite(path, image, photometric="minisblack", **options)


def write_colm(
    root: Path,
    cells: list[list[int]],
    *,
    planes: int = 4,
    shape: tuple[int, int] = (8, 8),
    channels: tuple[int, ...] = (0,),
    name: str = LONG,
    dtype: str = "uint16",
    **options,
) -> dict[tuple[str, int], np.ndarray]:
    """Write an acquisition of random planes; returns them by tile and channel."""
    rng = np.random.default_rng(5)
    root.mkdir(parents=True, exist_ok=True)
    rows, columns = len(cells), len(cells[0])
    text = INI.format(
        shape=shape, planes=planes, channels=len(channels), rows=rows, columns=columns
    )
    (root / "Experiment.ini").write_text(text)
    (root / "Scanned Cells.txt").write_text(
        "\n".join(",".join(map(str, row)) for row in cells) + "\n"
    )
    data = {}
    for number in range(rows * columns):
        if not cells[number // columns][number % columns]:
            continue
        tile = f"LOC{number:03d}"
        folder = root / "VW0" / tile
        folder.mkdir(parents=True)
        for channel in channels:
            stack = rng.integers(0, np.iinfo(dtype).max, (planes, *shape), dtype, endpoint=True)
            data[tile, channel] = stack
            for plane, image in enumerate(stack):
                file = name.format(tile=tile, channel=channel, plane=plane)
                write_image(folder / file, image, **options)
    return data


def layout(root: Path | str, **options) -> ColmLayout:
    view = options.pop("view", "VW0")
    return ColmLayout(Store(str(root)), LayoutOptions(**options), view)


def index(root: Path | str, **options) -> Acquisition:
    names = ("orientation", "missing_planes", "workers", "second_sides", "missing_sides")
    settings = {name: options.pop(name) for name in names if name in options}
    return index_acquisition(
        layout(root, **options), IndexSettings(**{"sample": "s", "orientation": "SAR"} | settings)
    )


HOLES = [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]


def test_a1_grid_with_holes_and_two_channels(tmp_path: Path) -> None:
    write_colm(tmp_path, HOLES, planes=12, shape=(8, 10), channels=(0, 1))
    acquisition = index(tmp_path)
    assert [t.name for t in acquisition.tiles] == [f"LOC{n:03d}" for n in range(1, 11)]
    assert [(t.row, t.column) for t in acquisition.tiles][:4] == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert acquisition.tiles[3].folder == "VW0/LOC004"
    assert acquisition.tile_shape == (12, 8, 10) and acquisition.dtype == "uint16"
    assert [(c.name, c.index) for c in acquisition.channels] == [("ch0", 0), ("ch1", 1)]
    files = acquisition.planes["LOC004"]["ch1"]
    assert files.name(11) == "VW0_LOC004D_CM0_CHN01_PLN0011.tif" and files.missing == ()
    assert len(acquisition.pairs()) == 13
    assert acquisition.scanned() == tuple(tuple(map(bool, row)) for row in HOLES)
    assert ["not square" in p for p in acquisition.problems] == [True]


def test_nominal_steps_are_not_rounded(tmp_path: Path) -> None:
    write_colm(tmp_path, HOLES, shape=(9, 9))
    acquisition = index(tmp_path)
    assert acquisition.nominal_step_vox == pytest.approx((7.2, 7.2))
    assert acquisition.tile("LOC005").origin_vox == pytest.approx((0, 7.2, 7.2))


@pytest.mark.parametrize(
    "name",
    [
        SHORT,
        LONG,
        "VW0_{tile}D_CM1_chn{channel}_pln{plane}.TIF",
        "CHN{channel:03d}_PLN{plane:06d}.tiff",
        "scan 3 (left)_CHN{channel:02d}_PLN{plane:04d}.png",
    ],
)
def test_d25_file_names(tmp_path: Path, name: str) -> None:
    write_colm(tmp_path, [[1, 1]], planes=12, channels=(3, 11), name=name)
    acquisition = index(tmp_path)
    assert [c.index for c in acquisition.channels] == [3, 11]
    for tile in acquisition.tiles:
        for channel in acquisition.channels:
            files = acquisition.planes[tile.name][channel.name]
            assert files.odd == {} and files.missing == ()
            for plane in range(12):
                assert (tmp_path / tile.folder / files.name(plane)).is_file()


def test_names_that_follow_no_single_pattern(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]], planes=6)
    folder = tmp_path / "VW0" / "LOC000"
    (folder / LONG.format(tile="LOC000", channel=0, plane=2)).rename(folder / "CHN00_PLN2.tif")
    files = index(tmp_path).planes["LOC000"]["ch0"]
    assert files.odd == {2: "CHN00_PLN2.tif"} and files.name(2) == "CHN00_PLN2.tif"


def test_a1_decoys_are_left_out(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1, 0]])
    folder = tmp_path / "VW0" / "LOC000"
    plane = folder / LONG.format(tile="LOC000", channel=0, plane=0)
    shutil.copytree(tmp_path / "VW0", tmp_path / "VW01")
    (tmp_path / "VW01" / "LOC000").rename(tmp_path / "VW01" / "LOC001")
    shutil.copy(plane, folder / "CHN00_bias.tiff")
    shutil.copy(plane, folder / f"._{plane.name}")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "old").mkdir()
    shutil.copy(plane, folder / "old" / "CHN07_PLN0000.tif")
    (tmp_path / "VW0" / "LOC_old").mkdir()
    acquisition = index(tmp_path)
    assert [t.name for t in acquisition.tiles] == ["LOC000"]
    assert len(acquisition.channels) == 1 and acquisition.tile_shape[0] == 4
    # every image and folder that is not understood is named, files of other kinds are not
    assert acquisition.problems == (
        "1 folders of VW0 that do not belong to a tile were ignored (first: LOC_old)",
        "2 images in tile folders do not have names of planes and were ignored (first: "
        "VW0/LOC000/CHN00_bias.tiff)",
    )


@pytest.mark.parametrize("name", ["LOC000_rescan", "LOC000 (1)", "again"])
def test_a_tile_folder_that_was_renamed_by_hand_is_an_error(tmp_path: Path, name: str) -> None:
    write_colm(tmp_path, [[1, 1]])
    shutil.copytree(tmp_path / "VW0" / "LOC000", tmp_path / "VW0" / name)
    with pytest.raises(AcquisitionError, match="contains planes like a tile but is not named like"):
        index(tmp_path)


def test_d18_more_than_a_thousand_locations(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1] * 3], planes=1, channels=(12,))
    source = tmp_path / "VW0" / "LOC000" / LONG.format(tile="LOC000", channel=12, plane=0)
    text = (tmp_path / "Experiment.ini").read_text()
    text = text.replace('Horizontal = "3"', 'Horizontal = "40"')
    (tmp_path / "Experiment.ini").write_text(text.replace('Vertical = "1"', 'Vertical = "26"'))
    (tmp_path / "Scanned Cells.txt").write_text((",".join("1" * 40) + "\n") * 26)
    for number in range(3, 1040):
        folder = tmp_path / "VW0" / f"LOC{number:03d}"
        folder.mkdir()
        os.link(source, folder / LONG.format(tile=folder.name, channel=12, plane=0))
    acquisition = index(tmp_path)
    assert len(acquisition.tiles) == 1040 and acquisition.tiles[-1].name == "LOC1039"
    assert acquisition.tile("LOC1039").row == 25


def test_what_belongs_to_the_raw_data(tmp_path: Path) -> None:
    names = layout(tmp_path, view="VW1").raw_keys()
    assert names == ["VW1", "Experiment.ini", "Scanned Cells.txt"]


def test_choice_and_order_of_channels(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1, 1]], channels=(0, 1, 2))
    acquisition = index(tmp_path, channels={"signal": 2, "auto": 0})
    assert acquisition.channels == (Channel("signal", 2), Channel("auto", 0))
    assert set(acquisition.planes["LOC000"]) == {"signal", "auto"}
    assert acquisition.problems == ()
    with pytest.raises(AcquisitionError, match=r"no channel 'nuclei'; channels are signal, auto"):
        acquisition.channel("nuclei")
    with pytest.raises(AcquisitionError, match="no tile 'LOC009'; tiles are LOC000, LOC001"):
        acquisition.tile("LOC009")


def test_files_of_unused_channels_are_not_looked_at(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]], channels=(0, 1))
    (tmp_path / "VW0" / "LOC000" / LONG.format(tile="LOC000", channel=1, plane=1)).write_bytes(b"")
    acquisition = index(tmp_path, channels={"a": 0})
    assert len(acquisition.channels) == 1 and acquisition.problems == ()


def test_json_round_trip_and_load(tmp_path: Path) -> None:
    write_colm(tmp_path, HOLES, channels=(0, 1))
    acquisition = index(tmp_path)
    data = to_json(acquisition.to_json())
    assert Acquisition.from_json(json.loads(data)) == acquisition
    assert to_json(index(tmp_path, workers=1).to_json()) == data
    write_json(tmp_path / "acquisition.json", acquisition.to_json())
    assert load_acquisition(tmp_path / "acquisition.json") == acquisition
    write_json(tmp_path / "other.json", {"version": 1})
    with pytest.raises(AcquisitionError, match=r"other.json is not an acquisition file \(KeyError"):
        load_acquisition(tmp_path / "other.json")
    write_json(tmp_path / "other.json", {})
    with pytest.raises(AcquisitionError, match="version None, not 1; delete it"):
        load_acquisition(tmp_path / "other.json")


# ------------------------------------------------------------------ disagreements
def edit_ini(root: Path, old: str, new: str) -> None:
    path = root / "Experiment.ini"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


PROBLEMS = {
    "planes": (
        lambda root: edit_ini(root, 'Corner) = "4"', 'Corner) = "512"'),
        r"states 512 planes.* but the files have 4",
    ),
    "pixels": (
        lambda root: edit_ini(root, 'X Resolution = "8"\nY Resolution = "8"', "X Resolution = 16"),
        r"states 16 x 16 pixels \(y, x\) but the files have 8 x 8",
    ),
    "channels": (
        lambda root: edit_ini(root, 'Channels = "1"', 'Channels = "3"'),
        r"states 3 channels.*but files of 1 channels were found \(CHN00\)",
    ),
    "overlap": (
        lambda root: edit_ini(root, 'Vertical Overlap (%) = "20"', 'Vertical Overlap (%) = "70"'),
        "overlap|Overlap.* 70.0% is unusual",
    ),
    "unscanned folder": (
        lambda root: (root / "VW0" / "LOC007").mkdir(),
        r"1 folders of VW0 are not scanned .* \(first: LOC007\)",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_disagreements_are_reported(tmp_path: Path, spoil: Callable, message: str) -> None:
    write_colm(tmp_path, [[1, 1], [1, 1]])
    assert index(tmp_path).problems == ()
    spoil(tmp_path)
    problems = index(tmp_path).problems
    assert len(problems) == 1
    with pytest.raises(AcquisitionError, match=message):
        raise AcquisitionError(problems[0])


def test_planes_numbered_from_one(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]], planes=5)
    (tmp_path / "VW0" / "LOC000" / LONG.format(tile="LOC000", channel=0, plane=0)).unlink()
    edit_ini(tmp_path, 'Corner) = "5"', 'Corner) = "4"')
    acquisition = index(tmp_path)
    assert acquisition.tile_shape[0] == 4
    assert acquisition.planes["LOC000"]["ch0"].name(0).endswith("PLN0001.tif")
    assert "numbered from 1" in acquisition.problems[0]


@pytest.mark.parametrize("kind", ["blank", "interpolate"])
def test_d16_missing_planes_on_request(tmp_path: Path, kind: str) -> None:
    write_colm(tmp_path, [[1, 1]], planes=6)
    for plane in (0, 3, 5):
        (tmp_path / "VW0" / "LOC001" / LONG.format(tile="LOC001", channel=0, plane=plane)).unlink()
    acquisition = index(tmp_path, missing_planes=kind)
    assert acquisition.tile_shape[0] == 6
    assert acquisition.planes["LOC000"]["ch0"].missing == ()
    assert acquisition.planes["LOC001"]["ch0"].missing == (0, 3, 5)
    assert "3 planes are missing in 1 stacks" in acquisition.problems[0]


# ------------------------------------------------------------------ bad input
def plane_path(root: Path, tile: str = "LOC002", plane: int = 2) -> Path:
    return root / "VW0" / tile / LONG.format(tile=tile, channel=0, plane=plane)


def rewrite(image: np.ndarray, **options) -> Callable[[Path], None]:
    return lambda root: tifffile.imwrite(plane_path(root), image, **options)


def truncate(root: Path) -> None:
    os.truncate(plane_path(root), plane_path(root).stat().st_size - 3)


def flatten(root: Path) -> None:
    for path in root.glob("VW0/*/*.tif"):
        tifffile.imwrite(path, np.full((8, 8), 7, "uint16"))


def drop_two_stacks(root: Path) -> None:
    for tile in ("LOC001", "LOC003"):
        plane_path(root, tile, 1).unlink()


WRONG = "LOC002D_CM0_CHN00_PLN0002.tif"
BAD_INPUT = {
    "no ini": (lambda r: (r / "Experiment.ini").unlink(), {}, "there is no Experiment.ini in"),
    "ini is a folder": (
        lambda r: ((r / "Experiment.ini").unlink(), (r / "Experiment.ini").mkdir()),
        {},
        "Experiment.ini cannot be read",
    ),
    "ini is binary": (
        lambda r: (r / "Experiment.ini").write_bytes(b"\0\1\2"),
        {},
        r"Experiment.ini cannot be read \(it is not a text file\)",
    ),
    "ini key": (
        lambda r: edit_ini(r, "Stack Step (mm)", "Stack"),
        {},
        r"\[North Scan Region\] Stack Step \(mm\) is missing",
    ),
    "cells shape": (
        lambda r: (r / "Scanned Cells.txt").write_text("1,1\n"),
        {},
        r"Scanned Cells.txt has 1 lines, but Experiment.ini states 2 rows",
    ),
    "overlap 0": (
        lambda r: edit_ini(r, 'Vertical Overlap (%) = "20"', 'Vertical Overlap (%) = "0"'),
        {},
        r"Vertical Overlap \(%\) is 0 of a tile, but neighbours",
    ),
    "voxel size 0": (
        lambda r: edit_ini(r, '"0.0025"', '"0"'),
        {},
        "implausible voxel size of 0 um in z",
    ),
    "tile without folder": (
        lambda r: shutil.rmtree(r / "VW0" / "LOC001"),
        {},
        r"1 of 4 tiles have no folder in VW0 \(first: LOC001\); copy them, or write 0",
    ),
    "no view": (
        lambda r: shutil.rmtree(r / "VW0"),
        {},
        "there is no tile folder such as VW0/LOC000 .* or correct input.view",
    ),
    "two folders": (
        lambda r: (r / "VW0" / "LOC0001").mkdir(),
        {},
        r"two folders of location 1 \(LOC0001 and LOC001\)",
    ),
    "empty folder": (
        lambda r: [p.unlink() for p in (r / "VW0" / "LOC003").iterdir()],
        {},
        r"LOC003 has no plane of channel ch0 \(CHN00\)",
    ),
    "no planes at all": (
        lambda r: [p.unlink() for p in r.glob("VW0/*/*")],
        {},
        r"contain no plane such as CHN00_PLN0000.tif",
    ),
    "missing plane": (
        lambda r: plane_path(r).unlink(),
        {},
        "LOC002 channel ch0: 1 of 4 planes missing .*PLN0002.tif.*; copy them, or set",
    ),
    "missing last plane": (
        lambda r: plane_path(r, plane=3).unlink(),
        {},
        r"1 of 4 planes missing \(first: VW0_LOC002D_CM0_CHN00_PLN0003.tif\)",
    ),
    "two stacks with missing planes": (
        drop_two_stacks,
        {},
        "LOC001 channel ch0: 1 of 4 planes missing .*, and 2 in all in 2 stacks",
    ),
    "plane twice": (
        lambda r: shutil.copy(plane_path(r), plane_path(r).with_name("CHN00_PLN0002.tif")),
        {},
        r"contains plane 2 of channel 0 twice.*; remove one of them",
    ),
    "empty plane": (
        lambda r: plane_path(r).write_bytes(b""),
        {},
        f"{WRONG} is empty; copy it again, or delete it and set input.missing_planes",
    ),
    "truncated plane": (truncate, {}, f"{WRONG} is truncated at [0-9]+ bytes; copy it again"),
    "truncated in its header": (
        lambda r: os.truncate(plane_path(r), 30),
        {},
        f"{WRONG} is truncated at 30 bytes",
    ),
    "not an image": (
        lambda r: plane_path(r).write_bytes(b"<html>404 not found</html>"),
        {},
        f"{WRONG} is not a TIFF or PNG file, but planes must be",
    ),
    "other size": (
        rewrite(np.zeros((8, 9), "uint16")),
        {},
        rf"{WRONG} has 8 x 9 pixels \(y, x\) but the other planes have 8 x 8",
    ),
    "other dtype": (
        rewrite(np.zeros((8, 8), "uint8")),
        {},
        f"{WRONG} is uint8 but the other planes are uint16; copy it again, or convert",
    ),
    "float": (
        rewrite(np.zeros((8, 8), "float32")),
        {},
        f"{WRONG} is a TIFF of 1 x 32 bit floating-point samples per pixel, but planes must",
    ),
    "signed": (
        rewrite(np.zeros((8, 8), "int16"), description="int16"),
        {},
        "1 x 16 bit signed samples",
    ),
    "colour": (
        rewrite(np.zeros((8, 8, 3), "uint8"), photometric="rgb"),
        {},
        "is a TIFF of 3 x 8 bit unsigned samples per pixel",
    ),
    "several images": (
        rewrite(np.zeros((3, 8, 8), "uint16"), photometric="minisblack"),
        {},
        "is a TIFF of several images",
    ),
    "channel not there": (
        lambda r: None,
        {"channels": {"auto": 0, "signal": 1}},
        r"channel 'signal' \(CHN01\) has no file in any tile, where CHN00 was found; correct",
    ),
    "no signal": (flatten, {}, "channel ch0: no tile has signal: all planes examined"),
    "own voxel size": (
        lambda r: None,
        {"spacing_um": (2.5, 0.0, 0.5)},
        r"voxel size 2.5, 0, 0.5 um \(z, y, x\) from input.spacing_um is implausible",
    ),
    "orientation": (lambda r: None, {"orientation": "XYZ"}, "'XYZ' is not an orientation"),
    "missing_planes": (
        lambda r: None,
        {"missing_planes": "skip"},
        "input.missing_planes is 'skip'; write one of error, blank, interpolate",
    ),
    "no channels": (lambda r: None, {"channels": {}}, "input.channels is empty; name a channel"),
    "index twice": (
        lambda r: None,
        {"channels": {"a": 0, "b": 0}},
        "input.channels has the index 0 2 times",
    ),
    "channel name": (
        lambda r: None,
        {"channels": {"a/b": 0}},
        "channel name 'a/b' cannot be a folder name",
    ),
    "channel index": (
        lambda r: None,
        {"channels": {"a": -1}},
        "channel 'a' has index -1; give the number after CHN",
    ),
    "overlap of one number": (
        lambda r: None,
        {"overlap": (0.2,)},
        r"input.overlap is \(0.2,\); give two fractions",
    ),
    "view outside": (lambda r: None, {"view": "../VW0"}, "would leave the store"),
}


@pytest.mark.parametrize(("spoil", "options", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(tmp_path: Path, spoil: Callable, options: dict, message: str) -> None:
    root = tmp_path / "raw"
    write_colm(root, [[1, 1], [1, 1]])
    spoil(root)
    before = sorted(p.relative_to(root) for p in root.rglob("*"))
    with pytest.raises(TeraregError, match=message) as caught:
        index(root, **options)
    assert "\n" not in str(caught.value)
    assert sorted(p.relative_to(root) for p in root.rglob("*")) == before


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_truncated_compressed_plane(tmp_path: Path, suffix: str) -> None:
    options = {"compression": "zlib"} if suffix == "tif" else {}
    name = LONG.replace("tif", suffix)
    write_colm(tmp_path, [[1]], planes=100, shape=(16, 16), name=name, **options)
    path = tmp_path / "VW0" / "LOC000" / name.format(tile="LOC000", channel=0, plane=77)
    os.truncate(path, path.stat().st_size - 40)
    with pytest.raises(AcquisitionError, match=r"PLN0077.* is truncated at"):
        index(tmp_path)


def test_hostile_tiff_is_refused(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]])
    path = plane_path(tmp_path, "LOC000")
    entries = b"".join(struct.pack("<HHII", 273, 4, 999_999, 8) for _ in range(4000))
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 4000) + entries + bytes(5_000_000)
    )
    with pytest.raises(AcquisitionError, match="without an image size"):
        index(tmp_path)


def test_signal_in_a_single_tile_is_enough(tmp_path: Path) -> None:
    data = write_colm(tmp_path, [[1, 1], [1, 1]])
    flatten(tmp_path)
    tifffile.imwrite(plane_path(tmp_path, "LOC003"), data["LOC003", 0][2])
    assert len(index(tmp_path).tiles) == 4


# ------------------------------------------------------------------ state of the raw data
def test_raw_state_changes_with_the_files_and_only_then(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1, 1]], channels=(0, 1))
    before = raw_state(layout(tmp_path))
    assert len({before.layout, *before.channels.values()}) == 3
    (tmp_path / "VW0" / "LOC000" / "Thumbs.db").write_bytes(b"x")
    assert raw_state(layout(tmp_path)) == before
    path = plane_path(tmp_path, "LOC001")
    os.utime(path, (1, 1))
    touched = raw_state(layout(tmp_path))
    assert touched.channels[0] != before.channels[0]
    assert (touched.channels[1], touched.layout) == (before.channels[1], before.layout)
    path.write_bytes(path.read_bytes() + b" ")
    longer = raw_state(layout(tmp_path))
    assert longer.layout != before.layout
    with open(tmp_path / "Experiment.ini", "a", encoding="utf-8") as stream:
        stream.write("\n")
    corrected = raw_state(layout(tmp_path))
    assert corrected.layout != longer.layout and corrected.channels == longer.channels


def test_raw_state_sees_folders_that_are_named_in_another_way(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1, 1]])
    (tmp_path / "VW0" / "LOC001").rename(tmp_path / "VW0" / "loc0001")
    before = raw_state(layout(tmp_path))
    path = next((tmp_path / "VW0" / "loc0001").iterdir())
    path.write_bytes(path.read_bytes() + b" ")
    after = raw_state(layout(tmp_path))
    assert after.layout != before.layout and after.channels[0] != before.channels[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CHN00_PLN0000.tif", (0, 0)),
        ("VW0_LOC000D_CM0_CHN12_PLN12345.TIFF", (12, 12345)),
        ("a.b_CHN1_PLN2.png", (1, 2)),
        (".CHN00_PLN0000.tif", None),
        ("CHN00_PLN0000_corrected.tif", None),
        ("CHN00_bias.tiff", None),
        ("CHN00_PLN0000.jpg", None),
        ("CHNxx_PLN0000.tif", None),
    ],
)
def test_plane_names(name: str, expected: tuple[int, int] | None) -> None:
    assert plane_of(name) == expected


@given(
    st.integers(0, 6), st.integers(0, 20000), st.lists(st.integers(0, 30), unique=True, max_size=5)
)
def test_plane_files_json(digits: int, first: int, odd: list[int]) -> None:
    files = PlaneFiles("CHN00_PLN", ".tif", digits, first, (1, 2), {z: f"{z}.tif" for z in odd})
    assert PlaneFiles.from_json(json.loads(to_json(files.to_json()))) == files


# ------------------------------------------------------------------ any grid
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_any_grid_with_holes(rows: int, columns: int, data) -> None:
    cells = data.draw(
        st.lists(
            st.lists(st.integers(0, 1), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        ).filter(lambda table: any(map(any, table)))
    )
    name = data.draw(st.sampled_from([SHORT, LONG]))
    with tempfile.TemporaryDirectory() as folder:
        write_colm(Path(folder), cells, planes=1, name=name)
        acquisition = index(Path(folder))
    places = [(r, c) for r in range(rows) for c in range(columns) if cells[r][c]]
    assert [(t.row, t.column) for t in acquisition.tiles] == places
    assert [int(t.name[3:]) for t in acquisition.tiles] == [c + r * columns for r, c in places]
    for first, second, direction in acquisition.pairs():
        step = (0, 1) if direction == "EAST" else (1, 0)
        assert (first.row + step[0], first.column + step[1]) == (second.row, second.column)


# ------------------------------------------------------------------ S3
@pytest.mark.slow
def test_a8_s3_equals_folder(tmp_path: Path, bucket) -> None:
    write_colm(tmp_path, [[1, 1], [1, 0]], channels=(0, 10))
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            key = f"run 1/{path.relative_to(tmp_path).as_posix()}"
            bucket.put_object(Bucket="scope", Key=key, Body=path.read_bytes())
    bucket.put_object(Bucket="scope", Key="run 1/VW01/LOC003/CHN00_PLN0000.tif", Body=b"")
    local = index(tmp_path).to_json()
    remote = index("s3://scope/run 1").to_json()
    assert remote.pop("raw") == "s3://scope/run 1" and local.pop("raw") == str(tmp_path)
    assert remote == local
    assert raw_state(layout("s3://scope/run 1")).layout == raw_state(layout(tmp_path)).layout
    checked = check_files(layout("s3://scope/run 1"), IndexSettings("s", "SAR"))
    assert checked == local["problems"]
    bucket.delete_object(Bucket="scope", Key="run 1/VW0/LOC002/VW0_LOC002D_CM0_CHN10_PLN0001.tif")
    with pytest.raises(AcquisitionError, match=r"LOC002 channel ch10: 1 of \d planes missing"):
        check_files(layout("s3://scope/run 1"), IndexSettings("s", "SAR"))


@pytest.mark.slow
def test_s3_errors(bucket) -> None:
    with pytest.raises(AcquisitionError, match=r"there is no Experiment.ini in s3://scope/none"):
        index("s3://scope/none")
    with pytest.raises(StoreError, match="bucket 'other' does not exist"):
        index("s3://other/none")


def test_settings_are_checked_first() -> None:
    with pytest.raises(ConfigError, match=r"s: input.orientation: 'RR'"):
        IndexSettings("s", "RR")


# ---------------------------------------------------------------- sides of a channel
SIDES = {"channels": {"left": 0, "right": 1}, "second_sides": {"right": "left"}}


def remove(root: Path, tile: str, channel: int, *planes: int) -> None:
    for path in (root / "VW0" / tile).glob(f"*CHN{channel:02d}*"):
        if not planes or plane_of(path.name)[1] in planes:
            path.unlink()


def test_a_tile_that_lacks_a_side_is_an_error_or_has_the_other_side_alone(tmp_path: Path) -> None:
    write_colm(tmp_path, HOLES, channels=(0, 1))
    remove(tmp_path, "LOC003", 1)
    words = (
        r"LOC003 has no plane of side right \(CHN01\) but .*missing_sides: other, which uses "
        r"only left"
    )
    with pytest.raises(AcquisitionError, match=words):
        index(tmp_path, **SIDES)
    found = index(tmp_path, **SIDES, missing_sides="other")
    (text,) = [p for p in found.problems if "have no side" in p]
    assert text == "1 of 10 tiles have no side right (LOC003); only left was used there"
    assert set(found.planes["LOC003"]) == {"left"} and len(found.of_channel("left").tiles) == 10
    assert "LOC003" not in [tile.name for tile in found.of_channel("right").tiles]
    assert Acquisition.from_json(json.loads(to_json(found.to_json()))) == found
    remove(tmp_path, "LOC004", 0)
    with pytest.raises(AcquisitionError, match=r"LOC004 has no plane of channel left"):
        index(tmp_path, **SIDES, missing_sides="other")


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        (("LOC003", 0), r"LOC003 has no plane of channel left \(CHN00\)"),
        (("LOC003", 1), r"LOC003 has no plane of side right \(CHN01\)"),
        (("LOC005", 1, 4, 5), r"LOC005 channel right: 2 of 6 planes missing \(first: \S*PLN0004"),
        (("LOC005", 0, 0), r"LOC005 channel left: 1 of 6 planes missing \(first: \S*PLN0000"),
    ],
)
def test_names_of_files_alone_tell_what_a_tile_lacks(tmp_path: Path, removed, words: str) -> None:
    write_colm(tmp_path, HOLES, channels=(0, 1), planes=6)
    for path in tmp_path.rglob("*.tif"):
        path.write_bytes(b"")
    own = IndexSettings("s", "SAR", second_sides=SIDES["second_sides"])
    acquired = layout(tmp_path, channels=SIDES["channels"])
    assert check_files(acquired, own) == list(acquired.survey.problems)
    remove(tmp_path, *removed)
    with pytest.raises(AcquisitionError, match=words):
        check_files(acquired, own)


def test_sides_of_different_sizes_and_depths_are_told(tmp_path: Path) -> None:
    write_colm(tmp_path, HOLES, channels=(0, 1), planes=6)
    remove(tmp_path, "LOC003", 1, 4, 5)
    with pytest.raises(AcquisitionError, match="LOC003 channel right: 2 of 6 planes missing"):
        index(tmp_path, **SIDES)
    assert index(tmp_path, **SIDES, missing_planes="blank").planes["LOC003"]["right"].missing == (
        4, 5,
    )  # fmt: skip
    path = next((tmp_path / "VW0" / "LOC003").glob("*CHN01_PLN0002*"))
    write_image(path, np.ones((9, 8), np.uint16))
    with pytest.raises(AcquisitionError, match=r"CHN01_PLN0002.tif .*9 x 8.*8 x 8"):
        index(tmp_path, **SIDES, missing_planes="blank")

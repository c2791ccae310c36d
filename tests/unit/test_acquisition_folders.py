"""TeraStitcher's folders: what was written is found, in one plane per file and in blocks."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from terareg.acquisition.folders import FolderLayout
from terareg.acquisition.indexing import IndexSettings, check_files, index_acquisition
from terareg.acquisition.layout import LayoutOptions
from terareg.acquisition.model import Acquisition
from terareg.acquisition.raw import PageFiles, PlaneRange, raw_state
from terareg.acquisition.tiles import TileSource
from terareg.core.errors import AcquisitionError
from terareg.stitching.terastitcher import reading, stages, writing
from terareg.storage.records import to_json
from terareg.storage.store import Store

SPACING = (2.5, 0.5, 0.5)
PIXELS = (20, 16)
STEP_UM = (8.0, 6.0)  # 16 of 20 and 12 of 16 pixels


def write_folders(
    root: Path, cells, *, planes=6, blocks=(1,) * 100, first_level="V", short=False, start=0,
    step=25.0, **options,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write tiles of random pixels in blocks of planes; returns them by name of their folder."""
    rng = np.random.default_rng(len(root.name))
    data = {}
    for row, column in cells:
        place = [f"{round(10 * (100 + i * s)):06d}" for i, s in zip((row, column), STEP_UM)]
        outer, inner = place if first_level == "V" else place[::-1]
        folder = root / outer / f"{outer}_{inner}"
        folder.mkdir(parents=True)
        stack = rng.integers(0, 60000, (planes, *PIXELS), "uint16")
        data[folder.name] = stack
        z = 0
        for depth in blocks:
            if z >= planes:
                break
            number = f"{start + round(z * step):06d}.tif"
            name = number if short else f"{folder.name}_{number}"
            part = stack[z : z + depth]
            part = part[0] if len(part) == 1 else part
            tifffile.imwrite(folder / name, part, photometric="minisblack", **options)
            z += depth
    return data


def layout(root: Path | str, channels=None, first_level="V", **options) -> FolderLayout:
    options = {"spacing_um": SPACING, "channels": channels or {"signal": "."}} | options
    return FolderLayout(Store(str(root)), LayoutOptions(**options), first_level)


def index(root: Path | str, *arguments, missing_planes="error", **options) -> Acquisition:
    settings = IndexSettings("s", "SAR", missing_planes)
    return index_acquisition(layout(root, *arguments, **options), settings)


GRID = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)]


@pytest.mark.parametrize("first_level", ["V", "H"])
@pytest.mark.parametrize("blocks", [(1,) * 6, (4, 2), (6,)], ids=["planes", "blocks", "one file"])
@pytest.mark.parametrize("short", [False, True], ids=["long", "short"])
def test_tiles_are_found_where_they_were_taken(tmp_path, first_level, blocks, short):
    data = write_folders(tmp_path, GRID, blocks=blocks, first_level=first_level, short=short)
    acquisition = index(tmp_path, None, first_level)
    assert (acquisition.rows, acquisition.columns) == (3, 2)
    assert [(t.row, t.column) for t in acquisition.tiles] == GRID
    assert acquisition.tile_shape == (6, *PIXELS) and acquisition.layout == "terastitcher"
    assert acquisition.overlap == pytest.approx((0.2, 0.25)) and acquisition.problems == ()
    source = TileSource(acquisition, "signal")
    for tile in acquisition.tiles:
        assert tile.origin_vox == pytest.approx((0, 16 * tile.row, 12 * tile.column))
        np.testing.assert_array_equal(source.read(tile.name, 0, 6), data[tile.name])
        np.testing.assert_array_equal(
            source.read(tile.name, 3, 5, slice(2, 9), slice(1, 4)),
            data[tile.name][3:5, 2:9, 1:4],
        )
    assert Acquisition.from_json(json.loads(to_json(acquisition.to_json()))) == acquisition


def test_channels_are_trees_of_their_own(tmp_path):
    data = {
        name: write_folders(tmp_path / name, GRID[:4], short=True)
        for name in ("Ex_488_Em_525", "Ex_561")
    }
    channels = {"auto": "Ex_488_Em_525", "signal": "Ex_561"}
    acquisition = index(tmp_path, channels)
    for name, folder in channels.items():
        for tile in acquisition.tiles:
            read = TileSource(acquisition, name).read(tile.name, 0, 6)
            np.testing.assert_array_equal(read, data[folder][tile.name])
    key, page = acquisition.plane_file(acquisition.tiles[1], "signal", 2)
    assert (key, page) == ("Ex_561/001000/001000_001060/000050.tif", None)
    xml = stages.from_acquisition(acquisition, "signal")
    assert xml.stacks_dir == f"{tmp_path}/Ex_561"
    assert xml.stacks[1].dir_name == "001000/001000_001060"
    state = raw_state(layout(tmp_path, channels))
    os.utime(tmp_path / key, (1, 1))
    touched = raw_state(layout(tmp_path, channels))
    assert touched.channels[0] == state.channels[0] and touched.channels[1] != state.channels[1]


@pytest.mark.parametrize(
    ("blocks", "kind", "plugin"),
    [((1,) * 6, "TiledXY|2Dseries", "tiff2D"), ((4, 2), "TiledXY|3Dseries", "tiff3D")],
)
def test_the_project_file_says_what_the_files_are(tmp_path, blocks, kind, plugin):
    write_folders(tmp_path, GRID, blocks=blocks)
    xml = stages.from_acquisition(index(tmp_path), "signal")
    assert (xml.volume_format, xml.input_plugin, xml.slices) == (kind, plugin, 6)
    assert (xml.rows, xml.columns, len(xml.stacks)) == (3, 2, 6)
    again = reading.parse_xml(writing.format_xml(xml))
    for stack in again.stacks:
        if (stack.row, stack.column) == (2, 0):
            assert stack.dir_name == "" and stack.z_ranges == ()
            continue
        files = sorted(p.name for p in (Path(again.stacks_dir) / stack.dir_name).iterdir())
        assert len(files) == len(blocks)
        assert all(re.fullmatch(stack.img_regex, name) for name in files)
        assert stack.z_ranges == ((0, 6),)
        expected = ((4, 2), (0, 4)) if len(blocks) == 2 else (None, None)
        assert (stack.block_sizes, stack.blocks_abs_d) == expected
    assert again.default_displ == (16, 12)


@pytest.mark.parametrize("step", [2.34, 7.5, 25.0, 1.0])
def test_names_rounded_to_tenths_and_names_that_count(tmp_path, step):
    """1.0: planes are counted and not measured, which says nothing about the voxel size."""
    data = write_folders(tmp_path, GRID[:4], planes=40, step=step, start=70)
    dz = 2.5 if step == 1 else step / 10
    acquisition = index(tmp_path, spacing_um=(dz, 0.5, 0.5))
    assert acquisition.tile_shape[0] == 40 and acquisition.problems == ()
    for tile in acquisition.tiles:
        read = TileSource(acquisition, "signal").read(tile.name, 0, 40)
        np.testing.assert_array_equal(read, data[tile.name])


def test_another_voxel_size_than_that_of_the_names_is_reported(tmp_path):
    write_folders(tmp_path, GRID[:4])
    acquisition = index(tmp_path, spacing_um=(5, 0.5, 0.5))
    assert acquisition.tile_shape[0] == 6 and acquisition.spacing_um[0] == 5
    assert acquisition.problems == (
        "input.spacing_um (z) is 5 um but planes are 2.5 um apart by the names of their files; "
        "input.spacing_um was used",
    )


def test_sparse_planes_are_missing_ones(tmp_path):
    data = write_folders(tmp_path, GRID[:4])
    folder = tmp_path / "001000" / "001000_001060"
    for z in (0, 3, 5):
        (folder / f"{folder.name}_{z * 25:06d}.tif").unlink()
    with pytest.raises(AcquisitionError, match=r"001000_001060 channel signal: 3 of 6 planes mis"):
        index(tmp_path)
    acquisition = index(tmp_path, missing_planes="blank")
    assert acquisition.planes[folder.name]["signal"].missing == (0, 3, 5)
    read = TileSource(acquisition, "signal").read(folder.name, 0, 6)
    expected = data[folder.name].copy()
    expected[[0, 3, 5]] = 0
    np.testing.assert_array_equal(read, expected)
    xml = stages.from_acquisition(acquisition, "signal")
    assert xml.stacks[1].z_ranges == ((1, 3), (4, 5))


def test_a_missing_block(tmp_path):
    data = write_folders(tmp_path, GRID[:4], planes=8, blocks=(3, 3, 2))
    folder = tmp_path / "001080" / "001080_001000"
    (folder / f"{folder.name}_000075.tif").unlink()
    acquisition = index(tmp_path, missing_planes="interpolate")
    files = acquisition.planes[folder.name]["signal"]
    assert files.missing == (3, 4, 5)
    names = [f"{folder.name}_{n}.tif" for n in ("000000", "000150")]
    assert files.blocks == (PlaneRange(names[0], 0, 3), PlaneRange(names[1], 6, 2))
    assert PageFiles.from_json(files.to_json()) == files
    read = TileSource(acquisition, "signal").read(folder.name, 0, 8)
    np.testing.assert_array_equal(read[[0, 2, 6, 7]], data[folder.name][[0, 2, 6, 7]])
    xml = stages.from_acquisition(acquisition, "signal")
    stack = xml.stack(1, 0)
    assert (stack.z_ranges, stack.block_sizes) == (((0, 3), (6, 8)), (3, 2))
    assert stack.blocks_abs_d == (0, 6)


def test_an_empty_row_between_rows_is_seen_by_the_steps_of_others(tmp_path):
    write_folders(tmp_path, [(0, 0), (0, 1), (1, 0), (3, 0), (3, 1)])
    acquisition = index(tmp_path)
    assert acquisition.scanned() == ((1, 1), (1, 0), (0, 0), (1, 1))
    assert [t.origin_vox[1] for t in acquisition.tiles] == pytest.approx([0, 0, 16, 48, 48])
    assert [p.split(" (")[0] for p in acquisition.problems] == ["row 2 of the grid"]


def test_what_belongs_to_the_raw_data(tmp_path):
    write_folders(tmp_path, GRID[:4])
    write_folders(tmp_path / "Ex1", GRID[:4])
    (tmp_path / "results").mkdir()
    assert layout(tmp_path, {"a": "Ex1", "b": "."}).raw_keys() == ["001000", "001080", "Ex1"]
    assert layout(tmp_path, {"a": "Ex1"}).raw_keys() == ["Ex1"]


def test_decoys_are_left_out(tmp_path):
    write_folders(tmp_path, GRID[:4])
    folder = tmp_path / "001000" / "001000_001000"
    plane = folder / f"{folder.name}_000000.tif"
    shutil.copytree(folder, tmp_path / "old")
    shutil.copy(plane, folder / f"._{plane.name}")
    (folder / "mdata.bin").write_bytes(b"x")
    acquisition = index(tmp_path)
    assert len(acquisition.tiles) == 4
    assert acquisition.problems == (
        "1 folders that do not belong to a tile were ignored (first: old)",
    )


@pytest.mark.parametrize(
    "name",
    ["001000_rescan", "001000/001000_001000_rescan", "001000/002000_001000", "001000/1000-1000",
     "001000/001000_001000 (1)"],
)  # fmt: skip
def test_a_tile_folder_that_was_renamed_by_hand_is_an_error(tmp_path, name):
    write_folders(tmp_path, GRID[:4])
    source = tmp_path / "001000" / ("" if "/" not in name else "001000_001000")
    shutil.copytree(source, tmp_path / name)
    with pytest.raises(AcquisitionError, match="contains images like a tile but is not named like"):
        index(tmp_path)


def test_empty_folders_are_places_that_were_not_imaged(tmp_path):
    write_folders(tmp_path, GRID[:4])
    for path in tmp_path.glob("001080/001080_001060/*"):
        path.unlink()
    (tmp_path / "001160" / "001160_001000").mkdir(parents=True)
    acquisition = index(tmp_path)
    assert [t.name for t in acquisition.tiles] == [
        "001000_001000", "001000_001060", "001080_001000",
    ]  # fmt: skip
    assert acquisition.problems == (
        "2 folders without an image were taken for positions that were not imaged (first: "
        "001080/001080_001060)",
    )


def test_negative_positions(tmp_path):
    write_folders(tmp_path, GRID[:4])
    for outer in list(tmp_path.iterdir()):
        for inner in list(outer.iterdir()):
            inner.rename(outer / inner.name.replace("_001000", "_00-200").replace("1060", "-140"))
    tiles = index(tmp_path).tiles
    assert [t.name for t in tiles][:2] == ["001000_00-200", "001000_00-140"]
    assert [(t.row, t.column) for t in tiles] == GRID[:4]


@pytest.mark.parametrize("short", [False, True], ids=["long", "short"])
@pytest.mark.parametrize("first", [-150, -60], ids=["below 0", "through 0"])
@pytest.mark.parametrize("ending", [".tif", ".ome.tif"])
def test_negative_heights_keep_the_order_of_planes(tmp_path, short, first, ending):
    """A sign that is taken for a hyphen turns the stack over."""
    data = write_folders(tmp_path, GRID[:4], short=short)
    for path in list(tmp_path.glob("*/*/*.tif")):
        before, _, number = path.name[:-4].rpartition("_")
        moved = f"{int(number) + first:06d}{ending}"
        path.rename(path.with_name(f"{before}_{moved}" if before else moved))
    acquisition = index(tmp_path)
    for tile in acquisition.tiles:
        read = TileSource(acquisition, "signal").read(tile.name, 0, 6)
        np.testing.assert_array_equal(read, data[tile.name])


def spoil_name(root):
    path = next(root.glob("001000/001000_001060/*_000050.tif"))
    path.rename(path.with_name("001000_001060_000062.tif"))


def number_name(root, number):
    path = next(root.glob("001000/001000_001060/*_000050.tif"))
    path.rename(path.with_name(f"001000_001060_{number}.tif"))


def rewrite(name, image):
    return lambda root: tifffile.imwrite(root / "001080" / "001080_001000" / name, image)


BAD = {
    "no tiles": (lambda r: shutil.rmtree(r / "001000") or shutil.rmtree(r / "001080"), {},
                 r"raw \(channel signal\) does not exist or is empty; correct input.path or"),
    "no planes": (lambda r: [p.unlink() for p in r.glob("*/*/*.tif")], {},
                  r"raw \(channel signal\) does not exist or is empty; correct input.path or"),
    "other names": (lambda r: [p.rename(p.with_suffix(".txt")) for p in r.glob("*/*/*.tif")], {},
                    "contains no tile folder with images such as 000000/000000_000000"),
    "a name between two planes": (spoil_name, {}, r"001000_001060_000062.tif is between two"),
    "a number that is none of a plane": (lambda r: number_name(r, "9" * 200), {},
                                         r"9.tif is beyond 262144 planes .*; rename or remove it"),
    "a number with a time in it": (lambda r: number_name(r, "20260131235000"), {},
                                   r"_20260131235000.tif is beyond 262144 planes by the number"),
    "no overlap": (lambda r: None, {"spacing_um": (2.5, 0.3, 0.5)},
                   "names of tile folders are 27 pixels apart in y but tiles have 20, so"),
    "overlap of a tile": (lambda r: None, {"spacing_um": (2.5, 10, 0.5)},
                          "overlap in y is 0.96 of a tile, but neighbours can only be aligned"),
    "own overlap": (lambda r: None, {"overlap": (0.95, 0.25)}, r"input.overlap \(y\) is 0.95 of"),
    "no channel": (lambda r: None, {"channels": {"a": ".", "b": "Ex2"}},
                   r"Ex2 \(channel b\) does not exist or is empty; correct input.path or"),
    "another size": (rewrite("001080_001000_000025.tif", np.ones((20, 17), "uint16")), {},
                     r"_000025.tif has 20 x 17 pixels \(y, x\) but the other planes have 20 x 16"),
    "another type": (rewrite("001080_001000_000025.tif", np.ones((20, 16), "uint8")), {},
                     "_000025.tif is uint8 but the other planes are uint16"),
    "unreadable": (lambda r: (r / "001080/001080_001000/001080_001000_000050.tif").write_bytes(b""),
                   {}, "_000050.tif is empty; copy it again"),
    "one place": (lambda r: shutil.copytree(r / "001000/001000_001060", r / "001000/001000_001061"),
                  {}, "001000_00106[01] and 001000_00106[01] are in the same cell of the grid"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input(tmp_path, spoil, options, message):
    root = tmp_path / "raw"
    write_folders(root, GRID[:4])
    spoil(root)
    with pytest.raises(AcquisitionError, match=message) as caught:
        index(root, **options)
    assert "\n" not in str(caught.value)


def test_a_tile_that_a_channel_lacks(tmp_path):
    for name in ("a", "b"):
        write_folders(tmp_path / name, GRID[:4])
    shutil.rmtree(tmp_path / "b/001080/001080_001000")
    with pytest.raises(AcquisitionError, match=r"001080_001000 has no plane of channel y \(b\)"):
        index(tmp_path, {"x": "a", "y": "b"})
    message = r"1 tiles of channel a are not in channel b \(first: 001080_001000\); copy them, or"
    with pytest.raises(AcquisitionError, match=message):
        index(tmp_path, {"y": "b", "x": "a"})


@pytest.mark.parametrize("blocks", [(1,) * 6, (4, 2)], ids=["planes", "blocks"])
def test_names_of_folders_and_files_tell_what_a_tile_lacks(tmp_path, blocks):
    settings = IndexSettings("s", "SAR")
    for name in ("a", "b"):
        write_folders(tmp_path / name, GRID[:4], blocks=blocks)
    assert check_files(layout(tmp_path, {"x": "a", "y": "b"}), settings) == []
    folder = tmp_path / "b/001080/001080_001000"
    max(folder.iterdir()).unlink()
    words = f"001080_001000 channel y: {blocks[-1]} of 6 planes missing"
    with pytest.raises(AcquisitionError, match=words):
        check_files(layout(tmp_path, {"x": "a", "y": "b"}), settings)
    shutil.rmtree(folder)
    with pytest.raises(AcquisitionError, match=r"001080_001000 has no plane of channel y \(b\)"):
        check_files(layout(tmp_path, {"x": "a", "y": "b"}), settings)


@pytest.mark.parametrize(
    "cells", [[(0, 0)], [(0, 0), (0, 1), (0, 2)], [(r, 0) for r in range(3)]],
    ids=["one tile", "one row", "one column"],
)  # fmt: skip
def test_a_single_line_has_no_overlap_along_the_other_axis(tmp_path, cells):
    write_folders(tmp_path, cells)
    acquisition = index(tmp_path)
    assert (acquisition.rows, acquisition.columns) == tuple(1 + n for n in cells[-1])
    expected = [o if n > 1 else 0 for o, n in zip((0.2, 0.25), (acquisition.rows, len(cells)))]
    assert acquisition.overlap[0] == pytest.approx(expected[0])
    assert len(acquisition.pairs()) == len(cells) - 1
    alone = ("there is only one tile, so nothing is stitched",) if len(cells) == 1 else ()
    assert acquisition.problems == alone


# ------------------------------------------------------------------ S3
@pytest.mark.slow
@pytest.mark.parametrize("blocks", [(1,) * 6, (4, 2)], ids=["planes", "blocks"])
def test_s3_equals_folder(tmp_path, bucket, blocks):
    data = write_folders(tmp_path / "Ex1", GRID, blocks=blocks)
    for path in sorted(tmp_path.rglob("*.tif")):
        key = f"run 1/{path.relative_to(tmp_path).as_posix()}"
        bucket.put_object(Bucket="scope", Key=key, Body=path.read_bytes())
    local, remote = (index(root, {"a": "Ex1"}) for root in (tmp_path, "s3://scope/run 1"))
    assert replace(remote, raw=local.raw) == local
    np.testing.assert_array_equal(
        TileSource(remote, "a").read("001080_001060", 2, 5), data["001080_001060"][2:5]
    )
    states = [raw_state(layout(root, {"a": "Ex1"})) for root in (tmp_path, "s3://scope/run 1")]
    assert states[0].layout == states[1].layout
    told = check_files(layout("s3://scope/run 1", {"a": "Ex1"}), IndexSettings("s", "SAR"))
    not_counted = ["planes of files of several planes on S3 are counted when the run begins"]
    assert told == list(local.problems) + (not_counted if len(blocks) < 6 else [])

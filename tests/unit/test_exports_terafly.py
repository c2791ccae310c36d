"""TeraFly's folders of blocks, read back by a reader made from the description of the format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.exports import terafly
from terareg.exports.export import prepare_export
from terareg.exports.files import Picture
from terareg.exports.settings import TERAFLY, ExportSettings, Origin
from terareg.exports.terafly import block_cuts, terafly_levels, write_terafly
from terareg.storage.store import Store
from terareg.volumes.images import OpenedImage

SHAPE = (7, 21, 33)
FRAME = Frame(SHAPE, (2.5, 0.8, 1.0), (40.0, 7.0, -3.0), "SAR")
VALUES = np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)
SOURCE = OpenedImage("v", [FRAME], [VALUES])
MINE = ExportSettings(Origin("fused", channel="signal"), TERAFLY)


class Index:
    """Fields of an ``mdata.bin``, one after the other."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        (count,) = self.take("H")
        text = self.data[self.at : self.at + count]
        self.at += count
        assert text.endswith(b"\0") and text.count(b"\0") == 1
        return text[:-1].decode()


def read_level(folder: Path) -> tuple[np.ndarray, tuple, list[str]]:
    """Voxels (z, y, x) of a level, its voxel sizes (y, x, z), and its files in order."""
    index = Index(folder / "mdata.bin")
    assert index.take("f3i") == (2.0, 1, 2, 3)
    sizes, again, origin = index.take("3f"), index.take("3f"), index.take("3f")
    assert sizes == again and origin == (0, 0, 0)
    y, x, z, rows, columns = index.take("3I2H")
    assert folder.name == f"RES({y}x{x}x{z})"
    volume, files = np.full((z, y, x), 255, np.uint16), []
    for number in range(rows * columns):
        height, width, depth, blocks, channels = index.take("5I")
        top, left = index.take("2i")
        name = index.text()
        assert depth == z and channels == 1 and (top == 0) == (number < columns)
        near = 0
        for _ in range(blocks):
            file = index.text()
            count, first = index.take("Ii")
            assert first == near
            with tifffile.TiffFile(folder / name / file) as tiff:
                assert len(tiff.pages) == count
                block = tiff.asarray().reshape(count, height, width)
            volume[first : first + count, top : top + height, left : left + width] = block
            near += count
            # names are positions in tenths of a micrometre, sorted as text
            position = [int(n) for n in file.removesuffix(".tif").split("_")]
            wanted = [round(10 * n * s) for n, s in zip((top, left, first), sizes)]
            assert position == wanted and name == f"{file[:6]}/{file[:13]}"
            files.append(f"{name}/{file}")
        assert near == z and index.take("I") == (volume.dtype.itemsize,)
    assert index.at == len(index.data) and files == sorted(files)
    return volume, sizes, files


def written(tmp_path, settings=MINE, source=SOURCE) -> tuple[dict, Path]:
    picture, boxes = prepare_export(settings, source, None, "mine")
    return write_terafly(Store(str(tmp_path)), "b/mine", picture, boxes, 2), tmp_path / "b/mine"


def test_every_level_is_read_back_from_its_index(tmp_path, monkeypatch):
    monkeypatch.setattr(terafly, "TERAFLY_EDGE", 8)
    record, folder = written(tmp_path)
    assert sorted(record["levels"]) == sorted(p.name for p in folder.iterdir())
    assert len(record["levels"]) == 5
    blocks = 0
    for number, name in enumerate(record["levels"]):
        volume, sizes, files = read_level(folder / name)
        there = {str(p.relative_to(folder / name)) for p in (folder / name).rglob("*.tif")}
        assert there == set(files)
        blocks += len(files)
        if number == 0:
            np.testing.assert_array_equal(volume, VALUES)
        spacing = (sizes[2], sizes[0], sizes[1])
        np.testing.assert_allclose(spacing, terafly_levels(FRAME, "")[number].frame.spacing_um)
        factor = np.round(np.divide(spacing, FRAME.spacing_um)).astype(int)
        padded = [(0, -n % f) for n, f in zip(SHAPE, factor)]
        sums = np.pad(VALUES.astype(float), padded), np.pad(np.ones(SHAPE), padded)
        cut = [n for size, f in zip(sums[0].shape, factor) for n in (size // f, f)]
        mean = np.divide(*(s.reshape(cut).sum((1, 3, 5)) for s in sums))
        np.testing.assert_allclose(volume, mean, atol=0.51)
    assert record["blocks"] == blocks
    assert (record["minimum"], record["maximum"]) == (VALUES.min(), VALUES.max())


def test_a_second_export_has_the_same_bytes_and_none_of_the_first(tmp_path):
    first, folder = written(tmp_path)
    bytes_of = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    (folder / "RES(9x9x9)/old").mkdir(parents=True)
    (folder / "RES(9x9x9)/old/block.tif").write_bytes(b"of an earlier export")
    second, _ = written(tmp_path)
    assert first == second
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == bytes_of


def test_small_volumes_have_two_levels_and_no_block_has_one_row():
    assert len(terafly_levels(Frame((3, 4, 5), (1.0, 1.0, 1.0)), "")) == 2
    assert block_cuts(256) == [0, 256] and block_cuts(257) == [0, 257]
    assert block_cuts(514) == [0, 256, 512, 514] and block_cuts(513) == [0, 256, 513]
    assert all(min(np.diff(block_cuts(n))) > 1 for n in range(2, 1200))
    with pytest.raises(VolumeError, match=r"level of 1 x 3 voxels .* use format: tiff"):
        terafly_levels(Frame((9, 2, 5), (1.0, 1.0, 1.0)), "mine")


def test_names_stay_sorted_beyond_ten_centimetres(tmp_path):
    frame = Frame((2, 300, 600), (300.0, 300.0, 300.0))
    source = OpenedImage("v", [frame], [np.zeros(frame.shape, np.uint8)])
    record, folder = written(tmp_path, source=source)
    names = [p.name for p in (folder / record["levels"][0]).glob("*/*")]
    columns = ["0000000", "0768000", "1536000"]
    assert sorted(names) == [f"{row}_{column}" for row in columns[:2] for column in columns]


def test_voxels_that_do_not_fit_are_one_sentence(tmp_path):
    picture = Picture("growth", FRAME, "float32")
    with pytest.raises(VolumeError, match="growth is of type float32, but TeraFly stores 8 or 16"):
        write_terafly(Store(str(tmp_path)), "x", picture, lambda grid, box: iter(()))

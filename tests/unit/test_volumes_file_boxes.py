"""Boxes of image files: the voxels of the whole file, without the file in memory."""

from __future__ import annotations

import errno
import gzip
import os
import threading
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from terareg.core.errors import VolumeError
from terareg.volumes import file_boxes
from terareg.volumes.file_boxes import FileBoxes
from terareg.volumes.images import ImageSettings, OpenedImage, open_image

VALUES = np.random.default_rng(0).integers(0, 60000, (7, 6, 5)).astype(np.uint16)
#: files, and whether their voxels are read from where they lie
FILES = {
    "a.nii": True, "a.nii.gz": False, "a.nrrd": True, "packed.nrrd": False, "a.nhdr": True,
    "a.mha": True, "a.mhd": True, "packed.mha": False, "packed.mhd": False, "rgb.mha": False,
    "a.tif": True, "packed.tif": False, "big.tif": True,
}  # fmt: skip
KNOWN = ImageSettings((3.0, 2.0, 1.0), "RIP")


def made(folder, name) -> OpenedImage:
    path = str(folder / name)
    if name.endswith(".tif"):
        codec = "zlib" if "packed" in name else None
        order = ">" if "big" in name else "<"
        with tifffile.TiffWriter(path, byteorder=order) as tiff:
            for plane in VALUES:
                tiff.write(
                    plane, compression=codec, contiguous=False, metadata=None, rowsperstrip=4
                )
        return open_image(path, KNOWN)
    voxels = np.stack([VALUES, VALUES + 1], -1) if "rgb" in name else VALUES
    image = sitk.GetImageFromArray(voxels, isVector="rgb" in name)
    sitk.WriteImage(image, path, useCompression="packed" in name)
    channel = 1 if "rgb" in name else 0
    return open_image(path, ImageSettings(*(KNOWN.spacing_um, KNOWN.orientation), channel))


@pytest.mark.parametrize("name", FILES)
def test_any_box_is_that_of_the_whole(tmp_path, name):
    image = made(tmp_path, name)
    boxes = image.array(0)
    assert isinstance(boxes, FileBoxes) and (boxes._planes is None) is FILES[name]
    expected = VALUES + ("rgb" in name)
    random = np.random.default_rng(1)
    for _ in range(20):
        low, high = np.sort([[random.integers(0, n + 1) for n in VALUES.shape] for _ in "ab"], 0)
        found = image.read(0, low, high)
        np.testing.assert_array_equal(found, expected[tuple(map(slice, low, high))])
        assert found.dtype == np.uint16
    np.testing.assert_array_equal(image.read(0), expected)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "packed.mha", "a.tif"])
def test_memory_follows_the_box_and_a_plane_not_the_file(tmp_path, name):
    planes = np.arange(64, dtype=np.uint16)[:, None, None] + np.zeros((64, 256, 256), np.uint16)
    path = str(tmp_path / name)
    if name.endswith(".tif"):
        tifffile.imwrite(path, planes, compression="zlib", photometric="minisblack")
    else:
        image = sitk.GetImageFromArray(planes)
        sitk.WriteImage(image, path, useCompression="packed" in name)
    tracemalloc.start()
    try:
        image = open_image(path, KNOWN)
        for first in range(0, 64, 4):
            found = image.read(0, (first, 0, 0), (first + 4, 256, 128))
            assert (found[:, 0, 0] == planes[first : first + 4, 0, 0]).all()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # a box and some planes; the decompressor reads a megabyte at once
    assert peak < 2 * found.nbytes + 8 * planes[0].nbytes + 2**20 < planes.nbytes / 2


def test_threads_that_read_at_once_see_the_same_voxels(tmp_path):
    image = made(tmp_path, "a.nii.gz")
    wrong = []

    def read(plane: int) -> None:
        if not np.array_equal(image.read(0, (plane, 0, 0), (plane + 1, 6, 5))[0], VALUES[plane]):
            wrong.append(plane)

    threads = [threading.Thread(target=read, args=(n % 7,)) for n in range(28)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def shorter(name: str, data: bytes) -> bytes:
    """The file with a header of two planes less, so that it has too many voxels."""
    if name.endswith(".gz"):
        plain = bytearray(gzip.decompress(data))
        plain[46:48] = (5).to_bytes(2, "little")
        return gzip.compress(bytes(plain))
    for line in (b"DimSize = 5 6 ", b"sizes: 5 6 "):
        data = data.replace(line + b"7", line + b"5")
    return data


@pytest.mark.parametrize("name", ["a.nii.gz", "packed.nrrd", "packed.mha"])
def test_damage_is_found_at_the_latest_with_the_last_plane(tmp_path, name):
    made(tmp_path, name)
    data = (tmp_path / name).read_bytes()
    # the last bytes of gzip are its checksum
    wrong = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    for damaged in (data[:-30], wrong, shorter(name, data)):
        (tmp_path / name).write_bytes(damaged)
        image = open_image(str(tmp_path / name), KNOWN)
        assert image.read(0, (0, 0, 0), (1, 6, 5)).shape == (1, 6, 5)
        with pytest.raises(VolumeError, match=r"cannot be read .*; check that the file is"):
            image.read(0)


def test_plain_files_of_the_wrong_size_are_not_opened(tmp_path):
    for name in ("a.nii", "a.nrrd", "a.mha"):
        made(tmp_path, name)
        data = (tmp_path / name).read_bytes()
        for wrong in (data[:-30], data + bytes(2 * VALUES.nbytes)):
            (tmp_path / name).write_bytes(wrong)
            with pytest.raises(VolumeError, match="cannot be read"):
                open_image(str(tmp_path / name), KNOWN)


def test_all_nan_is_an_error_and_one_number_is_none(tmp_path):
    values = np.full(VALUES.shape, np.nan, np.float32)
    path = str(tmp_path / "a.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(values), path)
    with pytest.raises(VolumeError, match="all of its voxels are NaN"):
        open_image(path, KNOWN)
    values[6, 5, 4] = 1
    sitk.WriteImage(sitk.GetImageFromArray(values), path)
    np.testing.assert_array_equal(open_image(path, KNOWN).read(0), values)


def test_no_room_for_temporary_files_is_one_sentence(tmp_path, monkeypatch):
    image = made(tmp_path, "packed.nrrd")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_boxes.os, "pwrite", full)
    with pytest.raises(VolumeError, match=r"temporary files to be decompressed, .* set TMPDIR"):
        image.read(0)


def test_temporary_files_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(file_boxes.tempfile, "tempdir", str(tmp_path))
    image = made(tmp_path, "a.nii.gz")
    before = len(os.listdir("/proc/self/fd"))
    image.read(0)
    assert os.listdir(tmp_path) == ["a.nii.gz"]
    del image
    assert len(os.listdir("/proc/self/fd")) < before

"""Boxes of image files: the voxels of the whole file, without the file in memory."""

from __future__ import annotations

import errno
import gzip
import os
import threading
import tracemalloc
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from web_server import serving

from terareg.core.errors import StoreError, VolumeError
from terareg.storage import web as web_module
from terareg.storage.store import Store
from terareg.storage.web import WebStore
from terareg.volumes import file_boxes
from terareg.volumes.file_boxes import FileBoxes
from terareg.volumes.headers import image_files, image_state, read_header
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


# ---------------------------------------------------------------------- elsewhere
#: where files lie, and those that are read there; a connection to the S3 in memory takes a while
ELSEWHERE = [
    ("web", name)
    for name in (
        "a.nii",
        "a.nii.gz",
        "packed.nrrd",
        "a.nhdr",
        "packed.tif",
        "big.tif",
        "a.mha",
        "packed.mhd",
    )
] + [("S3", "a.nii"), ("S3", "packed.tif")]


@pytest.fixture
def web(tmp_path):
    """Address of a folder on a web server."""
    with serving(tmp_path) as address:
        yield address


class Whole(SimpleHTTPRequestHandler):
    """A server of files that knows no ranges."""

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def plain_web(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Whole)) as address:
        yield address


@pytest.fixture(params=["S3", "web"])
def elsewhere(request, tmp_path):
    """What puts the files of a folder elsewhere, and tells the address of one of them."""
    if request.param == "web":
        address = request.getfixturevalue("web")
        return lambda name: f"{address}/{name}"
    client = request.getfixturevalue("bucket")

    def put(name: str) -> str:
        for path in tmp_path.iterdir():
            client.upload_file(str(path), "scope", f"lab/{path.name}")
        return f"s3://scope/lab/{name}"

    return put


@pytest.fixture
def asked(monkeypatch):
    """(key, first byte, bytes) of all parts that are read from elsewhere."""
    found: list[tuple[str, int, int]] = []
    for kind in (Store, WebStore):
        before = kind._read_range

        def read(self, key, start, count, before=before):
            found.append((key, start, count))
            return before(self, key, start, count)

        monkeypatch.setattr(kind, "_read_range", read)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("elsewhere", "name"), ELSEWHERE, indirect=["elsewhere"])
def test_a_file_elsewhere_has_the_boxes_of_the_file_on_disk(tmp_path, elsewhere, asked, name):
    here = made(tmp_path, name)
    address = elsewhere(name)
    there = open_image(address, KNOWN)
    random = np.random.default_rng(1)
    for _ in range(6):
        low, high = np.sort([[random.integers(0, n + 1) for n in VALUES.shape] for _ in "ab"], 0)
        np.testing.assert_array_equal(there.read(0, low, high), here.read(0, low, high))
    np.testing.assert_array_equal(there.read(0), VALUES)
    assert (there.array(0)._planes is None) is FILES[name]
    assert image_state(address) == image_state(address) and image_files(address) == []
    assert asked, "parts are read, not the object"


@pytest.mark.slow
def test_a_small_box_of_a_large_file_takes_small_parts_of_it(tmp_path, elsewhere, asked):
    planes = np.arange(8, dtype=np.uint16)[:, None, None] + np.zeros((8, 400, 300), np.uint16)
    tifffile.imwrite(tmp_path / "packed.tif", planes, compression="zlib", rowsperstrip=9)
    sitk.WriteImage(sitk.GetImageFromArray(planes), str(tmp_path / "a.nrrd"))
    for name in ("packed.tif", "a.nrrd"):
        image = open_image(elsewhere(name), KNOWN)
        asked.clear()
        found = image.read(0, (3, 10, 0), (5, 14, 300))
        assert (found == planes[3:5, 10:14]).all()
        parts = [count for key, _, count in asked if key == name and count != 65536]
        assert len(parts) <= 2, "a request for a plane, beside directories"
        if name == "a.nrrd":
            assert parts == [4 * 300 * 2] * 2 and len(asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("elsewhere", "name"),
    [("web", "a.nii"), ("web", "a.nii.gz"), ("web", "packed.nrrd"), ("web", "packed.tif"),
     ("S3", "a.nii.gz")],
    indirect=["elsewhere"],
)  # fmt: skip
def test_a_file_elsewhere_that_changes_while_it_is_read_is_noticed(
    tmp_path, elsewhere, monkeypatch, name
):
    # streams hold a part of the file, which is whole; here they hold little
    monkeypatch.setattr("terareg.volumes.voxels._REMOTE_PART", 1 << 14)
    planes = np.random.default_rng(2).integers(0, 60000, (240, 80, 60)).astype(np.uint16)
    path = tmp_path / name
    if name.endswith(".tif"):
        tifffile.imwrite(path, planes, compression="zlib")
    else:
        image = sitk.GetImageFromArray(planes)
        sitk.WriteImage(image, str(path), useCompression="packed" in name)
    image, state = open_image(elsewhere(name), KNOWN), image_state(elsewhere(name))
    assert (image.read(0, (0, 0, 0), (2, 80, 60)) == planes[:2]).all()
    data = bytearray(path.read_bytes())
    data[-9000] ^= 1
    path.write_bytes(data)
    os.utime(path, (1, 1))
    address = elsewhere(name)
    with pytest.raises(StoreError, match=rf"{address} changed while it was being read; run again"):
        image.read(0)
    assert image_state(address) != state


@pytest.mark.slow
def test_what_cannot_be_read_elsewhere_is_one_sentence(tmp_path, elsewhere):
    made(tmp_path, "a.nii")
    address = elsewhere("a.nii")
    absent = address.replace("a.nii", "b.nii")
    with pytest.raises(VolumeError, match=f"{absent} does not exist; correct the path"):
        read_header(absent)
    made(tmp_path, "a.nhdr")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(VolumeError, match=r"its data file 'a\.raw' is not beside it"):
        read_header(elsewhere("a.nhdr"), KNOWN.spacing_um)


@pytest.mark.slow
def test_a_server_without_ranges_sends_small_files_and_no_large_ones(
    tmp_path, plain_web, monkeypatch
):
    made(tmp_path, "a.nii.gz")
    np.testing.assert_array_equal(open_image(f"{plain_web}/a.nii.gz", KNOWN).read(0), VALUES)
    np.testing.assert_array_equal(WebStore(plain_web).read_range("a.nii.gz", 3, 4)[0],
                                  (tmp_path / "a.nii.gz").read_bytes()[3:7])  # fmt: skip
    monkeypatch.setattr(web_module, "_WHOLE_BYTES", 99)
    with pytest.raises(StoreError, match=r"a.nii.gz sends no parts of files \(HTTP ranges\); down"):
        open_image(f"{plain_web}/a.nii.gz", KNOWN)

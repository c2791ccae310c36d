"""Voxels of files whose headers were looked at before."""

from __future__ import annotations

import bz2
import gzip
import itertools
import struct

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from terareg.core.errors import VolumeError
from terareg.volumes.headers import describe_image
from terareg.volumes.voxels import file_planes, file_voxels

SHAPE = (3, 4, 5)


@pytest.fixture
def values():
    return np.random.default_rng(1).integers(0, 60000, SHAPE).astype(np.uint16)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_voxels_are_those_that_were_written(tmp_path, values, name):
    path = str(tmp_path / name)
    sitk.WriteImage(sitk.GetImageFromArray(values), path)
    found = file_voxels(path, describe_image(path, believed=False))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def nrrd(path, sizes, kinds, encoding, data, files=0):
    """An NRRD file of big-endian uint16, whose axes are named, fastest first."""
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)
    if encoding == "text":
        data = " ".join(map(str, np.frombuffer(data, ">u2"))).encode()
    head = (
        f"NRRD0004\ntype: uint16\ndimension: {len(sizes)}\nsizes: {' '.join(map(str, sizes))}\n"
        f"kinds: {' '.join(kinds)}\nendian: big\nencoding: {encoding}\n"
    )
    if not files:
        path.write_bytes(head.encode() + b"\n" + pack(data))
        return
    names = [f"part{n}.bin" for n in range(files)]
    size = len(data) // files
    for n, name in enumerate(names):
        (path.parent / name).write_bytes(pack(data[n * size : (n + 1) * size]))
    path.write_text(head + "data file: LIST\n" + "\n".join(names) + "\n")


@pytest.mark.parametrize(
    ("encoding", "files"),
    [("text", 0), *itertools.product(("raw", "gzip", "bzip2"), (0, 2, 3))],
)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_planes_of_nrrd_are_those_of_the_whole_file(tmp_path, encoding, files, place):
    """The axis of channels anywhere among the others, in files that do not end with planes."""
    sizes, kinds = [5, 4, 3], ["space"] * 3
    sizes.insert(place, 2)
    kinds.insert(place, "vector")
    data = np.arange(120, dtype=">u2").tobytes()
    path = tmp_path / "a.nhdr"
    nrrd(path, sizes, kinds, encoding, data, files)
    header = describe_image(str(path), believed=False)
    for channel in (0, 1):
        whole = file_voxels(str(path), header, channel)
        for wanted in ([0, 1, 2], [2], [0, 2]):
            found = dict(file_planes(str(path), header, wanted, channel))
            assert list(found) == wanted
            for number, plane in found.items():
                np.testing.assert_array_equal(plane, whole[number])
                assert plane.dtype == whole.dtype


def end_after_the_first_directory(path):
    """As ImageJ writes stacks of more than 4 GiB: pixels of all planes follow one directory."""
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from(">I", data, 4)
    (tags,) = struct.unpack_from(">H", data, first)
    data[first + 2 + 12 * tags : first + 6 + 12 * tags] = bytes(4)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "rgb.tif", "plain.tif"])
def test_planes_are_those_of_the_whole_file(tmp_path, values, name):
    path = str(tmp_path / name)
    channel = 0
    if name == "rgb.tif":
        channel = 2
        tifffile.imwrite(path, np.stack([values] * 2 + [values + 1], -1), photometric="rgb")
    elif name == "plain.tif":
        tifffile.imwrite(path, values, imagej=True, byteorder=">", metadata={"axes": "ZYX"})
        end_after_the_first_directory(tmp_path / name)
    elif name == "a.tif":
        tifffile.imwrite(path, values, compression="zlib", photometric="minisblack")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), path)
    header = describe_image(path, believed=False)
    whole = file_voxels(path, header, channel)
    np.testing.assert_array_equal(whole, values + (channel == 2))
    for wanted in ([0, 1, 2], [1], [0, 2]):
        found = dict(file_planes(path, header, wanted, channel))
        assert list(found) == wanted
        for number, plane in found.items():
            np.testing.assert_array_equal(plane, whole[number])
            assert plane.dtype == whole.dtype


def test_planes_of_a_file_that_was_cut_off(tmp_path, values):
    for name in ("a.nii", "a.nii.gz", "a.nrrd"):
        path = tmp_path / name
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
        header = describe_image(str(path), believed=False)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises((ValueError, EOFError), match=r"instead of|cut off|ended before"):
            list(file_planes(str(path), header, [0, 2]))
    with pytest.raises(VolumeError, match="has channels 0 to 0, not 1"):
        file_planes(str(path), header, [0], 1)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_is_none_any_more_is_refused(tmp_path, values, name):
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    header = describe_image(str(path), believed=False)
    pack = gzip.compress if name.endswith(".gz") else bytes
    path.write_bytes(pack(bytes(352 + values.nbytes)))
    with pytest.raises(ValueError, match="its header has changed since it was read"):
        file_voxels(str(path), header)

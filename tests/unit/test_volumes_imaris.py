"""Imaris files as volumes: voxels, sizes, and what contradicts."""

from __future__ import annotations

from dataclasses import replace

import container_files as files
import h5py
import numpy as np
import pytest
from web_server import serving

from terareg.core.errors import ConfigError, VolumeError
from terareg.storage.store import Store
from terareg.volumes.headers import check_channels, image_state, level_shapes, read_header
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.imaris import read_imaris
from terareg.volumes.importing import check_whole

SHAPE = (6, 21, 35)
VALUES = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
SPACING = (5.0, 1.5, 2.0)


@pytest.fixture
def path(tmp_path):
    files.write_imaris(tmp_path / "brain.ims", [VALUES, VALUES[::-1]], place_um=(7, -30, 4))
    return str(tmp_path / "brain.ims")


def edit(path, change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def test_header_and_voxels_of_every_level(path):
    header = read_header(path)
    assert (header.form, header.shape, header.dtype) == ("Imaris", SHAPE, "uint16")
    assert header.spacing_um == SPACING and header.orientation is None
    assert header.channels == 2 and header.channel_names == files.NAMES
    assert header.held_bytes == 0, "read box by box"
    assert level_shapes(path) == [SHAPE, (6, 11, 18)]
    image = open_image(path, ImageSettings(orientation="SAR", channel=1))
    np.testing.assert_array_equal(image.read(0, (1, 3, 5), (6, 21, 35)), VALUES[::-1][1:, 3:, 5:])
    np.testing.assert_array_equal(image.read(1, (0, 0, 0), (6, 11, 18)), VALUES[::-1][:, ::2, ::2])
    assert image.level_frame(0).spacing_um == SPACING
    np.testing.assert_allclose(image.level_frame(1).spacing_um, (5, 1.5 * 21 / 11, 2 * 35 / 18))
    with pytest.raises(VolumeError, match="has channels 0 to 1, not 2"):
        open_image(path, ImageSettings(orientation="SAR", channel=2))


def test_what_the_user_says_of_the_voxel_size_counts(path):
    edit(path, lambda file: file["DataSetInfo/Image"].attrs.clear())
    with pytest.raises(ConfigError, match="states no voxel size"):
        read_header(path)
    assert read_header(path, (4, 4, 4)).spacing_um == (4, 4, 4)
    image = open_image(path, ImageSettings((4.0, 2.0, 2.0), "SAR"))
    assert image.frame.spacing_um == (4, 2, 2)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("", 1)])
def test_units(tmp_path, unit, factor):
    spacing = tuple(s / factor for s in SPACING)
    files.write_imaris(tmp_path / "a.ims", [VALUES], spacing_um=spacing, unit=unit or "um")
    if not unit:
        edit(tmp_path / "a.ims", lambda f: f["DataSetInfo/Image"].attrs.pop("Unit"))
        with pytest.raises(ConfigError, match="may be millimetres or micrometres"):
            read_header(str(tmp_path / "a.ims"))
        return
    np.testing.assert_allclose(read_header(str(tmp_path / "a.ims")).spacing_um, SPACING)


def rename(file) -> None:
    level = file["DataSet/ResolutionLevel 0"]
    level.copy("TimePoint 0", "TimePoint 1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["DataSetInfo/Image"].attrs.update(X=files.letters(99)),
         "states 99 voxels along X but 35 are stored"),
        (lambda f: f["DataSetInfo/Image"].attrs.update(ExtMax0=files.letters(-9)),
         "its extents run from"),
        (rename, "contains 2 time points; export one"),
        (lambda f: f.pop("DataSet"), "no 'DataSet', so it is not an Imaris"),
        (lambda f: f.move("DataSet/ResolutionLevel 0", "DataSet/ResolutionLevel 5"),
         "not 'ResolutionLevel 0'"),
        (lambda f: f["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"].attrs.update(
            ImageSizeX=files.letters(30)), "channels of level 0 have the shapes"),
    ],
)  # fmt: skip
def test_contradictions(path, change, words):
    edit(path, change)
    with pytest.raises(VolumeError, match=words):
        read_header(path)


def test_numbers_with_blanks_and_decimals_are_understood(path):
    edit(path, lambda f: f["DataSetInfo/Image"].attrs.update(X=np.bytes_(b" 35.0 ")))
    assert read_imaris(Store(path.rpartition("/")[0]), "brain.ims").shapes[0] == SHAPE


def test_chunks_that_were_never_written(tmp_path):
    path = tmp_path / "a.ims"
    files.write_imaris(path, [VALUES])
    header = read_header(str(path))
    assert check_whole(header) == 0
    name = "DataSet/ResolutionLevel 0/TimePoint 0/Channel 0/Data"

    def empty(file) -> None:
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, shape, "u2", chunks=(4, 16, 16))

    edit(path, empty)
    with pytest.raises(
        VolumeError, match="channel 0 has a shape but no values, so it was never written"
    ):
        check_whole(header)
    edit(path, lambda file: file[name].write_direct(np.ones(file[name].shape, "u2")[:4].copy(),
                                                     np.s_[:4], np.s_[:4]))  # fmt: skip
    assert check_whole(header) > 0, "counted, as chunks that are absent"


@pytest.mark.slow
def test_a_file_on_the_web_is_that_on_disk(path, tmp_path):
    with serving(tmp_path) as url:
        address = f"{url}/brain.ims"
        assert read_header(address) == replace(read_header(path), name=address)
        image = open_image(address, ImageSettings(orientation="SAR", channel=1))
        np.testing.assert_array_equal(image.read(1), VALUES[::-1][:, ::2, ::2])
        assert check_whole(read_header(address)) == 0


def test_a_file_on_s3_is_that_on_disk(path, bucket):
    bucket.upload_file(path, "scope", "lab/brain.ims")
    address = "s3://scope/lab/brain.ims"
    header = read_header(address)
    check_channels({"a": header}, "SAR")
    assert replace(header, name=path) == read_header(path) and check_whole(header) == 0
    image = open_image(address, ImageSettings(orientation="SAR"))
    np.testing.assert_array_equal(image.read(0), VALUES)
    np.testing.assert_array_equal(image.read(1), VALUES[:, ::2, ::2])
    state = image_state(address)
    edit(path, lambda file: file["DataSetInfo/Image"].attrs.clear())
    bucket.upload_file(path, "scope", "lab/brain.ims")
    assert image_state(address) != state

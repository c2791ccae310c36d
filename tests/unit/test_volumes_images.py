"""Foreign images: the same voxels, spacing and orientation from every format."""

import logging
import struct

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr

from terareg.core.errors import ConfigError, StoreError, VolumeError
from terareg.core.frames import Frame, all_orientations, orientation_matrix
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE = (11, 23, 17)
SPACING = (50.0, 20.0, 10.0)
KNOWN = ImageSettings(spacing_um=SPACING, orientation="RIP")


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)


def itk(values, orientation="SPL"):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing([s / 1000 for s in SPACING[::-1]])
    # rows L, P, S; columns image axes x, y, z
    matrix = orientation_matrix(orientation, "SPL")[::-1, ::-1]
    image.SetDirection(matrix.flatten().tolist())
    return image


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("orientation", ["SPL", "RIP", "IAR", "PSL"])
def test_itk_files(tmp_path, values, suffix, orientation):
    path = str(tmp_path / f"image{suffix}")
    sitk.WriteImage(itk(values, orientation), path)
    image = open_image(path)
    np.testing.assert_array_equal(image.read(0), values)
    np.testing.assert_allclose(image.frame.spacing_um, SPACING, rtol=1e-6)
    assert (image.frame.orientation, image.dtype) == (orientation, np.uint16)
    assert image.frame.origin_um == (0, 0, 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_equals_what_itk_reads(tmp_path, values, suffix, dtype):
    path = str(tmp_path / f"image{suffix}")
    sitk.WriteImage(itk((values % 200).astype(dtype)), path)
    image = open_image(path)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(path))
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image.read(0), expected)


def test_scale_and_byte_order_of_nifti(tmp_path, values):
    path = tmp_path / "image.nii"
    sitk.WriteImage(itk((values % 2000).astype(np.int16)), str(path))
    data = bytearray(path.read_bytes())
    struct.pack_into("<2f", data, 112, 0.25, -3.0)
    path.write_bytes(data)
    np.testing.assert_array_equal(open_image(str(path)).read(0), (values % 2000) * 0.25 - 3)
    # the same numbers, all of them turned round
    for start, count, size in ((0, 1, 4), (40, 8, 2), (70, 2, 2), (76, 11, 4), (252, 2, 2),
                               (256, 18, 4), (352, values.size, 2)):  # fmt: skip
        part = np.frombuffer(bytes(data[start : start + count * size]), f"<u{size}")
        data[start : start + count * size] = part.astype(f">u{size}").tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(open_image(str(path)).read(0), (values % 2000) * 0.25 - 3)


def test_nifti_keeps_what_is_not_a_number(tmp_path):
    values = np.full((3, 4, 5), np.nan, np.float32)
    values[1, 2, 3], values[0, 0, 0] = 4, np.inf
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(open_image(str(tmp_path / "a.nii.gz")).read(0), values)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_that_was_cut_off(tmp_path, values, suffix):
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(itk(values), str(path), suffix == ".nrrd")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(VolumeError, match="cannot be read"):
        open_image(str(path)).read(0)


def test_all_orientations_of_nrrd(tmp_path):
    for orientation in all_orientations():
        sitk.WriteImage(itk(np.zeros((2, 2, 2), np.uint8), orientation), str(tmp_path / "a.nrrd"))
        assert open_image(str(tmp_path / "a.nrrd")).frame.orientation == orientation


def test_the_user_knows_better(tmp_path, values, caplog):
    path = str(tmp_path / "image.nrrd")
    sitk.WriteImage(itk(values), path)
    with caplog.at_level(logging.WARNING):
        image = open_image(path, ImageSettings((9, 8, 7), "RIP"))
    assert image.frame == Frame(SHAPE, (9, 8, 7), orientation="RIP")
    assert "has orientation SPL in its header; RIP is used, as configured" in caplog.text


@pytest.mark.parametrize(("axes", "order"), [("ZYX", None), ("ZCYX", 1), ("CZYX", 0)])
def test_tiff(tmp_path, values, axes, order):
    data = values if order is None else np.stack([values * 0, values], axis=order)
    path = str(tmp_path / "image.ome.tif")
    tifffile.imwrite(path, data, metadata={"axes": axes}, ome=True)
    image = open_image(path, ImageSettings(SPACING, "RIP", channel=0 if order is None else 1))
    np.testing.assert_array_equal(image.read(0), values)
    assert image.frame == Frame(SHAPE, SPACING, orientation="RIP")


def test_plain_tiff_and_single_plane(tmp_path, values):
    tifffile.imwrite(tmp_path / "stack.tif", values)
    np.testing.assert_array_equal(open_image(tmp_path / "stack.tif", KNOWN).read(0), values)
    tifffile.imwrite(tmp_path / "plane.tif", values[0])
    np.testing.assert_array_equal(open_image(tmp_path / "plane.tif", KNOWN).read(0), values[:1])


@pytest.mark.parametrize("form", ["ome-zarr", "precomputed"])
def test_own_volumes_without_their_plan(tmp_path, values, form):
    plan = make_plan("v", Frame(SHAPE, SPACING, orientation="RIP"), "uint16",
                     VolumeSettings(chunk=4, block=8, formats=(form,)))  # fmt: skip
    store = Store(str(tmp_path))
    init_volume(store, "v", plan)
    write_blocks(
        store, "v", plan, plan.blocks(),
        lambda b: (values[tuple(slice(i, j) for i, j in zip(b.start, b.stop))].copy(), Clipped()),
        fingerprint="f",
    )  # fmt: skip
    finish_pyramid(store, "v", plan)
    own = Volume(store, "v")
    folder = {"ome-zarr": "ome.zarr", "precomputed": "precomputed"}[form]
    image = open_image(str(tmp_path / "v" / folder), ImageSettings(orientation="RIP"))
    assert image.levels == own.levels
    for level in range(own.levels):
        np.testing.assert_array_equal(image.read(level), own.read(level))
        a, b = image.level_frame(level), own.level_frame(level)
        assert (a.shape, a.orientation) == (b.shape, b.orientation)
        np.testing.assert_allclose(a.origin_um, b.origin_um)
        np.testing.assert_allclose(a.spacing_um, b.spacing_um)
    box = (2, 5, 3), (9, 20, 11)
    np.testing.assert_array_equal(image.read(0, *box), own.read(0, *box))
    np.testing.assert_allclose(image.resampled(60.0)[0], own.resampled(60.0)[0], rtol=1e-6)


def test_ome_zarr_04_with_channels_in_millimetres(tmp_path, values):
    group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
    data = np.stack([values * 0, values])[None]
    group.create_array("s0", data=data, chunks=(1, 1, 8, 8, 8))
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    scale = {"type": "scale", "scale": [1, 1, *(s / 1000 for s in SPACING)]}
    datasets = [{"path": "s0", "coordinateTransformations": [scale]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    image = open_image(tmp_path / "b.zarr", ImageSettings(orientation="SAR", channel=1))
    np.testing.assert_array_equal(image.read(0), values)
    np.testing.assert_allclose(image.frame.spacing_um, SPACING)
    with pytest.raises(VolumeError, match="has channels 0 to 1, not 2"):
        open_image(tmp_path / "b.zarr", ImageSettings(orientation="SAR", channel=2))
    with pytest.raises(ConfigError, match="states no orientation; set orientation"):
        open_image(tmp_path / "b.zarr")


def test_what_cannot_be_opened_is_named(tmp_path, values):
    tifffile.imwrite(tmp_path / "stack.tif", values)
    with pytest.raises(ConfigError, match="states no voxel size; set spacing_um"):
        open_image(tmp_path / "stack.tif")
    with pytest.raises(VolumeError, match="is not an image that terareg can read;"):
        open_image(tmp_path)
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\nnothing")
    with pytest.raises(VolumeError, match=r"a\.nrrd cannot be read"):
        open_image(tmp_path / "a.nrrd")
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    with pytest.raises(VolumeError, match=r"b\.tif cannot be read"):
        open_image(tmp_path / "b.tif", KNOWN)
    with pytest.raises(VolumeError, match=r"none\.nii does not exist"):
        open_image(tmp_path / "none.nii")
    with pytest.raises(StoreError, match="is not supported"):
        open_image("ftp://bucket/image", KNOWN)

"""Headers read without a numeric package agree with the libraries that wrote the files."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame, all_orientations, orientation_matrix
from terareg.storage.store import Store
from terareg.volumes.headers import (
    Header,
    check_channel,
    check_channels,
    first_of_several,
    image_files,
    image_state,
    level_shapes,
    read_header,
)
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume

SHAPE = (11, 23, 17)
SPACING = (150.0, 120.0, 110.0)
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def itk(array, orientation="SPL", spacing_um=SPACING):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / 1000 for s in spacing_um[::-1]])
    # rows L, P, S; columns image axes x, y, z
    matrix = orientation_matrix(orientation, "SPL")[::-1, ::-1]
    image.SetDirection(matrix.flatten().tolist())
    return image


def zeros(dtype="uint16", shape=SHAPE):
    return np.zeros(shape, dtype)


def patched(path, *changes):
    """Overwrite bytes of a NIfTI header: (offset, format, value)."""
    data = bytearray(path.read_bytes())
    for offset, form, value in changes:
        struct.pack_into(form, data, offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_itk_files_of_every_type(tmp_path, suffix, dtype):
    path = str(tmp_path / f"image{suffix}")
    sitk.WriteImage(itk(zeros(dtype)), path)
    header = read_header(path)
    assert (header.shape, header.dtype) == (SHAPE, dtype)
    assert header.stored_dtype == (dtype if dtype in ("uint8", "uint16") else "float32")
    image = open_image(path)
    assert header.whole_bytes == 2 * image.read(0).nbytes
    assert header.held_bytes == 2 * image.read(0)[0].nbytes
    # a job decompresses what lies before its planes, but seeks in what is plain
    assert header.passed_bytes == (image.read(0).nbytes if suffix == ".nii.gz" else 0)
    assert header.kept_bytes == header.passed_bytes
    assert image.dtype == np.dtype(dtype)
    if suffix == ".nrrd":
        packed = str(tmp_path / f"packed{suffix}")
        sitk.WriteImage(itk(zeros(dtype)), packed, useCompression=True)
        assert read_header(packed).passed_bytes == image.read(0).nbytes
    if suffix != ".nrrd":  # ITK writes no unit into NRRD, 0.15 can only be millimetres
        assert header.orientation == image.frame.orientation == "SPL"
    np.testing.assert_allclose(header.spacing_um, SPACING, rtol=1e-5)


def test_all_orientations_of_nifti(tmp_path):
    path = str(tmp_path / "a.nii")
    for orientation in all_orientations():
        sitk.WriteImage(itk(zeros("uint8", (3, 3, 3)), orientation), path)
        assert read_header(path).orientation == orientation
        # the quaternion alone says the same
        patched(tmp_path / "a.nii", (254, "<h", 0))
        assert read_header(path).orientation == orientation


def test_nifti_without_form_or_with_a_scale(tmp_path):
    path = tmp_path / "a.nii"
    sitk.WriteImage(itk(zeros("int16")), str(path))
    patched(path, (252, "<h", 0), (254, "<h", 0), (112, "<f", 0.5), (116, "<f", 3.0))
    header = read_header(str(path))
    assert header.orientation is None
    assert header.dtype == "float64"
    assert open_image(str(path), ImageSettings(orientation="SAR")).dtype.kind == "f"


@pytest.mark.parametrize(
    ("code", "value", "expected"),
    [(1, 0.0001, 100.0), (2, 1.0, 1000.0), (3, 40.0, 40.0), (0, 40.0, 40.0), (0, 0.04, 40.0)],
)
def test_units_of_nifti(tmp_path, code, value, expected):
    path = tmp_path / "a.nii"
    sitk.WriteImage(itk(zeros()), str(path))
    # no form: what pixdim says is all there is
    form = (252, "<h", 0), (254, "<h", 0)
    patched(path, (123, "<B", code), *form, *[(80 + 4 * i, "<f", value) for i in range(3)])
    assert read_header(str(path)).spacing_um == (expected,) * 3


@pytest.mark.parametrize("unit", ["mm", "um", None])
def test_units_of_nrrd(tmp_path, unit):
    path = tmp_path / "a.nrrd"
    text = (
        "NRRD0005\n# a comment\ntype: unsigned short\ndimension: 3\nsizes: 3 4 5\n"
        f"spacings: {'2.5 2 5' if unit == 'mm' else '25 20 50'}\nencoding: raw\n"
        "endian: little\n"
    )
    if unit:
        text += f'units: "{unit}" "{unit}" "{unit}"\n'
    path.write_bytes(text.encode() + b"\n" + bytes(120))
    factor = 100 if unit == "mm" else 1
    header = read_header(str(path))
    assert header.shape == (5, 4, 3)
    assert header.spacing_um == (50 * factor, 20 * factor, 25 * factor)


def write_tiff(path, kind):
    data = zeros()
    if kind == "plain pages":
        with tifffile.TiffWriter(path) as writer:
            for plane in data:
                writer.write(plane, contiguous=False, metadata=None)
    elif kind == "imagej":
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZYX"})
    elif kind == "ome":
        tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"})
    elif kind == "ome channels":
        tifffile.imwrite(path, zeros(shape=(2, *SHAPE)), ome=True, metadata={"axes": "CZYX"})
    elif kind == "big-endian":
        tifffile.imwrite(path, data, byteorder=">")
    else:
        tifffile.imwrite(path, data, **{"shaped": {}, "compressed": {"compression": "zlib"},
                                        "big": {"bigtiff": True}}[kind])  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["shaped", "compressed", "big", "big-endian", "plain pages", "imagej", "ome", "ome channels"],
)
def test_tiff_of_every_writer(tmp_path, kind):
    path = str(tmp_path / "a.tif")
    write_tiff(path, kind)
    header = read_header(path, SPACING)
    assert (header.shape, header.dtype) == (SHAPE, "uint16")
    assert header.kept_bytes == (zeros().nbytes if kind == "compressed" else 0)
    assert header.spacing_um == SPACING
    settings = ImageSettings(SPACING, "SAR")
    assert open_image(path, settings).frame.shape == SHAPE


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["zyx", "czyx"])
def test_ome_zarr(tmp_path, zarr_format, axes):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=zarr_format)
    shape = SHAPE if axes == "zyx" else (2, *SHAPE)
    group.create_array("0", data=zeros(shape=shape) + np.uint16(1), chunks=shape)
    scale = [1.0] * (len(axes) - 3) + [0.15, 0.12, 0.11]
    multiscale = {
        "axes": [{"name": a, **({"unit": "millimeter"} if a != "c" else {})} for a in axes],
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    group.attrs.update(
        {"multiscales": [multiscale]}
        if zarr_format == 2
        else {"ome": {"multiscales": [multiscale]}}
    )
    address = str(tmp_path / "a.zarr")
    header = read_header(address)
    assert (header.form, header.shape, header.dtype) == ("OME-Zarr", SHAPE, "uint16")
    np.testing.assert_allclose(header.spacing_um, SPACING)
    assert header.held_bytes == 0
    image = open_image(address, ImageSettings(orientation="SAR"))
    np.testing.assert_allclose(image.frame.spacing_um, header.spacing_um)
    assert [p.rpartition("/")[2] for p in image_files(address)] == [
        ".zattrs" if zarr_format == 2 else "zarr.json"
    ]


def test_precomputed_and_state(tmp_path):
    plan = make_plan("p", Frame(SHAPE, SPACING), "uint16", VolumeSettings(32, 32, ("precomputed",)))
    init_volume(Store(str(tmp_path)), "v", plan)
    address = str(tmp_path / "v/precomputed")
    with pytest.raises(
        VolumeError, match="has no chunk under 0, where its voxels are according to its metadata;"
    ):
        read_header(address)
    (tmp_path / "v/precomputed/0").mkdir(exist_ok=True)
    (tmp_path / "v/precomputed/0/1.shard").write_bytes(b"x")
    header = read_header(address)
    assert (header.form, header.shape, header.dtype) == ("precomputed", SHAPE, "uint16")
    assert header.spacing_um == SPACING
    before = image_state(address)
    assert image_state(address) == before
    (tmp_path / "v/precomputed/0").mkdir(exist_ok=True)
    (tmp_path / "v/precomputed/0/0.shard").write_bytes(b"x")
    assert image_state(address) != before


def absent(folder):
    return folder / "absent.nii.gz"


def empty_folder(folder):
    return folder


def truncated(folder):
    path = folder / "cut.nii.gz"
    sitk.WriteImage(itk(zeros()), str(path))
    path.write_bytes(path.read_bytes()[:40])
    return path


def text_file(name):
    def make(folder):
        (folder / name).write_text("not an image")
        return folder / name

    return make


def four_dimensions(folder):
    path = folder / "series.nii"
    sitk.WriteImage(sitk.Image([4, 5, 6, 7], sitk.sitkUInt8), str(path))
    return path


def one_plane(folder):
    tifffile.imwrite(folder / "plane.tif", zeros(shape=(20, 30)))
    return folder / "plane.tif"


def tiff_without_spacing(folder):
    tifffile.imwrite(folder / "stack.tif", zeros())
    return folder / "stack.tif"


def one_millimetre(folder):
    (folder / "a.nrrd").write_text(
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nspacings: 1 1 1\nencoding: raw\n\n"
        + "x" * 64
    )
    return folder / "a.nrrd"


def implausible(folder):
    sitk.WriteImage(itk(zeros(), spacing_um=(1e6, 1e6, 1e6)), str(folder / "a.nii"))
    return folder / "a.nii"


def plain_zarr(folder):
    (folder / ".zattrs").write_text(json.dumps({"a": 1}))
    return folder


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (absent, VolumeError, "absent.nii.gz does not exist; correct the path"),
        (empty_folder, VolumeError, "is not an image that terareg can read; give a NIfTI"),
        (truncated, VolumeError, "cut.nii.gz cannot be read as NIfTI"),
        (text_file("a.nii"), VolumeError, "a.nii cannot be read as NIfTI"),
        (text_file("a.nrrd"), VolumeError, "a.nrrd cannot be read as NRRD (it is not an"),
        (text_file("a.tif"), VolumeError, "a.tif cannot be read as TIFF"),
        (four_dimensions, VolumeError, "4 dimensions (4, 5, 6, 7); give one volume with three"),
        (one_plane, VolumeError, "has shape (1, 20, 30) (z, y, x), which is not a volume"),
        (tiff_without_spacing, ConfigError, "stack.tif states no voxel size; set input.spacing_um"),
        (one_millimetre, ConfigError, "may be millimetres or micrometres; set input.spacing_um"),
        (implausible, ConfigError, "(1e+06, 1e+06, 1e+06) um (z, y, x), which is implausible"),
        (plain_zarr, VolumeError, "without an OME-Zarr image; give"),
    ],
)  # fmt: skip
def test_bad_images_are_one_sentence(tmp_path, make, error, words):
    spacing = SPACING if make is one_plane else None
    with pytest.raises(error) as raised:
        read_header(str(make(tmp_path)), spacing)
    message = str(raised.value)
    assert words in message and "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brain.nii.gz", "brain.nrrd", "brain.tif"])
def test_files_on_s3_have_the_headers_of_those_on_disk(tmp_path, bucket, name):
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, zeros(), photometric="minisblack")
    else:
        sitk.WriteImage(itk(zeros()), str(tmp_path / name), True)
    bucket.upload_file(str(tmp_path / name), "scope", f"atlas/{name}")
    here, there = str(tmp_path / name), f"s3://scope/atlas/{name}"
    found = read_header(there, SPACING)
    assert replace(found, name=here) == read_header(here, SPACING)
    check_channels({"a": found}, "SAR")
    with pytest.raises(VolumeError, match=r"atlas/other.nrrd does not exist"):
        read_header("s3://scope/atlas/other.nrrd")


META_TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@pytest.mark.parametrize("dtype", META_TYPES)
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_meta_images_are_described_as_itk_describes_them(tmp_path, dtype, name, packed):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), dtype))
    image.SetSpacing((0.01, 0.02, 0.03))
    image.SetOrigin((1.0, 2.0, 3.0))
    turned = (0.8, -0.6, 0, 0, 0, -1, 0.6, 0.8, 0)
    image.SetDirection(turned)
    path = str(tmp_path / name)
    sitk.WriteImage(image, path, packed)
    header = read_header(path)
    assert (header.form, header.shape, header.dtype) == ("MetaImage", (4, 5, 6), dtype)
    assert header.spacing_um == (30, 20, 10) and header.orientation is None
    assert header.origin_um == pytest.approx((1000, 2000, 3000))
    assert header.direction == pytest.approx(np.reshape(turned, (3, 3)).T.ravel())
    assert header.is_stream is packed and header.channels == 1
    assert level_shapes(path) == [(4, 5, 6)]
    names = [Path(file).name for file in image_files(path)]
    assert names == ([name] if name == "a.mha" else [name, "a.zraw" if packed else "a.raw"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("DimSize = 6 5 4", "DimSize = 6 5 9", r"\(6, 5, 9\) need 540 bytes but it has 240"),
        ("DimSize = 6 5 4", "DimSize = 6 5 2", r"\(6, 5, 2\) need 120 bytes but it has 240"),
        ("DimSize = 6 5 4", "DimSize = 6 5 0", r"its sizes \(6, 5, 0\), .* are impossible"),
        ("ElementDataFile = a.raw", "ElementDataFile = b.raw", "'b.raw' is not beside it"),
        ("ElementDataFile = a.raw", "ElementDataFile = LIST", "its voxels are in 'LIST'"),
        ("ElementDataFile = a.raw", "ElementDataFile = ../a.raw", "not a file of its own folder"),
        ("BinaryData = True", "BinaryData = False", "text or of an unusual type"),
        ("MET_USHORT", "MET_STRING", "text or of an unusual type"),
        ("ElementSpacing = 0.01 0.02", "ElementSpacing = 0.01 x", "cannot be read"),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 0.6 0.8 0 0 0 1",
         "its axes are sheared by 36.9 degrees"),
    ],
)  # fmt: skip
def test_meta_images_that_contradict_themselves_are_refused(tmp_path, old, new, words):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint16))
    image.SetSpacing((0.01, 0.02, 0.03))
    path = tmp_path / "a.mhd"
    sitk.WriteImage(image, str(path))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises((VolumeError, ConfigError), match=words) as error:
        read_header(str(path))
    assert "\n" not in str(error.value) and "; " in str(error.value)


def test_channels_have_to_lie_on_one_grid(tmp_path):
    def header(name, **over):
        array = zeros(shape=over.pop("shape", SHAPE))
        sitk.WriteImage(itk(array, **over), str(tmp_path / name))
        return read_header(str(tmp_path / name))

    first = header("a.nii")
    check_channels({"a": first, "b": header("b.nii")}, "SPL")
    with pytest.raises(VolumeError, match=r"channel b has shape \(4, 5, 6\) .* channel a has"):
        check_channels({"a": first, "b": header("c.nii", shape=(4, 5, 6))}, "SPL")
    with pytest.raises(VolumeError, match=r"channel b has voxels of \(100, 100, 100\) um"):
        check_channels({"a": first, "b": header("d.nii", spacing_um=(100, 100, 100))}, "SPL")
    with pytest.raises(
        ConfigError,
        match=r"orientation SPL \(z, y, x; in order x, y, z: LPS\).*not SAR; correct input.orie",
    ):
        check_channels({"a": first}, "SAR")
    # a voxel size by the user overrules what the header says of the grid
    check_channels({"a": read_header(str(tmp_path / "a.nii"), SPACING)}, "SAR")


@pytest.mark.parametrize(
    ("count", "stated", "message"),
    [
        (1, None, None),
        (3, 0, None),
        (3, 2, None),
        (
            3,
            None,
            r"contains 3 channels \(x, y, z\); set input.channels.dapi to {path: a.tif, chan",
        ),
        (3, 3, "has channels 0 to 2, not 3; correct input.channels.dapi.channel"),
        (1, 1, "has channels 0 to 0, not 1"),
    ],
)
def test_which_of_several_channels_is_asked_for(count, stated, message):
    """The red part of a picture in colours is no brain in grey."""
    header = Header(
        "a.tif", "TIFF", (4, 4, 4), "uint8", channels=count, channel_names=("x", "y", "z")
    )
    if message is None:
        check_channel(header, "dapi", stated)
        return
    with pytest.raises(VolumeError, match=message):
        check_channel(header, "dapi", stated)


def test_a_segmentation_is_no_channel(tmp_path):
    sitk.WriteImage(itk(zeros("uint8")), str(tmp_path / "labels.nii"))
    path = str(tmp_path / "labels.nii")
    assert not read_header(path).is_segmentation
    patched(tmp_path / "labels.nii", (68, "<h", 1002))
    header = read_header(path)
    assert header.is_segmentation and header.orientation == "SPL"
    with pytest.raises(VolumeError, match=r"labels\.nii is a segmentation .* input\.channels\.t1"):
        check_channel(header, "t1", None)


def test_numbers_of_colours_are_no_brightness_but_a_coloured_grey_scale_is(tmp_path):
    voxels, ramp = zeros("uint8", (3, 5, 7)), np.arange(256, dtype=np.uint16) * 257
    scales = {
        "labels": np.random.default_rng(0).integers(0, 65535, (3, 256)).astype(np.uint16),
        "green": np.stack([0 * ramp, ramp, 0 * ramp]),
        # black, purple, orange, white
        "fire": np.stack([np.minimum(2 * ramp.astype(int), 65535), ramp // 4 * 3,
                          np.maximum(ramp, 20000)]).astype(np.uint16),
    }  # fmt: skip
    for name, colours in scales.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, voxels, photometric="palette", colormap=colours)
        header = read_header(str(path), SPACING)
        assert header.is_palette == (name == "labels")
        if name == "labels":
            with pytest.raises(VolumeError, match=r"numbers of colours .* in Fiji with Image"):
                check_channel(header, "red", None)
        else:
            check_channel(header, "red", None)


def test_further_images_of_an_ome_zarr_volume_are_told(tmp_path):
    group = zarr.create_group(tmp_path / "v.zarr", zarr_format=3)
    group.create_array("0", data=np.ones((4, 5, 6), np.uint8))
    scale = [{"type": "scale", "scale": [9.0, 9.0, 9.0]}]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [image, image | {"name": "dapi"}, image],
    }
    header = read_header(str(tmp_path / "v.zarr"))
    assert header.others == ("'dapi'", "'number 3'")
    assert "list 3 images (multiscales), of which the first is read" in first_of_several(header)

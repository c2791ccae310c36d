"""Exported files: other programs read the same numbers at the same place."""

from __future__ import annotations

import gzip
import io
import json

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.core.errors import StoreError, VolumeError
from terareg.core.frames import Frame, orientation_matrix
from terareg.core.orientation import all_orientations
from terareg.exports import deflate
from terareg.exports.files import Picture, write_file, write_planes
from terareg.exports.headers import affine_mm, nifti_header
from terareg.storage.store import Store
from terareg.volumes.images import open_image

nibabel = pytest.importorskip("nibabel")

SHAPE, SPACING, ORIGIN = (5, 7, 9), (30.0, 20.5, 10.0), (100.0, -50.0, 7.0)
VOXEL = (4, 2, 8)  # z, y, x
TYPES = ("uint8", "uint16", "uint32", "float32")


def voxels(dtype, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def pieces(array, planes=2):
    """Slabs as writers get them."""
    return [(first, array[first : first + planes]) for first in range(0, len(array), planes)]


def place_of(orientation):
    """Where VOXEL lies, millimetres right, anterior, superior, by the definition of a frame."""
    position = np.array(ORIGIN) + np.array(SPACING) * VOXEL
    letters = dict(zip(orientation, position))
    return [
        letters[plus] / 1000 if plus in letters else -letters[minus] / 1000
        for plus, minus in ("RL", "AP", "SI")
    ]


@pytest.mark.parametrize("orientation", all_orientations())
def test_every_orientation_lies_at_its_place_for_nibabel_and_itk(tmp_path, orientation):
    array, frame = voxels("uint16"), Frame(SHAPE, SPACING, ORIGIN, orientation)
    place = np.array(place_of(orientation))
    for form, ending in (("nifti", "nii.gz"), ("nrrd", "nrrd")):
        path = tmp_path / f"x.{ending}"
        write_file(path, form, Picture("x", frame, "uint16"), pieces(array))
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
        left_posterior = image.TransformIndexToPhysicalPoint(VOXEL[::-1])
        np.testing.assert_allclose(left_posterior, place * [-1, -1, 1], atol=1e-5)
    image = nibabel.load(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, array)
    for affine in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose((affine @ [*VOXEL[::-1], 1])[:3], place, atol=1e-5)
    assert "".join(nibabel.aff2axcodes(image.affine))[::-1] == orientation
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header["sform_code"] == image.header["qform_code"] == 1


@pytest.mark.parametrize("form", ["nifti", "nrrd", "tiff"])
@pytest.mark.parametrize("dtype", TYPES)
def test_values_and_sizes_survive_in_every_type(tmp_path, form, dtype):
    array, frame = voxels(dtype), Frame(SHAPE, SPACING, orientation="PIR")
    if dtype == "uint32":
        array[1, 2, 3] = 614_454_277
    path = tmp_path / {"nifti": "a.nii.gz", "nrrd": "a.nrrd", "tiff": "a.ome.tif"}[form]
    facts = write_file(path, form, Picture("a", frame, dtype), pieces(array), workers=2)
    assert facts == {"minimum": array.min(), "maximum": array.max()}
    if form == "tiff":
        found = tifffile.imread(path)
        with tifffile.TiffFile(path) as file:
            assert file.is_ome and file.series[0].axes == "ZYX"
            assert "PIR" in file.ome_metadata
            for axis, size in zip("XYZ", SPACING[::-1]):
                assert f'PhysicalSize{axis}="{size:g}" PhysicalSize{axis}Unit="µm"' in (
                    file.ome_metadata
                )
    else:
        image = sitk.ReadImage(str(path))
        found = sitk.GetArrayFromImage(image)
        np.testing.assert_allclose(image.GetSpacing()[::-1], np.array(SPACING) / 1000)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("form, ending", [("nifti", "nii.gz"), ("nrrd", "nrrd")])
def test_the_importer_finds_what_was_exported(tmp_path, form, ending):
    array, frame = voxels("uint16"), Frame(SHAPE, SPACING, orientation="IPL")
    write_file(tmp_path / f"a.{ending}", form, Picture("a", frame, "uint16"), pieces(array))
    image = open_image(str(tmp_path / f"a.{ending}"))
    assert image.frame.orientation == "IPL"
    np.testing.assert_allclose(image.frame.spacing_um, SPACING, rtol=1e-6)
    np.testing.assert_array_equal(image.read(0), array)


def test_labels_and_the_space_of_an_atlas_are_stated():
    frame = Frame(SHAPE, SPACING)
    head = nibabel.Nifti1Header(nifti_header(frame, "uint32", labels=True, aligned=True)[:348])
    assert head.get_intent()[0] == "label"
    assert (head["sform_code"], head["qform_code"]) == (2, 2)
    assert nibabel.Nifti1Header(nifti_header(frame, "uint16")[:348]).get_intent()[0] == "none"


def test_nifti_states_what_is_shown_black_and_white(tmp_path):
    array, frame = voxels("uint16"), Frame(SHAPE, SPACING)
    for window, wanted in (((120.5, 4000.0), (120.5, 4000.0)), (None, (0, 0))):
        path = tmp_path / "a.nii.gz"
        write_file(path, "nifti", Picture("a", frame, "uint16", window=window), pieces(array))
        image = nibabel.load(path)
        assert (image.header["cal_min"], image.header["cal_max"]) == wanted
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, array)


def test_what_nifti_cannot_count_is_an_error_with_a_remedy():
    frame = Frame((1, 1, 40_000), (1.0, 1.0, 1.0))
    with pytest.raises(VolumeError, match=r"wide: 40000 voxels .* raise resolution_um, or use"):
        nifti_header(frame, "uint8", name="wide")


def test_the_matrix_of_a_frame_is_that_of_its_letters():
    frame = Frame(SHAPE, SPACING, ORIGIN, "RIP")
    expected = orientation_matrix("RIP", "RAS") @ frame.to_um(np.array(VOXEL)) / 1000
    np.testing.assert_allclose((affine_mm(frame, "RAS") @ [*VOXEL[::-1], 1])[:3], expected)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 3), st.sampled_from([7, 64, 4096])
)
def test_a_stream_is_one_gzip_member_whatever_the_threads(parts, workers, piece):
    streams = []
    for threads in (1, workers):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deflate, "PIECE_BYTES", piece)
            stream = io.BytesIO()
            size = deflate.write_gzip(stream, parts, threads)
        streams.append(stream.getvalue())
        assert size == len(b"".join(parts))
    assert streams[0] == streams[1]
    one = gzip.zlib.decompressobj(wbits=31)
    assert one.decompress(streams[0]) == b"".join(parts)
    assert one.eof and not one.unused_data


@pytest.mark.parametrize("form", ["nifti", "nrrd", "tiff"])
def test_a_writer_that_fails_leaves_nothing_and_spoils_nothing(tmp_path, form):
    path, picture = tmp_path / "a", Picture("a", Frame(SHAPE, SPACING), "uint8")

    def breaks():
        yield 0, voxels("uint8")[:2]
        raise RuntimeError("the source is gone")

    path.write_bytes(b"old")
    for slabs, problem in (
        (breaks(), "gone"),
        (pieces(voxels("uint8"))[:-1], "4 of its 5 planes were"),
    ):
        with pytest.raises((RuntimeError, StoreError), match=problem):
            write_file(path, form, picture, slabs)
        assert [p.name for p in tmp_path.iterdir()] == ["a"]
        assert path.read_bytes() == b"old"


def test_the_bytes_of_a_file_do_not_depend_on_threads_or_slabs(tmp_path):
    array, picture = voxels("uint16"), Picture("a", Frame(SHAPE, SPACING), "uint16")
    for form in ("nifti", "nrrd", "tiff"):
        made = []
        for number, workers in enumerate((1, 3)):
            path = tmp_path / f"{form}{number}"
            write_file(path, form, picture, pieces(array), workers)
            made.append(path.read_bytes())
        assert made[0] == made[1]


def test_large_planes_are_tiled(tmp_path):
    array = voxels("uint8", (1, 16, 4200))
    picture = Picture("a", Frame(array.shape, (1.0, 1.0, 1.0)), "uint8")
    write_file(tmp_path / "a.ome.tif", "tiff", picture, [(0, array)])
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.pages[0].is_tiled and file.pages[0].tilelength == 512
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), array[0])


def test_colours_and_palettes_are_what_viewers_show(tmp_path):
    frame = Frame(SHAPE, SPACING)
    colours = voxels("uint8", (*SHAPE, 3))
    write_file(tmp_path / "c.ome.tif", "tiff", Picture("c", frame, "uint8", colours=True),
               pieces(colours))  # fmt: skip
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "c.ome.tif"), colours)
    palette = np.zeros((3, 256), np.uint16)
    palette[0, 3] = 65535
    write_file(tmp_path / "p.ome.tif", "tiff", Picture("p", frame, "uint8", palette=palette),
               pieces(voxels("uint8")))  # fmt: skip
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as file:
        assert file.pages[2].photometric.name == "PALETTE"
        np.testing.assert_array_equal(file.pages[0].colormap, palette)


@pytest.mark.parametrize("form", ["tiff_series", "png_series"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_series_has_a_file_for_each_plane(tmp_path, form, dtype):
    store, array = Store(str(tmp_path)), voxels(dtype)
    picture = Picture("a", Frame(SHAPE, SPACING), dtype)
    store.write("brain/exports/a/a_z0099.tif", b"of an earlier export")
    record = write_planes(store, "brain/exports/a", form, picture, pieces(array), workers=2)
    names = sorted(e.key for e in store.list("brain/exports/a"))
    assert len(names) == record["planes"] == 5
    assert names[0] == record["first"] and names[-1] == record["last"]
    for name, plane in zip(names, array):
        data = store.read(name)
        read = imagecodecs.png_decode(data) if form == "png_series" else tifffile.imread(
            io.BytesIO(data)
        )  # fmt: skip
        np.testing.assert_array_equal(read, plane)
    again = write_planes(store, "brain/exports/a", form, picture, pieces(array, 5))
    assert json.dumps(again) == json.dumps(record)
    assert record["bytes"] == sum(e.size for e in store.list("brain/exports/a"))


@pytest.mark.slow
def test_a_series_goes_into_a_bucket(bucket):
    store, array = Store("s3://scope/lab"), voxels("uint8")
    picture = Picture("a", Frame(SHAPE, SPACING), "uint8")
    record = write_planes(store, "b/exports/a", "png_series", picture, pieces(array))
    assert len(list(store.list("b/exports/a"))) == record["planes"] == 5
    np.testing.assert_array_equal(imagecodecs.png_decode(store.read(record["last"])), array[-1])

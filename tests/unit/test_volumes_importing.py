"""Images become volumes value for value; what a volume cannot hold is an error or is counted."""

import gzip
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from web_server import serving

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.headers import image_state, read_header
from terareg.volumes.images import ImageSettings, OpenedImage, open_image
from terareg.volumes.importing import (
    check_whole,
    describe_input,
    frame_of_input,
    import_block,
)
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE = (20, 33, 17)
FRAME = Frame(SHAPE, (50.0, 20.0, 10.0), orientation="RIP")


def image_of(array):
    return OpenedImage("picture.nii", [Frame(array.shape, FRAME.spacing_um)], [array])


def imported(array, dtype="float32"):
    plan = make_plan("s c", FRAME, dtype, VolumeSettings(16, 16))
    result = np.empty(SHAPE, dtype)
    clipped = Clipped()
    for block in plan.blocks():
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        result[box], more = import_block(image_of(array), plan, block)
        clipped += more
    return result, clipped


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", ">u2"]
)
def test_values_survive_every_type(dtype):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 100, SHAPE).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values = (values * np.array(-1.37, dtype)).astype(dtype)
    stored = "uint16" if dtype in ("uint16", ">u2") else "uint8" if dtype == "uint8" else "float32"
    result, clipped = imported(values, stored)
    np.testing.assert_array_equal(result.astype(np.float64), values.astype(np.float64))
    assert clipped == Clipped()


def test_float64_keeps_24_bits():
    values = np.random.default_rng(3).normal(0, 1e5, SHAPE)
    result, _ = imported(values)
    np.testing.assert_allclose(result, values, rtol=2.0**-24)


def test_what_is_not_finite_is_zero_and_counted():
    values = np.full(SHAPE, 7.0, np.float32)
    values[3, :2, 0] = np.nan
    values[4, :3, 0] = np.inf
    values[5, 0, 0] = -np.inf
    result, clipped = imported(values)
    assert clipped == Clipped(low=3, high=3)
    assert (result == 0).sum() == 6 and (result == 7).sum() == result.size - 6


@pytest.mark.parametrize(
    ("value", "dtype", "stored", "words"),
    [
        (2**24 + 1, "uint32", "float32", "contains the integer 16777217, too large for float32"),
        (-(2**25), "int32", "float32", "contains the integer -33554432"),
        (1e300, "float64", "float32", "contains 1e[+]300, too large for float32; scale the image"),
        (1, "float32", "uint16", "has voxels of type float32 although its header states uint16"),
        (1, "complex64", "float32", "has voxels of type complex64"),
    ],
)
def test_what_cannot_be_held_is_an_error(value, dtype, stored, words):
    values = np.zeros(SHAPE, dtype)
    values[-1, -1, -1] = value
    with pytest.raises(VolumeError, match=f"picture.nii {words}"):
        imported(values, stored)


def test_an_image_that_is_not_what_its_header_says():
    with pytest.raises(
        VolumeError, match=r"has \(3, 3, 3\) voxels .*although its header states \(20, 33"
    ):
        imported(np.zeros((3, 3, 3), np.float32))


def test_a_file_becomes_a_volume(tmp_path):
    values = np.random.default_rng(3).normal(0, 10, SHAPE).astype(np.float32)
    picture = sitk.GetImageFromArray(values)
    picture.SetSpacing([0.01, 0.02, 0.05])
    path = str(tmp_path / "t1.nii.gz")
    sitk.WriteImage(picture, path)

    data = describe_input({"t1": read_header(path)}, "spl")
    frame = frame_of_input(data)
    assert frame == Frame(SHAPE, (50.0, 20.0, 10.0), orientation="SPL")
    assert data["channels"]["t1"] == {
        "source": path, "form": "NIfTI", "source_dtype": "float32", "dtype": "float32",
    }  # fmt: skip

    store, settings = Store(str(tmp_path)), VolumeSettings(16, 16, ("ome-zarr", "precomputed"))
    plan = make_plan("s t1", frame, "float32", settings)
    init_volume(store, "v", plan, {"source": data["channels"]["t1"]})
    image = open_image(path, ImageSettings(frame.spacing_um, frame.orientation))
    write_blocks(
        store, "v", plan, plan.blocks(), lambda b: import_block(image, plan, b), fingerprint="f"
    )
    finish_pyramid(store, "v", plan)
    summary = finalize_volume(store, "v", plan)
    np.testing.assert_array_equal(Volume(store, "v").read(0), values)
    assert summary["min"] == values.min() and summary["max"] == values.max()
    low, high = summary["window"]
    assert values.min() <= low < np.median(values) < high <= values.max() * 1.04


def test_a_description_of_another_version():
    with pytest.raises(VolumeError, match="has version 0, not 1; delete it and run index_input"):
        frame_of_input({"version": 0})


# ---------------------------------------------------------------------- on the web
@pytest.fixture
def web(tmp_path):
    """A folder, and its address on a web server."""
    with serving(tmp_path) as address:
        yield tmp_path, address


def foreign(folder, form, values, suffix=""):
    """A volume of others: that of terareg without what lies beside it; its chunks."""
    store = Store(str(folder / "own"))
    settings = VolumeSettings(
        16, 16, ("precomputed" if form == "precomputed" else "ome-zarr",), sharded=False,
        ngff="0.5" if form == "precomputed" else "0.4",
    )  # fmt: skip
    frame = Frame(values.shape, (4.0, 2.0, 2.0), orientation="RIP")
    plan = make_plan("v", frame, "uint16", settings)
    init_volume(store, "v", plan)
    write_blocks(
        store, "v", plan, plan.blocks(),
        lambda b: (values[tuple(map(slice, b.start, b.stop))].copy(), Clipped()), fingerprint="f",
    )  # fmt: skip
    finish_pyramid(store, "v", plan)
    name = {"ome-zarr-0.4": "ome.zarr"}.get(form, form)
    shutil.copytree(folder / "own/v" / name, folder / "v")
    found = [p for p in (folder / "v").rglob("*") if p.is_file() and p.name[:1] in "0123456789"]
    for path in found:
        if suffix:
            path.with_name(path.name + suffix).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return found


VALUES = np.random.default_rng(2).integers(1, 60000, (25, 30, 35)).astype(np.uint16)


@pytest.mark.parametrize(
    ("form", "suffix"), [("ome-zarr-0.4", ""), ("precomputed", ""), ("precomputed", ".gz")]
)
def test_a_volume_on_the_web_is_that_of_its_folder(web, form, suffix):
    folder, url = web
    foreign(folder, form, VALUES, suffix)
    header = read_header(f"{url}/v")
    assert header == replace(read_header(str(folder / "v")), name=f"{url}/v")
    image = open_image(f"{url}/v", ImageSettings(orientation="RIP"))
    np.testing.assert_array_equal(image.read(0), VALUES)
    assert check_whole(header) is None, "the web does not tell"


@pytest.mark.parametrize("form", ["ome-zarr-0.4", "precomputed"])
def test_a_change_of_voxels_on_the_web_is_noticed(web, form):
    folder, url = web
    chunks = foreign(folder, form, VALUES)
    before = image_state(f"{url}/v")
    assert image_state(f"{url}/v") == before
    for path in chunks:
        os.utime(path, (1, 1))
    assert image_state(f"{url}/v") != before
    # and that there are metadata alone
    for path in chunks:
        path.unlink()
    for look in (read_header, lambda a: open_image(a, ImageSettings(orientation="RIP")).read(0)):
        if form == "precomputed" or look is read_header:
            with pytest.raises(
                VolumeError, match=r"has no chunk at \d+ places|is absent; copy it again"
            ):
                look(f"{url}/v")


def test_a_volume_of_terareg_on_the_web_is_complete_or_not(web):
    folder, url = web
    foreign(folder, "precomputed", VALUES)
    header = read_header(f"{url}/own/v/precomputed")
    assert check_whole(header) == 0
    lost = sorted((folder / "own/v/precomputed").rglob("0-16_0-16_16-25"))
    lost[0].unlink()
    with pytest.raises(VolumeError, match="0-16_0-16_16-25 is missing or has changed since it was"):
        check_whole(header)

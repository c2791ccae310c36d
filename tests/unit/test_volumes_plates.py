"""Plates of OME-Zarr: the mosaic is that of NumPy, and what is wrong or missing is one sentence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from plate_files import SPACING_UM, write_plate
from web_server import serving

from terareg.core.errors import TeraregError, VolumeError
from terareg.exports.outlines import outlines_of_plate
from terareg.storage.store import Store
from terareg.volumes.headers import PLATE, image_state, level_shapes, read_header, read_metadata
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.importing import check_whole, describe_input
from terareg.volumes.opened import open_volume
from terareg.volumes.plates import is_plate, read_plate

KNOWN = ImageSettings(orientation="SAR")
#: wells that are used are in rows A to C and columns 2 to 4
WELLS = {"A/2": 2, "A/4": 4, "C/3": 3}
HEIGHT, WIDTH = 20, 30


def images(shape=(2, 3, HEIGHT, WIDTH), dtype=np.uint16) -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(4)
    return {
        well: [random.integers(1, 250, shape).astype(dtype) for _ in range(count)]
        for well, count in WELLS.items()
    }


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("czyx", (2, 3, HEIGHT, WIDTH)), ("tczyx", (1, 2, 1, HEIGHT, WIDTH)),
     ("cyx", (2, HEIGHT, WIDTH)), ("yx", (HEIGHT, WIDTH))],
)  # fmt: skip
def test_sites_without_places_lie_row_by_row(tmp_path, version, axes, shape):
    wells = images(shape)
    path = str(write_plate(tmp_path / "p.zarr", wells, version=version, axes=axes))
    channels = shape[axes.index("c")] if "c" in axes else 1
    depth = shape[axes.index("z")] if "z" in axes else 1
    # two sites and two rows of two: a well is 2 x 2 images; 3 rows and 3 columns are used
    expected = np.zeros((channels, depth, 3 * 2 * HEIGHT, 3 * 2 * WIDTH), np.uint16)
    for well, sites in wells.items():
        row, column = "ABC".index(well[0]), "234".index(well[2])
        for n, image in enumerate(sites):
            y, x = (2 * row + n // 2) * HEIGHT, (2 * column + n % 2) * WIDTH
            expected[:, :, y : y + HEIGHT, x : x + WIDTH] = image.reshape(
                channels, depth, HEIGHT, WIDTH
            )
    header = read_header(path)
    assert (header.form, header.shape, header.dtype) == (PLATE, expected.shape[1:], "uint16")
    assert header.channels == channels
    assert header.spacing_um == (SPACING_UM if "z" in axes else (0.5, 0.5, 0.5))
    assert level_shapes(path) == [header.shape] and check_whole(header) == 0
    for channel in range(channels):
        image = open_image(path, ImageSettings(orientation="SAR", channel=channel))
        np.testing.assert_array_equal(image.read(0), expected[channel])
        box = (0, 13, 25), (1, 77, 141)
        np.testing.assert_array_equal(image.read(0, *box), expected[channel][:1, 13:77, 25:141])
    with pytest.raises(VolumeError, match=f"has channels 0 to {channels - 1}, not {channels}"):
        open_image(path, ImageSettings(orientation="SAR", channel=channels))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_sites_with_places_lie_there_and_the_first_counts(tmp_path, version):
    """Places of the stage, from somewhere, in no order; sites overlap by a few pixels."""
    wells = images()
    # in voxels from the first of the well
    vox = {"A/2": [(0, 0), (3, 27)], "A/4": [(18, 0), (0, 2), (0, 30), (19, 31)],
           "C/3": [(0, 50), (0, 0), (40, 25)]}  # fmt: skip
    places = {well: [(7000 + 0.5 * y, -300 + 0.5 * x) for y, x in at] for well, at in vox.items()}
    path = str(write_plate(tmp_path / "p", wells, version=version, places_um=places))
    height = max(y for at in vox.values() for y, _ in at) + HEIGHT
    width = max(x for at in vox.values() for _, x in at) + WIDTH
    expected = np.zeros((3, 3 * height, 3 * width), np.uint16)
    told = {}
    for well, at in vox.items():
        row, column = "ABC".index(well[0]) * height, "234".index(well[2]) * width
        told[well.replace("/", "")] = (row, column, row + height, column + width)
        for n, (y, x) in reversed(list(enumerate(at))):
            y, x = y + row, x + column
            expected[:, y : y + HEIGHT, x : x + WIDTH] = wells[well][n][1]
            told[f"{well.replace('/', '')}/{n}"] = (y, x, y + HEIGHT, x + WIDTH)
    header = read_header(path)
    image = open_image(path, ImageSettings(orientation="SAR", channel=1))
    np.testing.assert_array_equal(image.read(0), expected)
    _, metadata = read_metadata(path, Store(path))
    assert is_plate(metadata) and not is_plate({"multiscales": []})
    plate = read_plate(Store(path), metadata)
    assert [site.path for site, _ in plate.sites][:3] == ["A/2/0/0", "A/2/1/0", "A/4/0/0"]
    assert plate.first.place_um == (7000, -300) and plate.outlines == header.outlines
    assert dict(header.outlines) == told
    # wells first, then sites; in space, from face to face
    assert [name for name, _ in header.outlines][:3] == ["A2", "A4", "C3"]
    corners = outlines_of_plate(json.loads(json.dumps(describe_input({"a": header}, "SAR"))))
    top, left, bottom, right = told["A4/2"]
    low, high = corners["A4/2"]
    np.testing.assert_allclose(low, [-1, 0.5 * top - 0.25, 0.5 * left - 0.25])
    np.testing.assert_allclose(high, [5, 0.5 * bottom - 0.25, 0.5 * right - 0.25])


def test_a_plate_on_the_web_is_that_of_its_folder(tmp_path):
    path = write_plate(tmp_path / "p", images())
    with serving(tmp_path) as url:
        there = f"{url}/p"
        np.testing.assert_array_equal(
            open_image(there, KNOWN).read(0), open_image(str(path), KNOWN).read(0)
        )
        assert read_header(there).outlines == read_header(str(path)).outlines
        before = image_state(there)
        assert image_state(there) == before
        for file in (path / "A/2/0/0").rglob("[0-9]*"):
            if file.is_file():
                file.write_bytes(file.read_bytes() + b"\0")
        assert image_state(there) != before


def test_a_plate_in_python(tmp_path):
    path = str(write_plate(tmp_path / "p", images()))
    volume = open_volume(path)
    expected = open_image(path, KNOWN).read(0)
    np.testing.assert_array_equal(volume.numpy(), expected)
    np.testing.assert_array_equal(volume.dask()[:, 5:70, 9:].compute(scheduler="sync"),
                                  expected[:, 5:70, 9:])  # fmt: skip
    with pytest.raises(VolumeError, match="is a plate, which is many arrays; use"):
        volume.zarr()


def edited(path, change) -> None:
    data = json.loads(path.read_text())
    change(data["attributes"]["ome"])
    path.write_text(json.dumps(data))


def well_is_gone(path):
    shutil.rmtree(path / "A/4")


def site_is_gone(path):
    shutil.rmtree(path / "A/4/2")


def array_is_gone(path):
    (path / "A/4/2/0/zarr.json").unlink()


def row_that_is_none(path):
    edited(path / "zarr.json", lambda ome: ome["plate"]["wells"][1].update(rowIndex=3))


def another_place(path):
    edited(path / "zarr.json", lambda ome: ome["plate"]["wells"][1].update(columnIndex=0))


def the_same_well(path):
    edited(path / "zarr.json", lambda ome: ome["plate"]["wells"].append(ome["plate"]["wells"][0]))


def no_wells(path):
    edited(path / "zarr.json", lambda ome: ome["plate"].update(wells=[]))


def no_images(path):
    edited(path / "A/4/zarr.json", lambda ome: ome["well"].update(images=[]))


def another_size(path):
    scale = [{"type": "scale", "scale": [1, 2, 0.5, 0.7]}]
    edited(
        path / "C/3/1/zarr.json",
        lambda ome: ome["multiscales"][0]["datasets"][0].update(coordinateTransformations=scale),
    )


def nonsense(path):
    edited(path / "zarr.json", lambda ome: ome.update(plate=7))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (well_is_gone, r"/A/4 is missing, although the plate lists this well; copy it, or take it"),
        (site_is_gone, r"/A/4/2 is missing, although the plate lists this image; copy it, or"),
        (array_is_gone, r"/A/4/2/0 is missing; copy it, or take it out of the metadata of the pl"),
        (row_that_is_none, r"lists well 'A/4' in row 3, but its plate has rows 0 to 2; correct"),
        (another_place, r"lists well 'A/4' in the place of 'A/1'; correct its metadata"),
        (the_same_well, r"lists well 'A/2' again; correct its metadata"),
        (no_wells, r"is a plate that lists no wells; give one with images"),
        (no_images, r"/A/4 lists no images of this well; copy it, or take it out"),
        (another_size, r"/C/3/1/0 states voxels of \(2.0, 0.5, 0.7\) um \(z, y, x\), but A/2/0/0"),
        (nonsense, r"its metadata cannot be read .*give a plate with complete metadata|complete"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path, spoil, words):
    path = write_plate(tmp_path / "p", images())
    spoil(path)
    for look in (read_header, lambda address: open_image(address, KNOWN)):
        with pytest.raises(VolumeError, match=words) as raised:
            look(str(path))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["zarr.json", "A/4/zarr.json", "A/4/1/zarr.json"])
@examples(40)
@given(data=st.data())
def test_spoiled_metadata_are_read_or_refused(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("p") / "p"
    write_plate(path, {well: [np.ones((4, 5), np.uint8)] * 2 for well in ("A/2", "A/4")}, axes="yx")
    at = text = json.loads((path / name).read_text())
    parts = []
    while isinstance(at, (dict, list)) and at:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        parts.append((at, key))
        at = at[key]
    at, key = data.draw(st.sampled_from(parts))
    at[key] = data.draw(st.sampled_from([None, -1, 0, 1e300, 10**30, "x", [], {}, True, "../.."]))
    (path / name).write_text(json.dumps(text))
    for look in (
        lambda: read_header(str(path), SPACING_UM),
        lambda: open_image(str(path), ImageSettings(SPACING_UM, "SAR")).read(0),
    ):
        try:
            look()
        except TeraregError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000


def test_images_that_differ_and_sites_at_one_place(tmp_path):
    wells = images()
    wells["C/3"][1] = wells["C/3"][1].astype(np.uint8)
    path = write_plate(tmp_path / "p", wells)
    with pytest.raises(VolumeError, match=r"/C/3/1/0 has type uint8, but A/2/0/0 has uint16; give"):
        read_header(str(path))
    places = {well: [(0.0, 9.0 * n) for n in range(count)] for well, count in WELLS.items()}
    places["A/4"][3] = places["A/4"][1]
    path = write_plate(tmp_path / "q", images(), places_um=places)
    with pytest.raises(VolumeError, match=r"/A/4 has its sites 1, 3 at the same place \(y, x"):
        read_header(str(path))


def test_an_image_without_voxels_and_a_later_acquisition(tmp_path):
    wells = images()
    path = write_plate(tmp_path / "p", wells)
    whole = open_image(str(path), KNOWN).read(0)
    late = [{"path": str(n), "acquisition": 2 - n // 2} for n in range(4)]
    edited(path / "A/4/zarr.json", lambda ome: ome["well"].update(images=late))
    found = open_image(str(path), KNOWN).read(0)
    part = np.s_[:, :HEIGHT, 4 * WIDTH : 6 * WIDTH]
    expected = np.concatenate([wells["A/4"][n][0] for n in (2, 3)], axis=2)
    assert found.shape == whole.shape
    np.testing.assert_array_equal(found[part], expected)
    shutil.rmtree(path / "C/3/1/0/c")
    with pytest.raises(VolumeError, match=r"/C/3/1/0 has no chunks named as its metadata say; cop"):
        check_whole(read_header(str(path)))

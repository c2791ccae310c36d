"""Image files and volumes of others: right voxels, or one sentence that names both statements."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import os
import re
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
import tensorstore as ts
import tifffile
import zarr
from bounded import SECONDS, read_within_bounds
from examples import PROFILE, examples, spoiled
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from terareg.core.errors import ConfigError, TeraregError, VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes.headers import (
    check_extents,
    data_files,
    image_files,
    image_state,
    read_header,
)
from terareg.volumes.images import ImageSettings, image_planes, open_image
from terareg.volumes.importing import check_whole
from terareg.volumes.opened import open_volume
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume, write_blocks

SHAPE = (7, 9, 8)
SPACING = (25.0, 20.0, 30.0)
KNOWN = ImageSettings(SPACING, "RIP")
QUICK = examples(50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def values():
    return np.random.default_rng(3).integers(1, 60000, SHAPE).astype(np.uint16)


def read(path, settings=KNOWN):
    image = open_image(str(path), settings)
    return image.read(0)


def refused(path, message, error=VolumeError, spacing=SPACING):
    for look in (lambda: read_header(str(path), spacing), lambda: read(path)):
        with pytest.raises(error, match=message) as raised:
            look()
        assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------- sets of TIFF files
def ome(pages, planes=7, channels=1):
    """OME-XML of a set in which each file holds some pages one after the other."""
    listed, plane = "", 0
    for name, count in pages:
        for page in range(count):
            z, c = plane % planes, plane // planes
            listed += f'<TiffData IFD="{page}" FirstC="{c}" FirstZ="{z}" PlaneCount="1">'
            listed += f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
            plane += 1
    sizes = f'SizeC="{channels}" SizeT="1" SizeZ="{planes}" DimensionOrder="XYZCT"'
    return f"<Image><Pixels {sizes}>{listed}</Pixels></Image>"


def write_ome(path, stack, *images, root=""):
    text = f"<OME{root}>{''.join(images)}</OME>"
    with tifffile.TiffWriter(path) as tiff:
        for n, plane in enumerate(stack):
            tiff.write(plane, description=text if n == 0 else None, metadata=None,
                       contiguous=False, photometric="minisblack")  # fmt: skip


def test_two_channels_of_one_set_are_two_channels(tmp_path, values):
    note = ome([("a.ome.tif", 7), ("b.ome.tif", 7)], channels=2)
    write_ome(tmp_path / "a.ome.tif", values, note)
    write_ome(tmp_path / "b.ome.tif", values + 1, note)
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif"), values)
    np.testing.assert_array_equal(read(tmp_path / "b.ome.tif"), values + 1)
    assert read_header(str(tmp_path / "b.ome.tif"), SPACING).shape == SHAPE
    # a lone file of the set is a whole channel
    (tmp_path / "a.ome.tif").unlink()
    np.testing.assert_array_equal(read(tmp_path / "b.ome.tif"), values + 1)
    # renamed, it is told by its UUID, or not at all
    (tmp_path / "b.ome.tif").rename(tmp_path / "c.ome.tif")
    refused(tmp_path / "c.ome.tif", "lists planes of other files only .*give it its name back")
    write_ome(tmp_path / "d.ome.tif", values, note, root=' UUID="urn:uuid:b.ome.tif"')
    np.testing.assert_array_equal(read(tmp_path / "d.ome.tif"), values)


def test_positions_of_micro_manager(tmp_path, values):
    """Each file is complete, and the XML in each names all of them."""
    notes = [ome([(f"pos{n}.ome.tif", 7)]) for n in range(3)]
    for n in range(3):
        write_ome(tmp_path / f"pos{n}.ome.tif", values + n, *notes)
    for n in range(3):
        np.testing.assert_array_equal(read(tmp_path / f"pos{n}.ome.tif"), values + n)


def test_a_volume_spread_over_files_needs_all_of_them(tmp_path, values):
    note = ome([("a.tif", 4), ("b.tif", 3)])
    write_ome(tmp_path / "a.tif", values[:4], note)
    refused(
        tmp_path / "a.tif", r"'b.tif', which contains other planes of its image, is not beside it"
    )
    write_ome(tmp_path / "b.tif", values[4:], note)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), values)
    assert image_files(str(tmp_path / "a.tif"))[1:] == [str(tmp_path / "b.tif")]
    before = image_state(str(tmp_path / "a.tif"))
    write_ome(tmp_path / "b.tif", values[4:] + 1, note)
    os.utime(tmp_path / "b.tif", (1, 1))
    assert image_state(str(tmp_path / "a.tif")) != before
    write_ome(tmp_path / "b.tif", values[4:, :5], note)
    with pytest.raises(VolumeError, match=r"b.tif has pages of"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["/etc/passwd", "../b.tif", "sub/b.tif", "C:b.tif", "..", ""])
def test_companions_lie_beside_their_file(tmp_path, values, name):
    write_ome(tmp_path / "a.tif", values[:4], ome([("a.tif", 4), (name, 3)]))
    refused(tmp_path / "a.tif", "not a file of its own folder|is absent|cannot be read")


def test_metadata_in_a_companion(tmp_path, values):
    only = '<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:a.tif"/>'
    write_ome(tmp_path / "a.tif", values, only, root=' UUID="urn:uuid:a.tif"')
    refused(tmp_path / "a.tif", "its companion 'set.companion.ome' is not beside it")
    text = f"<OME>{ome([('a.tif', 7), ('b.tif', 7)], channels=2)}</OME>"
    (tmp_path / "set.companion.ome").write_text(text)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("stated", [5, 14])
@pytest.mark.parametrize("listed", ["", '<TiffData IFD="0" PlaneCount="{}"/>', "<TiffData/>"])
def test_what_a_file_says_and_what_it_has(tmp_path, values, stated, listed):
    pixels = f'<Pixels SizeC="1" SizeT="1" SizeZ="{stated}">{listed.format(stated)}</Pixels>'
    write_ome(tmp_path / "a.tif", values, f"<Image>{pixels}</Image>")
    refused(tmp_path / "a.tif", f"its metadata state {stated} planes but it has 7")
    note = f"ImageJ=1.54\nimages={stated}\nslices={stated}\n"
    tifffile.imwrite(tmp_path / "b.tif", values, metadata=None, description=note)
    refused(tmp_path / "b.tif", f"its metadata state {stated} planes but it has 7")


OME_TYPES = '<OME><Image><Pixels {}SizeC="1" SizeT="1" SizeZ="7"><TiffData/></Pixels></Image></OME>'
CALIBRATED = "ImageJ=1.54\nimages=7\nslices=7\ncf={}\nc0={}\nc1=1.0\n"


def camera_pages(path, values, axes):
    """Pages as Micro-Manager writes them, each with its place along every axis."""
    with tifffile.TiffWriter(path) as tiff:
        for plane, place in zip(values, axes):
            note = (51123, "s", 0, json.dumps(place), True)
            tiff.write(plane, metadata=None, contiguous=False, extratags=[note])


def index_pages(*names):
    """Places in the words of Micro-Manager 1.4 and 2."""
    return [{name: n // 2 if name == "SliceIndex" else n % 2 for name in names} for n in range(7)]


TIFF_STATEMENTS = {
    "turned": ({"extratags": [(274, "H", 1, 4, True)]}, r"tag Orientation \(274\) is 4"),
    "signed by ImageJ": ({"description": CALIBRATED.format(0, -32768.0)}, "ImageJ calibrates its"),
    "curved by ImageJ": ({"description": CALIBRATED.format(8, 0)}, r"its values \(cf=8, c0=0"),
    "signed by OME": ({"description": OME_TYPES.format('Type="int16" '), "ome": False},
                      "states Type int16 but its pixels are uint16"),
    "turned by OME": ({"description": OME_TYPES.format('SizeX="9" SizeY="8" '), "ome": False},
                      r"states SizeX 9 and SizeY 8 but it has 8 x 9 pixels \(x, y\)"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), TIFF_STATEMENTS.values(), ids=TIFF_STATEMENTS)
def test_statements_of_tiff_that_contradict_its_pixels(tmp_path, values, options, message):
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, **options)
    refused(tmp_path / "a.tif", message)


def test_statements_of_tiff_that_agree_with_its_pixels(tmp_path, values):
    agree = 'Type="uint16" SizeX="8" SizeY="9" '
    for options in (
        {"extratags": [(274, "H", 1, 1, True)]},
        {"description": CALIBRATED.format(0, 0)},
        {"description": OME_TYPES.format(agree), "ome": False},
    ):
        tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, **options)
        np.testing.assert_array_equal(read(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("order", ["zct", "czt"])
def test_the_order_that_imagej_states(tmp_path, values, order):
    """Micro-Manager writes order=zct where one channel follows the other."""
    stack = np.stack([values[:6:2], values[1:6:2]])
    pages = stack if order == "zct" else stack.transpose(1, 0, 2, 3)
    note = f"ImageJ=1.54\nimages=6\nchannels=2\nslices=3\norder={order}\n"
    tifffile.imwrite(tmp_path / "a.tif", pages.reshape(6, 9, 8), metadata=None, description=note)
    for channel in range(2):
        found = read(tmp_path / "a.tif", ImageSettings(SPACING, "RIP", channel))
        np.testing.assert_array_equal(found, stack[channel])


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([{"Axes": {"z": n // 2, "channel": "ab"[n % 2]}} for n in range(7)], "differ in channel,"),
        ([{"Axes": {"z": n, "time": n % 2}} for n in range(7)], "differ in time, not only in z"),
        (index_pages("SliceIndex", "ChannelIndex", "PositionIndex"), "in channel, position, not"),
        ([{"SliceIndex": 6 - n} for n in range(7)], r"numbers its planes 6, 5, .*, not upwards"),
        ([{"SliceIndex": n, "ChannelIndex": 0} for n in range(7)], None),
        ([{"Axes": {"z": 3 * n}} for n in range(7)], None),
        ([[], 1, None, "x", {}, {"Axes": 1}, {"SliceIndex": "x"}], None),
    ],
)  # fmt: skip
def test_pages_of_micro_manager(tmp_path, values, axes, message):
    """A stack of two channels is no volume of twice as many planes."""
    camera_pages(tmp_path / "a.tif", values, axes)
    if message:
        refused(tmp_path / "a.tif", message)
    else:
        np.testing.assert_array_equal(read(tmp_path / "a.tif"), values)


def test_parts_of_a_page_that_were_never_written(tmp_path, values):
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, compression="zlib")
    never_written(tmp_path / "a.tif", 3)
    refused(tmp_path / "a.tif", "1 of the 1 parts of page 3 were never written")


def never_written(path, page):
    """Clear place and size of the pixels of a page, as a writer leaves them that was killed."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for name in ("StripOffsets", "StripByteCounts"):
            tag = tiff.pages[page].tags[name]
            struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.offset + 8, 0)
    path.write_bytes(data)


# ---------------------------------------------------------------------- habits of writers
def habits(path, values):
    """One stack as it is written from Python, in several ways."""
    yield tifffile.imwrite(path, values, imagej=True)  # planes become channels
    path.unlink()
    for plane in values:
        tifffile.imwrite(path, plane, append=True)
    yield
    yield tifffile.imwrite(path, values[:, None])
    yield tifffile.imwrite(path, values[None, :, None])
    yield tifffile.imwrite(path, values[None], metadata={"axes": "QZYX"})
    yield tifffile.imwrite(path, values, metadata={"axes": "TYX"})
    yield tifffile.imwrite(path, values, metadata={"axes": "QYX"})
    yield tifffile.imwrite(path, values, ome=True, metadata={"axes": "TYX"})
    yield tifffile.imwrite(path, values, ome=True, metadata={"axes": "CYX"})
    yield tifffile.imwrite(path, values, compression="zlib", predictor=True)
    yield tifffile.imwrite(path, values, byteorder=">", bigtiff=True, tile=(16, 16))
    yield tifffile.imwrite(path, values, truncate=True)


def test_planes_by_whatever_name(tmp_path, values):
    for _ in habits(tmp_path / "a.tif", values):
        assert read_header(str(tmp_path / "a.tif"), SPACING).shape == SHAPE
        np.testing.assert_array_equal(read(tmp_path / "a.tif"), values)


def test_names_with_signs_and_letters_of_any_kind(tmp_path, values):
    folder = tmp_path / "süß {x} [02 x 00]"
    folder.mkdir()
    for name in ("ein Bild [01]_*.tif", "µ{wildcard}.nii", "b c'.nrrd"):
        image = sitk.GetImageFromArray(values)
        if name.endswith(".tif"):
            tifffile.imwrite(folder / name, values)
        else:
            sitk.WriteImage(image, str(folder / "plain") + Path(name).suffix)
            (folder / f"plain{Path(name).suffix}").rename(folder / name)
        np.testing.assert_array_equal(read(folder / name), values)


def test_pages_that_differ_or_are_inverted(tmp_path, values):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(values[0], metadata=None)
        tiff.write(values[1, :5], metadata=None)
    refused(tmp_path / "a.tif", r"page 1 .* has 5 x 8 pixels of uint16 but page 0 has 9 x 8 pix")
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="miniswhite")
    refused(tmp_path / "b.tif", "has inverted grey values")
    tifffile.imwrite(tmp_path / "c.tif", np.stack([values, values]), metadata={"axes": "TZYX"})
    refused(tmp_path / "c.tif", "contains 2 time points of 7 planes; give one time")


def test_an_imagej_stack_of_a_thousand_million_slices(tmp_path):
    note = "ImageJ=1.54\nimages=1000000000\nslices=1000000000\n"
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((1, 1), np.uint8), metadata=None,
                     description=note)  # fmt: skip
    refused(tmp_path / "a.tif", "1000000000 planes, which are too many")


# ---------------------------------------------------------------------- NRRD
def write_nrrd(path, values, data=None, encoding="raw", **more):
    fields = {"type": "uint16", "dimension": 3, "sizes": "8 9 7", "endian": "little",
              "encoding": encoding} | more  # fmt: skip
    if data is not None:
        fields["data file"] = data
    text = "NRRD0005\n" + "".join(f"{k}: {v}\n" for k, v in fields.items())
    packed = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress,
              "text": lambda b: " ".join(map(str, values.ravel())).encode()}  # fmt: skip
    content = packed[encoding](values.tobytes())
    path.write_bytes(text.encode() + (b"\n" + content if data is None else b""))
    return content


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "text"])
def test_nrrd_of_every_encoding(tmp_path, values, encoding):
    write_nrrd(tmp_path / "a.nrrd", values, encoding=encoding)
    np.testing.assert_array_equal(read(tmp_path / "a.nrrd"), values)
    content = write_nrrd(tmp_path / "b.nhdr", values, "b.raw", encoding)
    (tmp_path / "b.raw").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "b.nhdr"), values)


DIRECTIONS = {"space": "left-posterior-superior", "space units": '"mm" "mm" "mm"',
              "space directions": "(0.03,0,0) (0,0.02,0) (0,0,0.025)"}  # fmt: skip
SHEARED = DIRECTIONS | {"space directions": "(0.03,0,0) (0.01,0.02,0) (0,0,0.025)"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"endian": "BIG?"}, r"states the byte order 'BIG\?' for uint16; write endian: little or"),
        ({"endian": None}, "states no byte order for uint16; add endian: little or endian: big"),
        ({"dimension": "4", "sizes": "8 9 1 7", "kinds": "domain domain domain time"},
         "contains 7 time points; give one time point"),
        ({"sizes ": "8 9 7", "Sizes": "8 9 6"}, "has the field 'sizes' twice, '8 9 7' and '8 9 6'"),
    ],
)  # fmt: skip
def test_nrrd_headers_that_are_not_clear(tmp_path, values, more, message):
    write_nrrd(tmp_path / "a.nrrd", values, **more)
    text = (tmp_path / "a.nrrd").read_bytes().replace(b"endian: None\n", b"")
    (tmp_path / "a.nrrd").write_bytes(text)
    refused(tmp_path / "a.nrrd", message)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (DIRECTIONS | {"spacings": "1 1 1"}, r"give voxels of \(0.025, 0.02, 0.03\) but its spa"),
        (SHEARED, "its axes are sheared by 26.6 degrees"),
        ({"spacings": "30 20 25", "units": '"um" "mm" "um"'}, "have different units, mm, um"),
        (DIRECTIONS | {"spacings": "nan nan nan"}, None),
        (DIRECTIONS | {"spacings": "0.03 0.02 0.025"}, None),
        ({"spacings": "30 20 25", "units": '"\u03bcm" "\u03bcm" "\u03bcm"'}, None),
    ],
)
def test_nrrd_grids_that_contradict_themselves(tmp_path, values, more, message):
    path = tmp_path / "a.nrrd"
    write_nrrd(path, values, **more)
    if message is None:
        assert read_header(str(path)).spacing_um == SPACING
        return
    with pytest.raises(ConfigError, match=rf"contradicts itself: .*{message}.*; set input.spacing"):
        read_header(str(path))
    assert read_header(str(path), SPACING).spacing_um == SPACING
    np.testing.assert_array_equal(read(path), values)


def test_nrrd_equals_what_itk_reads(tmp_path):
    rng = np.random.default_rng(0)
    for dtype in ("uint8", "int16", "uint32", "float32", "float64"):
        array = (rng.random(SHAPE) * 100).astype(dtype)
        for compressed in (True, False):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"), compressed)
            expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nrrd")))
            np.testing.assert_array_equal(read(tmp_path / "a.nrrd"), expected)
    vectors = rng.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / "v.nrrd"))
    for channel in range(3):
        found = read(tmp_path / "v.nrrd", ImageSettings(SPACING, "RIP", channel))
        np.testing.assert_array_equal(found, vectors[..., channel])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "/dev/zero", "../b.raw", "..\\b.raw", "~/b.raw", "C:\\b.raw",
             "LIST\n/etc/passwd", "/etc/%d 1 7 1"],
)  # fmt: skip
def test_the_data_of_a_header_lie_in_its_folder(tmp_path, values, name):
    write_nrrd(tmp_path / "a.nhdr", values, name)
    refused(tmp_path / "a.nhdr", "not in its folder; put the data beside")


def test_detached_data_are_required_counted_and_a_file(tmp_path, values):
    content = write_nrrd(tmp_path / "a.nhdr", values, "a.raw")
    refused(tmp_path / "a.nhdr", "its data file 'a.raw' is not beside it")
    (tmp_path / "a.raw").symlink_to("/dev/zero")
    refused(tmp_path / "a.nhdr", "its data file 'a.raw' is not beside it")
    (tmp_path / "a.raw").unlink()
    (tmp_path / "a.raw").write_bytes(content)
    assert data_files(str(tmp_path / "a.nhdr")) == [str(tmp_path / "a.raw")]
    assert image_files(str(tmp_path / "a.nhdr"))[1:] == [str(tmp_path / "a.raw")]
    before = image_state(str(tmp_path / "a.nhdr"))
    (tmp_path / "a.raw").write_bytes(content[::-1])
    os.utime(tmp_path / "a.raw", (1, 1))
    assert image_state(str(tmp_path / "a.nhdr")) != before
    (tmp_path / "a.raw").write_bytes(content[:-10])
    refused(tmp_path / "a.nhdr", "need 1008 bytes but it has 998")
    plane = len(content) // 7
    for n in range(7):
        (tmp_path / f"p{n:02d}.raw").write_bytes(content[n * plane : (n + 1) * plane])
    write_nrrd(tmp_path / "b.nhdr", values, "p%02d.raw 0 6 1")
    np.testing.assert_array_equal(read(tmp_path / "b.nhdr"), values)
    write_nrrd(tmp_path / "c.nhdr", values, "LIST\n" + "\n".join(f"p{n:02d}.raw" for n in range(7)))
    np.testing.assert_array_equal(read(tmp_path / "c.nhdr"), values)


def test_meta_image_follows_no_other_file(tmp_path, values):
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.mhd"))
    assert data_files(str(tmp_path / "a.mhd")) == [str(tmp_path / "a.raw")]
    np.testing.assert_array_equal(read(tmp_path / "a.mhd"), values)
    text = (tmp_path / "a.mhd").read_text()
    for name in ("/etc/passwd", "../a.raw", "LIST", "a%d.raw 1 3 1"):
        (tmp_path / "a.mhd").write_text(text.replace("a.raw", name))
        with pytest.raises(VolumeError, match=r"not a file of its own folder|into one file"):
            open_image(str(tmp_path / "a.mhd"), KNOWN)


def write_meta(path, values, **more):
    fields = {"ObjectType": "Image", "NDims": 3, "BinaryData": True, "CompressedData": False,
              "ElementSpacing": "30 20 25", "DimSize": "8 9 7",
              "ElementType": "MET_USHORT"}  # fmt: skip
    text = "".join(f"{k} = {v}\n" for k, v in (fields | more).items() if v is not None)
    path.write_bytes(f"{text}ElementDataFile = LOCAL\n".encode() + values.tobytes())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"DimSize": "8 9 6"}, r"its sizes \(8, 9, 6\) need 864 bytes but it has 1008"),
        ({"DimSize": "8 9 8"}, r"its sizes \(8, 9, 8\) need 1152 bytes but it has 1008"),
        ({"dimsize": "8 9 6"}, "has the field 'dimsize' twice"),
        ({"TransformMatrix": "1 0.5 0 0 1 0 0 0 1"}, "its axes are sheared by 26.6 degrees"),
        ({"ElementSpacing": "1 1 1"}, "may be millimetres or micrometres; set"),
        ({"ElementSpacing": None}, "may be millimetres or micrometres; set"),
        ({"ElementSpacing": ".03 .02 .025"}, None),
        ({}, None),
    ],
)
def test_meta_images_follow_the_rules_of_the_others(tmp_path, values, more, message):
    """The unit by magnitude, no sheared axes, and no plane that its sizes leave out."""
    write_meta(tmp_path / "a.mha", values, **more)
    if message is None:
        image = open_image(str(tmp_path / "a.mha"), ImageSettings(orientation="SPL"))
        assert image.frame.spacing_um == SPACING
        np.testing.assert_array_equal(image.read(0), values)
        return
    with pytest.raises((VolumeError, ConfigError), match=message):
        open_image(str(tmp_path / "a.mha"), ImageSettings(orientation="SPL"))


# ---------------------------------------------------------------------- NIfTI
def write_nifti(path, values, *patches):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.03, 0.02, 0.025))
    sitk.WriteImage(image, str(path))
    data = bytearray(path.read_bytes())
    for offset, form, *numbers in patches:
        struct.pack_into(form, data, offset, *numbers)
    path.write_bytes(data)


SFORM = tuple(280 + 16 * i for i in range(3))


def test_the_sform_wins_and_what_contradicts_it_is_an_error(tmp_path, values):
    path = tmp_path / "a.nii"
    write_nifti(path, values)
    assert read_header(str(path)).spacing_um == SPACING
    # pixdim says a millimetre, the sform what is right
    write_nifti(path, values, (80, "<3f", 1, 1, 1))
    message = r"its sform gives voxels of \(0.025, 0.02, 0.03\) but its pixdim \(1, 1, 1\)"
    with pytest.raises(ConfigError, match=message):
        read_header(str(path))
    # left and right are exchanged between the two forms
    row = struct.unpack_from("<4f", path.read_bytes(), 280)
    write_nifti(path, values, (280, "<4f", *(-v for v in row)))
    with pytest.raises(ConfigError, match=r"its sform gives the axes z, y, x as S.[RL] but its"):
        read_header(str(path))
    # what the user states overrules both
    header = read_header(str(path), SPACING)
    assert (header.spacing_um, header.orientation) == (SPACING, None)
    np.testing.assert_array_equal(read(path), values)
    # without codes, pixdim is all there is, and says nothing of the orientation
    write_nifti(path, values, (252, "<2h", 0, 0), (80, "<3f", 0.04, 0.04, 0.04), (123, "<B", 2))
    header = read_header(str(path))
    assert (header.spacing_um, header.orientation) == ((40, 40, 40), None)
    # the qform alone has the voxel size of pixdim
    write_nifti(path, values, (254, "<h", 0), (80, "<3f", 0.04, 0.04, 0.04))
    assert read_header(str(path)).spacing_um == (40, 40, 40)


def test_a_sheared_header_is_refused_unless_the_user_states_the_grid(tmp_path, values):
    path = tmp_path / "a.nii"
    matrix = [(0.03, 0.01, 0, 0), (0, 0.02, 0, 0), (0, 0, 0.025, 0)]
    sizes = np.linalg.norm(np.array(matrix)[:, :3], axis=0)
    patches = [(place, "<4f", *row) for place, row in zip(SFORM, matrix)]
    write_nifti(path, values, (252, "<2h", 0, 1), (80, "<3f", *sizes), *patches)
    with pytest.raises(ConfigError, match=r"its axes are sheared by 26.6 degrees"):
        read_header(str(path))
    np.testing.assert_array_equal(read(path), values)
    assert read_header(str(path), SPACING).spacing_um == SPACING


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((108, "<f", float("inf")), "begin at byte inf"),
        ((108, "<f", float("nan")), "begin at byte nan"),
        ((108, "<f", -100.0), "begin at byte -100"),
        ((42, "<3h", 32767, 32767, 32767), r"need \d+ bytes, too many for a file"),
        ((42, "<3h", 8, 9, 5), r"its sizes \(8, 9, 5\) need 1072 bytes but it has 1360"),
        ((42, "<3h", 8, 9, -7), "its sizes are"),
        ((40, "<h", 9), "cannot be read as NIfTI"),
        ((112, "<2f", 2.0, float("nan")), r"scaled by 2 \+ nan"),
        ((70, "<h", 1792), "voxel type 1792"),
        ((344, "<4s", b""), "its header is that of Analyze, not of a NIfTI-1 file"),
        ((344, "<4s", b"ni1"), r"its header is of the kind b'ni1', not of a NIfTI-1 file that con"),
    ],
)
def test_headers_that_cannot_be(tmp_path, values, patch, message):
    write_nifti(tmp_path / "a.nii", values, patch)
    refused(tmp_path / "a.nii", message)


@pytest.mark.slow
def test_zeros_without_end_behind_the_voxels(tmp_path, values):
    write_nifti(tmp_path / "a.nii", values)
    data = (tmp_path / "a.nii").read_bytes()
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    with open(tmp_path / "bomb.nii.gz", "wb") as stream:
        stream.write(deflate.compress(data))
        for _ in range(2**8):
            stream.write(deflate.compress(bytes(2**20)))
        stream.write(deflate.flush())
    with pytest.raises(VolumeError, match="more than the 1008 bytes of voxels that its sizes need"):
        read(tmp_path / "bomb.nii.gz")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.tif"])
def test_a_pipe_or_a_device_in_place_of_a_file(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "is not a file; correct the path")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refused(tmp_path / name, "is not a file; correct the path")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    refused(tmp_path / name, "is not a file; correct the path")


def test_a_compressed_chunk_without_end(tmp_path, values):
    write_precomputed(tmp_path / "p", values, suffix=".gz", pack=gzip.compress)
    next((tmp_path / "p").glob("25*/*")).write_bytes(gzip.compress(bytes(2**26)))
    with pytest.raises(VolumeError, match="larger than its metadata say"):
        read(tmp_path / "p")


def test_not_one_number(tmp_path):
    write_nifti(tmp_path / "a.nii", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(VolumeError, match="all of its voxels are NaN"):
        read(tmp_path / "a.nii")


# ---------------------------------------------------------------------- sizes that cannot be
@pytest.mark.parametrize("form", ["nifti", "nrrd", "ome-zarr", "precomputed"])
@pytest.mark.parametrize("spacing_um", [25_000.0, 0.02])
def test_one_rule_for_the_voxels_of_all_forms(tmp_path, values, form, spacing_um):
    address = written(tmp_path, values, form, spacing_um)
    with pytest.raises(ConfigError, match=r"which is implausible .*set input.spacing_um"):
        read_header(address)
    assert read_header(address, SPACING).spacing_um == SPACING


def written(folder, values, form, spacing_um):
    if form == "nifti":
        write_nifti(folder / "a.nii", values, (252, "<2h", 0, 0), (123, "<B", 3),
                    (80, "<3f", *[spacing_um] * 3))  # fmt: skip
        return str(folder / "a.nii")
    if form == "nrrd":
        write_nrrd(folder / "a.nrrd", values, spacings=" ".join([f"{spacing_um}"] * 3),
                   units='"um" "um" "um"')  # fmt: skip
        return str(folder / "a.nrrd")
    if form == "ome-zarr":
        write_zarr(folder / "a.zarr", values, scale=[spacing_um] * 3)
        return str(folder / "a.zarr")
    write_precomputed(folder / "p", values, resolution=[spacing_um * 1000] * 3)
    return str(folder / "p")


def test_a_zarr_without_a_unit_is_asked_for_its_voxel_size(tmp_path, values):
    write_zarr(tmp_path / "a.zarr", values, unit=None)
    with pytest.raises(ConfigError, match="states no voxel size; set input"):
        read_header(str(tmp_path / "a.zarr"))
    with pytest.raises(ConfigError, match="states no voxel size"):
        open_image(str(tmp_path / "a.zarr"), ImageSettings(orientation="RIP"))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), values)


def test_a_sample_of_eight_metres(tmp_path):
    sample, atlas = ((100, 100, 100), (100.0,) * 3), ((528, 320, 456), (25.0,) * 3)
    check_extents(sample, atlas, ("s", "a"))
    for factor in (1e3, 1e-3):
        other = sample[0], tuple(s * factor for s in sample[1])
        with pytest.raises(ConfigError, match=r"sample s is .* mm long but atlas a 13.2 mm"):
            check_extents(other, atlas, ("s", "a"))
    with pytest.raises(ConfigError, match="would be 1 m long"):
        write_zarr(tmp_path / "a.zarr", np.ones((4, 4, 4), np.uint8), shape=(10**6, 10**6, 10**6),
                   chunk=(64, 64, 64), scale=[1, 1, 1])  # fmt: skip
        read_header(str(tmp_path / "a.zarr"))


# ---------------------------------------------------------------------- absent is not zero
def write_zarr(folder, values, *, unit="micrometer", scale=SPACING, shape=None, chunk=None):
    """OME-Zarr 0.4 with chunks of 4 x 4 x 4 and nested names."""
    chunk = chunk or (4, 4, 4)
    (folder / "0").mkdir(parents=True)
    more = {} if unit is None else {"unit": unit}
    axes = [{"name": a, "type": "space", **more} for a in "zyx"]
    steps = [{"type": "scale", "scale": list(scale)}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    array = {"zarr_format": 2, "shape": list(shape or values.shape), "chunks": list(chunk),
             "dtype": values.dtype.str, "compressor": None, "fill_value": 0, "order": "C",
             "filters": None, "dimension_separator": "/"}  # fmt: skip
    (folder / "0/.zarray").write_text(json.dumps(array))
    for index in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunk))):
        part = np.zeros(chunk, values.dtype)
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk))
        found = values[box]
        part[tuple(map(slice, found.shape))] = found
        path = folder / "0" / "/".join(map(str, index))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part.tobytes())


def write_precomputed(folder, values, resolution=(30000, 20000, 25000), suffix="", pack=bytes):
    """Raw precomputed volume with chunks of 4 x 4 x 4."""
    key, offset = "25_20_30", (3, 2, 1)
    size = values.shape[::-1]
    scale = {"key": key, "size": size, "chunk_sizes": [[4, 4, 4]], "encoding": "raw",
             "resolution": list(resolution), "voxel_offset": offset}  # fmt: skip
    info = {"type": "image", "data_type": values.dtype.name, "num_channels": 1, "scales": [scale]}
    (folder / key).mkdir(parents=True)
    (folder / "info").write_text(json.dumps(info))
    for index in np.ndindex(*(-(-n // 4) for n in size)):
        low = [4 * i for i in index]
        high = [min(4 * i + 4, n) for i, n in zip(index, size)]
        part = values[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        name = "_".join(f"{a + o}-{b + o}" for a, b, o in zip(low, high, offset))
        (folder / key / f"{name}{suffix}").write_bytes(pack(part.tobytes()))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".br", None), (".zstd", None)],
)
def test_chunks_with_an_ending(tmp_path, values, suffix, pack):
    """cloud-volume writes NAME.gz to disks; read under its own name only, a volume is black."""
    pack = pack or {".br": imagecodecs.brotli_encode, ".zstd": imagecodecs.zstd_encode}[suffix]
    write_precomputed(tmp_path / "p", values, suffix=suffix, pack=pack)
    np.testing.assert_array_equal(read(tmp_path / "p"), values)
    image = open_image(str(tmp_path / "p"), KNOWN)
    np.testing.assert_array_equal(image.read(0, (3, 2, 1), (6, 9, 7)), values[3:6, 2:9, 1:7])
    header = read_header(str(tmp_path / "p"))
    assert (header.spacing_um, check_whole(header)) == (SPACING, 0)
    next((tmp_path / "p").glob("25*/*")).unlink()
    with pytest.raises(VolumeError, match=r"has 11 of 12 chunks .* set fill_missing: true"):
        check_whole(header)


@pytest.mark.parametrize(
    "change", [{"voxel_offset": [7, 2, 1]}, {"size": [8, 9, 6]}, {"chunk_sizes": [[8, 4, 4]]}]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_chunks_that_the_metadata_do_not_name(tmp_path, values, change, suffix):
    """Counted alone, they stand for those that are absent, which fill_missing makes black."""
    write_precomputed(
        tmp_path / "p", values, suffix=suffix, pack=gzip.compress if suffix else bytes
    )
    assert check_whole(read_header(str(tmp_path / "p"))) == 0
    info = json.loads((tmp_path / "p/info").read_text())
    info["scales"][0] |= change
    (tmp_path / "p/info").write_text(json.dumps(info))
    header = read_header(str(tmp_path / "p"))
    for fill_missing in (False, True):
        with pytest.raises(VolumeError, match=r"has chunks such as \d.*, which is none of the \d+"):
            check_whole(header, fill_missing=fill_missing)


@pytest.mark.parametrize("change", [{"size": [9, 9, 7]}, {"size": [9, 5, 7]}])
def test_chunks_in_shards_that_the_metadata_do_not_name(tmp_path, values, change):
    write_with_tensorstore(tmp_path / "p", values, "gzip")
    assert check_whole(read_header(str(tmp_path / "p"))) == 0
    info = json.loads((tmp_path / "p/info").read_text())
    info["scales"][0] |= change
    (tmp_path / "p/info").write_text(json.dumps(info))
    header = read_header(str(tmp_path / "p"))
    with pytest.raises(VolumeError, match=r"has \d+ chunks in its shards that are none of the \d+"):
        check_whole(header)


def test_chunks_beyond_an_array_that_was_made_smaller_do_not_count(tmp_path, values):
    write_zarr(tmp_path / "a.zarr", values)
    file = tmp_path / "a.zarr/0/.zarray"
    file.write_text(file.read_text().replace("[7, 9, 8]", "[4, 9, 8]"))
    header = read_header(str(tmp_path / "a.zarr"))
    assert check_whole(header) == 0
    (tmp_path / "a.zarr/0/0/0/0").unlink()
    assert check_whole(header) == 1


@pytest.mark.parametrize("shards", [None, "raw", "gzip"])
def test_a_chunk_that_is_absent_is_no_zero(tmp_path, values, shards):
    """Tensorstore leaves out chunks of zeros, and reads chunks that are lost as zeros."""
    path, lacking = tmp_path / "p", values.copy()
    lacking[:4, 4:8, :4] = 0
    write_with_tensorstore(path, lacking, shards)
    header = read_header(str(path))
    name = re.escape("0-4_4-8_0-4")
    with pytest.raises(VolumeError, match=rf"has 11 of 12 chunks .*{name}\), .*fill_missing: true"):
        check_whole(header)
    assert check_whole(header, fill_missing=True) == 1
    image = open_image(str(path), KNOWN)
    np.testing.assert_array_equal(image.read(0, (4, 0, 0), SHAPE), lacking[4:])
    with pytest.raises(VolumeError, match=rf"{name} .*; copy it again, or set fill_missing"):
        image.read(0, (3, 3, 3), (5, 5, 5))
    filled = open_image(str(path), ImageSettings(SPACING, "RIP", fill_missing=True))
    np.testing.assert_array_equal(filled.read(0), lacking)
    with pytest.raises(VolumeError, match="fill_missing"):
        open_volume(str(path)).numpy(np.s_[:5])
    assert (open_volume(str(path), fill_missing=True).numpy(np.s_[:5]) == lacking[:5]).all()


def write_with_tensorstore(path, values, shards):
    scale = {"size": values.shape[::-1], "chunk_size": [4, 4, 4], "encoding": "raw",
             "resolution": [30000, 20000, 25000]}  # fmt: skip
    if shards:
        scale["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1", "hash": "murmurhash3_x86_128",
            "preshift_bits": 1, "minishard_bits": 1, "shard_bits": 1,
            "minishard_index_encoding": shards, "data_encoding": shards,
        }  # fmt: skip
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "create": True,
        "multiscale_metadata": {"type": "image", "data_type": values.dtype.name, "num_channels": 1},
        "scale_metadata": scale,
    }  # fmt: skip
    with ts.Transaction() as transaction:
        ts.open(spec).result().with_transaction(transaction)[..., 0] = values.transpose(2, 1, 0)


@pytest.mark.parametrize(
    ("dtype", "sharded"), [("uint8", True), ("float32", False), ("uint64", False)]
)
def test_uncompressed_chunks_of_two_channels(tmp_path, dtype, sharded):
    """They are copied without tensorstore, which wrote them."""
    values = np.random.default_rng(0).integers(0, 250, (2, 9, 10, 11)).astype(dtype)
    scale = {"size": [11, 10, 9], "chunk_size": [4, 3, 5], "encoding": "raw",
             "resolution": [1000] * 3, "voxel_offset": [2, -3, 7]}  # fmt: skip
    if sharded:
        scale["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "preshift_bits": 1,
            "minishard_bits": 1, "shard_bits": 3, "data_encoding": "gzip",
        }  # fmt: skip
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{tmp_path}/", "create": True,
        "multiscale_metadata": {"type": "image", "data_type": dtype, "num_channels": 2},
        "scale_metadata": scale,
    }  # fmt: skip
    with ts.Transaction() as transaction:
        array = ts.open(spec).result().with_transaction(transaction)
        array[ts.d[:3].translate_to[0]] = values.transpose(3, 2, 1, 0)
    for channel in (0, 1):
        image = open_image(str(tmp_path), ImageSettings((1.0, 1.0, 1.0), "RIP", channel))
        for start, stop in (
            ((0, 0, 0), (9, 10, 11)),
            ((4, 2, 3), (6, 7, 9)),
            ((8, 9, 10), (9, 10, 11)),
        ):
            box = tuple(map(slice, start, stop))
            found = image.read(0, start, stop)
            assert found.dtype == dtype and (found == values[channel][box]).all()
    if not sharded:
        chunk = next(path for path in tmp_path.rglob("*_*") if path.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-1])
        with pytest.raises(VolumeError, match=r"chunk .* has \d+ bytes instead of \d+"):
            image.read(0)


@pytest.mark.parametrize("stated", [".", "/"])
def test_zarr_chunks_with_another_separator(tmp_path, values, stated):
    write_zarr(tmp_path / "a.zarr", values)
    path = tmp_path / "a.zarr/0/.zarray"
    path.write_text(path.read_text().replace('"/"', f'"{stated}"'))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), values)
    box = (1, 2, 3), (6, 9, 7)
    found = open_image(str(tmp_path / "a.zarr"), KNOWN).read(0, *box)
    np.testing.assert_array_equal(found, values[1:6, 2:9, 3:7])


def test_an_absent_chunk_of_zarr_is_fill_and_counted(tmp_path, values):
    write_zarr(tmp_path / "a.zarr", values)
    header = read_header(str(tmp_path / "a.zarr"))
    assert check_whole(header) == 0
    (tmp_path / "a.zarr/0/0/0/0").unlink()
    assert check_whole(header) == 1
    expected = values.copy()
    expected[:4, :4, :4] = 0
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), expected)


@pytest.mark.parametrize("make", [write_zarr, write_precomputed])
def test_a_volume_of_which_nothing_is_there(tmp_path, values, make):
    make(tmp_path / "a", values)
    for path in [p for p in (tmp_path / "a").glob("*/**/*") if p.is_file()]:
        if path.name != ".zarray":
            path.rename(path.with_name(f"lost_{path.name}"))
    with pytest.raises(VolumeError, match=r"has no chunk under .*where its voxels are"):
        read_header(str(tmp_path / "a"))


@pytest.mark.parametrize("form", ["ome-zarr", "precomputed"])
def test_an_object_that_own_records_name(tmp_path, values, form):
    plan = make_plan("v", Frame(SHAPE, SPACING, orientation="RIP"), "uint16",
                     VolumeSettings(chunk=4, block=8, formats=(form,)))  # fmt: skip
    store = Store(str(tmp_path))
    init_volume(store, "v", plan)
    write_blocks(
        store, "v", plan, plan.blocks(),
        lambda b: (values[tuple(slice(i, j) for i, j in zip(b.start, b.stop))].copy(), Clipped()),
        fingerprint="f",
    )  # fmt: skip
    folder = tmp_path / "v" / {"ome-zarr": "ome.zarr", "precomputed": "precomputed"}[form]
    header = read_header(str(folder))
    assert check_whole(header) == 0
    objects = [p for p in folder.glob("*/**/*") if p.is_file() and p.suffix != ".json"]
    objects[0].unlink()
    with pytest.raises(VolumeError, match="is missing or has changed since it was written"):
        check_whole(header)


def test_chunks_that_no_memory_holds(tmp_path, values):
    write_zarr(tmp_path / "a.zarr", values, chunk=(8, 16, 8))
    path = tmp_path / "a.zarr/0/.zarray"
    path.write_text(path.read_text().replace("[8, 16, 8]", "[4096, 4096, 4096]"))
    refused(tmp_path / "a.zarr", "chunks of 4096 x 4096 x 4096 voxels in 0 are too large")


@pytest.mark.parametrize("name", [".zattrs", "0/.zarray", "info"])
@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1", '"x"', '{"a":' * 5000, "", "\0"])
def test_metadata_that_are_none(tmp_path, values, name, text):
    (write_precomputed if name == "info" else write_zarr)(tmp_path / "a", values)
    (tmp_path / "a" / name).write_text(text)
    refused(tmp_path / "a", "a")


def test_times_are_not_dropped(tmp_path, values):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=np.stack([values, values]), chunks=(1, *SHAPE))
    axes = [{"name": a, "unit": "micrometer"} for a in "tzyx"]
    steps = [{"type": "scale", "scale": [1, *SPACING]}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    group.attrs["multiscales"] = [image]
    with pytest.raises(VolumeError, match="contains 2 time points; give one volume"):
        read_header(str(tmp_path / "a.zarr"))


# ---------------------------------------------------------------------- levels, axes, codecs
def write_levels(folder, values, scales, *, axes="zyx", types=()):
    """OME-Zarr 0.4 with a level for each scale, of every second voxel of the one before."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    listed = []
    for level, scale in enumerate(scales):
        part = (slice(None),) * (len(axes) - 3) + (slice(None, None, 2**level),) * 3
        group.create_array(str(level), data=values[part], chunks=(4,) * len(axes))
        steps = [{"type": "scale", "scale": [1] * (len(axes) - 3) + [scale] * 3}] if scale else []
        listed.append({"path": str(level), "coordinateTransformations": steps})
    described = [
        {"name": a, "type": "space", "unit": "micrometer"} if a in "zyx" else {"name": a, "type": t}
        for a, t in zip(axes, [*types, "", "", ""])
    ]
    group.attrs["multiscales"] = [{"axes": described, "datasets": listed}]


LEVELS = np.arange(16**3, dtype=np.uint16).reshape(16, 16, 16)


@pytest.mark.parametrize("scales", [(10, 20, 40), (10, 0, 0)])
def test_levels_cover_the_same_field_of_view(tmp_path, scales):
    write_levels(tmp_path / "a.zarr", LEVELS, scales)
    image = open_image(str(tmp_path / "a.zarr"), ImageSettings(orientation="RIP"))
    assert [f.spacing_um[0] for f in image.frames] == [10, 20, 40]
    assert {f.extent_um for f in image.frames} == {(160.0,) * 3}


@pytest.mark.parametrize("scales", [(10, 10, 10), (10, 40, 160), (10, 20, 20)])
def test_levels_whose_sizes_contradict_their_voxels(tmp_path, scales):
    """One voxel size for all levels: a coarse level then is a part of the brain."""
    write_levels(tmp_path / "a.zarr", LEVELS, scales)
    message = r"states for level \d voxels .* times as large .* correct the metadata, or set"
    with pytest.raises(VolumeError, match=message):
        open_image(str(tmp_path / "a.zarr"), ImageSettings(orientation="RIP"))
    image = open_image(str(tmp_path / "a.zarr"), ImageSettings((10.0,) * 3, "RIP"))
    assert [f.spacing_um[0] for f in image.frames] == [10, 20, 40]


def test_levels_of_precomputed_volumes_by_the_same_rule(tmp_path, values):
    write_precomputed(tmp_path / "p", values)
    info = json.loads((tmp_path / "p/info").read_text())
    first = info["scales"][0]
    coarse = first | {"key": "c", "resolution": [60000, 40000, 25000], "size": [4, 5, 4]}
    (tmp_path / "p/info").write_text(json.dumps(info | {"scales": [first, coarse]}))
    with pytest.raises(VolumeError, match="states for level 1 voxels 1 x 2 x 2 times as large"):
        open_image(str(tmp_path / "p"), ImageSettings(orientation="RIP"))


@pytest.mark.parametrize("make", ["ome-zarr", "precomputed"])
def test_levels_are_listed_from_fine_to_coarse(tmp_path, values, make):
    if make == "ome-zarr":
        write_levels(tmp_path / "a", LEVELS, (40, 20, 10))
    else:
        write_precomputed(tmp_path / "a", values)
        info = json.loads((tmp_path / "a/info").read_text())
        finer = info["scales"][0] | {"resolution": [15000, 10000, 12500], "key": "f"}
        info["scales"].append(finer)
        (tmp_path / "a/info").write_text(json.dumps(info))
    with pytest.raises(VolumeError, match=r"smaller voxels than for level 0.*from fine to coarse"):
        read_header(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [
        ("Micrometre", 25, 25),
        ("millimetres", 0.025, 25),
        ("inch", 0.001, 25.4),
        ("parsec", 25, r"states its voxel size in 'parsec'; set input.spacing_um"),
        (None, 25, r"states no voxel size; set input.spacing_um"),
        ("micrometer", -25, r"states voxels of \(-25, 25, 25\) for level 0; correct its metadata"),
        ("micrometer", 0, r"states voxels of \(0, 25, 25\) for level 0; correct its metadata"),
    ],
)
def test_units_and_sizes_of_ome_zarr(tmp_path, values, unit, scale, expected):
    write_zarr(tmp_path / "a", values)
    image = json.loads((tmp_path / "a/.zattrs").read_text())["multiscales"][0]
    rest = 25 if scale <= 0 else scale
    image["axes"] = [{"name": n, "type": "space", "unit": unit} for n in "zyx"]
    transform = {"type": "scale", "scale": [scale, rest, rest]}
    image["datasets"][0]["coordinateTransformations"] = [transform]
    (tmp_path / "a/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    if isinstance(expected, str):
        with pytest.raises((VolumeError, ConfigError), match=expected):
            read_header(str(tmp_path / "a"))
    else:
        assert read_header(str(tmp_path / "a")).spacing_um == pytest.approx([expected] * 3)


@pytest.mark.parametrize("name", ["c", "channel", "Channels", "wavelength"])
def test_channels_by_whatever_name(tmp_path, values, name):
    write_levels(
        tmp_path / "a", np.stack([values, values + 1]), (25,), axes=[name, *"zyx"],
        types=["channel"],
    )  # fmt: skip
    assert read_header(str(tmp_path / "a")).channels == 2
    for channel in range(2):
        found = read(tmp_path / "a", ImageSettings(SPACING, "RIP", channel))
        np.testing.assert_array_equal(found, values + channel)


@pytest.mark.parametrize(("kind", "message"), [("time", "2 time points"), ("", "axis 'angle'")])
def test_other_axes_are_not_dropped(tmp_path, values, kind, message):
    stack = np.stack([values, values])
    write_levels(tmp_path / "a", stack, (25,), axes=["angle", *"zyx"], types=[kind])
    refused(tmp_path / "a", message)
    write_levels(tmp_path / "b", stack[:1], (25,), axes=["angle", *"zyx"], types=[kind])
    np.testing.assert_array_equal(read(tmp_path / "b"), values)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (write_zarr, {"filters": [{"id": "delta"}]}, "have filters 'delta', .* without filters"),
        (write_zarr, {"compressor": {"id": "lz4"}}, "have the compressor 'lz4', .* one of blosc"),
        (write_precomputed, {"encoding": "fpzip"}, "have the encoding 'fpzip'; write it with one"),
    ],
)
def test_codecs_that_are_not_known_are_named_at_once(tmp_path, values, make, change, message):
    make(tmp_path / "a", values)
    path = tmp_path / "a" / ("0/.zarray" if make is write_zarr else "info")
    content = json.loads(path.read_text())
    content.get("scales", [content])[0].update(change)
    path.write_text(json.dumps(content))
    refused(tmp_path / "a", message)


# ---------------------------------------------------------------------- whatever happens to a file
def make_image(folder, name):
    values = (np.arange(np.prod(SHAPE)).reshape(SHAPE) + 1).astype(np.uint16)
    path = folder / name
    if name == "ome.tif":
        tifffile.imwrite(path, values, ome=True, metadata={"axes": "ZYX"})
    elif name == "imagej.tif":
        tifffile.imwrite(path, values, imagej=True, metadata={"axes": "ZYX"})
    elif name == "zlib.tif":
        tifffile.imwrite(path, values, compression="zlib", bigtiff=True)
    elif name == "text.nrrd":
        write_nrrd(path, values, encoding="text")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path), name.endswith("gz.nrrd"))
    return path.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["a.nii", "a.nii.gz", "a.nrrd", "gz.nrrd", "text.nrrd", "a.mha", "ome.tif", "imagej.tif",
     "zlib.tif"],
)  # fmt: skip
@QUICK
@given(data=st.data())
def test_spoiled_images_are_read_or_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(spoiled(make_image(tmp_path, name), data.draw))
    for look in (
        lambda: read_header(str(tmp_path / name), SPACING),
        lambda: read_header(str(tmp_path / name)),
        lambda: read(tmp_path / name),
        lambda: name == "a.mha" or list(image_planes(str(tmp_path / name), [0, SHAPE[0] - 1])),
    ):
        try:
            look()
        except TeraregError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000


# a gigabyte and more, in members that follow each other
ZEROS = bytes(2**26)
LONG = (20 if PROFILE == "explore" else 1) * 2**20


@functools.cache
def bomb(pack=gzip.compress):
    return pack(ZEROS) * 20


@functools.cache
def packed_zeros():
    """The same in one stream."""
    pack = zlib.compressobj(wbits=31)
    return b"".join(pack.compress(ZEROS) for _ in range(20)) + pack.flush()


def bomb_behind_nifti(path, values):
    write_nifti(path.with_name("a.nii"), values)
    path.write_bytes(gzip.compress(path.with_name("a.nii").read_bytes()) + bomb())


def bomb_for_nrrd(path, values):
    write_nrrd(path, values, "a.raw", "gzip")
    path.with_name("a.raw").write_bytes(bomb())


def bomb_for_nrrd_of_bzip2(path, values):
    write_nrrd(path, values, "a.raw", "bzip2")
    path.with_name("a.raw").write_bytes(bomb(bz2.compress))


def large_nifti(path, values):
    write_nifti(path.with_name("a.nii"), values, (42, "<3h", 1500, 1500, 1500))
    path.write_bytes(gzip.compress(path.with_name("a.nii").read_bytes()))


def large_nrrd(path, values):
    write_nrrd(path, values, encoding="gzip", sizes="1500 1500 1500")


def large_meta_image(path, values):
    text = "ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = 1500 1500 1500\n"
    text += "ElementType = MET_USHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(text.encode() + zlib.compress(values.tobytes()))


def numbers_behind_nrrd(path, values):
    write_nrrd(path, values, encoding="text")
    path.write_bytes(path.read_bytes() + b" 1" * LONG)


def one_number_behind_nrrd(path, values):
    write_nrrd(path, values, encoding="text")
    path.write_bytes(path.read_bytes() + b"1" * LONG)


def many_keys_of_nrrd(path, values):
    write_nrrd(path, values)
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + b"a:=b\n" * LONG + rest)


def patched_tiff(path, values, **tags):
    """Pages whose entries of some tags hold other numbers."""
    tifffile.imwrite(path, values, compression="zlib", metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            for name, number in tags.items():
                tag = page.tags[name]
                form = "<H" if tag.dtype == tifffile.DATATYPE.SHORT else "<I"
                struct.pack_into(form, data, tag.offset + 8, number)
    return data


def large_tiff(path, values):
    sizes = {"ImageWidth": 40000, "ImageLength": 40000, "RowsPerStrip": 40000}
    path.write_bytes(patched_tiff(path, values, **sizes))


def bomb_for_tiff(path, values):
    content = zlib.compress(ZEROS * 8)
    start = len(patched_tiff(path, values))
    data = patched_tiff(path, values, StripOffsets=start, StripByteCounts=len(content))
    path.write_bytes(bytes(data) + content)


def long_note_of_tiff(unit, begin=b"", end=b""):
    def make(path, values):
        note = begin + unit * (LONG // len(unit)) + end
        tifffile.imwrite(path, values, description=note, metadata=None, ome=False)

    return make


def long_ome(unit):
    sizes = b'SizeX="8" SizeY="9" SizeZ="7" SizeC="1" SizeT="1" DimensionOrder="XYZCT"'
    begin = b"<OME><Image><Pixels " + sizes + b">"
    return long_note_of_tiff(unit, begin, b"</Pixels></Image></OME>")


def bomb_for_zarr(compressor, pack):
    def make(path, values):
        write_zarr(path, values, chunk=(8, 16, 8))
        array = json.loads((path / "0/.zarray").read_text())
        (path / "0/.zarray").write_text(json.dumps(array | {"compressor": compressor}))
        (path / "0/0/0/0").write_bytes(pack())

    return make


def large_blosc():
    data = bytearray(imagecodecs.blosc_encode(bytes(2**20), compressor="zstd"))
    struct.pack_into("<I", data, 4, 0x7FFFFFF0)
    return bytes(data)


def bomb_for_precomputed(suffix, pack):
    return lambda path, values: write_precomputed(path, values, suffix=suffix, pack=pack)


def bomb_in_shards(index):
    def make(path, values):
        write_with_tensorstore(path, values, "gzip")
        for file in path.glob("*/*.shard"):
            data = packed_zeros()
            entries = [[*range(12)], [0] * 12, [len(data)] + [0] * 11]
            table = gzip.compress(np.array(entries, "<u8").tobytes())
            ends = (0, len(data)) if index else (len(data), len(data) + len(table))
            file.write_bytes(struct.pack("<2Q", *ends) * 2 + data + table)

    return make


def long_metadata(name, unit):
    def make(path, values):
        (write_precomputed if name == "info" else write_zarr)(path, values)
        text = (path / name).read_bytes().rstrip()[:-1]
        (path / name).write_bytes(text + b', "x": [' + unit * (LONG // len(unit)) + b"0]}")

    return make


BOUNDED = {
    "behind/a.nii.gz": bomb_behind_nifti,
    "large/a.nii.gz": large_nifti,
    "instead/a.nhdr": bomb_for_nrrd,
    "bzip2/a.nhdr": bomb_for_nrrd_of_bzip2,
    "large/a.nrrd": large_nrrd,
    "numbers/a.nrrd": numbers_behind_nrrd,
    "digits/a.nrrd": one_number_behind_nrrd,
    "keys/a.nrrd": many_keys_of_nrrd,
    "large/a.mha": large_meta_image,
    "large/a.tif": large_tiff,
    "instead/a.tif": bomb_for_tiff,
    "note/a.tif": long_note_of_tiff(b"x"),
    "imagej/a.tif": long_note_of_tiff(b"a=b\n", b"ImageJ=1.1\nimages=7\nslices=1000000000\n"),
    "elements/a.ome.tif": long_ome(b"<a/>"),
    "planes/a.ome.tif": long_ome(b'<TiffData IFD="0"/>'),
    "files/a.ome.tif": long_ome(b'<TiffData><UUID FileName="x">x</UUID></TiffData>'),
    "gzip/a.zarr": bomb_for_zarr({"id": "gzip", "level": 1}, bomb),
    "blosc/a.zarr": bomb_for_zarr(
        {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 0}, large_blosc
    ),
    "attributes/a.zarr": long_metadata(".zattrs", b"[],"),
    "gzip/a": bomb_for_precomputed(".gz", lambda _: bomb()),
    "zstd/a": bomb_for_precomputed(".zstd", lambda _: bomb(imagecodecs.zstd_encode)),
    "brotli/a": bomb_for_precomputed(".br", lambda _: bomb(imagecodecs.brotli_encode)),
    "index/a": bomb_in_shards(index=True),
    "sharded/a": bomb_in_shards(index=False),
    "one/a": bomb_for_precomputed(".gz", lambda _: packed_zeros()),
    "one/a.zarr": bomb_for_zarr({"id": "gzip", "level": 1}, packed_zeros),
    "info/a": long_metadata("info", b"{},"),
}
READERS = {  # of the process with bounds
    "believed": (b"", lambda path: read_header(path)),
    "known": (b"", lambda path: read_header(path, SPACING)),
    "voxels": (b"", lambda path: read(path)),
}


@pytest.mark.slow
def test_images_that_ask_for_more_than_they_hold(tmp_path, values):
    """Read or refused in a process with one gigabyte, within seconds."""
    cases = []
    for name, make in BOUNDED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make(tmp_path / name, values)
        cases += [(reader, tmp_path / name) for reader in READERS]
    for result in read_within_bounds("test_volumes_foreign", cases):
        assert result["error"] in ("", "TeraregError"), result
        assert result["cpu_s"] < SECONDS, result
        if result["name"] == "voxels" and "large/" in result["path"]:
            assert re.search("hold|cannot", result["message"]), result


def write_third(folder, values):
    """OME-Zarr 0.5."""
    write_zarr(folder, values)
    (folder / ".zattrs").unlink()
    (folder / "0/.zarray").unlink()
    (folder / "0").rename(folder / "c")
    (folder / "0").mkdir()
    (folder / "c").rename(folder / "0/c")
    steps = [{"type": "scale", "scale": list(SPACING)}]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ome = {"version": "0.5", "multiscales": [image]}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (folder / "zarr.json").write_text(json.dumps(group))
    chunks = {"name": "regular", "configuration": {"chunk_shape": [4, 4, 4]}}
    array = {"zarr_format": 3, "node_type": "array", "shape": SHAPE, "data_type": "uint16",
             "chunk_grid": chunks, "chunk_key_encoding": {"name": "default"}, "fill_value": 0,
             "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
             "attributes": {}}  # fmt: skip
    (folder / "0/zarr.json").write_text(json.dumps(array))


def test_a_third_version_is_read(tmp_path, values):
    write_third(tmp_path / "a", values)
    np.testing.assert_array_equal(read(tmp_path / "a"), values)
    assert read_header(str(tmp_path / "a")).spacing_um == SPACING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dimension_names": ["X", "y", "z"]},
            r"axes z, y, x .*, but its array names them x, y, z",
        ),
        ({"dimension_names": ["a", "b", None]}, None),
        ({"storage_transformers": [{"name": "x"}]}, "have storage_transformers; write it with a"),
        ({"chunk_grid": {"name": "rectilinear"}}, "a grid 'rectilinear'; write it with a regular"),
    ],
)
def test_arrays_of_the_third_version_that_state_something_else(tmp_path, values, change, message):
    write_third(tmp_path / "a", values)
    path = tmp_path / "a/0/zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if message:
        refused(tmp_path / "a", message)
    else:
        np.testing.assert_array_equal(read(tmp_path / "a"), values)


@pytest.mark.parametrize("name", ["0/.zarray", ".zattrs", "info", "zarr.json", "0/zarr.json"])
@QUICK
@given(data=st.data())
def test_spoiled_metadata_are_read_or_refused(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("v") / "a"
    values = (np.arange(np.prod(SHAPE)).reshape(SHAPE) + 1).astype(np.uint16)
    third = write_third if name.endswith("zarr.json") else write_zarr
    (write_precomputed if name == "info" else third)(folder, values)
    text = json.loads((folder / name).read_text())
    odd = st.sampled_from([None, -1, 0, 1e300, 10**30, "x", [], {}, True, [[1]], "../..", "\0"])
    at, key, parts = text, None, []
    while isinstance(at, (dict, list)) and at:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        parts.append((at, key))
        at = at[key]
    at, key = data.draw(st.sampled_from(parts))
    at[key] = data.draw(odd)
    (folder / name).write_text(json.dumps(text))
    for look in (lambda: read_header(str(folder), SPACING), lambda: read(folder)):
        try:
            look()
        except TeraregError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000

"""Planes that are pages of TIFF files: any writer, no more bytes than asked for, also on S3."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from examples import examples, spoiled
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from terareg.acquisition.image_files import estimate_pages, read_layout, read_pages
from terareg.acquisition.plane_files import read_rows
from terareg.core.errors import AcquisitionError
from terareg.storage.store import Store

SHAPE = (7, 40, 30)
STACK = np.random.default_rng(0).integers(0, 4000, SHAPE, "uint16")
PLANE = SHAPE[1] * SHAPE[2] * 2
EXPECTED = (SHAPE[1:], "uint16")

WRITERS = {
    "contiguous": {},
    "plain pages": {"metadata": None},
    "big endian": {"byteorder": ">"},
    "big tiff": {"bigtiff": True},
    "strips": {"rowsperstrip": 7},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "zlib": {"compression": "zlib"},
    "lzw with predictor": {"compression": "lzw", "predictor": True},
    "in tiles": {"tile": (16, 16)},
    "ome, zlib": {"ome": True, "compression": "zlib", "metadata": {"axes": "ZYX"}},
}


def write(path: Path, stack=STACK, **options) -> None:
    tifffile.imwrite(path, stack, **{"photometric": "minisblack"} | options)


def write_imagej_beyond_4_gb(path: Path) -> None:
    """One directory and all pixels behind it, as ImageJ writes stacks of more than 4 GiB."""
    note = f"ImageJ=1.53t\nimages={SHAPE[0]}\nslices={SHAPE[0]}\n\0".encode()
    tags = [(256, 4, 1, SHAPE[2]), (257, 4, 1, SHAPE[1]), (258, 3, 1, 16), (259, 3, 1, 1),
            (262, 3, 1, 1), (270, 2, len(note), 200), (273, 4, 1, 400), (277, 3, 1, 1),
            (278, 4, 1, SHAPE[1]), (279, 4, 1, PLANE)]  # fmt: skip
    entries = b"".join(
        struct.pack(">HHI", tag, kind, count)
        + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, count, value in tags
    )
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(tags)) + entries + bytes(4)
    head = head.ljust(200, b"\0") + note
    path.write_bytes(head.ljust(400, b"\0") + STACK.astype(">u2").tobytes())


@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
def test_pages_of_every_writer_read_back_alone(tmp_path, options):
    write(tmp_path / "a.tif", **options)
    store = Store(str(tmp_path))
    pages = read_pages(store, "a.tif")
    assert [page.kind for page in pages] == [EXPECTED] * SHAPE[0]
    assert estimate_pages(store, "a.tif")[1] == SHAPE[0]
    size = (tmp_path / "a.tif").stat().st_size
    for page in (0, 6, 3):
        plane, count = read_rows(store, "a.tif", EXPECTED, page=page)
        np.testing.assert_array_equal(plane, STACK[page])
        assert count <= size / 4, "a seventh of the file, and directories"
        rows, count = read_rows(store, "a.tif", EXPECTED, slice(11, 14), page=page)
        np.testing.assert_array_equal(rows, STACK[page, 11:14])
        if pages[page].data_start is not None:
            assert count == 3 * SHAPE[2] * 2


PARTS = {
    "strips": {"rowsperstrip": 16, "compression": "zlib"},
    "strips, lzw with predictor": {"rowsperstrip": 8, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (32, 48), "compression": "zlib"},
    "tiles, plain": {"tile": (16, 64)},
    "tiles larger than the plane": {"tile": (512, 512), "compression": "zlib"},
}


@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("page", [None, 1])
def test_rows_come_from_the_strips_or_tiles_that_hold_them(tmp_path, options, page):
    stack = np.random.default_rng(1).integers(
        0, 4000, (1 if page is None else 2, 250, 130), "uint16"
    )
    write(tmp_path / "a.tif", stack, metadata=None, **options)
    store, expected = Store(str(tmp_path)), (stack.shape[1:], "uint16")
    for start, stop in [(0, 250), (0, 1), (249, 250), (31, 33), (16, 32), (90, 170), (40, 40)]:
        rows, count = read_rows(store, "a.tif", expected, slice(start, stop), page=page)
        np.testing.assert_array_equal(rows, stack[-1, start:stop])
        if max(options.get("tile", (0,))) < 250:
            # at most a tile's rows above and below, of bytes that do not shrink, and directories
            assert count <= (stop - start + 64) * 192 * 2 * 1.1 + 8192


def test_strips_that_lie_far_apart_are_read_one_by_one(tmp_path):
    write(tmp_path / "a.tif", STACK[0], rowsperstrip=20, compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        starts, counts = (tiff.pages[0].tags[name] for name in ("StripOffsets", "StripByteCounts"))
        first, code = starts.value[0], {3: "H", 4: "I"}
    moved = len(data) + 100_000
    packed = struct.pack(f"<{code[starts.dtype]}", moved)
    strip = data[first : first + counts.value[0]]
    far = data[: starts.valueoffset] + packed + data[starts.valueoffset + len(packed) :]
    (tmp_path / "a.tif").write_bytes(far + bytes(100_000) + strip)
    store = Store(str(tmp_path))
    plane, count = read_rows(store, "a.tif", EXPECTED)
    np.testing.assert_array_equal(plane, STACK[0])
    assert count < 20_000


@pytest.mark.parametrize("options", [{"rowsperstrip": 10}, {"tile": (16, 16)}], ids=str)
def test_a_table_that_names_too_few_strips_or_tiles_is_an_error(tmp_path, options):
    write(tmp_path / "a.tif", STACK[0], metadata=None, compression="zlib", **options)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        tags = tiff.pages[0].tags
        kind = "Tile" if "tile" in options else "Strip"
        for tag in (tags[f"{kind}Offsets"], tags[f"{kind}ByteCounts"]):
            data[tag.offset + 4 : tag.offset + 8] = struct.pack("<I", tag.count - 1)
            number = tag.count
    (tmp_path / "a.tif").write_bytes(data)
    message = rf"a.tif is damaged \(its table names {number - 1} of {number} strips or tiles\)"
    for rows in (slice(None), slice(0, 5)):
        with pytest.raises(AcquisitionError, match=message):
            read_rows(Store(str(tmp_path)), "a.tif", EXPECTED, rows)


def test_one_directory_for_many_images(tmp_path):
    write_imagej_beyond_4_gb(tmp_path / "a.tif")
    store = Store(str(tmp_path))
    assert len(read_pages(store, "a.tif")) == estimate_pages(store, "a.tif")[1] == SHAPE[0]
    for page in range(SHAPE[0]):
        plane, count = read_rows(store, "a.tif", EXPECTED, page=page)
        np.testing.assert_array_equal(plane, STACK[page])
        assert count == PLANE
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-1])
    with pytest.raises(AcquisitionError, match=r"a.tif is truncated at \d+ bytes"):
        read_pages(store, "a.tif")


def test_a_file_of_one_page_is_a_stack_of_one_plane(tmp_path):
    write(tmp_path / "a.tif", STACK[0])
    store = Store(str(tmp_path))
    assert len(read_pages(store, "a.tif")) == 1
    np.testing.assert_array_equal(read_rows(store, "a.tif", EXPECTED, page=0)[0], STACK[0])


def test_a_file_that_was_written_anew_is_looked_at_anew(tmp_path):
    store = Store(str(tmp_path))
    for stack in (STACK, STACK[::-1][:3], STACK[1:]):
        write(tmp_path / "a.tif", stack, compression="zlib")
        assert len(read_pages(store, "a.tif")) == len(stack)
        plane, _ = read_rows(store, "a.tif", EXPECTED, page=2)
        np.testing.assert_array_equal(plane, stack[2])
    with pytest.raises(AcquisitionError, match=r"a.tif has 6 pages but page 6 .* is needed"):
        read_rows(store, "a.tif", EXPECTED, page=6)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 3 * PLANE])


def circle(path: Path) -> None:
    """The last directory points at the first."""
    data = bytearray(path.read_bytes())
    offset, start = struct.unpack_from("<I", data, 4)[0], 4
    first = offset
    while offset:
        start = offset + 2 + 12 * struct.unpack_from("<H", data, offset)[0]
        (offset,) = struct.unpack_from("<I", data, start)
    struct.pack_into("<I", data, start, first)
    path.write_bytes(data)


def another_size(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(STACK[0], photometric="minisblack", metadata=None)
        tiff.write(STACK[0, :9], photometric="minisblack", metadata=None)


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (cut, {}, r"a.tif is truncated at \d+ bytes; copy it again"),
        (cut, {"metadata": None}, r"a.tif is truncated at \d+ bytes; copy it again"),
        (circle, {"metadata": None}, r"a.tif is damaged \(its list of pages is"),
        (lambda p: p.write_bytes(b""), {}, "a.tif is empty"),
        (lambda p: p.write_bytes(b"no image at all, but text"), {}, "is not a TIFF or PNG file"),
        (lambda p: p.unlink(), {}, r"a.tif has disappeared"),
        (lambda p: write(p, STACK[:6].reshape(2, 3, 40, 30), imagej=True,
                         metadata={"axes": "ZCYX"}), {}, "contains 3 channels of 2 planes; list"),
        (lambda p: write(p, STACK[:6].reshape(2, 3, 40, 30), ome=True,
                         metadata={"axes": "CZYX"}), {}, "contains 2 channels of 3 planes; list"),
        (lambda p: write(p, STACK[:6].reshape(2, 3, 40, 30), ome=True,
                         metadata={"axes": "TZYX"}), {}, "a.tif contains 2 time points of 3"),
        (lambda p: write(p, STACK.astype("float32")), {}, "32 bit floating-point samples"),
    ],
)  # fmt: skip
def test_files_that_are_no_stack(tmp_path, spoil, options, message):
    write(tmp_path / "a.tif", **options)
    spoil(tmp_path / "a.tif")
    with pytest.raises(AcquisitionError, match=message) as caught:
        read_pages(Store(str(tmp_path)), "a.tif")
    assert "\n" not in str(caught.value)


def ome_set(pages, planes, channels=1):
    """OME-XML of a set in which each of a.tif, b.tif holds some pages one after the other."""
    listed, plane = "", 0
    for name, count in pages.items():
        for page in range(count):
            z, c = plane % planes, plane // planes
            listed += f'<TiffData IFD="{page}" FirstC="{c}" FirstZ="{z}" PlaneCount="1">'
            listed += f'<UUID FileName="{name}.tif">x</UUID></TiffData>'
            plane += 1
    sizes = f'SizeC="{channels}" SizeT="1" SizeZ="{planes}" DimensionOrder="XYZCT"'
    return f"<OME><Image><Pixels {sizes}>{listed}</Pixels></Image></OME>"


def test_one_file_of_several_of_an_ome_tiff(tmp_path):
    store = Store(str(tmp_path))
    # a part of its channel: the other file is needed
    note = ome_set({"a": 7, "b": 7}, 14)
    write(tmp_path / "a.tif", metadata=None, description=note)
    with pytest.raises(AcquisitionError, match=r"a.tif is one of several files of an OME-TIFF"):
        read_pages(store, "a.tif")
    # a whole channel, or a whole position: its own pages count
    note = ome_set({"a": 7, "b": 7}, 7, channels=2)
    position = ome_set({"b": 7}, 7).replace("<OME>", "").replace("</OME>", "")
    for text in (note, ome_set({"a": 7}, 7).replace("</OME>", f"{position}</OME>")):
        for name in "ab":
            write(tmp_path / f"{name}.tif", metadata=None, description=text)
            assert len(read_pages(store, f"{name}.tif")) == 7
    write(tmp_path / "renamed.tif", metadata=None, description=note)
    with pytest.raises(AcquisitionError, match="lists planes of other files only"):
        read_pages(store, "renamed.tif")


@pytest.mark.parametrize("stated", [5, 14])
def test_pages_and_what_is_said_of_them(tmp_path, stated):
    """Neither a black plane for one that is absent, nor a plane dropped."""
    store, message = Store(str(tmp_path)), f"its metadata state {stated} planes but it has 7"
    for listed in ("", f'<TiffData IFD="0" PlaneCount="{stated}"/>'):
        note = f'<OME><Image><Pixels SizeC="1" SizeT="1" SizeZ="{stated}">{listed}</Pixels>'
        write(tmp_path / "a.tif", metadata=None, description=note + "</Image></OME>")
        with pytest.raises(AcquisitionError, match=message):
            read_pages(store, "a.tif")
    write(tmp_path / "a.tif", metadata=None, description=f"ImageJ=1.54\nimages={stated}\n")
    with pytest.raises(AcquisitionError, match=message):
        read_pages(store, "a.tif")


def test_planes_that_a_writer_calls_channels(tmp_path):
    store = Store(str(tmp_path))
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert f"channels={len(STACK)}" in tiff.pages[0].description
    for plane in STACK:
        tifffile.imwrite(tmp_path / "b.tif", plane, append=True)
    for name in ("a.tif", "b.tif"):
        assert len(read_pages(store, name)) == len(STACK)
        np.testing.assert_array_equal(read_rows(store, name, EXPECTED, page=2)[0], STACK[2])


def test_channels_that_are_some(tmp_path):
    """ImageJ and OME-XML tell of channels how they look, where they know."""
    store = Store(str(tmp_path))
    tifffile.imwrite(tmp_path / "a.tif", STACK[:2], imagej=True, metadata={"mode": "composite"})
    names = {"axes": "CYX", "Channel": {"Name": ["Ex488", "Ex561"]}}
    tifffile.imwrite(tmp_path / "b.tif", STACK[:2], ome=True, metadata=names)
    for name in ("a.tif", "b.tif"):
        with pytest.raises(
            AcquisitionError, match="contains 2 channels of 1 planes; list it in a table"
        ):
            read_pages(store, name)


def test_pixels_that_are_inverted_or_lie_in_the_header(tmp_path):
    store = Store(str(tmp_path))
    write(tmp_path / "a.tif", photometric="miniswhite", metadata=None)
    with pytest.raises(AcquisitionError, match="has inverted grey values"):
        read_pages(store, "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", STACK[0], metadata=None)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        place = tiff.pages[0].tags["StripOffsets"].offset + 8
    data = bytearray((tmp_path / "b.tif").read_bytes())
    data[place : place + 4] = bytes(4)
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(AcquisitionError, match="has pixels that begin in the header"):
        read_rows(store, "b.tif", EXPECTED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extratags": [(274, "H", 1, 6, True)]}, r"its tag Orientation \(274\) is 6"),
        ({"description": "ImageJ=1.54\nimages={}\ncf=0\nc0=-32768.0\nc1=1.0\n"},
         r"ImageJ calibrates its values \(cf=0, c0=-32768.0, c1=1.0\)"),
        ({"description": '<OME><Image><Pixels Type="int16" SizeZ="{}"/></Image></OME>'},
         "states Type int16 but its pixels are uint16"),
        ({"description": '<OME><Image><Pixels SizeX="40" SizeY="30" SizeZ="{}"/></Image></OME>'},
         r"states SizeX 40 and SizeY 30 but it has 30 x 40 pixels \(x, y\)"),
    ],
)  # fmt: skip
def test_what_contradicts_the_pixels_of_one_page_or_many(tmp_path, options, message):
    store = Store(str(tmp_path))
    for stack, look in ((STACK, read_pages), (STACK[0], read_layout)):
        pages = len(stack) if stack.ndim == 3 else 1
        given = {k: v.format(pages) if isinstance(v, str) else v for k, v in options.items()}
        write(tmp_path / "a.tif", stack, metadata=None, ome=False, **given)
        with pytest.raises(AcquisitionError, match=f"a.tif: .*{message}") as caught:
            look(store, "a.tif")
        assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_pages_of_several_channels_by_micro_manager(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for n, plane in enumerate(STACK):
            note = (51123, "s", 0, f'{{"SliceIndex": {n // 2}, "ChannelIndex": {n % 2}}}', True)
            tiff.write(plane, metadata=None, contiguous=False, extratags=[note])
    with pytest.raises(AcquisitionError, match="its pages differ in channel, not only in z"):
        read_pages(Store(str(tmp_path)), "a.tif")


def test_parts_that_were_never_written(tmp_path):
    write(tmp_path / "a.tif", STACK[0], metadata=None, compression="zlib", rowsperstrip=10)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
        assert tag.count == 4
        data[
            tag.valueoffset + 2 * tag.valuebytecount // 8 : tag.valueoffset + tag.valuebytecount
        ] = bytes(tag.valuebytecount - 2 * tag.valuebytecount // 8)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(AcquisitionError, match=r"a.tif: 3 of its 4 parts were never written"):
        read_rows(Store(str(tmp_path)), "a.tif", EXPECTED)


def test_a_page_of_another_size_or_damaged(tmp_path):
    store = Store(str(tmp_path))
    another_size(tmp_path / "a.tif")
    read_rows(store, "a.tif", EXPECTED, page=0)
    with pytest.raises(AcquisitionError, match=r"a.tif has 9 x 30 pixels \(y, x\) but the other"):
        read_rows(store, "a.tif", EXPECTED, page=1)
    write(tmp_path / "b.tif", compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        offset, count = tiff.pages[3].dataoffsets[0], tiff.pages[3].databytecounts[0]
    data = bytearray((tmp_path / "b.tif").read_bytes())
    data[offset + 20 : offset + count] = bytes(count - 20)
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(AcquisitionError, match=r"b.tif is damaged \(.*\); copy it again"):
        read_rows(store, "b.tif", EXPECTED, page=3)
    np.testing.assert_array_equal(read_rows(store, "b.tif", EXPECTED, page=4)[0], STACK[4])


SPOILED = {
    "page.tif": {"metadata": None},
    "zlib.tif": {"metadata": None, "compression": "zlib"},
    "tiles.tif": {"metadata": None, "compression": "lzw", "tile": (16, 16)},
    "ome.tif": {"ome": True, "metadata": {"axes": "ZYX"}},
    "imagej.tif": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "big.tif": {"bigtiff": True, "byteorder": ">"},
    "plane.png": None,
}


@pytest.mark.parametrize("name", SPOILED)
@examples(50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_tiles_are_read_or_refused(tmp_path, name, data):
    path, options = tmp_path / name, SPOILED[name]
    alone = name in ("page.tif", "zlib.tif", "tiles.tif", "plane.png")
    if options is None:
        path.write_bytes(imagecodecs.png_encode(STACK[0]))
    else:
        write(path, STACK[0] if alone else STACK, **options)
    path.write_bytes(spoiled(path.read_bytes(), data.draw))
    store, page = Store(str(tmp_path)), None if alone else 3
    for look in (
        lambda: read_layout(store, name) if alone else read_pages(store, name),
        lambda: estimate_pages(store, name),
        lambda: read_rows(store, name, EXPECTED, page=page),
    ):
        try:
            look()
        except AcquisitionError as error:
            assert "\n" not in str(error) and "; " in str(error)


# ------------------------------------------------------------------ S3
BIG = np.random.default_rng(1).integers(0, 60000, (6, 400, 300), "uint16")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"compression": "zlib"}], ids=str)
def test_pages_are_read_from_s3_by_ranges(tmp_path, bucket, options):
    write(tmp_path / "a.tif", BIG, **options)
    data = (tmp_path / "a.tif").read_bytes()
    bucket.put_object(Bucket="scope", Key="raw/a.tif", Body=data)
    store, expected = Store("s3://scope/raw"), (BIG.shape[1:], "uint16")
    assert len(read_pages(store, "a.tif")) == estimate_pages(store, "a.tif")[1] == 6
    rows, count = read_rows(store, "a.tif", expected, slice(100, 104), page=4)
    np.testing.assert_array_equal(rows, BIG[4, 100:104])
    plane, count = read_rows(store, "a.tif", expected, page=4)
    np.testing.assert_array_equal(plane, BIG[4])
    assert count < len(data) / 2, "one page of 6, and directories in pieces of 64 KiB"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}], ids=str)
def test_a_few_rows_of_a_plane_are_read_from_s3_by_ranges(tmp_path, bucket, options):
    write(tmp_path / "a.tif", BIG[0], **options)
    data = (tmp_path / "a.tif").read_bytes()
    bucket.put_object(Bucket="scope", Key="raw/a.tif", Body=data)
    store, expected = Store("s3://scope/raw"), (BIG.shape[1:], "uint16")
    rows, count = read_rows(store, "a.tif", expected, slice(300, 304))
    np.testing.assert_array_equal(rows, BIG[0, 300:304])
    assert options or count < len(data) / 2, "what is not compressed is read from its place"
    plane, count = read_rows(store, "a.tif", expected)
    np.testing.assert_array_equal(plane, BIG[0])
    assert count == len(data), "whole planes take one request"


@pytest.mark.slow
def test_s3_files_that_are_empty_or_gone(bucket):
    bucket.put_object(Bucket="scope", Key="raw/a.tif", Body=b"")
    store = Store("s3://scope/raw")
    with pytest.raises(AcquisitionError, match=r"a.tif cannot be read \(.* ends too early\)"):
        read_pages(store, "a.tif")
    with pytest.raises(AcquisitionError, match=r"b.tif"):
        read_pages(store, "b.tif")
    assert store.entry("a.tif").size == 0 and store.entry("b.tif") is None

"""Reading tiles: any encoding, missing planes, flat-field on the fly and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import microscope_folders as files
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import put_folder
from test_acquisition_colm import LONG, index, write_colm

from terareg.acquisition.image_files import read_layout
from terareg.acquisition.indexing import IndexSettings, index_acquisition
from terareg.acquisition.layout import LayoutOptions
from terareg.acquisition.line_gains import load_line_gains
from terareg.acquisition.plane_files import read_rows
from terareg.acquisition.table import TableLayout
from terareg.acquisition.tile_correction import Flatfield, load_flatfield
from terareg.acquisition.tiles import TileSource, corrected_key, write_corrected
from terareg.core.errors import AcquisitionError, IntensityError, StoreError, VolumeError
from terareg.core.numeric import Clipped
from terareg.intensity.destriping import estimate_stripes
from terareg.intensity.lines import LineLayout, sum_lines
from terareg.storage.records import read_record, write_json
from terareg.storage.store import Store

KEY = corrected_key("ch0", "LOC000")


def shading(shape: tuple[int, int], background: float = 100.0) -> Flatfield:
    """A profile that falls off towards the corners, mean 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    profile = np.exp(-(y**2 + 0.7 * x**2) / 2)
    return Flatfield(profile / profile.mean(), background)


def plain(root: Path, plane: int, tile: str = "LOC000", channel: int = 0) -> Path:
    return root / "VW0" / tile / LONG.format(tile=tile, channel=channel, plane=plane)


def tree(root: Path) -> dict[str, str]:
    """Content hashes of all files but the records, which also hold run times."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".json"
    }


ENCODINGS = {
    "plain": {},
    "several strips": {"rowsperstrip": 3},
    "big endian": {"byteorder": ">"},
    "big tiff": {"bigtiff": True},
    "zlib": {"compression": "zlib"},
    "lzw with predictor": {"compression": "lzw", "predictor": True},
    "zstd": {"compression": "zstd"},
    "in tiles": {"tile": (16, 16)},
    "much metadata": {"description": "x" * 10000},
    "png": {"name": LONG.replace("tif", "png")},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
def test_d24_d25_every_encoding_and_type_reads_back(
    tmp_path: Path, options: dict, dtype: str
) -> None:
    data = write_colm(tmp_path, [[1]], planes=3, shape=(37, 21), dtype=dtype, **options)
    source = TileSource(index(tmp_path), "ch0")
    whole = source.read("LOC000", 0, 3)
    assert whole.dtype == dtype
    np.testing.assert_array_equal(whole, data["LOC000", 0])
    part = source.read("LOC000", 1, 3, slice(5, 36), slice(2, 9))
    np.testing.assert_array_equal(part, whole[1:3, 5:36, 2:9])


def test_directory_at_the_end_and_no_byte_counts(tmp_path: Path) -> None:
    image = np.arange(48, dtype="<u2").reshape(6, 8)
    tags = [(256, 8), (257, 6), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    data = b"II*\0" + struct.pack("<I", 8 + image.nbytes) + image.tobytes() + directory
    (tmp_path / "a.tif").write_bytes(data)
    store = Store(str(tmp_path))
    assert read_layout(store, "a.tif").data_start == 8
    rows, count = read_rows(store, "a.tif", ((6, 8), "uint16"), slice(2, 5))
    np.testing.assert_array_equal(rows, image[2:5])
    assert count == 3 * 8 * 2
    (tmp_path / "a.tif").write_bytes(data[:60])
    with pytest.raises(AcquisitionError, match=r"a.tif is truncated at 60 bytes"):
        read_layout(store, "a.tif")


def test_bytes_are_counted_and_rows_read_alone(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]], shape=(40, 30))
    source = TileSource(index(tmp_path), "ch0")
    source.read("LOC000", 0, 4)
    assert source.bytes_read == 4 * 40 * 30 * 2
    source.read("LOC000", 1, 2, slice(10, 20), slice(0, 3))
    assert source.bytes_read == 4 * 40 * 30 * 2 + 10 * 30 * 2


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 5), "LOC000: planes 0 to 5 were requested, but the tile has 0 to 4"),
        ((2, 2), "planes 2 to 2"),
        ((-1, 2), "planes -1 to 2"),
        ((0, 1, slice(0, 9)), "rows 0 to 9"),
        ((0, 1, slice(None), slice(8, None)), "columns 8 to 8"),
        ((0, 1, slice(0, 8, 2)), "rows 0 to 8"),
    ],
)
def test_boxes_outside_the_tile(tmp_path: Path, box: tuple, message: str) -> None:
    write_colm(tmp_path, [[1]])
    with pytest.raises(AcquisitionError, match=message):
        TileSource(index(tmp_path), "ch0").read("LOC000", *box)


def test_files_that_change_after_indexing(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]])
    source = TileSource(index(tmp_path), "ch0")
    os.truncate(plain(tmp_path, 1), 200)
    with pytest.raises(AcquisitionError, match=r"PLN0001.tif is truncated at 200 bytes"):
        source.read("LOC000", 0, 4)
    tifffile.imwrite(plain(tmp_path, 1), np.zeros((8, 9), "uint16"))
    with pytest.raises(AcquisitionError, match=r"PLN0001.tif has 8 x 9 pixels"):
        source.read("LOC000", 0, 4)
    plain(tmp_path, 1).unlink()
    with pytest.raises(
        AcquisitionError, match=r"PLN0001.tif has disappeared since.* index_acquisition"
    ):
        source.read("LOC000", 0, 4)
    with pytest.raises(AcquisitionError, match="there is no tile 'LOC7'"):
        source.read("LOC7", 0, 4)


def test_damaged_compressed_plane(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]], shape=(64, 64), compression="zlib")
    source = TileSource(index(tmp_path), "ch0")
    data = bytearray(plain(tmp_path, 2).read_bytes())
    data[-2000:-1000] = bytes(1000)
    plain(tmp_path, 2).write_bytes(data)
    with pytest.raises(AcquisitionError, match=r"PLN0002.tif is damaged \(.*\); copy it again"):
        source.read("LOC000", 0, 4)


def test_threads_share_a_source(tmp_path: Path) -> None:
    data = write_colm(tmp_path, [[1, 1]], planes=8, shape=(16, 16))
    flatfield = shading((16, 16), 3000.0)
    acquisition = index(tmp_path)
    source = TileSource(acquisition, "ch0", flatfield=flatfield)
    jobs = [(f"LOC00{n % 2}", n % 7) for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: source.read(job[0], job[1], job[1] + 2), jobs))
    clipped = Clipped()
    for (tile, z), result in zip(jobs, results):
        for plane in range(2):
            expected, part = flatfield.correct(data[tile, 0][z + plane])
            np.testing.assert_array_equal(result[plane], expected)
            clipped += part
    assert source.clipped == clipped
    assert source.bytes_read == 100 * 2 * 16 * 16 * 2


# ------------------------------------------------------------------ missing planes
def test_d31_missing_planes_are_interpolated(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1, 1]], planes=8, shape=(8, 8))
    ramp = np.random.default_rng(0).integers(0, 500, (8, 8))
    for plane in range(8):
        tifffile.imwrite(plain(tmp_path, plane), (100 * plane + ramp).astype("uint16"))
    for plane in (0, 3, 4, 7):
        plain(tmp_path, plane).unlink()
    source = TileSource(index(tmp_path, missing_planes="interpolate"), "ch0")
    assert source.missing_planes("LOC000") == (0, 3, 4, 7)
    assert source.missing_planes("LOC001") == ()
    tile = source.read("LOC000", 0, 8)
    expected = [100, 100, 200, 300, 400, 500, 600, 600]
    np.testing.assert_array_equal(tile, ramp + np.array(expected)[:, None, None])
    box = source.read("LOC000", 3, 5, slice(2, 5), slice(1, 8))
    np.testing.assert_array_equal(box, tile[3:5, 2:5, 1:8])
    flatfield = shading((8, 8))
    corrected = TileSource(source.acquisition, "ch0", flatfield=flatfield).read("LOC000", 3, 4)
    np.testing.assert_array_equal(corrected[0], flatfield.correct(tile[3])[0])


def test_blank_planes_stay_zero_and_count_nothing(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]], planes=4)
    plain(tmp_path, 2).unlink()
    acquisition = index(tmp_path, missing_planes="blank")
    source = TileSource(acquisition, "ch0", flatfield=shading((8, 8), 50.0))
    assert not source.read("LOC000", 2, 3).any()
    assert source.clipped == Clipped() and source.bytes_read == 0
    assert source.read("LOC000", 1, 4)[0].any()


# ------------------------------------------------------------------ flat-field
def test_known_shading_is_removed() -> None:
    flatfield = shading((50, 60))
    true = np.random.default_rng(1).integers(0, 20000, (50, 60))
    raw = np.rint(true * flatfield.profile + 100).astype("uint16")
    corrected, clipped = flatfield.correct(raw)
    assert np.abs(corrected.astype(int) - true).max() <= 0.5 / flatfield.profile.min() + 0.51
    assert clipped == Clipped()


def test_d5_saturated_pixels_clip_and_are_counted() -> None:
    flatfield = Flatfield(np.full((4, 4), 0.5), 100.0)
    raw = np.full((4, 4), 65535, "uint16")
    raw[0] = [100, 99, 0, 32867]
    corrected, clipped = flatfield.correct(raw)
    assert corrected[1:].min() == 65535
    assert corrected[0].tolist() == [0, 0, 0, 65534]
    assert clipped == Clipped(low=2, high=12)
    corrected, clipped = flatfield.correct(np.full((4, 4), 250, "uint8"))
    assert corrected.dtype == np.uint8 and corrected.min() == 255 and clipped.high == 16


def test_correction_of_a_part_equals_part_of_the_correction() -> None:
    flatfield = shading((300, 40), 80.5)
    raw = np.random.default_rng(2).integers(0, 65536, (300, 40), "uint16")
    whole, _ = flatfield.correct(raw)
    y, x = slice(77, 290), slice(3, 38)
    np.testing.assert_array_equal(flatfield.correct(raw[y, x], y, x)[0], whole[y, x])
    direct = (raw.astype("float32") - np.float32(80.5)) / flatfield.profile
    np.testing.assert_array_equal(whole, np.clip(np.rint(direct), 0, 65535).astype("uint16"))


@pytest.mark.parametrize(
    ("profile", "background", "message"),
    [
        (np.ones(4), 0, r"flat-field of shape \(4,\) is not an image"),
        (np.zeros((4, 4)), 0, "zero, negative or not finite"),
        (np.full((4, 4), np.nan), 0, "zero, negative or not finite"),
        (np.ones((4, 4)), np.inf, "dark offset inf is not finite"),
    ],
)
def test_impossible_flatfields(profile: np.ndarray, background: float, message: str) -> None:
    with pytest.raises(IntensityError, match=message):
        Flatfield(profile, background)


def test_flatfield_of_another_size(tmp_path: Path) -> None:
    write_colm(tmp_path, [[1]])
    with pytest.raises(IntensityError, match=r"flat-field has \(4, 8\) pixels but tiles have"):
        TileSource(index(tmp_path), "ch0", flatfield=Flatfield(np.ones((4, 8)), 0))
    with pytest.raises(IntensityError, match=r"but the plane has \(8, 8\)"):
        Flatfield(np.ones((4, 8)), 0).correct(np.zeros((8, 8), "uint16"))


def test_load_flatfield(tmp_path: Path) -> None:
    flatfield = shading((8, 9), 101.25)
    tif, info = tmp_path / "flatfield.tif", tmp_path / "flatfield.json"
    tifffile.imwrite(tif, flatfield.profile)
    info.write_text(json.dumps({"background": 101.25}))
    loaded = load_flatfield(tif, info)
    np.testing.assert_array_equal(loaded.profile, flatfield.profile)
    assert loaded.background == 101.25
    info.write_text("{}")
    with pytest.raises(IntensityError, match=r"flatfield.json has no number 'background'"):
        load_flatfield(tif, info)
    info.write_text(json.dumps({"background": 1}))
    tif.write_bytes(b"no image")
    with pytest.raises(IntensityError, match=r"flatfield.tif cannot be read"):
        load_flatfield(tif, info)


# ------------------------------------------------------------------ stream and keep
@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["uint8", "uint16"]),
    st.data(),
)
def test_b6_kept_tiles_equal_streamed_ones(
    planes: int, rows: int, columns: int, dtype: str, data
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_colm(root / "raw", [[1]], planes=planes, shape=(rows, columns + 1), dtype=dtype)
        acquisition = index(root / "raw", spacing_um=(1, 1, 1))
        flatfield = shading((rows, columns + 1), 20.5)
        stream = TileSource(acquisition, "ch0", flatfield=flatfield)
        write_corrected(stream, Store(f"{root}/store"), KEY, "LOC000", "f", workers=2)
        keep = TileSource(acquisition, "ch0", corrected=Store(f"{root}/store"))
        np.testing.assert_array_equal(
            keep.read("LOC000", 0, planes), stream.read("LOC000", 0, planes)
        )
        box = [
            sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
            for n in (planes, rows, columns + 1)
        ]
        args = ("LOC000", *box[0], slice(*box[1]), slice(*box[2]))
        np.testing.assert_array_equal(keep.read(*args), stream.read(*args))


@pytest.mark.parametrize("lines", ["rows", "columns"])
def test_stripes_are_removed_from_kept_tiles_as_from_streamed_ones(
    tmp_path: Path, lines: str
) -> None:
    write_colm(tmp_path / "raw", [[1, 1]], planes=40, shape=(30, 60))
    acquisition = index(tmp_path / "raw")
    store = Store(f"{tmp_path}/store")
    names = [tile.name for tile in acquisition.tiles]
    origins = {name: (i, 0.0, 30.0 * i) for i, name in enumerate(names)}
    layout = LineLayout.of(acquisition, origins, lines)
    plain_source = TileSource(acquisition, "ch0", flatfield=shading((30, 60)))
    sum_lines(tmp_path / "lines.npz", plain_source, names, layout)
    record = estimate_stripes([tmp_path / "lines.npz"], layout, store, "gains", "f")
    write_json(tmp_path / "stripes.json", record)
    found = load_line_gains(tmp_path / "stripes.json", store)
    flatfield = replace(shading((30, 60)), stripes=found)
    stream = TileSource(acquisition, "ch0", flatfield=flatfield)
    write_corrected(stream, store, KEY, "LOC000", "f", workers=2)
    keep = TileSource(acquisition, "ch0", corrected=store)
    pixels = stream.read("LOC000", 0, 40)
    assert not np.array_equal(pixels, plain_source.read("LOC000", 0, 40))
    np.testing.assert_array_equal(keep.read("LOC000", 0, 40), pixels)
    box = ("LOC000", 5, 30, slice(3, 21), slice(2, 57))
    np.testing.assert_array_equal(stream.read(*box), pixels[5:30, 3:21, 2:57])


@pytest.fixture
def kept(tmp_path: Path) -> tuple[TileSource, Store]:
    """A source that corrects on the fly, and a store that holds its tile."""
    write_colm(tmp_path / "raw", [[1]], planes=50, shape=(40, 30))
    acquisition = index(tmp_path / "raw")
    source = TileSource(acquisition, "ch0", flatfield=shading((40, 30)))
    store = Store(f"{tmp_path}/store")
    write_corrected(source, store, KEY, "LOC000", "f1")
    return source, store


def test_record(kept: tuple[TileSource, Store]) -> None:
    source, store = kept
    record = read_record(store, f"{KEY}.json")
    tile = source.read("LOC000", 0, 50)
    assert (record["tile"], record["channel"]) == ("LOC000", "ch0")
    assert record["shape"] == [50, 40, 30] and record["dtype"] == "uint16"
    assert record["chunk"] == [16, 40, 30]
    assert (record["minimum"], record["maximum"]) == (tile.min(), tile.max())
    assert record["clipped"] == {"low": source.clipped.low, "high": source.clipped.high}
    assert record["clipped"]["high"] > 0
    assert record["bytes_read"] == 50 * 40 * 30 * 2
    assert record["bytes_written"] == sum(record["objects"].values())
    assert all(store.size(key) == size for key, size in record["objects"].items())
    assert len(record["objects"]) == 5 and record["fingerprint"] == "f1"
    assert set(record["run"]) == {"seconds", "peak_memory_mb"}


def test_zarr_reads_the_same(kept: tuple[TileSource, Store]) -> None:
    zarr = pytest.importorskip("zarr")
    source, store = kept
    array = zarr.open_array(f"{store.url}/{KEY}", mode="r")
    np.testing.assert_array_equal(array[:], source.read("LOC000", 0, 50))
    assert array.metadata.dimension_names == ("z", "y", "x")


def test_bytes_do_not_depend_on_workers(kept: tuple[TileSource, Store], tmp_path: Path) -> None:
    source, store = kept
    write_corrected(source, Store(f"{tmp_path}/other"), KEY, "LOC000", "f1", workers=4)
    assert tree(Path(store.url)) == tree(tmp_path / "other")
    first, second = (read_record(s, f"{KEY}.json") for s in (store, Store(f"{tmp_path}/other")))
    first.pop("run"), second.pop("run")
    assert first == second


def test_what_is_done_is_not_done_again(kept: tuple[TileSource, Store]) -> None:
    source, store = kept
    before = {entry.key: entry.stamp for entry in store.list()}
    record = write_corrected(source, store, KEY, "LOC000", "f1")
    assert record["fingerprint"] == "f1"
    assert {entry.key: entry.stamp for entry in store.list()} == before
    assert write_corrected(source, store, KEY, "LOC000", "f2")["fingerprint"] == "f2"
    after = {entry.key: entry.stamp for entry in store.list()}
    assert all(after[key] != stamp for key, stamp in before.items())


def lose_record(store: Store) -> None:
    store.delete(f"{KEY}.json")


def lose_shard(store: Store) -> None:
    store.delete(f"{KEY}/c/1/0/0")


def lose_array(store: Store) -> None:
    store.delete_folder(KEY)


def cut_shard(store: Store) -> None:
    os.truncate(store.path(f"{KEY}/c/1/0/0"), 100)


def half_record(store: Store) -> None:
    store.path(f"{KEY}.json").write_bytes(b'{"tile": "LOC')


@pytest.mark.parametrize("damage", [lose_record, lose_shard, lose_array, cut_shard, half_record])
def test_resume_gives_the_same_bytes(kept: tuple[TileSource, Store], damage) -> None:
    source, store = kept
    complete = tree(Path(store.url))
    damage(store)
    reader = TileSource(source.acquisition, "ch0", corrected=store)
    message = r"corrected tile LOC000 of channel ch0.*run again with -R correct_tiles"
    with pytest.raises(VolumeError, match=message):
        reader.read("LOC000", 0, 50)
    write_corrected(source, store, KEY, "LOC000", "f1")
    assert tree(Path(store.url)) == complete
    np.testing.assert_array_equal(reader.read("LOC000", 0, 50), source.read("LOC000", 0, 50))


def test_killed_in_the_middle(kept: tuple[TileSource, Store], monkeypatch) -> None:
    source, store = kept
    complete = tree(Path(store.url))
    read = source.read_raw

    def killed(tile, planes, out):
        if planes.start >= 32:
            raise KeyboardInterrupt
        return read(tile, planes, out)

    monkeypatch.setattr(source, "read_raw", killed)
    with pytest.raises(KeyboardInterrupt):
        write_corrected(source, store, KEY, "LOC000", "f2")
    assert read_record(store, f"{KEY}.json") is None
    monkeypatch.undo()
    write_corrected(source, store, KEY, "LOC000", "f1")
    assert tree(Path(store.url)) == complete


def test_flipped_bits_are_noticed(kept: tuple[TileSource, Store]) -> None:
    source, store = kept
    path = store.path(f"{KEY}/c/0/0/0")
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    reader = TileSource(source.acquisition, "ch0", corrected=store)
    with pytest.raises(VolumeError, match="LOC000 of channel ch0 is damaged"):
        reader.read("LOC000", 0, 1)


def test_array_of_another_acquisition(kept: tuple[TileSource, Store]) -> None:
    source, store = kept
    other = replace(source.acquisition, tile_shape=(49, 40, 30))
    with pytest.raises(VolumeError, match="belongs to another acquisition"):
        TileSource(other, "ch0", corrected=store).read("LOC000", 0, 1)


def test_chunks_touched_are_counted(kept: tuple[TileSource, Store]) -> None:
    source, store = kept
    reader = TileSource(source.acquisition, "ch0", corrected=store)
    reader.read("LOC000", 15, 17, slice(0, 2), slice(0, 2))
    assert reader.bytes_read == 2 * 16 * 40 * 30 * 2


def test_zero_tiles_are_stored(tmp_path: Path) -> None:
    write_colm(tmp_path / "raw", [[1, 1]])
    source = TileSource(
        index(tmp_path / "raw"), "ch0", flatfield=Flatfield(np.ones((8, 8)), 70000.0)
    )
    store = Store(f"{tmp_path}/store")
    record = write_corrected(source, store, KEY, "LOC000", "f")
    assert record["maximum"] == 0 and record["clipped"]["low"] == 4 * 64
    reader = TileSource(source.acquisition, "ch0", corrected=store)
    assert not reader.read("LOC000", 0, 4).any()


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    write_colm(tmp_path / "raw", [[1]])
    source = TileSource(index(tmp_path / "raw"), "ch0")
    store = Store(f"{tmp_path}/store")
    store.write(KEY, b"a file where a folder should be")
    with pytest.raises(StoreError, match=r"cannot write .*LOC000.* or point store: elsewhere"):
        write_corrected(source, store, KEY, "LOC000", "f")


def test_flatfield_and_corrected_exclude_each_other(kept: tuple[TileSource, Store]) -> None:
    source, store = kept
    with pytest.raises(ValueError, match="give them without a flat-field"):
        TileSource(source.acquisition, "ch0", flatfield=source.flatfield, corrected=store)


@pytest.mark.slow
@pytest.mark.engine
def test_s3_keeps_the_same_bytes(kept: tuple[TileSource, Store], s3) -> None:
    source, store = kept
    client = s3.client()
    client.create_bucket(Bucket="store")
    remote = Store("s3://store/brain")
    record = write_corrected(source, remote, KEY, "LOC000", "f1", workers=2)
    assert record["sha256"] == read_record(store, f"{KEY}.json")["sha256"]
    for key in record["objects"]:
        assert remote.read(key) == store.read(key)
    reader = TileSource(source.acquisition, "ch0", corrected=remote)
    np.testing.assert_array_equal(reader.read("LOC000", 3, 40), source.read("LOC000", 3, 40))
    shutil.rmtree(store.path(KEY))
    put_folder(client, "store", "raw/", Path(source.acquisition.raw))
    streamed = TileSource(
        replace(source.acquisition, raw="s3://store/raw"), "ch0", flatfield=source.flatfield
    )
    np.testing.assert_array_equal(streamed.read("LOC000", 3, 40), source.read("LOC000", 3, 40))


def test_tiles_in_files_of_many_are_read_in_whole_boxes(tmp_path: Path) -> None:
    """The same pixels as from TIFF, also where one tile has fewer planes; more planes at once."""
    deep, short = files.stack((0, 0)), files.stack((0, 1))[:3]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("a", data=deep, chunks=(2, 8, 8))
        file.create_dataset("b", data=short, chunks=(2, 8, 8))
    (tmp_path / "tiles.tsv").write_text("path\trow\tcolumn\nscan.h5#a\t0\t0\nscan.h5#b\t0\t1\n")
    options = LayoutOptions({"signal": 0}, (5.0, 1.0, 1.0), (0.2, 0.2))
    layout = TableLayout(Store(str(tmp_path)), options, "tiles.tsv")
    settings = IndexSettings("brain", "SAR", missing_planes="interpolate")
    source = TileSource(index_acquisition(layout, settings), "signal")
    assert source.planes_at_once > 8
    np.testing.assert_array_equal(source.read("R00C00", 0, 4), deep)
    box = source.read("R00C00", 1, 4, slice(3, 17), slice(5, 30))
    np.testing.assert_array_equal(box, deep[1:4, 3:17, 5:30])
    assert source.missing_planes("R00C01") == (3,)
    found = source.read("R00C01", 0, 4)
    np.testing.assert_array_equal(found[:3], short)
    np.testing.assert_array_equal(found[3], short[2])
    assert source.bytes_read == deep.nbytes + box.nbytes + found.nbytes
    (tmp_path / "scan.h5").unlink()
    with pytest.raises(AcquisitionError, match=r"scan\.h5#a cannot be read"):
        source.read("R00C00", 0, 1)

"""Volumes: three readers agree with a plain NumPy pyramid; crashes and rewrites leave no trace."""

import json
import multiprocessing
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorstore as ts
import zarr
from cloudvolume import CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes import histogram, ngff, precomputed
from terareg.volumes.downsample import downsample
from terareg.volumes.finishing import (
    display_window,
    finalize_volume,
    remove_damaged_blocks,
    remove_damaged_metadata,
    remove_damaged_top,
)
from terareg.volumes.objects import record_key
from terareg.volumes.plan import (
    FORMATS,
    VolumeSettings,
    make_plan,
    rows_of,
)
from terareg.volumes.reader import Volume
from terareg.volumes.writer import (
    delete_volume,
    finish_pyramid,
    init_volume,
    write_block,
    write_blocks,
    write_rows,
)

SHAPE = (37, 71, 49)
SPACING = (2.0, 1.0, 1.0)


def reference(array, step, mode):
    """One pyramid step, voxel by voxel of the definition."""
    shape = [-(-n // s) for n, s in zip(array.shape, step)]
    out = np.zeros(shape, array.dtype)
    for index in np.ndindex(*shape):
        cell = array[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, step))]
        padding = [(0, s - n) for s, n in zip(step, cell.shape)]
        cell = np.pad(cell, padding, mode="edge")
        if mode == "mode":
            values, counts = np.unique(cell, return_counts=True)
            out[index] = values[np.argmax(counts)]
        elif array.dtype.kind == "f":
            out[index] = cell.mean(dtype=np.float64)
        else:
            out[index] = (int(cell.sum(dtype=np.int64)) + cell.size // 2) // cell.size
    return out


def fast_reference(array, step):
    """The same for integer means, fast enough for whole volumes."""
    padded = np.pad(array, [(0, n % s) for n, s in zip(array.shape, step)], mode="edge")
    z, y, x = (n // s for n, s in zip(padded.shape, step))
    cells = padded.reshape(z, step[0], y, step[1], x, step[2]).astype(np.int64)
    count = step[0] * step[1] * step[2]
    return ((cells.sum(axis=(1, 3, 5)) + count // 2) // count).astype(array.dtype)


def pyramid(array, plan):
    levels = [array]
    for level in range(1, len(plan.levels)):
        if plan.is_segmentation:
            levels.append(downsample(levels[-1], plan.step(level), "mode"))
        elif array.dtype.kind == "f":
            levels.append(downsample(levels[-1], plan.step(level)))
        else:
            levels.append(fast_reference(levels[-1], plan.step(level)))
    return levels


def make(store, array, plan, key="v", workers=2, metadata=None):
    init_volume(store, key, plan, metadata)
    write_blocks(
        store, key, plan, plan.blocks(), lambda b: (cut(array, b), Clipped()),
        fingerprint="f", workers=workers,
    )  # fmt: skip
    finish_pyramid(store, key, plan, workers)
    return finalize_volume(store, key, plan, fingerprint="f")


def cut(array, block):
    return np.ascontiguousarray(array[tuple(slice(a, b) for a, b in zip(block.start, block.stop))])


def image(shape=SHAPE, dtype="uint16", seed=0):
    values = np.random.default_rng(seed).integers(0, 60000, shape)
    values[: shape[0] // 2, : shape[1] // 2] = 0
    return values.astype(dtype)


def small(**changes):
    return VolumeSettings(**{"chunk": 8, "block": 32, "formats": FORMATS, **changes})


def read_everywhere(folder, plan, level):
    """The level as zarr-python, tensorstore and cloud-volume read it, (z, y, x) each."""
    found = {}
    if "ome-zarr" in plan.settings.formats:
        path = folder / "ome.zarr" / str(level)
        found["zarr"] = zarr.open_array(path, mode="r")[:]
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
        found["tensorstore zarr3"] = ts.open(spec).result().read().result()
    if "precomputed" in plan.settings.formats:
        path = folder / "precomputed"
        cloud = CloudVolume(f"precomputed://file://{path}", mip=level, progress=False)
        found["cloud-volume"] = np.asarray(cloud[:])[..., 0].T
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "scale_index": level,
        }
        found["tensorstore precomputed"] = ts.open(spec).result().read().result()[..., 0].T
    return found


# ---------------------------------------------------------------- readers agree
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "spacing", "changes"),
    [
        ((75, 141, 97), SPACING, {"chunk": 16, "block": 64}),
        ((20, 45, 33), (5.0, 0.585, 0.585), {"block": 16}),
        ((19, 41, 23), (1.0, 1.0, 1.0), {"chunk": 4, "block": 64, "codec": "zstd"}),
        ((37, 30, 25), (1.0, 3.0, 1.0), {"block": 16, "codec": "none", "precomputed": "gzip"}),
        ((1, 71, 49), (5.0, 1.0, 1.0), {}),
        ((100, 3, 21), (1.0, 1.0, 1.0), {"codec": "blosc-lz4"}),
        ((5, 5, 5), (1.0, 1.0, 1.0), {}),
        ((1, 1, 1), (1.0, 1.0, 1.0), {}),
    ],
)
def test_every_reader_sees_the_plain_pyramid(tmp_path, shape, spacing, changes):
    array = image(shape)
    plan = make_plan("v", Frame(shape, spacing), "uint16", small(**changes))
    make(Store(str(tmp_path)), array, plan)
    for level, expected in enumerate(pyramid(array, plan)):
        assert expected.shape == plan.levels[level].shape
        for reader, values in read_everywhere(tmp_path / "v", plan, level).items():
            np.testing.assert_array_equal(values, expected, f"{reader}, level {level}")
        np.testing.assert_array_equal(Volume(Store(str(tmp_path)), "v").read(level), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_other_types(tmp_path, dtype):
    array = image(dtype=dtype) if dtype == "uint8" else image().astype("float32") / 7
    plan = make_plan("v", Frame(SHAPE, SPACING), dtype, small())
    make(Store(str(tmp_path)), array, plan)
    for level, expected in enumerate(pyramid(array, plan)):
        for reader, values in read_everywhere(tmp_path / "v", plan, level).items():
            assert values.dtype == dtype
            np.testing.assert_array_equal(values, expected, f"{reader}, level {level}")


@pytest.mark.slow
def test_labels_keep_their_ids(tmp_path):
    rng = np.random.default_rng(1)
    ids = np.array([0, 7, 614454277, 4294967295], np.uint32)
    array = ids[rng.integers(0, 4, (10, 18, 13))].repeat(4, 0).repeat(4, 1).repeat(4, 2)
    array = np.ascontiguousarray(array[: SHAPE[0], : SHAPE[1], : SHAPE[2]])
    plan = make_plan("v", Frame(SHAPE, SPACING), "uint32", small(kind="segmentation"))
    metadata = {
        "label_colours": {614454277: "FF8000", 7: "00FF00"},
        "label_names": {7: "Isocortex"},
        "precomputed": {"segment_properties": "names", "mesh": "mesh"},
    }
    summary = make(Store(str(tmp_path)), array, plan, metadata=metadata)
    assert "window" not in summary
    for level, expected in enumerate(pyramid(array, plan)):
        assert set(np.unique(expected)) <= set(ids)
        for reader, values in read_everywhere(tmp_path / "v", plan, level).items():
            np.testing.assert_array_equal(values, expected, f"{reader}, level {level}")
    info = json.loads((tmp_path / "v/precomputed/info").read_text())
    assert info["type"] == "segmentation" and info["mesh"] == "mesh"
    assert info["scales"][0]["encoding"] == "compressed_segmentation"
    label = json.loads((tmp_path / "v/ome.zarr/zarr.json").read_text())["attributes"]["ome"]
    assert label["image-label"]["colors"][0] == {"label-value": 7, "rgba": [0, 255, 0, 255]}
    Image.from_zarr(zarr.open_group(tmp_path / "v/ome.zarr", mode="r"))


# ---------------------------------------------------------------- metadata
def test_ome_zarr_metadata(tmp_path):
    frame = Frame(SHAPE, (5.0, 1.0, 1.0), (100.0, 0.0, -3.5))
    plan = make_plan("ch0", frame, "uint16", small())
    summary = make(Store(str(tmp_path)), image(), plan, metadata={"colour": "00FF00"})
    model = Image.from_zarr(zarr.open_group(tmp_path / "v/ome.zarr", mode="r"))
    multiscale = model.ome_attributes.multiscales[0]
    assert [(a.name, a.type, a.unit) for a in multiscale.axes] == [
        (n, "space", "micrometer") for n in "zyx"
    ]
    for level, dataset in zip(plan.levels, multiscale.datasets, strict=True):
        scale, translation = dataset.coordinateTransformations
        assert tuple(scale.scale) == level.frame.spacing_um
        assert tuple(translation.translation) == level.frame.origin_um
    array = json.loads((tmp_path / "v/ome.zarr/0/zarr.json").read_text())
    assert array["dimension_names"] == ["z", "y", "x"]
    omero = json.loads((tmp_path / "v/ome.zarr/zarr.json").read_text())["attributes"]["ome"][
        "omero"
    ]
    window = omero["channels"][0]["window"]
    assert [window["start"], window["end"]] == summary["window"]
    assert omero["channels"][0]["color"] == "00FF00"


def test_precomputed_info_is_nanometres_in_x_y_z(tmp_path):
    plan = make_plan("v", Frame(SHAPE, (5.0, 0.585, 0.6)), "uint16", small())
    info = precomputed.info_json(plan, {})
    assert info["scales"][0]["resolution"] == [600, 585, 5000]
    assert info["scales"][0]["size"] == list(SHAPE[::-1])
    assert info["scales"][1]["resolution"] == [1200, 1170, 5000]


def test_levels_halve_fine_axes_first_until_one_chunk():
    """D22, D23: levels follow all three axes, and z joins when voxels are nearly cubes."""
    plan = make_plan("v", Frame((400, 4000, 100), (5.0, 0.6, 0.6)), "uint16", VolumeSettings())
    assert [v.factor for v in plan.levels[:5]] == [
        (1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16)
    ]  # fmt: skip
    assert max(plan.levels[-1].shape) <= 64 < max(plan.levels[-2].shape)
    for level in plan.levels[3:]:
        spacing = level.frame.spacing_um
        assert max(spacing) / min(spacing) <= 2


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(1, 17)] * 3),
    st.tuples(*[st.sampled_from([0.5, 1.0, 1.9, 4.0, 10.0])] * 3),
    st.sampled_from([(4, 4), (4, 16), (8, 32), (16, 128), (32, 256)]),
)
def test_blocks_own_whole_shards_and_cover_each_level_once(shape, spacing, edges):
    shape = tuple(n * edges[0] // 3 + 1 for n in shape)
    plan = make_plan("v", Frame(shape, spacing), "uint16", VolumeSettings(*edges))
    assert type(plan).from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert max(plan.levels[-1].shape) <= edges[0]
    for level in range(len(plan.levels)):
        blocks = [
            (plan.level_box(b, level), b.index) for b in plan.blocks()
        ] if level < plan.block_levels else [
            ((b.start, b.stop), b.index) for b in plan.levels[level].shards()
        ]  # fmt: skip
        names, volume = [], 0
        for (start, stop), index in blocks:
            shard = plan.levels[level].shard
            assert start == tuple(i * s for i, s in zip(index, shard))
            assert all(s % c == 0 for s, c in zip(shard, plan.chunk))
            volume += np.prod([b - a for a, b in zip(start, stop)])
            box = type(plan.blocks()[0])(index, start, stop)
            shards = precomputed.objects_in(plan, level, box)
            names += [name for name, _ in shards]
            inside = sum(np.prod(s.shape) for _, s in shards)
            assert inside == np.prod(box.shape), "a shard leaves its block"
        assert volume == np.prod(plan.levels[level].shape)
        assert len(set(names)) == len(names)


def test_batches_are_consecutive_and_complete():
    plan = make_plan("v", Frame(SHAPE, SPACING), "uint16", small(block=16))
    rows = rows_of(plan.blocks(), longest=99)
    assert all(len({b.index[:2] for b in row}) == 1 for row in rows) and len(rows[0]) > 2
    for count in (1, 4, len(rows), len(rows) + 3):
        batches = [plan.batch(i, count) for i in range(count)]
        assert [b for batch in batches for b in batch] == plan.blocks()
        lengths = [len(rows_of(batch, longest=99)) for batch in batches]
        assert max(lengths) - min(lengths) <= 1 and sum(lengths) == len(rows), "no row is cut"
    parts = [len(part) for part in rows_of(plan.blocks(), longest=2)]
    assert max(parts) == 2 and sum(parts) == len(plan.blocks())
    with pytest.raises(VolumeError, match="batch 7 of 7 does not exist"):
        plan.batch(7, 7)


@pytest.mark.slow
def test_rows_are_written_as_blocks_are_and_only_what_lacks_is_made(written):
    store, plan, array, folder = written
    before = files(folder / "a")
    made = []

    def row(blocks):
        made.extend(blocks)

        def layer(first, last):
            def fill(block, out):
                planes = slice(first - block.start[0], last - block.start[0])
                out[...] = cut(array, block)[planes]
                return clipped

            return fill

        return layer

    clipped = Clipped()
    rows = rows_of(plan.blocks(), longest=2)
    lost = [rows[0][1], *rows[2]]
    for block in lost:
        store.delete(record_key("v", block))
    found = write_rows(store, "v", plan, rows, row, fingerprint="f", workers=2)
    assert made == lost and files(folder / "a") == before
    assert found == write_blocks(store, "v", plan, plan.blocks(), None, fingerprint="f")
    clipped = Clipped(2, 1)
    layers = sum(-(-b.shape[0] // plan.chunk[0]) for b in plan.blocks())
    summed = write_rows(store, "v", plan, rows, row, fingerprint="g", workers=2)
    assert (summed["clipped_low"], summed["clipped_high"]) == (2 * layers, layers)
    assert summed["blocks"] == found["blocks"], "the voxels are the same"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 48}, "chunk 48 is impossible; use a power of two"),
        ({"block": 96}, "block 96 is not chunk 8 times a power of two"),
        ({"formats": ()}, "formats is empty"),
        ({"formats": ("n5",)}, "formats: 'n5' is unknown; use ome-zarr, precomputed"),
        ({"codec": "zip"}, "codec: 'zip' is unknown"),
        (
            {"chunk_shape": (3, 8, 8)},
            r"chunk \[3, 8, 8\] is impossible; give three powers of two",
        ),
        ({"kind": "segmentation", "downsampling": "mean"}, "labels cannot be averaged"),
        ({"sharded": False, "precomputed": "gzip", "formats": ("precomputed",)}, "need shards"),
        ({"encoding": "jpeg2000"}, "encoding: 'jpeg2000' is unknown"),
        ({"downsampling": "median"}, "downsampling: 'median' is unknown"),
        ({"halved": "z"}, "halved: 'z' is unknown"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)
    with pytest.raises(ConfigError, match="dtype int16 cannot be stored as image"):
        make_plan("v", Frame(SHAPE, SPACING), "int16", small())


# ---------------------------------------------------------------- downsampling and histogram
@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.sampled_from(["uint8", "uint16", "uint32", "float32"]),
    st.integers(0, 100),
)
def test_downsampling_is_its_definition(shape, step, dtype, seed):
    values = np.random.default_rng(seed).integers(0, 4, shape).astype(dtype)
    if dtype == "uint16":
        values *= 65535 // 3
    for mode in ("mean", "mode") if dtype != "float32" else ("mean",):
        if (dtype, mode) != ("uint32", "mean"):
            np.testing.assert_array_equal(
                downsample(values, step, mode), reference(values, step, mode)
            )


def test_means_are_not_biased():
    """D5, D6 and tinybrain's truncation: a mean of integers is rounded, not cut."""
    values = np.random.default_rng(0).integers(65000, 65536, (64, 64, 64)).astype(np.uint16)
    mean = downsample(downsample(values, (2, 2, 2)), (2, 2, 2)).mean()
    assert abs(mean - values.mean()) < 0.2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_percentiles_of_merged_histograms(dtype):
    rng = np.random.default_rng(0)
    parts = [rng.gamma(2, 40, (20, 30, 10)).clip(0, 255).astype(dtype) for _ in range(5)]
    merged = histogram.merge(
        histogram.unpack(json.loads(json.dumps(histogram.pack(histogram.histogram(p)))))
        for p in parts
    )
    assert sum(merged.values()) == 5 * 6000
    for percent in (0.1, 10, 50, 90, 99.9):
        exact = np.percentile(parts, percent)
        assert abs(histogram.percentile(merged, percent) - exact) <= max(1.5, 0.04 * exact)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_histogram_is_the_same_in_parts(dtype):
    rng = np.random.default_rng(0)
    # brighter parts come last, so that what was counted before has to grow
    parts = [rng.gamma(2, scale, (3, 4, 5)).clip(0, 255).astype(dtype) for scale in (2, 10, 80)]
    counter = histogram.Counter(dtype)
    for part in parts:
        counter.add(part)
    assert counter.histogram() == histogram.histogram(np.stack(parts))
    assert histogram.Counter(dtype).histogram() == {}


def test_histogram_of_negative_values_is_ordered():
    counts = histogram.histogram(np.array([[[-8.0, -1.0, 0.0, 0.5, 3.0]]], np.float32))
    assert list(counts.values()) == [1] * 5
    assert histogram.percentile(counts, 1) <= -7.5 and histogram.percentile(counts, 99) >= 2.9


def test_window_of_an_empty_channel_is_not_stretched():
    empty = histogram.histogram(np.full((4, 4, 4), 100, np.uint16))
    assert display_window(empty, "uint16") == (100.0, 355.0)
    full = histogram.histogram(np.full((4, 4, 4), 65535, np.uint16))
    low, high = display_window(full, "uint16")
    assert high == 65535.0 and 255 <= high - low <= 2048, "one bin of 3 % at most"


def test_places_that_were_not_imaged_do_not_make_the_background_tissue():
    """Camera offset in most of a volume, tissue in a fifth of it, and corners of zeros."""
    rng = np.random.default_rng(0)
    whole = rng.normal(200, 8, 50_000)
    whole[:10_000] = rng.gamma(8, 250, 10_000) + 200
    image = np.rint(whole).astype(np.uint16)
    cornered = np.concatenate([image, np.zeros(3_000, np.uint16)])
    wanted = display_window(histogram.histogram(image), "uint16")
    assert wanted[0] > 150 and wanted[1] > 4000
    assert display_window(histogram.histogram(cornered), "uint16") == wanted


def test_zeros_of_a_subtracted_background_or_a_mask_count():
    rng = np.random.default_rng(0)
    noise = np.clip(np.rint(rng.normal(0, 8, 50_000)), 0, None)
    tissue = np.clip(rng.normal(100, 40, 10_000), 1, None)
    mask = np.repeat(np.array([0, 1000], np.uint16), 500)
    assert display_window(histogram.histogram(mask), "uint16")[0] == 0
    for zeros in (noise, np.zeros(50_000)):
        image = np.concatenate([zeros, tissue, np.full(500, 5000.0)]).astype(np.uint16)
        low, high = display_window(histogram.histogram(image), "uint16")
        assert low == 0 and high < 500, "tissue stays visible beside bright parts"


# ---------------------------------------------------------------- crashes, rewrites, damage
def files(folder):
    """Every file with its bytes; records without the facts of one run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.parent.name == "blocks":
                data = {k: v for k, v in json.loads(data).items() if k != "run"}
            found[path.relative_to(folder).as_posix()] = data
    return found


@pytest.fixture
def written(tmp_path):
    plan = make_plan("v", Frame(SHAPE, SPACING), "uint16", small())
    store, array = Store(str(tmp_path / "a")), image()
    make(store, array, plan)
    return store, plan, array, tmp_path


@pytest.mark.parametrize("codec", ["blosc-zstd", "blosc-lz4", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_shards_are_those_of_tensorstore(tmp_path, codec, dtype):
    array = (image() % 251).astype(dtype)
    settings = small(codec=codec, formats=("ome-zarr",))
    plan = make_plan("v", Frame(SHAPE, SPACING), dtype, settings)
    store = Store(str(tmp_path / "ours"))
    make(store, array, plan)
    other = ts.open(ngff.spec(Store(str(tmp_path / "theirs")), "v", plan, 0)).result()
    for block in plan.blocks():
        with ts.Transaction() as transaction:
            where = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
            other.with_transaction(transaction)[where] = array[where]
    theirs = files(tmp_path / "theirs" / "v" / ngff.FOLDER / "0")
    ours = files(tmp_path / "ours" / "v" / ngff.FOLDER / "0")
    assert len(theirs) == len(plan.blocks()) > 1
    assert {name: ours[name] for name in theirs} == theirs


def test_a_block_that_fails_leaves_no_object_and_no_record(written):
    store, plan, _, folder = written
    block = plan.blocks()[1]
    before = files(folder / "a")

    def layers(first, last):
        def fill(block, out):
            if first > block.start[0]:
                raise VolumeError("the disk of the tiles is gone")
            out[...] = 7
            return Clipped()

        return fill

    with pytest.raises(VolumeError, match="tiles is gone"):
        write_rows(store, "v", plan, [[block]], lambda blocks: layers, fingerprint="g")
    after = files(folder / "a")
    gone = set(before) - set(after)
    assert [name.split("/")[-1] for name in map(str, gone)] == [f"{block.name}.json"]
    assert {name: before[name] for name in after} == after, "old objects stay until new are whole"


def test_workers_do_not_change_a_byte(written):
    _, plan, array, tmp_path = written
    make(Store(str(tmp_path / "b")), array, plan, workers=1)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_concurrent_writers_of_different_blocks(written):
    _, plan, array, tmp_path = written
    store = Store(str(tmp_path / "b"))
    init_volume(store, "v", plan)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda b: write_block(store, "v", plan, b, cut(array, b), fingerprint="f"),
                plan.blocks()[::-1],
            )
        )
    finish_pyramid(store, "v", plan)
    finalize_volume(store, "v", plan)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("lost", ["record", "zarr", "precomputed", "pyramid", "truncated"])
def test_what_is_lost_is_named_and_comes_back_equal(written, lost):
    store, plan, array, tmp_path = written
    before = files(tmp_path / "a")
    block = plan.blocks()[3]
    record = json.loads(store.read(record_key("v", block)))
    name = {
        "record": record_key("v", block),
        "zarr": next(n for n in record["objects"] if "ome.zarr/1" in n),
        "precomputed": next(n for n in record["objects"] if "precomputed/0" in n),
        "pyramid": "v/pyramid.json",
        "truncated": next(n for n in record["objects"] if "ome.zarr/0" in n),
    }[lost]
    if lost == "truncated":
        store.write(name, store.read(name)[:-7])
    else:
        store.delete(name)
    message = {"record": f"1 of {len(plan.blocks())} blocks are missing .first: {block.name}",
               "pyramid": "no coarse levels"}.get(lost, name)  # fmt: skip
    with pytest.raises(VolumeError, match=message):
        finalize_volume(store, "v", plan)
    remade = []

    def again(b):
        remade.append(b)
        return cut(array, b), Clipped()

    write_blocks(store, "v", plan, plan.blocks(), again, fingerprint="f")
    assert remade == ([] if lost == "pyramid" else [block])
    finish_pyramid(store, "v", plan)
    finalize_volume(store, "v", plan)
    assert files(tmp_path / "a") == before


def test_blocks_of_other_data_are_rewritten_and_mixed_volumes_refused(written):
    store, plan, array, _ = written
    other = array.copy()
    other[0] += 1
    first = plan.batch(0, 2)
    write_blocks(store, "v", plan, first, lambda b: (cut(other, b), Clipped()), fingerprint="g")
    with pytest.raises(VolumeError, match="no coarse levels made from its current blocks"):
        finalize_volume(store, "v", plan)
    finish_pyramid(store, "v", plan)
    with pytest.raises(VolumeError, match="made from other data or settings"):
        finalize_volume(store, "v", plan, fingerprint="g")
    write_blocks(
        store, "v", plan, plan.blocks(), lambda b: (cut(other, b), Clipped()), fingerprint="g"
    )
    finish_pyramid(store, "v", plan)
    finalize_volume(store, "v", plan, fingerprint="g")
    for level, expected in enumerate(pyramid(other, plan)):
        np.testing.assert_array_equal(Volume(store, "v").read(level), expected)


@pytest.mark.parametrize("form", ["ome-zarr", "precomputed"])
def test_lost_data_never_read_as_zeros(tmp_path, form):
    plan = make_plan("v", Frame(SHAPE, SPACING), "uint16", small(formats=(form,)))
    store = Store(str(tmp_path))
    make(store, image(), plan)
    record = json.loads(store.read(record_key("v", plan.blocks()[0])))
    store.delete(next(n for n in record["objects"] if "/0/" in n))
    with pytest.raises(VolumeError, match="missing"):
        Volume(store, "v").read(0)


def test_damage_is_an_error_of_the_reader(written):
    store, plan, _, _ = written
    record = json.loads(store.read(record_key("v", plan.blocks()[-1])))
    name = next(n for n in record["objects"] if "ome.zarr/0" in n)
    data = bytearray(store.read(name))
    data[len(data) // 3] ^= 1
    store.write(name, bytes(data))
    with pytest.raises(VolumeError, match=r"cannot be read.*Digest mismatch"):
        Volume(store, "v").read(0)


@pytest.mark.parametrize("form", ["ome.zarr", "precomputed"])
def test_damaged_blocks_are_found_and_rewritten(written, form):
    store, plan, array, tmp_path = written
    before = files(tmp_path / "a")
    block = plan.blocks()[5]
    record = json.loads(store.read(record_key("v", block)))
    name = next(n for n in record["objects"] if f"{form}/0" in n)
    data = bytearray(store.read(name))
    data[100] ^= 1
    store.write(name, bytes(data))
    assert remove_damaged_blocks(store, "v", plan, 2) == [block.name]
    write_blocks(
        store, "v", plan, plan.blocks(), lambda b: (cut(array, b), Clipped()), fingerprint="f"
    )
    finalize_volume(store, "v", plan)
    assert remove_damaged_blocks(store, "v", plan) == []
    assert files(tmp_path / "a") == before


def spoil(store, name, at=100):
    data = bytearray(store.read(name))
    data[at % len(data)] ^= 1
    store.write(name, bytes(data))


@pytest.mark.parametrize("form", ["ome.zarr", "precomputed"])
def test_a_coarser_level_of_a_block_that_is_damaged_is_found(written, form):
    store, plan, *_ = written
    block = plan.blocks()[5]
    record = json.loads(store.read(record_key("v", block)))
    assert plan.block_levels > 1
    spoil(store, next(n for n in record["objects"] if f"{form}/1" in n))
    assert remove_damaged_blocks(store, "v", plan, 2) == [block.name]


@pytest.mark.parametrize("form", ["ome.zarr", "precomputed"])
@pytest.mark.parametrize("how", ["spoiled", "gone"])
def test_damage_above_the_blocks_is_found_and_mended(written, form, how):
    store, plan, _, tmp_path = written
    before = files(tmp_path / "a")
    assert remove_damaged_top(store, "v", plan) == []
    record = json.loads(store.read("v/pyramid.json"))
    name = next(n for n in record["objects"] if f"{form}/{plan.block_levels}" in n)
    if how == "gone":
        store.delete(name)
    else:
        spoil(store, name)
    assert remove_damaged_top(store, "v", plan, 2)[0] == plan.block_levels
    finish_pyramid(store, "v", plan)
    finalize_volume(store, "v", plan)
    assert remove_damaged_top(store, "v", plan) == []
    assert files(tmp_path / "a") == before


def test_damaged_metadata_are_found_and_written_again(written):
    store, plan, *_ = written
    content = json.loads(store.read("v/volume.json"))
    window = tuple(finalize_volume(store, "v", plan)["window"])
    assert remove_damaged_metadata(store, "v", plan, window) == []
    for name in ("ome.zarr/zarr.json", "ome.zarr/1/zarr.json", "precomputed/info"):
        spoil(store, f"v/{name}")
        assert remove_damaged_metadata(store, "v", plan, window) == [name]
        init_volume(store, "v", plan, content["metadata"])
        finalize_volume(store, "v", plan)
        assert remove_damaged_metadata(store, "v", plan, window) == []


@pytest.mark.slow
def test_killed_at_any_moment_ends_in_the_same_bytes(tmp_path):
    """SIGKILL while blocks are being written; a later run leaves no trace of it."""
    plan = make_plan("v", Frame(SHAPE, SPACING), "uint16", small(block=16))
    array = image()
    make(Store(str(tmp_path / "a")), array, plan)
    store = Store(str(tmp_path / "b"))
    init_volume(store, "v", plan)
    context = multiprocessing.get_context("spawn")
    for delay in (0.0, 0.05, 0.2):
        process = context.Process(target=_write_slowly, args=(store, plan, array))
        process.start()
        while process.is_alive() and not list((tmp_path / "b/v").rglob("*.shard")):
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.join()
    make(store, array, plan)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def _write_slowly(store, plan, array):
    for block in plan.blocks() * 20:
        write_block(store, "v", plan, block, cut(array, block), fingerprint="f")


def test_init_is_idempotent_and_refuses_another_volume(written):
    store, plan, _, tmp_path = written
    before = files(tmp_path / "a")
    init_volume(store, "v", plan)
    assert files(tmp_path / "a") == before
    (tmp_path / "a/v/ome.zarr/1/zarr.json").unlink()
    init_volume(store, "v", plan)
    assert files(tmp_path / "a") == before
    other = make_plan("v", Frame(SHAPE, SPACING), "uint16", small(block=16))
    with pytest.raises(VolumeError, match="contains another volume; remove its records"):
        init_volume(store, "v", other)
    assert files(tmp_path / "a") == before
    init_volume(store, "v", other, replace=True)
    assert not list((tmp_path / "a/v").rglob("*.shard"))
    delete_volume(store, "v")
    assert files(tmp_path / "a") == {}
    with pytest.raises(VolumeError, match="not a volume written by terareg"):
        Volume(store, "v")


def test_records_say_what_the_block_holds(written):
    store, plan, array, _ = written
    block = plan.blocks()[-1]
    data = cut(array, block)
    data[0, 0, 0] = 65535
    record = write_block(store, "v", plan, block, data, fingerprint="f", clipped=Clipped(2, 3))
    assert record["min"] == data.min() and record["max"] == 65535
    assert record["sum"] == data.sum(dtype=np.int64) and record["voxels"] == data.size
    assert (record["saturated"], record["clipped_low"], record["clipped_high"]) == (1, 2, 3)
    assert set(record["run"]) == {"seconds", "peak_memory_mb"}
    with pytest.raises(VolumeError, match=r"block 0_0_0 of v is uint16 .* not uint8"):
        write_block(
            store, "v", plan, plan.blocks()[0],
            np.zeros(plan.blocks()[0].shape, np.uint8), fingerprint="f",
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 600, 300), (2, 3, 65536), (2, 3, 65537)])
def test_sums_of_the_brightest_voxels_are_exact(tmp_path, shape):
    settings = small(chunk=64, block=1 << 17, formats=("precomputed",))
    plan = make_plan("v", Frame(shape, SPACING), "uint16", settings)
    store, (block,) = Store(str(tmp_path)), plan.blocks()
    init_volume(store, "v", plan)
    bright = np.full(shape, 65535, np.uint16)
    record = write_block(store, "v", plan, block, bright, fingerprint="f")
    assert record["sum"] == 65535 * bright.size and record["saturated"] == bright.size


def test_values_that_are_not_finite_are_refused(tmp_path):
    plan = make_plan("v", Frame((4, 4, 4), SPACING), "float32", small())
    store = Store(str(tmp_path))
    init_volume(store, "v", plan)
    with pytest.raises(VolumeError, match="not finite"):
        write_block(
            store, "v", plan, plan.blocks()[0], np.full((4, 4, 4), np.nan, np.float32),
            fingerprint="f",
        )  # fmt: skip


# ---------------------------------------------------------------- S3
@pytest.fixture
def bucket(s3, monkeypatch):
    # cloud-volume asks for it
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")
    s3.client().create_bucket(Bucket="brains")
    return Store("s3://brains/lab/one")


@pytest.mark.slow
@pytest.mark.engine
def test_s3_holds_the_same_bytes(bucket, tmp_path):
    array = image((20, 40, 33))
    plan = make_plan("v", Frame(array.shape, SPACING), "uint16", small())
    local = make(Store(str(tmp_path)), array, plan)
    assert make(bucket, array, plan) == local
    assert {e.key for e in bucket.list()} == {e.key for e in Store(str(tmp_path)).list()}
    for key in [e.key for e in bucket.list()]:
        if "/blocks/" not in key:
            assert bucket.read(key) == (tmp_path / key).read_bytes(), key
    volume = Volume(bucket, "v")
    for level, expected in enumerate(pyramid(array, plan)):
        np.testing.assert_array_equal(volume.read(level), expected)
    cloud = CloudVolume("precomputed://s3://brains/lab/one/v/precomputed", mip=1, progress=False)
    np.testing.assert_array_equal(np.asarray(cloud[:])[..., 0].T, pyramid(array, plan)[1])
    lost = json.loads(bucket.read(record_key("v", plan.blocks()[1])))["objects"]
    bucket.delete(next(n for n in lost if "ome.zarr/0" in n))
    with pytest.raises(VolumeError, match="missing"):
        volume.read(0)
    with pytest.raises(VolumeError, match="is missing although its block was finished"):
        finalize_volume(bucket, "v", plan)


def test_a_volume_can_be_moved(written):
    """Nothing in it knows its place."""
    store, _, _, tmp_path = written
    expected = Volume(store, "v").read(1)
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    np.testing.assert_array_equal(Volume(Store(str(tmp_path / "elsewhere")), "v").read(1), expected)


def test_few_values_and_the_full_scale_of_a_camera_are_in_the_summary(tmp_path):
    """Of an image of 12 bits in 16, of the same without saturation, and of a segmentation."""
    shape, store = (40, 64, 64), Store(str(tmp_path))
    plan = make_plan("v", Frame(shape, (5.0, 5.0, 5.0)), "uint16", small(formats=("ome-zarr",)))
    bright = np.random.default_rng(0).gamma(4.0, 600.0, shape)
    found = {
        key: make(store, values.astype(np.uint16), plan, key)
        for key, values in {
            "saturated": bright.clip(0, 4095),
            "not": 4095 * bright / bright.max(),
            "labels": (bright // 1000).clip(0, 9),
        }.items()
    }
    share = 100 * np.mean(bright >= 4095)
    assert share > 3 and found["saturated"]["saturated"] == 0
    # the bin below the highest is taken for what belongs to the image
    assert found["saturated"]["piled_percent"] == pytest.approx(share, abs=1.0)
    assert found["not"]["max"] == 4095 and found["not"]["piled_percent"] == 0
    assert found["labels"]["grey_values"] == 10 and found["saturated"]["grey_values"] > 100

"""Every tool makes, block by block, what plain NumPy makes of the whole array, for any layout."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import ome_zarr_models
import pytest
import SimpleITK as sitk
import tensorstore as ts
import zarr
from cloudvolume import CloudVolume
from derived_helpers import VOLUME, entry_of, halved, make_source, run_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from web_server import serving

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.extents import Extent
from terareg.core.frames import Frame
from terareg.derived.catalogue import TOOLS
from terareg.derived.counts import add_counts, count_values, percentiles
from terareg.derived.stretch import Stretch
from terareg.derived.tables import read_id_table, read_order
from terareg.derived.tools import CLASSES, make_tool, plan_of
from terareg.derived.view import View, check_unchanged, count_absent, open_view
from terareg.storage.store import Store
from terareg.volumes.finishing import remove_damaged_blocks
from terareg.volumes.headers import describe_image, image_state, level_shapes
from terareg.volumes.images import ImageSettings, OpenedImage, open_image
from terareg.volumes.plan import Block
from terareg.volumes.reader import Volume

SHAPES = st.tuples(st.integers(1, 14), st.integers(2, 21), st.integers(2, 19))
EXAMPLES = settings(max_examples=12, deadline=None)
LAYOUTS = st.fixed_dictionaries(
    {
        "chunk": st.sampled_from([None, 4, 8, [1, 4, 8], [2, 8, 4]]),
        "block": st.sampled_from([8, 16]),
        "levels": st.sampled_from([None, 1, 2]),
        "halved": st.sampled_from(["finest", "yx", "zyx"]),
        "sharded": st.booleans(),
    }
)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def noise(shape, dtype, seed=0, most=None):
    most = most or (200 if dtype == "uint8" else 4000)
    values = np.random.default_rng(seed).integers(0, most, shape)
    return values.astype(dtype)


def read_back(store, form, level):
    """A level as tensorstore reads it from the metadata on disk, (z, y, x)."""
    if form == "ome-zarr":
        path = f"{store.url}/brain/derived/made/ome.zarr/{level}/"
        return ts.open({"driver": "zarr3", "kvstore": f"file://{path}"}).result().read().result()
    path = f"{store.url}/brain/derived/made/precomputed/"
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{path}", "scale_index": level}
    return ts.open(spec).result().read().result()[..., 0].transpose(2, 1, 0)


def expect_pyramid(volume, array, mode):
    """All levels are those that plain NumPy makes of the finest, in every format."""
    plan = volume.plan
    for level in range(len(plan.levels)):
        if level:
            array = halved(array, plan.step(level), mode)
        for form in plan.settings.formats:
            np.testing.assert_array_equal(read_back(volume.store, form, level), array)
        np.testing.assert_array_equal(volume.read(level), array)


@pytest.mark.slow
@EXAMPLES
@given(shape=SHAPES, layout=LAYOUTS, data=st.data())
def test_convert_keeps_every_voxel_in_any_layout(shape, layout, data):
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "float32", "uint32", "uint64"]))
    labels = dtype in ("uint32", "uint64")
    codecs = [
        "raw",
        "zstd",
        "gzip",
        "blosc-lz4",
        None,
        "compressed_segmentation" if labels else "jpegxl" if dtype == "uint8" else "png",
    ]
    codec = data.draw(st.sampled_from(codecs))
    form = {"zstd": "ome-zarr", "blosc-lz4": "ome-zarr", "png": "precomputed",
            "jpegxl": "precomputed",
            "compressed_segmentation": "precomputed"}.get(codec, "both")  # fmt: skip
    if codec == "png" and dtype == "float32":
        codec = "raw"
    if codec == "gzip" and not layout["sharded"]:
        form = "ome-zarr"
    mode = data.draw(st.sampled_from(["mode", "max", "min", "stride"] + ["mean"] * (not labels)))
    box = [[data.draw(st.integers(0, n - 1)) for n in shape]]
    box.append([data.draw(st.integers(a + 1, n)) for a, n in zip(box[0], shape)])
    array = noise(shape, dtype, most=5 if labels else None)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        make_source(store, array)
        entry = entry_of("convert", format=form, codec=codec, box_vox=box, downsampling=mode,
                         **layout)  # fmt: skip
        volume = run_entry(store, entry, order=np.random.default_rng(1))
        part = array[tuple(slice(a, b) for a, b in zip(*box))]
        expect_pyramid(volume, part, mode)
        origin = np.array(box[0]) * (2.0, 1.0, 1.0)
        assert volume.frame.origin_um == tuple(origin), "the voxels stay where they were"
        if form != "ome-zarr":
            info = json.loads(store.read("brain/derived/made/precomputed/info"))
            assert info["scales"][0]["voxel_offset"] == box[0][::-1]
            assert info["type"] == ("segmentation" if labels else "image")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder, and its address on a web server."""
    folder = tmp_path_factory.mktemp("lab")
    with serving(folder) as address:
        yield folder, address


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ome-zarr", "ome-zarr-0.4", "precomputed", "sharded"])
def test_a_source_on_the_web_is_that_of_its_folder(store, lab, form):
    folder, url = lab
    array = noise((13, 18, 21), "uint16")
    there = Store(str(folder / form))
    make_source(there, array)
    told = {"format": "precomputed" if form == "sharded" else form, "sharded": form == "sharded"}
    run_entry(there, entry_of("convert", **told, voxel_offset=[5, -3, 2]))
    name = "precomputed" if form in ("precomputed", "sharded") else "ome.zarr"
    (folder / form / name).symlink_to(folder / form / f"brain/derived/made/{name}")
    box = [[0, 2, 1], [7, 9, 9]]
    made = []
    for place in (f"{url}/{form}/{name}", str(folder / form / name)):
        state = image_state(place)
        volume = run_entry(store, entry_of("convert", address=place, level=1, box_vox=box))
        check_unchanged(place, state)
        made.append((volume.read(0), volume.frame, volume.plan.to_json()))
    np.testing.assert_array_equal(made[0][0], made[1][0])
    assert made[0][1:] == made[1][1:] and made[0][0].any()
    described, missing = describe_image(f"{url}/{form}/{name}"), f"{url}/{form}/nothing"
    assert described.shape == (13, 18, 21) and level_shapes(described.name)[1] == (13, 9, 11)
    with pytest.raises(VolumeError, match=f"{missing} does not exist; correct the path"):
        describe_image(missing)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["raw", "gzip", "zstd", "blosc-zstd", "blosc-lz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint32"])
def test_ome_zarr_0_4_is_read_by_all(store, codec, dtype):
    """zarr-python and tensorstore find equal voxels, a model of the metadata finds no fault."""
    array = noise((13, 18, 21), dtype, most=9)
    make_source(store, array)
    entry = entry_of(
        "convert", format="ome-zarr-0.4", codec=codec, box_vox=[[1, 0, 3], [13, 18, 21]]
    )
    volume = run_entry(store, entry)
    expect = array[1:, :, 3:]
    folder = f"{store.url}/brain/derived/made/ome.zarr"
    group = zarr.open_group(folder, mode="r", zarr_format=2)
    for level in range(volume.levels):
        wanted = volume.read(level)
        np.testing.assert_array_equal(group[str(level)][:], wanted)
        found = ts.open({"driver": "zarr", "kvstore": f"file://{folder}/{level}/"}).result()
        np.testing.assert_array_equal(found.read().result(), wanted)
        if level == 0:
            np.testing.assert_array_equal(wanted, expect)
    image = ome_zarr_models.open_ome_zarr(group)
    assert image.ome_zarr_version == "0.4"
    (multiscale,) = image.attributes.multiscales
    assert [axis.unit for axis in multiscale.axes] == ["micrometer"] * 3
    scale, place = multiscale.datasets[0].coordinateTransformations
    assert (scale.scale, place.translation) == ([2.0, 1.0, 1.0], [2.0, 0.0, 3.0])
    assert ("omero" in group.attrs) == (dtype != "uint32")
    again = open_view(store, "brain", entry_of("convert", address=folder, level=1), folder)
    np.testing.assert_array_equal(again.read((0, 0, 0), again.shape), volume.read(1))


def test_damage_to_ome_zarr_0_4_is_found(store):
    """Its chunks have no checksums: the check compares voxels, and what is absent is an error."""
    make_source(store, noise((13, 18, 21), "uint16"))
    volume = run_entry(store, entry_of("convert", format="ome-zarr-0.4", codec="raw"))
    key, plan = "brain/derived/made", volume.plan
    assert remove_damaged_blocks(store, key, plan) == []
    chunk = f"{key}/ome.zarr/0/3/0/1"
    data = bytearray(store.read(chunk))
    data[5] ^= 1
    store.write(chunk, data)
    assert remove_damaged_blocks(store, key, plan) == ["1_0_0"]
    store.delete(chunk)
    with pytest.raises(VolumeError, match="cannot be read"):
        volume.read(0)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("codec", ["raw", "gzip", "compressed_segmentation", "jpegxl"])
def test_cloud_volume_and_zarr_read_what_is_converted(store, sharded, codec):
    dtype = {"compressed_segmentation": "uint64", "jpegxl": "uint8"}.get(codec, "uint16")
    array = noise((13, 18, 21), dtype, most=9)
    make_source(store, array)
    form = "precomputed" if codec in ("compressed_segmentation", "jpegxl") else "both"
    if codec == "gzip" and not sharded:
        form = "ome-zarr"
    entry = entry_of("convert", format=form, codec=codec, sharded=sharded, voxel_offset=[5, -3, 2])
    volume = run_entry(store, entry)
    folder = f"{store.url}/brain/derived/made"
    if "precomputed" in volume.plan.settings.formats:
        for level in range(volume.levels):
            found = CloudVolume(f"file://{folder}/precomputed", mip=level, progress=False)
            np.testing.assert_array_equal(
                np.asarray(found[:])[..., 0].transpose(2, 1, 0), volume.read(level)
            )
        assert CloudVolume(f"file://{folder}/precomputed").voxel_offset.tolist() == [2, -3, 5]
    if "ome-zarr" in volume.plan.settings.formats:
        np.testing.assert_array_equal(zarr.open(f"{folder}/ome.zarr/0", mode="r")[:], array)
        place = zarr.open(f"{folder}/ome.zarr", mode="r").attrs["ome"]["multiscales"][0]
        moved = place["datasets"][0]["coordinateTransformations"][1]
        assert moved["translation"] == [10.0, -3.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
def test_jpegxl_of_any_writer_is_read_and_damage_is_found(store, tmp_path, sharded):
    array = noise((19, 22, 21), "uint8", most=250)
    info = CloudVolume.create_new_info(
        1,
        "image",
        "uint8",
        "jxl",
        (1000, 1000, 2000),
        (0, 0, 0),
        (21, 22, 19),
        chunk_size=(8, 8, 8),
    )
    theirs = CloudVolume(f"file://{tmp_path}/theirs", info=info, compress=None, progress=False)
    theirs.commit_info()
    theirs.scale["jpeg_quality"] = 100  # as cloud-volume calls that of JPEG XL too: lossless
    theirs[:] = array.transpose(2, 1, 0)[..., None]
    image = open_image(f"{tmp_path}/theirs", ImageSettings(orientation="SAR"))
    assert theirs.encoding == "jxl"
    np.testing.assert_array_equal(image.read(0), np.asarray(theirs[:])[..., 0].transpose(2, 1, 0))
    np.testing.assert_array_equal(image.read(0, (3, 8, 9), (17, 9, 20)),
                                  image.read(0)[3:17, 8:9, 9:20])  # fmt: skip

    make_source(store, array)
    entry = entry_of("convert", format="precomputed", codec="jpegxl", sharded=sharded,
                     chunk=8, block=16)  # fmt: skip
    volume = run_entry(store, entry)
    np.testing.assert_array_equal(volume.read(0), array)
    assert remove_damaged_blocks(store, volume.key, volume.plan) == []
    largest = max(store.list(f"{volume.key}/precomputed/0"), key=lambda entry: entry.size).key
    data = bytearray(store.read(largest))
    data[len(data) // 2] ^= 255
    store.write(largest, data)
    assert len(remove_damaged_blocks(store, volume.key, volume.plan)) == 1


def test_jpeg_stays_near_and_damage_is_found(store):
    z, y, x = np.meshgrid(*map(np.arange, (16, 40, 40)), indexing="ij")
    array = (100 + 50 * np.sin(z / 5) + y + x / 2).astype(np.uint8)
    make_source(store, array)
    entry = entry_of("convert", format="precomputed", codec="jpeg", chunk=8, block=16)
    volume = run_entry(store, entry)
    found = read_back(store, "precomputed", 0).astype(int)
    assert abs(found - array).max() <= 8 and abs(found - array).mean() < 1
    assert remove_damaged_blocks(store, volume.key, volume.plan) == []
    shard = next(entry.key for entry in store.list(f"{volume.key}/precomputed/0"))
    data = bytearray(store.read(shard))
    data[len(data) // 2] ^= 1
    store.write(shard, data)
    assert len(remove_damaged_blocks(store, volume.key, volume.plan)) == 1


@pytest.mark.slow
@EXAMPLES
@given(
    shape=SHAPES,
    factor=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
    mode=st.sampled_from([None, "mean", "sparse", "mode", "max", "min", "stride"]),
    labels=st.booleans(),
)
def test_downsample_is_what_numpy_makes_of_the_whole(shape, factor, mode, labels):
    if labels and mode in ("mean", "sparse"):
        mode = None
    array = noise(shape, "uint32" if labels else "uint16", most=4)
    wanted, left = array, list(factor)
    while max(left) > 1:
        step = [min(f, 2) for f in left]
        wanted = halved(wanted, step, mode or ("mode" if labels else "mean"))
        left = [f // s for f, s in zip(left, step)]
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        entry = entry_of("downsample", factor=list(factor), downsampling=mode)
        volume = run_entry(Store(folder), entry)
        expect_pyramid(volume, wanted, mode or ("mode" if labels else "mean"))
        assert volume.frame.spacing_um == tuple(s * f for s, f in zip((2.0, 1.0, 1.0), factor))


def covered(sizes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Length of every voxel of one axis (columns) in every voxel of another (rows), by edges."""
    low = np.maximum(sizes[:-1, None], edges[None, :-1])
    return np.maximum(np.minimum(sizes[1:, None], edges[None, 1:]) - low, 0)


@settings(EXAMPLES, max_examples=10)
@given(
    shape=SHAPES,
    size=st.sampled_from([None, 2.0, 3.0, [2.0, 3.0, 1.0], [5.0, 1.5, 2.5]]),
    seed=st.integers(0, 9),
)
def test_resample_gives_each_label_the_voxels_that_it_fills_most_of(shape, size, seed):
    array = noise(shape, "uint32", seed, most=4)
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        entry = entry_of("resample", levels=1, **({} if size is None else {"resolution_um": size}))
        volume = run_entry(Store(folder), entry, order=np.random.default_rng(seed))
        result = volume.read(0)
    spacing = np.broadcast_to(2.0 if size is None else size, 3)
    there = np.array([2.0, 1.0, 1.0])
    counts = np.ceil(np.array(shape) * there / spacing - 1e-6).astype(int)
    assert volume.frame.shape == tuple(counts)
    np.testing.assert_allclose(volume.frame.spacing_um, spacing)
    shares = [
        covered(np.arange(m + 1) * s, np.arange(n + 1) * t)
        for m, s, n, t in zip(counts, spacing, shape, there)
    ]
    votes = np.stack([
        np.einsum("az,by,cx,zyx->abc", *shares, (array == label).astype(float))
        for label in range(5)
    ])  # fmt: skip
    found = np.take_along_axis(votes, result[None].astype(int), 0)[0]
    np.testing.assert_allclose(found, votes.max(0), rtol=1e-3)


@settings(EXAMPLES, max_examples=10)
@given(shape=SHAPES, dtype=st.sampled_from(["uint16", "float32"]), seed=st.integers(0, 9))
def test_resample_by_whole_ratios_is_the_mean_of_the_voxels(shape, dtype, seed):
    array = noise(shape, dtype, seed)
    size = [4.0, 2.0, 3.0]
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        entry = entry_of("resample", resolution_um=size, levels=1)
        result = run_entry(Store(folder), entry).read(0)
    cut = [[(i, min(i + n, m)) for i in range(0, m, n)] for m, n in zip(shape, (2, 2, 3))]
    wanted = np.array([
        [[array[a:b, c:d, e:f].mean(dtype=float) for e, f in cut[2]] for c, d in cut[1]]
        for a, b in cut[0]
    ])  # fmt: skip
    atol = 0.5 + 1e-3 if dtype == "uint16" else 1e-2
    np.testing.assert_allclose(result, wanted, atol=atol)


def test_resample_keeps_a_ramp_at_its_place_whatever_the_blocks(tmp_path):
    z, y, x = np.meshgrid(*(np.arange(n) for n in (9, 17, 21)), indexing="ij")
    frame = Frame(z.shape, (2.0, 1.0, 1.0), (10.0, -3.0, 0.0))
    ramp = (100 + 20 * z + 5 * y + 3 * x).astype(np.float32)
    make_source(Store(str(tmp_path)), ramp, frame=frame)
    volume = run_entry(Store(str(tmp_path)), entry_of("resample", resolution_um=2.6, levels=1))
    where = volume.frame.axes_um()
    inner = np.s_[1:-1, 1:-1, 1:-1]
    values = [100 + 20 * (where[0] - 10) / 2, 5 * (where[1] + 3), 3 * where[2]]
    wanted = values[0][:, None, None] + values[1][:, None] + values[2]
    np.testing.assert_allclose(volume.read(0)[inner], wanted[inner], rtol=1e-5)
    whole, _ = Volume(Store(str(tmp_path)), "brain/fused/signal").resampled(2.6)
    np.testing.assert_allclose(volume.read(0), whole, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"finer than the voxels .* adds no detail; raise it"):
        run_entry(Store(str(tmp_path)), entry_of("resample", "b", resolution_um=0.5))


@pytest.mark.slow
@EXAMPLES
@given(
    shape=SHAPES,
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    percent=st.sampled_from([[0, 100], [0.1, 99.9], [20, 70]]),
    seed=st.integers(0, 9),
)
def test_quantize_takes_the_percentiles_of_the_whole(shape, dtype, percent, seed):
    array = noise(shape, dtype, seed)
    low, high = np.percentile(array, percent, method="inverted_cdf")
    if dtype == "float32":  # floats are counted to 8 significant bits
        low, high = (np.array([low, high], np.float32).view(np.uint32) & 0xFFFF0000).view(
            np.float32
        )
    high = max(high, low + 1)
    wanted = np.clip((array.astype(np.float64) - low) / (high - low) * 255, 0, 255)
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        entry = entry_of("quantize", percent=percent, least_range=1, levels=1)
        volume = run_entry(Store(folder), entry, order=np.random.default_rng(seed))
        assert volume.dtype == np.uint8
        np.testing.assert_allclose(volume.read(0), wanted, atol=0.5 + 1e-3)


def test_a_mask_of_floats_becomes_black_and_white(store):
    mask = (noise((6, 9, 9), "uint8") > 100).astype(np.float32)
    mask[0, 0, 0] = np.float32(0.5)
    make_source(store, mask)
    entry = entry_of("quantize", values=[0, 1])
    assert not entry.measures, "the values are given, so the source is read once"
    found = run_entry(store, entry).read(0)
    assert found[0, 0, 0] in (127, 128)
    np.testing.assert_array_equal(found[1:], mask[1:].astype(np.uint8) * 255)


@pytest.mark.slow
@EXAMPLES
@given(
    shape=SHAPES,
    dtype=st.sampled_from(["uint8", "uint16"]),
    per=st.sampled_from(["slice", "whole"]),
    clip=st.sampled_from([100, 99, 80]),
    seed=st.integers(0, 9),
)
def test_equalize_stretches_every_slice_or_the_whole(shape, dtype, per, clip, seed):
    array = noise(shape, dtype, seed)
    array[: len(array) // 2] //= 3
    axes = (1, 2) if per == "slice" else None
    low, high = np.percentile(array, [100 - clip, clip], axis=axes, keepdims=True,
                              method="inverted_cdf")  # fmt: skip
    top = np.iinfo(dtype).max
    high = np.maximum(high, low + 1)
    wanted = np.clip((array.astype(np.float64) - low) / (high - low) * top, 0, top)
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        entry = entry_of("equalize", clip_percent=clip, per=per, levels=1)
        found = run_entry(Store(folder), entry, order=np.random.default_rng(seed)).read(0)
        np.testing.assert_allclose(found, wanted, atol=0.5 + top * 1e-6)


def test_a_source_without_numbers_is_told(store):
    array = np.full((4, 6, 6), np.nan, np.float32)
    assert count_values(array, range(4))["count"].size == 0
    tool = make_tool(view_of(array), entry_of("equalize"))
    with pytest.raises(VolumeError, match="contains only NaN; check its source"):
        tool.finish([tool.measure(Block((0, 0, 0), (0, 0, 0), array.shape))])


def view_of(array, start=(0, 0, 0), planes_together=1):
    """An image in memory, from a voxel on, whose planes are decoded together."""
    frame = Frame(array.shape, (2.0, 1.0, 1.0), orientation="SAR")
    image = OpenedImage("array", [frame], [array])
    image.planes_together = lambda level: planes_together
    place = frame.cropped(start, array.shape)
    return View(image, 0, start, array.shape, "image", start, place)


@pytest.mark.parametrize("per", ["slice", "whole"])
def test_counts_of_planes_that_are_known_are_not_held(per):
    """Otherwise memory would follow the number of planes."""
    array = noise((12, 8, 20), "uint16")
    tool = make_tool(view_of(array), entry_of("equalize", per=per))
    plan = plan_of(tool, entry_of("equalize"), VOLUME, "made")
    parts = [tool.measure(block) for block in plan.blocks()]
    layer = [p for p, block in zip(parts, plan.blocks()) if block.index[0] == 0]
    some = tool.gather(layer[:-1])
    assert some["count"].size and not some["done"].size
    every = tool.gather([some, *layer[-1:]])
    assert (every["count"].size == 0) == (per == "slice") == (len(every["done"]) == 8)
    with pytest.raises(VolumeError, match="some blocks were not measured; delete the folder"):
        tool.finish([tool.gathered(parts[:-1])])
    backwards = tool.finish([tool.gathered(parts[::-1])])
    low, high = np.percentile(array, [1, 99], axis=(1, 2) if per == "slice" else None,
                              method="inverted_cdf", keepdims=per == "whole")  # fmt: skip
    assert np.array_equal(backwards["low"], low.reshape(-1))
    assert np.array_equal(backwards["high"], high.reshape(-1))


def test_what_is_gathered_early_is_what_is_gathered_at_once(monkeypatch):
    array = noise((9, 20, 17), "uint16")
    for do, more in (("quantize", {}), ("equalize", {}), ("tissue", {"resolution_um": 4.0})):
        entry = entry_of(do, **more)
        tool = make_tool(view_of(array), entry)
        blocks = plan_of(tool, entry, VOLUME, "made").blocks()
        parts = [tool.measure(block) for block in blocks]
        once = tool.finish([tool.gather(parts)])
        monkeypatch.setattr("terareg.derived.tool._HELD_BYTES", 1)
        early = tool.finish([tool.gathered(iter(parts))])
        monkeypatch.undo()
        assert once.keys() == early.keys()
        assert all(np.array_equal(once[name], early[name]) for name in once)


def test_parts_of_blocks_decode_no_chunk_twice():
    array, block = noise((64, 8, 8), "uint16"), Block((1, 0, 0), (16, 0, 0), (32, 8, 8))

    def planes(do, view, depth, of=block, **more):
        parts = make_tool(view, entry_of(do, **more)).layers(of, depth)
        return [(part.start[0], part.stop[0]) for part in parts]

    assert planes("convert", view_of(array), 8) == [(16, 24), (24, 32)]
    assert planes("convert", view_of(array, planes_together=16), 4) == [(16, 32)]
    assert planes("convert", view_of(array, planes_together=6), 4) == [(16, 24), (24, 32)]
    # the first plane lies within a chunk, as do then the first planes of all parts
    assert planes("convert", view_of(array, (4, 0, 0), 8), 8) == [(16, 32)]
    assert planes("convert", view_of(array, (8, 0, 0), 8), 8) == [(16, 24), (24, 32)]
    # 8 planes of the result are 16 of the source
    assert planes("downsample", view_of(array, planes_together=16), 4) == [
        (16, 24), (24, 32)
    ]  # fmt: skip
    assert planes("equalize", view_of(array), 8) == [(16, 24), (24, 32)]
    for do, more in (("equalize", {"local_um": 40}), ("reorder", {"order": [*range(64)]})):
        assert planes(do, view_of(array), 8, **more) == [(16, 32)]


def test_a_stretch_counts_what_lies_beyond():
    values = np.array([0, 10, 20, 30, 255], np.uint8)
    for given_values in (values, values.astype(np.float32)):
        found, clipped = Stretch(10, 30, 0, 255, "uint8").apply(given_values)
        assert found.tolist() == [0, 0, 128, 255, 255]
        assert (clipped.low, clipped.high) == (1, 1)
    found, clipped = Stretch(0, 1, 0, 255, "uint8").apply(np.array([np.nan, np.inf], np.float32))
    assert found.tolist() == [0, 255] and (clipped.low, clipped.high) == (1, 1)


@pytest.mark.slow
@EXAMPLES
@given(
    shape=SHAPES,
    missing=st.sampled_from(["keep", "zero"]),
    ids=st.sampled_from([None, "uint64"]),
    seed=st.integers(0, 9),
)
def test_remap_is_a_table_look_up(shape, missing, ids, seed):
    rng = np.random.default_rng(seed)
    known = [0, 1, 7, 614454277, 2**32 - 1]
    array = rng.choice(np.array(known, np.uint32), shape)
    table = {7: 2**40 if ids else 9, 614454277: 7, 99: 5}
    whole = np.array([table.get(i, 0 if missing == "zero" else i) for i in known], np.uint64)
    wanted = whole[np.searchsorted(known, array)]
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        path = f"{folder}/ids.json"
        with open(path, "w") as stream:
            json.dump([[int(k), v] for k, v in table.items()], stream)
        entry = entry_of("remap", table=path, missing=missing, ids=ids, levels=1)
        volume = run_entry(Store(folder), entry, files=[path])
        assert volume.dtype == np.dtype(ids or "uint32")
        np.testing.assert_array_equal(volume.read(0), wanted)


def test_remap_names_what_the_table_lacks_or_cannot_say(store, tmp_path):
    make_source(store, np.arange(64, dtype=np.uint32).reshape(4, 4, 4))
    table = tmp_path / "ids.csv"
    table.write_text("from,to\n1,2\n")
    with pytest.raises(
        VolumeError, match=r"list 62 of the ids in block 0_0_0.*\(2, 3, 4, 5, 6 and"
    ):
        run_entry(store, entry_of("remap", table=str(table)), files=[str(table)])
    table.write_text("from,to\n1,4294967296\n")
    with pytest.raises(
        ConfigError, match=r"derived\.made: .*id 1 becomes 4294967296, too large for uint32"
    ):
        run_entry(store, entry_of("remap", table=str(table)), files=[str(table)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from,to\n1,2\n1,3\n", "id 1 is mapped to both 2 and 3"),
        ("from,to\n1,-2\n", "row 1 has '-2', which is not a whole number"),
        ("from,to\n1,2.5\n", "row 1 has '2.5'"),
        ("from,to\n1,²\n", "row 1 has '²', which is not a whole number"),
        (f"from,to\n1,{'9' * 5000}\n", r"row 1 has '9+\.\.\.', which is not a whole number"),
        ("a,b\n1,2\n", "its columns are 'a', 'b', without from and to"),
        ("from,to\n", "it has no row"),
        ("", "it is empty"),
        ("from,to\n1\n", "line 2 has 1 values for 2 columns"),
    ],
)
def test_bad_tables_of_ids(tmp_path, text, words):
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_id_table(str(tmp_path / "ids.csv"))


@pytest.mark.parametrize(
    "text", ["from,to,why\n1,2,a\n", "\ufeffFrom;To\r\n1;2\r\n", "from\tto\n1\t2"]
)
def test_tables_of_ids_as_spreadsheets_write_them(tmp_path, text):
    (tmp_path / "ids.csv").write_bytes(text.encode())
    assert read_id_table(str(tmp_path / "ids.csv")) == {1: 2}


def test_a_table_in_parquet_without_its_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "ids.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ConfigError,
        match=r"ids\.parquet cannot be read: Parquet needs the package pyarrow, which is not "
        r"installed; install it",
    ):
        read_id_table(str(tmp_path / "ids.parquet"))


def test_tables_of_ids_in_parquet(tmp_path):
    """With 64 bits, other columns between and other cases of letters."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra and is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "ids.parquet")
    largest = 2**64 - 1

    def write(**columns):
        parquet.write_table(arrow.table(columns), path)

    old = np.array([1, 7, largest], np.uint64)
    write(To=arrow.array([5, 6, 7], arrow.int32()), name=["a", "b", "c"], From=arrow.array(old))
    assert read_id_table(path) == {1: 5, 7: 6, largest: 7}
    for columns, words in (
        ({"from": [1.0], "to": [2]}, "column 'from' holds double, not integers"),
        ({"from": [1, 1], "to": [2, 3]}, "id 1 becomes 2 and 3"),
        ({"from": [1, None], "to": [2, 3]}, "row 2 holds None, not a whole number"),
        ({"from": [1], "to": [-2]}, "row 1 holds -2, not a whole number"),
        ({"a": [1], "to": [2]}, "its columns are 'a', 'to', without from and to"),
        ({"from": arrow.array([], arrow.int64()), "to": arrow.array([], arrow.int64())}, "no row"),
    ):
        write(**columns)
        with pytest.raises(ConfigError, match=words):
            read_id_table(path)
    file = tmp_path / "ids.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"ids\.parquet cannot be read"):
        read_id_table(path)


@pytest.mark.slow
@EXAMPLES
@given(shape=SHAPES, seed=st.integers(0, 9), labels=st.booleans())
def test_reorder_puts_planes_where_the_list_says(shape, seed, labels):
    array = noise(shape, "uint32" if labels else "uint16", seed)
    order = np.random.default_rng(seed).permutation(shape[0])
    with tempfile.TemporaryDirectory() as folder:
        make_source(Store(folder), array)
        entry = entry_of("reorder", order=order.tolist(), levels=1)
        np.testing.assert_array_equal(run_entry(Store(folder), entry).read(0), array[order])


def test_reorder_says_what_would_be_lost_or_doubled(store, tmp_path):
    array = noise((5, 6, 7), "uint16")
    make_source(store, array)
    for order, words in (
        ([0, 1, 2, 3], "1 of 5 planes are left out .first: 4.; add them, or set losses: true"),
        ([0, 1, 2, 3, 3], "plane 3 is used twice; correct the order, or set duplicates: true"),
        ([0, 1, 2, 3, 5], "order: 5 is not a plane of source, which has planes 0 to 4"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_entry(store, entry_of("reorder", order=order))
    file = tmp_path / "order.txt"
    file.write_text("3\n3\n0\n")
    entry = entry_of("reorder", order=str(file), duplicates=True, losses=True)
    np.testing.assert_array_equal(
        run_entry(store, entry, files=[str(file)]).read(0), array[[3, 3, 0]]
    )
    file.write_text("3\nthree\n")
    with pytest.raises(ConfigError, match="row 2 has 'three'"):
        read_order(str(file))


def test_percentiles_are_those_of_numpy():
    array = noise((3, 50, 40), "uint16")
    parts = [count_values(array[:, :20], range(3)), count_values(array[:, 20:], range(3))]
    planes, found = percentiles(add_counts(parts), (0, 12.5, 50, 99.9, 100))
    wanted = np.percentile(array, (0, 12.5, 50, 99.9, 100), axis=(1, 2), method="inverted_cdf")
    assert planes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found, wanted.T)


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_in_the_same_bytes(tmp_path):
    """Also when chunks lie in objects of their own, which appear before the record does."""
    array = noise((13, 18, 21), "uint16")
    for sharded in (True, False):
        entry = entry_of("equalize", format="both", sharded=sharded)
        found = []
        for name, fails in (("whole", []), ("cut", [(0, 1, 0)])):
            store = Store(str(tmp_path / f"{name}{sharded}"))
            make_source(store, array)
            if fails:
                with pytest.raises(KeyboardInterrupt):
                    run_entry(store, entry, fails=fails)
            run_entry(store, entry)
            keys = [e.key for e in store.list("brain/derived") if "/blocks/" not in e.key]
            found.append({key: store.read(key) for key in keys})
        assert found[0] == found[1]


def test_a_source_elsewhere_keeps_its_place_and_is_watched(store, tmp_path):
    array = noise((9, 8, 7), "uint64", most=2**50)
    path = f"{tmp_path}/lab/precomputed"
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "create": True,
        "multiscale_metadata": {"type": "segmentation", "data_type": "uint64", "num_channels": 1},
        "scale_metadata": {"size": [7, 8, 9], "voxel_offset": [100, -20, 3], "encoding": "raw",
                           "chunk_size": [4, 4, 4], "resolution": [500, 500, 2000]},
    }  # fmt: skip
    ts.open(spec).result()[...].write(array.transpose(2, 1, 0)[..., None]).result()
    entry = entry_of(
        "convert", address=path, format="precomputed", box_um=[[2, 0, 0.5], [18, 4, 3]]
    )
    volume = run_entry(store, entry)
    assert volume.dtype == np.uint64 and volume.is_segmentation
    np.testing.assert_array_equal(volume.read(0), array[1:9, 0:8, 1:6])
    info = json.loads(store.read("brain/derived/made/precomputed/info"))
    assert info["scales"][0]["voxel_offset"] == [101, -20, 4]
    assert info["scales"][0]["resolution"] == [500, 500, 2000]
    state = image_state(path)
    check_unchanged(path, state)
    Store(path).write("0-4_0-4_0-4", b"other")
    with pytest.raises(VolumeError, match="changed while it was being read"):
        check_unchanged(path, state)


def test_chunks_that_a_source_elsewhere_lacks_are_told(store, tmp_path):
    array = noise((9, 8, 7), "uint16")
    array[:4, :4, :4] = 0
    path = f"{tmp_path}/lab/precomputed"
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "create": True,
        "multiscale_metadata": {"type": "image", "data_type": "uint16", "num_channels": 1},
        "scale_metadata": {"size": [7, 8, 9], "encoding": "raw", "chunk_size": [4, 4, 4],
                           "resolution": [500, 500, 2000]},
    }  # fmt: skip
    ts.open(spec).result()[...].write(array.transpose(2, 1, 0)[..., None]).result()
    entry = entry_of("convert", address=path)
    for look in (lambda: count_absent(entry, path), lambda: run_entry(store, entry)):
        with pytest.raises(VolumeError, match=r"0-4_0-4_0-4.* set fill_missing: true if"):
            look()
    entry = entry_of("convert", address=path, fill_missing=True)
    assert count_absent(entry, path) == 1
    with serving(tmp_path) as url:
        assert count_absent(entry, f"{url}/lab/precomputed") is None, "the web lists none"
    np.testing.assert_array_equal(run_entry(store, entry).read(0), array)


def test_negative_ids_and_regions_outside_are_told(store, tmp_path):
    path = tmp_path / "labels.nrrd"
    image = sitk.GetImageFromArray(np.full((4, 5, 6), -3, np.int32))
    sitk.WriteImage(image, str(path))
    entry = entry_of("convert", address=str(path), spacing_um=[1, 1, 1], labels=True)
    with pytest.raises(VolumeError, match="contains the id -3, but labels cannot be negative"):
        run_entry(store, entry)
    entry = entry_of(
        "convert", address=str(path), spacing_um=[1, 1, 1], box_vox=[[0, 0, 0], [5, 5, 5]]
    )
    with pytest.raises(
        ConfigError, match=r"derived\.made\.box_vox: .* reaches beyond the volume, whose level"
    ):
        open_view(store, "brain", entry, str(path))


def test_every_tool_has_a_class_and_a_plan_of_its_grid(store):
    assert set(CLASSES) == set(TOOLS)
    make_source(store, noise((9, 10, 11), "uint16"))
    for do, more in (("downsample", {"factor": [1, 2, 4]}), ("reorder", {"order": list(range(9))}),
                     ("convert", {}), ("quantize", {}), ("equalize", {})):  # fmt: skip
        entry = entry_of(do, **more)
        view = open_view(store, "brain", entry)
        plan = plan_of(make_tool(view, entry), entry, VOLUME, "x")
        extent = entry.facts.grid(entry.settings, Extent(view.shape, view.frame.spacing_um))
        assert (extent.shape, extent.spacing_um) == (plan.frame.shape, plan.frame.spacing_um)
        assert plan.dtype == entry.facts.dtype(entry.settings, "image", "uint16")
    assert Volume(store, "brain/fused/signal").levels > 1


# ------------------------------------------------------------------ reports about other programs
def sharded_of(path, array, offset=(0, 0, 0), chunk=(4, 4, 4), **sharding):
    """A precomputed volume (x, y, z) in shards by tensorstore."""
    bits = {"preshift_bits": 1, "minishard_bits": 1, "shard_bits": 2, "hash": "identity"}
    packed = {"minishard_index_encoding": "gzip", "data_encoding": "gzip"}
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "create": True,
        "multiscale_metadata": {"type": "image", "data_type": "uint16", "num_channels": 1},
        "scale_metadata": {
            "size": list(array.shape[::-1]), "voxel_offset": list(offset), "encoding": "raw",
            "chunk_size": list(chunk), "resolution": [500, 500, 2000],
            "sharding": {"@type": "neuroglancer_uint64_sharded_v1", **bits, **packed, **sharding},
        },
    }  # fmt: skip
    ts.open(spec).result()[...].write(array.transpose(2, 1, 0)[..., None]).result()
    return Path(path) / "info"


def test_statements_that_may_be_left_out_have_their_usual_values(store, tmp_path):
    """https://github.com/seung-lab/cloud-volume/pull/263 and /issues/354, raw shards without
    encodings and a volume without voxel_offset: an exception, or a wrong place."""
    array = noise((9, 8, 7), "uint16")
    raw = {"minishard_index_encoding": "raw", "data_encoding": "raw"}
    path = sharded_of(tmp_path / "lab", array, **raw)
    info = json.loads(path.read_text())
    (scale,) = info["scales"]
    del scale["voxel_offset"]
    for key in raw:
        del scale["sharding"][key]
    path.write_text(json.dumps(info))
    volume = run_entry(store, entry_of("convert", address=str(tmp_path / "lab")))
    np.testing.assert_array_equal(volume.read(0), array)
    assert volume.plan.offset_vox(0) == (0, 0, 0)


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8, 2), (1, 9, 1), (17, 2, 3)])
def test_shards_of_few_chunks_along_an_axis(store, tmp_path, shape):
    """https://github.com/seung-lab/igneous/issues/100: Morton codes of axes of one chunk."""
    array = noise(shape, "uint16")
    sharded_of(tmp_path / "lab", array, chunk=(2, 2, 2), preshift_bits=4, minishard_bits=0,
               shard_bits=0)  # fmt: skip
    entry = entry_of("convert", address=str(tmp_path / "lab"), format="precomputed", sharded=True)
    run_entry(store, entry)
    path = f"file://{store.url}/brain/derived/made/precomputed"
    read = CloudVolume(path, progress=False)[:]
    np.testing.assert_array_equal(np.asarray(read)[..., 0].transpose(2, 1, 0), array)


@pytest.mark.parametrize("offset", [(3, 0, 0), (-5, 7, 101), (4, -4, 8)])
@pytest.mark.parametrize("sharded", [True, False])
def test_the_grid_of_chunks_begins_at_the_offset(store, tmp_path, offset, sharded):
    """https://github.com/scalableminds/webknossos/issues/7006 and /pull/7062, and
    https://github.com/google/neuroglancer/issues/82: an offset that was ignored, or whose chunks
    had other names, or that was taken for a part of the size."""
    array = noise((9, 8, 7), "uint16")
    sharded_of(tmp_path / "lab", array, offset)
    entry = entry_of("convert", address=str(tmp_path / "lab"), format="precomputed",
                     sharded=sharded, levels=2)  # fmt: skip
    volume = run_entry(store, entry)
    path = f"file://{store.url}/brain/derived/made/precomputed"
    read = CloudVolume(path, progress=False)
    assert read.bounds.minpt.tolist() == list(offset)
    assert read.bounds.maxpt.tolist() == [o + n for o, n in zip(offset, (7, 8, 9))]
    np.testing.assert_array_equal(np.asarray(read[:])[..., 0].transpose(2, 1, 0), array)
    coarse = np.asarray(CloudVolume(path, mip=1, progress=False)[:])
    np.testing.assert_array_equal(coarse[..., 0].transpose(2, 1, 0), volume.read(1))


def test_a_shard_that_nobody_wrote_is_no_zero_unless_said(store, tmp_path):
    """https://github.com/seung-lab/cloud-volume/issues/329: fill_missing did not know shards."""
    array = noise((16, 16, 16), "uint16")
    path = sharded_of(tmp_path / "lab", array, minishard_bits=3).parent / "500_500_2000"
    # the first half of z is in the first half of the shards
    for shard in sorted(path.iterdir())[:2]:
        shard.unlink()
    array[:8] = 0
    entry = entry_of("convert", address=str(tmp_path / "lab"))
    with pytest.raises(VolumeError, match="fill_missing: true"):
        run_entry(store, entry)
    entry = entry_of("convert", address=str(tmp_path / "lab"), fill_missing=True)
    np.testing.assert_array_equal(run_entry(store, entry).read(0), array)

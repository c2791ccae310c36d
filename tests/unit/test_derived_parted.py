"""Tools of derived: that work on objects, step by step as their rules call them."""

import json

import numpy as np
import pytest
from objects_helpers import Held, ball, tube
from scipy import ndimage

from terareg.core.errors import ConfigError, StoreError, VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.parted import digests_in
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import Place, View
from terareg.storage.records import damaged_objects
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE, SPACING_UM = (40, 70, 72), (2.0, 1.0, 1.0)
SECTION = {
    "formats": ["ome-zarr"], "codec": "none", "precomputed": "raw", "chunk": 16, "block": 32,
}  # fmt: skip


def scene():
    mask = np.zeros(SHAPE, bool)
    mask[:22, :24, :26][ball(10, (22, 24, 26))] = True
    mask |= tube(SHAPE, SPACING_UM, [[(60, 50, -9), (60, 50, 90)]], 4)
    mask[0, 69, ::9] = True
    return mask


def view_of(array, store, kind, start=(0, 0, 0)):
    volume = Held(array, SPACING_UM, "held")
    stop = tuple(array.shape)
    frame = volume.frame.cropped(start, stop)
    return View(volume, 0, start, stop, kind, start, frame, Place(store, "brain", "made"))


def prepared(view, do, **settings):
    """A tool, its blocks, and what all of them told in two batches."""
    entry = Entry("made", do, None, "held", settings)
    tool = make_tool(view, entry)
    plan = plan_of(tool, entry, SECTION, "made")
    batches = [plan.batch(n, 2) for n in range(2)]
    parts = [tool.gather([tool.measure(b) for b in batch]) for batch in batches if batch]
    return tool, plan, tool.finish(parts)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def labels_of(store, mask=None):
    mask = scene() if mask is None else mask
    return ndimage.label(mask)[0].astype(np.uint32)


def test_components(store):
    view = view_of((scene() * 900).astype(np.uint16), store, "image", (1, 2, 3))
    tool, plan, measured = prepared(view, "components", low=500.0, connectivity=6, dust_vox=5)
    found = np.zeros(view.shape, np.uint32)
    for block in plan.blocks():
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        found[box], _ = tool.make(block, measured)
    expected, _ = ndimage.label(scene()[1:, 2:, 3:])
    sizes = np.bincount(expected.ravel())
    kept = np.flatnonzero(sizes[1:] >= 5) + 1
    assert np.array_equal(found > 0, np.isin(expected, kept)) and found.max() == len(kept) == 2
    sizes = np.bincount(found.ravel())[1:]
    assert (measured["count"], measured["voxels"]) == ([2], [sizes.sum()])
    assert tool.dtype == plan.dtype == "uint32" and plan.is_segmentation


def test_no_component_at_all_is_an_error(store):
    view = view_of((scene() * 900).astype(np.uint16), store, "image")
    with pytest.raises(
        VolumeError, match=r"held: no component is left \(left out as dust: [1-9].*check the"
    ):
        prepared(view, "components", low=500.0, dust_vox=10**6)


def test_components_of_an_image_need_a_threshold(store):
    view = view_of((scene() * 900).astype(np.uint16), store, "image")
    with pytest.raises(ConfigError, match="held is an image, whose components need a"):
        prepared(view, "components")


def write_volume(store, key, array, kind, spacing_um=SPACING_UM):
    """Store an array as a volume of the sample."""
    frame = Held(array, spacing_um).frame
    settings = VolumeSettings(chunk=16, block=32, kind=kind)
    plan = make_plan(key, frame, array.dtype.name, settings)
    init_volume(store, f"brain/{key}", plan)

    def make(block):
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        return np.ascontiguousarray(array[box]), Clipped()

    write_blocks(store, f"brain/{key}", plan, plan.blocks(), make, fingerprint="f")
    finish_pyramid(store, f"brain/{key}", plan)


def test_tissue(store):
    inside = ball(25, SHAPE)
    image = np.where(inside, 900, 100).astype(np.uint16)
    tool, plan, measured = prepared(view_of(image, store, "image"), "tissue", resolution_um=4.0)
    assert tool.cell == (2, 4, 4)
    found = np.zeros(SHAPE, np.uint32)
    for block in plan.blocks():
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        found[box], _ = tool.make(block, measured)
    both = np.count_nonzero(inside & (found == 1))
    assert 2 * both / (inside.sum() + found.sum()) > 0.93
    (box,) = measured["boxes"]
    assert box[:3].tolist() == np.argwhere(found).min(0).tolist()
    assert box[3:].tolist() == (np.argwhere(found).max(0) + 1).tolist()


def test_count_with_intensities_and_regions(store):
    labels = labels_of(store)
    image = np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)
    write_volume(store, "fused/signal", image, "image")
    regions = np.full((10, 9, 9), 7, np.uint32)
    regions[:, :, 5:] = 614454277
    write_volume(store, "labels/atlas", regions, "segmentation", (8.0, 8.0, 8.0))
    view = view_of(labels, store, "labels", (3, 0, 1))
    tool, _, measured = prepared(view, "count", image="fused/signal", regions="labels/atlas")
    rows, by_region = tool.tables(measured)
    part, image = labels[3:, :, 1:], image[3:, :, 1:]
    ids, counts = np.unique(part[part > 0], return_counts=True)
    assert [(r["label"], r["voxels"]) for r in rows] == list(zip(ids.tolist(), counts.tolist()))
    for row in rows:
        inside = part == row["label"]
        assert row["sum"] == image[inside].sum() and row["max"] == image[inside].max()
        assert row["centroid_x_um"] == pytest.approx(np.nonzero(inside)[2].mean() + 1)
    # a voxel's centre decides: the first voxel of a region of 8 um lies from -4 to 4 um
    of_x = np.where(np.floor((np.arange(1, 72)) / 8 + 0.5) >= 5, 614454277, 7)
    beyond = (np.floor(np.arange(70) / 8 + 0.5) > 8)[None, :, None] | (
        np.floor(np.arange(1, 72) / 8 + 0.5) > 8
    )
    home = np.where(beyond, 0, np.broadcast_to(of_x, part.shape))
    for row in by_region:
        assert row["voxels"] == np.count_nonzero((home == row["region"]) & (part > 0))
    assert {r["region"] for r in by_region} >= {7, 614454277}


def test_count_refuses_an_image_on_another_grid(store):
    write_volume(store, "fused/signal", np.zeros((9, 9, 9), np.uint16), "image")
    view = view_of(labels_of(store), store, "labels")
    with pytest.raises(ConfigError, match="no level of fused/signal has the grid of held"):
        prepared(view, "count", image="fused/signal")
    write_volume(store, "derived/cells", labels_of(store), "segmentation")
    with pytest.raises(ConfigError, match="derived/cells contains labels; give a volume of an im"):
        prepared(view, "count", image="derived/cells")
    with pytest.raises(ConfigError, match="fused/signal is an image; give a volume of labels"):
        prepared(view, "count", regions="fused/signal")
    tool, _, measured = prepared(view_of(np.zeros(SHAPE, np.uint32), store, "labels"), "count")
    with pytest.raises(VolumeError, match="held has no labelled voxel"):
        tool.tables(measured)


@pytest.mark.parametrize(
    ("do", "settings"),
    [("mesh", {"error_nm": 500.0, "dust_vox": 5}), ("skeletonize", {"dust_um": 3.0, "swc": True})],
)
def test_objects(store, do, settings):
    labels = labels_of(store)
    tool, _, measured = prepared(view_of(labels, store, "labels"), do, **settings)
    where = store, f"brain/derived/made/{tool.folder}"
    store.write(f"{where[1]}/old.mesh", b"of an earlier run")
    summaries = [tool.write_objects(measured, where, [n]) for n in range(tool.shards.count)]
    summaries = json.loads(json.dumps(summaries))
    rows, objects = tool.finish_objects(summaries, where)
    assert objects.keys() == {entry.key for entry in store.list(where[1])}
    assert damaged_objects(store, objects) == []
    sizes = np.bincount(labels.ravel())
    assert [r["label"] for r in rows] == (np.flatnonzero(sizes[1:] >= 5) + 1).tolist()
    assert not store.exists(f"{where[1]}/old.mesh")
    folder = json.loads(store.read(f"{where[1]}/info"))["segment_properties"]
    listed = json.loads(store.read(f"{where[1]}/{folder}/info"))["inline"]
    assert listed["ids"] == [str(row["label"]) for row in rows]
    (index,) = (key for key in objects if key.endswith(".spatial"))
    assert index == f"{where[1]}/0-72000_0-70000_0-80000.spatial", "all of the source is one box"
    assert set(json.loads(store.read(index))) == set(listed["ids"])
    size = "voxels" if do == "mesh" else "length_um"
    (values,) = (p["values"] for p in listed["properties"] if p["id"] == size)
    np.testing.assert_allclose(values, [row[size] for row in rows])
    store.delete(next(iter(summaries[0]["objects"])))
    with pytest.raises(VolumeError, match="is missing or was changed; delete"):
        tool.finish_objects(summaries, where)


def test_objects_of_a_region_have_no_spatial_index(store):
    """Readers would look for boxes of the whole source."""
    view = view_of(labels_of(store), store, "labels", (0, 0, 1))
    tool, _, measured = prepared(view, "mesh", multiresolution=False, sharded=False)
    where = store, f"brain/derived/made/{tool.folder}"
    _, objects = tool.finish_objects([tool.write_objects(measured, where, [0])], where)
    assert tool.index is None and not [key for key in objects if key.endswith(".spatial")]
    assert "spatial_index" not in json.loads(store.read(f"{where[1]}/info"))


def test_a_part_of_another_run_is_told(store):
    tool, _, measured = prepared(view_of(labels_of(store), store, "labels"), "mesh")
    assert len(digests_in(measured)) == len(measured["block"]) > 10
    prepared(view_of(1 - (labels_of(store) > 0).astype(np.uint32), store, "labels"), "mesh")
    with pytest.raises(StoreError, match="was not written by this run"):
        tool.write_objects(measured, (store, "brain/derived/made/mesh"), [0])


def test_nothing_left_is_an_error(store):
    tool, _, measured = prepared(
        view_of(labels_of(store), store, "labels"), "skeletonize", dust_um=1e6
    )
    where = store, "brain/derived/made/skeletons"
    with pytest.raises(VolumeError, match="held: no label is left; check the source and dust"):
        tool.finish_objects([tool.write_objects(measured, where, [0])], where)

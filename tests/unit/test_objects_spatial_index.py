"""The spatial index of objects: cloud-volume finds in it what lies in a box."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cloudvolume import Bbox, CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_helpers import ball, extended_blocks, surrounded_blocks

from terareg.core.frames import Frame
from terareg.objects.id_shards import IdShards
from terareg.objects.meshes import MeshSettings, surface_part, write_meshes
from terareg.objects.meshes import write_info as write_mesh_info
from terareg.objects.parts import Parts
from terareg.objects.skeleton_files import SkeletonFiles, skeleton_part, write_skeletons
from terareg.objects.skeleton_files import write_info as write_line_info
from terareg.objects.skeletons import SkeletonSettings
from terareg.objects.spatial_index import SpatialIndex
from terareg.storage.records import write_files
from terareg.storage.store import Store

OFFSET = (3, -5, 7)


def scene():
    """A ball in the middle, a bar along x, and a small cube in the last corner."""
    labels = np.zeros((40, 42, 44), np.uint64)
    labels[ball(9, labels.shape)] = 7
    labels[3:6, 4:7, 2:42] = 2**40
    labels[35:39, 36:41, 38:43] = 12
    return labels


def written(store, kind, index, frame, labels):
    """Objects of the scene in a folder, and their index."""
    parts, digests, where = Parts(store, "parts"), {}, (store, kind)
    mesh = MeshSettings(error_nm=300, sharded=True, shards=IdShards(1), index=index)
    lines = SkeletonFiles(SkeletonSettings(margin_um=2.0), shards=IdShards(1), index=index)
    edge = (16, 20, 24)
    made = {
        block.name: surface_part(voxels, block, frame, mesh)
        for block, voxels in extended_blocks(labels, edge)
    } if kind == "mesh" else {
        block.name: skeleton_part(voxels, start, block, frame, lines)
        for block, voxels, start in surrounded_blocks(labels, edge, frame.spacing_um)
    }  # fmt: skip
    for name, part in made.items():
        digests[name] = parts.write(name, part)
    arguments = (frame, OFFSET), (parts, digests), where
    summaries = [
        write_meshes(*arguments, [n], mesh) if kind == "mesh" else
        write_skeletons(*arguments, [n], lines)
        for n in range(2)
    ]  # fmt: skip
    write_files(*where, index.files(json.loads(json.dumps(s))["index"] for s in summaries))
    (write_mesh_info if kind == "mesh" else write_line_info)(
        *where, mesh if kind == "mesh" else lines
    )


def opened(store, frame, kind):
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint64", "raw", [s * 1000 for s in reversed(frame.spacing_um)],
        OFFSET[::-1], frame.shape[::-1], mesh="mesh", skeletons="skeletons",
    )  # fmt: skip
    store.write("info", json.dumps(info).encode())
    volume = CloudVolume("file://" + str(Path(store.url)), progress=False)
    return (volume.mesh if kind == "mesh" else volume.skeleton).spatial_index


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mesh", "skeletons"])
def test_cloud_volume_finds_what_lies_in_a_box(tmp_path, kind):
    labels, store = scene(), Store(str(tmp_path))
    spacing_um = (2.0, 1.0, 0.813)
    frame = Frame(labels.shape, spacing_um)
    index = SpatialIndex.of(frame, OFFSET, edge_vox=16)
    written(store, kind, index, frame, labels)
    reader, size = opened(store, frame, kind), np.array(spacing_um[::-1]) * 1000
    assert set(reader.query(reader.physical_bounds)) == {7, 12, 2**40}

    def near(z, y, x):
        place = (np.array([x, y, z]) + OFFSET[::-1] + 0.5) * size
        return {int(n) for n in reader.query(Bbox(place - 2 * size, place + 2 * size))}

    assert near(20, 21, 22) == {7} or kind == "skeletons"
    assert near(4, 5, 10) == near(4, 5, 35) == {2**40}
    assert near(37, 38, 40) == {12}
    assert near(37, 5, 5) == near(4, 38, 40) == set()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1, 3, 40]), st.sampled_from([8, 16, 64]))
def test_boxes_of_parts_hold_every_point(seed, count, edge):
    frame = Frame((30, 40, 50), (2.0, 1.0, 0.5))
    index = SpatialIndex.of(frame, (0, 0, 0), edge_vox=edge)
    rng = np.random.default_rng(seed)
    size = np.array((50 * 500, 40 * 1000, 30 * 2000.0))
    points = rng.random((count + 2, 3)) * size
    points[1:3] = np.minimum(points[:1] + rng.random((2, 3)) * 900, size)
    faces = np.stack([np.arange(count), np.arange(count) + 1, np.arange(count) + 2], axis=1)
    found = index.parts(points, faces)
    assert set(found) <= set(index.files([]))
    for point in points:
        names = []
        for name, box in found.items():
            axes = [part.split("-") for part in name.removesuffix(".spatial").split("_")]
            low, high = (np.array([float(a[n]) for a in axes]) for n in (0, 1))
            assert (np.array(box[:3]) <= np.array(box[3:])).all()
            if (low <= point).all() and (point <= high).all():
                names.append(name)
                assert (np.array(box[:3]) <= point).all() and (point <= np.array(box[3:])).all()
        assert names, "a point lies in a box that does not list its object"


def test_files_cover_the_volume_and_say_where_it_lies():
    frame = Frame((30, 40, 50), (2.0, 1.0, 0.813))
    index = SpatialIndex.of(frame, (0, -5, 2), level=1, edge_vox=32)
    first = "1626-27642_-5000-27000_0-60000.spatial"
    files = index.files([{first: {"9": [1]}}, {first: {"10": [2]}}])
    assert list(files) == [
        f"{x}_{y}_0-60000.spatial"
        for x in ("1626-27642", "27642-42276")
        for y in ("-5000-27000", "27000-35000")
    ]
    assert json.loads(files[first]) == {"9": [1], "10": [2]}
    assert {json.dumps(json.loads(data)) for data in list(files.values())[1:]} == {"{}"}
    assert index.info() == {
        "mip": 1,
        "spatial_index": {"resolution": [813, 1000, 2000], "chunk_size": [26016, 32000, 64000]},
    }
    assert SpatialIndex.of(Frame((9, 9, 9), (2.0, 1.0, 0.8125)), (0, 0, 0)) is None

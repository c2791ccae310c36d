"""Skeletons of a stored label volume: found in blocks, read by cloud-volume."""

import json
from pathlib import Path

import numpy as np
import pytest
from objects_helpers import surrounded_blocks, tube

from terareg.core.frames import Frame
from terareg.objects.id_shards import IdShards
from terareg.objects.parts import Parts
from terareg.objects.skeleton_files import (
    SkeletonFiles,
    skeleton_part,
    write_info,
    write_skeletons,
)
from terareg.objects.skeletons import SkeletonSettings
from terareg.storage.records import damaged_objects
from terareg.storage.store import Store

SPACING_UM = (2.0, 1.0, 1.5)


def scene():
    labels = np.zeros((40, 60, 50), np.uint32)
    labels[tube(labels.shape, SPACING_UM, [[(10, 10, 10), (60, 10, 10)]], 3.5)] = 7
    labels[tube(labels.shape, SPACING_UM, [[(20, 50, 10), (20, 50, 60)]], 3.5)] = 614454277
    labels[0, 0, 49] = 5
    return labels


def run(store, labels, files, frame=None, offset_vox=(0, 0, 0)):
    frame = frame or Frame(labels.shape, SPACING_UM)
    parts, digests = Parts(store, "parts"), {}
    for block, voxels, start in surrounded_blocks(labels, (20, 30, 20), frame.spacing_um):
        made = skeleton_part(voxels, start, block, frame, files)
        digests[block.name] = parts.write(block.name, made)
    summaries = [
        write_skeletons((frame, offset_vox), (parts, digests), (store, "lines"), [number], files)
        for number in range(files.shards.count)
    ]
    write_info(store, "lines", files)
    return summaries


def opened(store, frame):
    cloudvolume = pytest.importorskip("cloudvolume")
    info = cloudvolume.CloudVolume.create_new_info(
        1, "segmentation", "uint32", "raw", [s * 1000 for s in reversed(frame.spacing_um)],
        [0, 0, 0], list(reversed(frame.shape)), skeletons="lines",
    )  # fmt: skip
    store.write("info", json.dumps(info).encode())
    return cloudvolume.CloudVolume("file://" + str(Path(store.url)), progress=False)


@pytest.mark.parametrize(("sharded", "bits"), [(True, 1), (False, 0)])
def test_cloud_volume_reads_every_skeleton(tmp_path, sharded, bits):
    store = Store(str(tmp_path))
    settings = SkeletonSettings(spur_um=8, dust_um=5)
    files = SkeletonFiles(settings, sharded, swc=True, shards=IdShards(bits))
    summaries = run(store, scene(), files)
    facts = {row["label"]: row for s in summaries for row in s["rows"]}
    assert set(facts) == {7, 614454277} and sum(s["dust"] for s in summaries) == 1
    reader = opened(store, Frame(scene().shape, SPACING_UM))
    for label, ends in (
        (7, [(10, 10, 10), (60, 10, 10)]),
        (614454277, [(20, 50, 10), (20, 50, 60)]),
    ):
        found = reader.skeleton.get(label)
        length_um = found.cable_length() / 1000
        assert length_um == pytest.approx(facts[label]["length_um"], rel=1e-4)
        assert length_um == pytest.approx(57, rel=0.03)  # the ends of the tube are round
        assert np.median(found.radius) / 1000 == pytest.approx(3.5, abs=1)
        places = found.vertices[:, ::-1] / 1000 - np.array(SPACING_UM) / 2
        for end in ends:
            assert np.linalg.norm(places - end, axis=1).min() < 2
        swc = store.read(f"lines/swc/{label}.swc").decode().splitlines()
        assert len(swc) == 1 + len(found.vertices)
    for summary in summaries:
        assert damaged_objects(store, summary["objects"]) == []


def test_place_in_space(tmp_path):
    """In the viewer whole voxels count from the corner; SWC is in the place of the volume."""
    store, frame = Store(str(tmp_path)), Frame((40, 60, 50), SPACING_UM, (100.0, 50.0, 7.0))
    files = SkeletonFiles(SkeletonSettings(spur_um=8), swc=True)
    run(store, scene(), files, frame, (10, 20, 30))
    found = opened(store, frame).skeleton.get(7)
    begin = (np.array((10, 20, 30)) + 0.5) * SPACING_UM
    assert np.allclose(found.vertices.mean(0)[::-1] / 1000, begin + (35, 10, 10), atol=1)
    rows = [line.split() for line in store.read("lines/swc/7.swc").decode().splitlines()[1:]]
    xyz = np.array(rows, float)[:, 2:5].mean(0)
    assert np.allclose(xyz[::-1], np.array((35, 10, 10)) + frame.origin_um, atol=1)

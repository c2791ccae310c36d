"""Skeletons of a stored label volume: found in blocks, read by cloud-volume."""

import json
from pathlib import Path

import numpy as np
import pytest
from objects_helpers import Held, blocks_of, tube

from terareg.core.frames import Frame
from terareg.objects.id_shards import IdShards
from terareg.objects.skeleton_files import (
    SkeletonFiles,
    skeleton_blocks,
    write_info,
    write_skeletons,
)
from terareg.objects.skeletons import SkeletonSettings
from terareg.storage.store import Store

SPACING_UM = (2.0, 1.0, 1.5)


def scene():
    labels = np.zeros((40, 60, 50), np.uint32)
    labels[tube(labels.shape, SPACING_UM, [[(10, 10, 10), (60, 10, 10)]], 3.5)] = 7
    labels[tube(labels.shape, SPACING_UM, [[(20, 50, 10), (20, 50, 60)]], 3.5)] = 614454277
    labels[0, 0, 49] = 5
    return labels


def run(store, volume, files, frames=None):
    blocks = blocks_of(volume.frame.shape, (20, 30, 20))
    skeleton_blocks((volume, 0), (store, "work"), blocks, files, fingerprint="a")
    frames = frames or (volume.frame, volume.frame)
    where = (store, "work", "lines")
    shards = range(files.shards.count)
    summaries = [write_skeletons(frames, where, blocks, [n], files) for n in shards]
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
    volume, store = Held(scene(), SPACING_UM), Store(str(tmp_path))
    settings = SkeletonSettings(spur_um=8, dust_um=5)
    files = SkeletonFiles(settings, sharded, swc=True, shards=IdShards(bits))
    summaries = run(store, volume, files)
    facts = {k: v for s in summaries for k, v in s["skeletons"].items()}
    assert set(facts) == {"7", "614454277"} and sum(s["dust"] for s in summaries) == 1
    reader = opened(store, volume.frame)
    for label, ends in (
        (7, [(10, 10, 10), (60, 10, 10)]),
        (614454277, [(20, 50, 10), (20, 50, 60)]),
    ):
        found = reader.skeleton.get(label)
        length_um = found.cable_length() / 1000
        assert length_um == pytest.approx(facts[str(label)]["length_um"], rel=1e-4)
        assert 50 < length_um < 57  # the ends of the tube are round
        assert np.median(found.radius) / 1000 == pytest.approx(3.5, abs=1)
        places = found.vertices[:, ::-1] / 1000 - np.array(SPACING_UM) / 2
        for end in ends:
            assert np.linalg.norm(places - end, axis=1).min() < 2
        swc = store.read(f"lines/swc/{label}.swc").decode().splitlines()
        assert len(swc) == 1 + len(found.vertices)
    for summary in summaries:
        assert all(store.size(key) == size for key, size in summary["objects"].items())


def test_skeletons_of_a_coarser_level_lie_in_the_same_place(tmp_path):
    fine = Frame((80, 120, 100), (1.0, 0.5, 0.75), (100.0, 50.0, 7.0))
    coarse = Held(scene(), SPACING_UM)
    coarse.frames = (fine.downsampled((2, 2, 2)),)
    store = Store(str(tmp_path))
    run(store, coarse, SkeletonFiles(SkeletonSettings(spur_um=8), swc=True), (coarse.frame, fine))
    found = opened(store, fine).skeleton.get(7)
    middle = found.vertices.mean(0)[::-1] / 1000
    assert np.allclose(middle, np.array([35, 10, 10]) + np.array(SPACING_UM) / 2, atol=1)
    rows = [line.split() for line in store.read("lines/swc/7.swc").decode().splitlines()[1:]]
    xyz = np.array(rows, float)[:, 2:5].mean(0)
    # in the place of the volume in space: half a coarse voxel less half a fine one, and the origin
    assert np.allclose(xyz[::-1], np.array([35.5, 10.25, 10.375]) + (100, 50, 7), atol=1)


def test_finished_blocks_are_not_read_again(tmp_path):
    volume, store = Held(scene(), SPACING_UM), Store(str(tmp_path))
    blocks = blocks_of(volume.frame.shape, (20, 30, 20))
    skeleton_blocks((volume, 0), (store, "work"), blocks, SkeletonFiles(), fingerprint="a")
    volume.array = None
    skeleton_blocks((volume, 0), (store, "work"), blocks, SkeletonFiles(), fingerprint="a")
    with pytest.raises(TypeError):
        skeleton_blocks((volume, 0), (store, "work"), blocks, SkeletonFiles(), fingerprint="b")

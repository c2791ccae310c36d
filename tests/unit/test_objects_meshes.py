"""Meshes of a stored label volume: made in blocks, read by cloud-volume."""

import json
from pathlib import Path

import numpy as np
import pytest
from objects_helpers import Held, ball, blocks_of, is_closed

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.objects.id_shards import IdShards
from terareg.objects.meshes import (
    MeshSettings,
    check_ids,
    surface_blocks,
    write_info,
    write_meshes,
)
from terareg.objects.surfaces import enclosed_volume
from terareg.storage.store import Store

SPACING_UM = (2.0, 1.0, 0.5)
IDS = (7, 70, 614454277)


def scene():
    """Three objects: a ball through all blocks, one in a corner, and a plate beside it."""
    labels = np.zeros((40, 42, 44), np.uint32)
    labels[ball(13, labels.shape)] = IDS[0]
    labels[:6, :8, :10] = IDS[1]
    labels[:6, :8, 10:13] = IDS[2]
    labels[39, 41, 43] = 5  # dust
    return labels


def run(store, volume, settings, edge=(16, 20, 24), key="mesh"):
    blocks = blocks_of(volume.frame.shape, edge)
    surface_blocks((volume, 0), (store, "work"), blocks, settings, fingerprint="a")
    frames = volume.frame, volume.frame
    shards = range(settings.shards.count)
    summaries = [write_meshes(frames, (store, "work", key), blocks, [n], settings) for n in shards]
    write_info(store, key, settings)
    check_ids(summaries, settings, volume.name)
    meshes = {k: v for s in summaries for k, v in s["meshes"].items()}
    return meshes, summaries


def opened(store, frame):
    """The folder as cloud-volume sees it."""
    cloudvolume = pytest.importorskip("cloudvolume")
    info = cloudvolume.CloudVolume.create_new_info(
        1, "segmentation", "uint32", "raw", [s * 1000 for s in reversed(frame.spacing_um)],
        [0, 0, 0], list(reversed(frame.shape)), mesh="mesh",
    )  # fmt: skip
    store.write("info", json.dumps(info).encode())
    return cloudvolume.CloudVolume("file://" + str(Path(store.url)), progress=False)


def mesh_of(volume, label, **options):
    mesh = volume.mesh.get(label, **options)
    return mesh[label] if isinstance(mesh, dict) else mesh


@pytest.mark.parametrize("error_nm", [0.0, 500.0])
@pytest.mark.parametrize(
    ("form", "sharded", "bits"),
    [("multiresolution", True, 1), ("multiresolution", False, 1), ("legacy", False, 0)],
)
def test_cloud_volume_reads_every_mesh(tmp_path, form, sharded, bits, error_nm):
    labels = scene()
    volume, store = Held(labels, SPACING_UM), Store(str(tmp_path))
    settings = MeshSettings(form, sharded, error_nm, dust_vox=2, shards=IdShards(bits))
    meshes, summaries = run(store, volume, settings)
    assert set(meshes) == {str(n) for n in IDS} and sum(s["dust"] for s in summaries) == 1
    for summary in summaries:
        assert all(store.size(key) == size for key, size in summary["objects"].items())
    reader = opened(store, volume.frame)
    for label in IDS:
        assert meshes[str(label)]["voxels"] == np.count_nonzero(labels == label)
        wanted = np.count_nonzero(labels == label) * volume.frame.voxel_volume_um3
        index = np.argwhere(labels == label)
        low, high = index.min(0) * SPACING_UM, (index.max(0) + 1) * SPACING_UM
        for level in range(1 if form == "legacy" else 2):
            mesh = mesh_of(reader, label, **({} if form == "legacy" else {"lod": level}))
            points, same = np.unique(np.round(mesh.vertices, 0), axis=0, return_inverse=True)
            faces = same.reshape(-1)[mesh.faces.astype(np.int64)]
            volume_um3 = enclosed_volume(points[:, ::-1], faces) / 1e9
            # of a small object few triangles are left on coarser levels
                assert volume_um3 == pytest.approx(wanted, rel=0.02 if level == 0 else 0.2)
            if form == "legacy":
                assert is_closed(faces)
            end = [getattr(points[:, ::-1], n)(0) / 1000 for n in ("min", "max")]
            assert np.allclose(end, [low, high], atol=2.5)


def test_simplified_meshes_have_fewer_triangles(tmp_path):
    volume = Held(scene(), SPACING_UM)
    counts = []
    for error_nm in (0.0, 500.0):
        store = Store(str(tmp_path / str(error_nm)))
        meshes, _ = run(store, volume, MeshSettings(error_nm=error_nm))
        counts.append(meshes["7"]["triangles"])
        assert counts[-1] == sorted(counts[-1], reverse=True)
    assert counts[1][0] < counts[0][0] / 4


def test_legacy_meshes_do_not_depend_on_blocks(tmp_path):
    """Without simplification the surface of the whole volume is what blocks add up to."""
    volume = Held(scene(), SPACING_UM)
    found = []
    for number, edge in enumerate([(40, 42, 44), (9, 50, 13)]):
        store = Store(str(tmp_path / str(number)))
        run(store, volume, MeshSettings("legacy"), edge)
        found.append({e.key: store.read(e.key) for e in store.list("mesh")})
    assert list(found[0]) == list(found[1]) and len(found[0]) == 9
    sizes = [{key: len(data) for key, data in files.items()} for files in found]
    assert sizes[0] == sizes[1]


def test_chosen_ids(tmp_path):
    volume, store = Held(scene(), SPACING_UM), Store(str(tmp_path))
    assert list(run(store, volume, MeshSettings(ids=(70,)))[0]) == ["70"]
    with pytest.raises(VolumeError, match="held has no mesh for id 8; check the ids"):
        run(Store(str(tmp_path / "b")), volume, MeshSettings(ids=(70, 8)))


def test_meshes_of_a_coarser_level_lie_in_the_same_place(tmp_path):
    fine = Frame((40, 42, 44), SPACING_UM, (100.0, 50.0, 7.0))
    coarse = Held(scene()[::2, ::2, ::2], (4.0, 2.0, 1.0))
    coarse.frames = (fine.downsampled((2, 2, 2)),)
    store, blocks = Store(str(tmp_path)), blocks_of(coarse.array.shape, (16, 16, 16))
    settings = MeshSettings("legacy")
    surface_blocks((coarse, 0), (store, "work"), blocks, settings, fingerprint="a")
    write_meshes((coarse.frame, fine), (store, "work", "mesh"), blocks, [0], settings)
    write_info(store, "mesh", settings)
    mesh = mesh_of(opened(store, fine), 70)
    assert np.allclose(mesh.vertices.min(0), 0, atol=300)
    assert np.allclose(mesh.vertices.max(0)[::-1] / 1000, (12, 8, 5), atol=0.5)


def test_errors(tmp_path):
    volume = Held(np.zeros((8, 8, 8), np.uint32), SPACING_UM)
    with pytest.raises(VolumeError, match="no label of at least 0 voxels; check the source"):
        run(Store(str(tmp_path)), volume, MeshSettings())
    with pytest.raises(ConfigError, match="form 'obj' is unknown; use multiresolution or legacy"):
        MeshSettings("obj")
    with pytest.raises(ConfigError, match="legacy meshes cannot be sharded"):
        MeshSettings("legacy", True)
    with pytest.raises(ConfigError, match="error -1 nm is impossible"):
        MeshSettings(error_nm=-1)
    with pytest.raises(ConfigError, match="0 levels of detail"):
        MeshSettings(levels=0)
    with pytest.raises(ConfigError, match=r"2\^30 shards are not possible"):
        IdShards(30)

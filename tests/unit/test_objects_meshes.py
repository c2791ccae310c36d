"""Meshes of a stored label volume: made in blocks, read by cloud-volume."""

import json
from pathlib import Path

import numpy as np
import pytest
from objects_helpers import ball, extended_blocks, is_closed

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.objects.id_shards import IdShards
from terareg.objects.meshes import (
    MeshSettings,
    check_ids,
    surface_part,
    write_info,
    write_meshes,
)
from terareg.objects.parts import Parts
from terareg.objects.surfaces import enclosed_volume
from terareg.storage.records import damaged_objects
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


def run(store, labels, settings, edge=(16, 20, 24), frame=None, offset_vox=(0, 0, 0)):
    frame = frame or Frame(labels.shape, SPACING_UM)
    parts, digests = Parts(store, "parts"), {}
    for block, voxels in extended_blocks(labels, edge):
        digests[block.name] = parts.write(block.name, surface_part(voxels, block, frame, settings))
    summaries = [
        write_meshes((frame, offset_vox), (parts, digests), (store, "mesh"), [number], settings)
        for number in range(settings.shards.count)
    ]
    write_info(store, "mesh", settings)
    rows = {row["label"]: row for summary in summaries for row in summary["rows"]}
    check_ids(rows, settings, "held")
    return rows, summaries


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
    store, frame = Store(str(tmp_path)), Frame(labels.shape, SPACING_UM)
    settings = MeshSettings(form, sharded, error_nm, dust_vox=2, shards=IdShards(bits))
    rows, summaries = run(store, labels, settings)
    assert set(rows) == set(IDS) and sum(s["dust"] for s in summaries) == 1
    for summary in summaries:
        assert damaged_objects(store, summary["objects"]) == []
    reader = opened(store, frame)
    for label in IDS:
        assert rows[label]["voxels"] == np.count_nonzero(labels == label)
        wanted = rows[label]["volume_um3"]
        assert wanted == np.count_nonzero(labels == label) * frame.voxel_volume_um3
        index = np.argwhere(labels == label)
        low, high = index.min(0) * SPACING_UM, (index.max(0) + 1) * SPACING_UM
        for level in range(1 if form == "legacy" else 2):
            mesh = mesh_of(reader, label, **({} if form == "legacy" else {"lod": level}))
            points, same = np.unique(np.round(mesh.vertices, 0), axis=0, return_inverse=True)
            faces = same.reshape(-1)[mesh.faces.astype(np.int64)]
            volume_um3 = enclosed_volume(points[:, ::-1], faces) / 1e9
            # of small objects few triangles are left on coarser levels
            close = 0.02 if level == 0 else 0.2
            assert volume_um3 == pytest.approx(wanted, rel=close)
            if form == "legacy":
                assert is_closed(faces)
            end = [getattr(points[:, ::-1], n)(0) / 1000 for n in ("min", "max")]
            assert np.allclose(end, [low, high], atol=2.5)


def test_simplified_meshes_have_fewer_triangles(tmp_path):
    counts = []
    for error_nm in (0.0, 500.0):
        store = Store(str(tmp_path / str(error_nm)))
        counts.append(run(store, scene(), MeshSettings(error_nm=error_nm))[0][7]["triangles"])
    assert counts[1] < counts[0] / 4


def test_legacy_meshes_do_not_depend_on_blocks(tmp_path):
    """Without simplification the surface of the whole volume is what blocks add up to."""
    found = []
    for number, edge in enumerate([(40, 42, 44), (9, 50, 13)]):
        store = Store(str(tmp_path / str(number)))
        run(store, scene(), MeshSettings("legacy"), edge)
        found.append({e.key: store.read(e.key) for e in store.list("mesh")})
    assert list(found[0]) == list(found[1]) and len(found[0]) == 9
    sizes = [{key: len(data) for key, data in files.items()} for files in found]
    assert sizes[0] == sizes[1]


def test_chosen_ids(tmp_path):
    store = Store(str(tmp_path))
    assert list(run(store, scene(), MeshSettings(ids=(70,)))[0]) == [70]
    with pytest.raises(VolumeError, match="held has no mesh for id 8; check the ids"):
        run(Store(str(tmp_path / "b")), scene(), MeshSettings(ids=(70, 8)))


def test_place_in_space(tmp_path):
    """A region that begins at voxel (10, 20, 30) of a volume lies there, whatever its origin."""
    frame = Frame((40, 42, 44), SPACING_UM, (100.0, 50.0, 7.0))
    store = Store(str(tmp_path))
    run(store, scene(), MeshSettings("legacy"), frame=frame, offset_vox=(10, 20, 30))
    mesh = mesh_of(opened(store, frame), 70)
    begin = np.array((10, 20, 30)) * SPACING_UM
    assert np.allclose(mesh.vertices.min(0)[::-1] / 1000, begin, atol=0.3)
    assert np.allclose(mesh.vertices.max(0)[::-1] / 1000, begin + (12, 8, 5), atol=0.3)


def test_errors(tmp_path):
    nothing = np.zeros((8, 8, 8), np.uint32)
    with pytest.raises(VolumeError, match="no label of at least 0 voxels; check the source"):
        run(Store(str(tmp_path)), nothing, MeshSettings())
    with pytest.raises(ConfigError, match="form 'obj' is unknown; use multiresolution or legacy"):
        MeshSettings("obj")
    with pytest.raises(ConfigError, match="legacy meshes cannot be sharded"):
        MeshSettings("legacy", True)
    with pytest.raises(ConfigError, match="error -1 nm is impossible"):
        MeshSettings(error_nm=-1)
    with pytest.raises(ConfigError, match="0 levels of detail"):
        MeshSettings(levels=0)
    with pytest.raises(ConfigError, match=r"2\^30 shards are impossible"):
        IdShards(30)

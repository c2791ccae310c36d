"""Meshes: closed, of the right volume, in the right place, readable by others."""

import json
from pathlib import Path

import numpy as np
import pytest
from objects_helpers import detail_of, is_closed
from regions_helpers import BIG_IDS, toy_atlas

from terareg.core.errors import AtlasError, VolumeError
from terareg.core.frames import Frame
from terareg.objects.surfaces import enclosed_volume
from terareg.regions.meshes import (
    MeshSettings,
    label_metadata,
    region_mesh,
    segment_properties,
    write_meshes,
    write_segment_properties,
)
from terareg.storage.records import damaged_objects
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume

FRAME = Frame((31, 33, 29), (20.0, 30.0, 25.0), (100.0, -50.0, 7.0))


def ball(radius=10.0, centre=(15, 16, 14), shape=FRAME.shape):
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
    return distance < radius


@pytest.mark.parametrize("smoothing", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("radius", [3.0, 6.5, 12.0])
def test_volume_is_that_of_the_voxels(radius, smoothing):
    mask = ball(radius)
    vertices, faces = region_mesh(mask, FRAME, smoothing_vox=smoothing)
    wanted = mask.sum() * FRAME.voxel_volume_um3
    assert enclosed_volume(vertices, faces) == pytest.approx(wanted, rel=0.011)
    assert is_closed(faces)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
@pytest.mark.parametrize(
    "mask",
    [
        np.ones((1, 1, 1), bool),
        np.ones((1, 1, 9), bool),
        np.ones((1, 8, 9), bool),
        np.ones((5, 5, 5), bool),
        np.eye(6, dtype=bool)[None],
        np.random.default_rng(0).random((9, 9, 9)) < 0.3,
        ball(13, (0, 0, 0)),
    ],
)
def test_thin_and_cut_regions_stay_closed_and_do_not_vanish(mask, smoothing):
    frame = Frame(mask.shape, (10, 10, 10))
    vertices, faces = region_mesh(mask, frame, smoothing_vox=smoothing)
    assert is_closed(faces)
    ratio = enclosed_volume(vertices, faces) / (mask.sum() * 1000)
    assert ratio > 0.1 if smoothing == 0 else ratio == pytest.approx(1, abs=0.1)


def test_place_of_the_surface():
    mask = np.zeros(FRAME.shape, bool)
    mask[5:20, 8:28, 3:23] = True
    vertices, _ = region_mesh(mask, FRAME, smoothing_vox=0)
    assert np.allclose(vertices.min(0), FRAME.to_um([4.5, 7.5, 2.5]))
    assert np.allclose(vertices.max(0), FRAME.to_um([19.5, 27.5, 22.5]))
    smooth, _ = region_mesh(mask, FRAME)
    middle = (smooth.min(0) + smooth.max(0)) / 2
    assert np.allclose(middle, FRAME.to_um([12, 17.5, 12.5]), atol=1)


@pytest.fixture
def layer(tmp_path):
    """Precomputed segmentation of two balls with meshes made at a quarter of its resolution."""
    fine = Frame((64, 60, 56), (10, 12, 8), (0, 0, 0))
    coarse = fine.downsampled((2, 2, 2))
    index = np.moveaxis(np.indices(coarse.shape), 0, -1)
    labels = np.zeros(coarse.shape, np.uint32)
    labels[np.linalg.norm(index - (10, 12, 9), axis=-1) < 8] = 614454277
    labels[np.linalg.norm(index - (24, 18, 20), axis=-1) < 6] = 7
    store = Store(str(tmp_path))
    written = write_meshes(store, "seg/mesh", labels, coarse, fine)
    written |= write_segment_properties(
        store, "seg/segment_properties", np.unique(labels), toy_atlas().ontology
    )
    return store, written, labels, coarse, fine


def test_written_objects(layer):
    store, written, *_ = layer
    assert set(written) == {
        "seg/mesh/info", "seg/mesh/7", "seg/mesh/7.index", "seg/mesh/614454277",
        "seg/mesh/614454277.index", "seg/segment_properties/info",
    }  # fmt: skip
    assert all(store.size(key) == facts["bytes"] for key, facts in written.items())
    assert damaged_objects(store, written) == []
    assert json.loads(store.read("seg/mesh/info"))["@type"] == "neuroglancer_multilod_draco"
    properties = json.loads(store.read("seg/segment_properties/info"))
    assert properties["inline"]["ids"] == ["7", "614454277"]
    label, name = properties["inline"]["properties"]
    assert label == {"id": "label", "type": "label", "values": ["A2", "C"]}
    assert name["values"] == ["Part two of A", "Alone"]


def test_spoiled_and_lost_objects_are_named(layer):
    store, written, *_ = layer
    data = bytearray(store.read("seg/mesh/7"))
    data[-1] ^= 1
    store.write("seg/mesh/7", bytes(data))
    store.delete("seg/segment_properties/info")
    assert damaged_objects(store, written) == ["seg/mesh/7", "seg/segment_properties/info"]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_vertices_count_from_the_corner_of_the_finest_voxel(layer, level):
    """Every level of detail is closed, and has the place and the volume of the voxels."""
    store, _, labels, coarse, fine = layer
    vertices, faces = detail_of(store, "seg/mesh/7", level)
    assert is_closed(faces)
    # centre of the ball in fine voxel corners: (coarse index + 1/2) voxels, two fine ones each
    centre = (np.array([24, 18, 20]) + 0.5) * 2 * fine.spacing_um * 1000
    middle = (vertices.min(0) + vertices.max(0)) / 2
    # of larger voxels, which begin elsewhere on both sides, the ends are less exact
    close = 500 if level == 0 else 0.1 * 2**level * min(coarse.spacing_um) * 1000
    assert np.allclose(middle, centre[::-1], atol=close)
    volume = enclosed_volume(vertices[:, ::-1], faces) / 1e9
    wanted = (labels == 7).sum() * coarse.voxel_volume_um3
    assert volume == pytest.approx(wanted, rel=0.02)


def test_coarser_levels_of_detail_have_fewer_triangles_and_thin_regions_in_all(tmp_path):
    frame = Frame((40, 40, 40), (50, 50, 50))
    labels = np.zeros(frame.shape, np.uint32)
    labels[5:35, 20, 5:35] = 1  # a sheet of one voxel
    labels[7:9, 3:9, 6:8] = 2
    store = Store(str(tmp_path))
    write_meshes(store, "m", labels, frame, frame)
    for region in (1, 2):
        counts = []
        for level in range(3):
            vertices, faces = detail_of(store, f"m/{region}", level)
            counts.append(len(faces))
            assert is_closed(faces)
            volume = enclosed_volume(vertices[:, ::-1], faces) / 1e9
            wanted = (labels == region).sum() * frame.voxel_volume_um3
            assert volume == pytest.approx(wanted, rel=0.1)
        assert counts[0] > 2 * counts[1] > 4 * counts[2] or region == 2


def test_cloud_volume_reads_the_meshes(layer):
    cloudvolume = pytest.importorskip("cloudvolume")
    store, _, labels, coarse, fine = layer
    info = cloudvolume.CloudVolume.create_new_info(
        1, "segmentation", "uint32", "raw", [s * 1000 for s in reversed(fine.spacing_um)],
        [0, 0, 0], list(reversed(fine.shape)), mesh="mesh",
    )  # fmt: skip
    store.write("seg/info", json.dumps(info).encode())
    volume = cloudvolume.CloudVolume("file://" + str(Path(store.url) / "seg"), progress=False)
    for region in (7, 614454277):
        mesh = volume.mesh.get(region)
        mesh = mesh[region] if isinstance(mesh, dict) else mesh
        low, high = np.argwhere(labels == region).min(0), np.argwhere(labels == region).max(0)
        corner = np.array(coarse.spacing_um) * 1000
        assert np.allclose(mesh.vertices.min(0)[::-1], low * corner, atol=corner.max())
        assert np.allclose(mesh.vertices.max(0)[::-1], (high + 1) * corner, atol=corner.max())


def test_result_does_not_depend_on_workers(tmp_path):
    atlas = toy_atlas()
    folders = []
    for workers in (1, 3):
        store = Store(str(tmp_path / str(workers)))
        settings = MeshSettings(workers=workers)
        folders.append(
            {
                key: store.read(key)
                for key in write_meshes(
                    store, "mesh", atlas.annotation, atlas.frame, atlas.frame, settings
                )
            }
        )
    assert folders[0] == folders[1] and list(folders[0]) == list(folders[1])
    assert f"mesh/{BIG_IDS[-1]}.index" in folders[0]


def test_meshes_of_an_earlier_run_do_not_stay(tmp_path):
    store = Store(str(tmp_path))
    frame = Frame((6, 6, 6), (10, 10, 10))
    for region in (3, 4):
        labels = np.zeros(frame.shape, np.uint32)
        labels[2:4, 2:4, 2:4] = region
        written = write_meshes(store, "mesh", labels, frame, frame)
    assert sorted(written) == [entry.key for entry in store.list()]


def test_errors(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(VolumeError, match="no labelled voxel; check the registration"):
        write_meshes(store, "m", np.zeros(FRAME.shape, np.uint32), FRAME, FRAME)
    with pytest.raises(VolumeError, match="labels have shape"):
        write_meshes(store, "m", np.zeros((2, 2, 2), np.uint32), FRAME, FRAME)
    with pytest.raises(VolumeError, match="labels contain id 99, which is not in the ontology"):
        segment_properties([0, 7, 99], toy_atlas().ontology)
    assert not list(store.list())


def test_labels_carry_the_colours_and_names_of_the_ontology(tmp_path):
    """In OME-Zarr, as readers of the specification's 0.5 take them."""
    zarr = pytest.importorskip("zarr")
    models = pytest.importorskip("ome_zarr_models.v05")
    ontology, frame = toy_atlas().ontology, Frame((4, 5, 6), (25.0,) * 3)
    ids = [region.id for region in ontology][:3]
    plan = make_plan("a", frame, "uint32", VolumeSettings(chunk=8, block=8, kind="segmentation"))
    init_volume(Store(str(tmp_path)), "a", plan, label_metadata(ids, ontology))
    group = models.ImageLabel.from_zarr(zarr.open_group(tmp_path / "a/ome.zarr", mode="r"))
    label = group.ome_attributes.image_label
    regions = sorted((ontology[i] for i in ids), key=lambda r: r.id)
    assert [(c.label_value, tuple(c.rgba[:3])) for c in label.colors] == [
        (r.id, tuple(bytes.fromhex(r.colour))) for r in regions
    ]
    stored = json.loads((tmp_path / "a/ome.zarr/zarr.json").read_text())
    properties = stored["attributes"]["ome"]["image-label"]["properties"]
    assert properties == [
        {"label-value": r.id, "index": r.id, "name": r.name, "acronym": r.acronym} for r in regions
    ]
    with pytest.raises(AtlasError, match="no region with id 99"):
        label_metadata([99], ontology)


def test_one_mesh_encloses_all_regions_in_place_of_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("terareg.regions.meshes._WHOLE_VOXELS", 20_000)
    frame = Frame((60, 50, 40), (10, 10, 10))
    labels = np.zeros(frame.shape, np.uint32)
    labels[10:30, 10:40, 10:30], labels[30:50, 10:40, 10:30] = 7, 614454277
    labels[30, 10, 10] = 3
    store = Store(str(tmp_path))
    written = write_meshes(store, "m", labels, frame, frame, MeshSettings(whole=3))
    named = {k for k in written if k.endswith(".index")}
    assert named == {"m/3.index", "m/7.index", "m/614454277.index"}
    vertices, faces = detail_of(store, "m/3")
    volume = enclosed_volume(vertices[:, ::-1], faces) / 1e9
    assert volume == pytest.approx((labels > 0).sum() * 1000, rel=0.1)
    low, high = vertices.min(0)[::-1] / 1e4, vertices.max(0)[::-1] / 1e4
    assert np.allclose(low, (10, 10, 10), atol=2) and np.allclose(high, (50, 40, 30), atol=2)
    # a single labelled voxel is found, whatever the step
    labels[:] = 0
    labels[31, 17, 13] = 7
    assert "m/3.index" in write_meshes(store, "m", labels, frame, frame, MeshSettings(whole=3))

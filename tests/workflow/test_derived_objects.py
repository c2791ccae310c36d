"""Objects of an image file: its components, what is counted, meshed and drawn as lines of them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import running
import SimpleITK as sitk
from s3_server import objects
from scipy import ndimage
from workspaces import ROOT, Workspace

from terareg.storage.store import Store
from terareg.volumes.reader import Volume

SHAPE, SPACING_UM = (40, 70, 72), (2.0, 1.0, 1.0)


def scene():
    """Two tubes and three balls through blocks of 32 voxels, and specks of dust."""
    places = np.moveaxis(np.indices(SHAPE), 0, -1) * np.array(SPACING_UM)
    mask = np.zeros(SHAPE, bool)
    for centre, radius in (((20, 16, 16), 11), ((58, 50, 20), 13), ((40, 33, 33), 6)):
        mask |= np.linalg.norm(places - centre, axis=-1) < radius
    for z, y in ((12, 60), (60, 14)):
        mask |= np.linalg.norm(places[..., :2] - (z, y), axis=-1) < 4
    mask[0, 0, ::9] = True
    return mask


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def described(workspace, like=None, **over):
    """An image file, as old as in a workspace that is ``like`` it, and what is made of it."""
    image = sitk.GetImageFromArray((scene() * 900 + 100).astype(np.uint16))
    image.SetSpacing([s / 1000 for s in SPACING_UM[::-1]])
    sitk.WriteImage(image, str(workspace.folder / "image.nrrd"))
    source = {"from": "cells"}
    if like is not None:
        # plans hold the state of the source, which has its time of change
        time_ns = (like.folder / "image.nrrd").stat().st_mtime_ns
        os.utime(workspace.folder / "image.nrrd", ns=(time_ns, time_ns))
    workspace.write(
        {
            "sample": "tools",
            "volume": {"chunk": 16, "block": 32},
            "derived": {
                "cells": {
                    "from": "./image.nrrd", "orientation": "SAR", "do": "components", "low": 500,
                    "connectivity": 6, "dust_vox": 10, "format": "precomputed",
                },
                "numbers": {**source, "do": "count"},
                "surfaces": {**source, "do": "mesh", "error_nm": 500},
            },
            **over,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("objects"))
    described(workspace)
    finished = workspace.snakemake("--cores", "2", "--", "derived_volumes")
    assert finished.returncode == 0, finished.stderr[-3000:]
    return workspace


def test_components_are_those_of_the_whole_image(done):
    expected, _ = ndimage.label(scene())
    sizes = np.bincount(expected.ravel())
    found = Volume(Store(str(done.folder / "results")), "tools/derived/cells").read(0)
    assert np.array_equal(found > 0, np.isin(expected, np.flatnonzero(sizes[1:] >= 10) + 1))
    pairs = {(a, b) for a, b in zip(found.ravel(), expected.ravel()) if a}
    assert len(pairs) == 5 == found.max()
    rows = rows_of(done.folder / "results/tools/derived/numbers/counts.tsv")
    assert [int(r["voxels"]) for r in rows] == np.bincount(found.ravel())[1:].tolist()


def test_a_mesh_of_every_component(done):
    folder = done.folder / "results/tools/derived"
    counts = rows_of(folder / "numbers/counts.tsv")
    meshes = rows_of(folder / "surfaces/objects.tsv")
    assert [(r["label"], r["voxels"]) for r in meshes] == [
        (r["label"], r["voxels"]) for r in counts
    ]
    info = json.loads((folder / "surfaces/mesh/info").read_text())
    assert info["@type"] == "neuroglancer_multilod_draco" and "sharding" in info


def test_the_spatial_index_says_where_meshes_lie(done):
    folder = done.folder / "results/tools/derived/surfaces/mesh"
    index = json.loads((folder / "info").read_text())["spatial_index"]
    assert index["resolution"] == [s * 1000 for s in SPACING_UM[::-1]]
    boxes: dict[int, list] = {}
    for path in folder.glob("*.spatial"):
        for label, box in json.loads(path.read_text()).items():
            boxes.setdefault(int(label), []).append(box)
    found = Volume(Store(str(done.folder / "results")), "tools/derived/cells").read(0)
    assert set(boxes) == set(np.unique(found)) - {0}
    for label, listed in boxes.items():
        (z, y, x) = ndimage.find_objects((found == label).astype(int))[0]
        low, high = np.min(listed, axis=0)[:3], np.max(listed, axis=0)[3:]
        size = np.array(index["resolution"])
        # the error of the mesh, and corners of voxels that its surface cuts
        assert np.abs(low - size * (x.start, y.start, z.start)).max() < 1500
        assert np.abs(high - size * (x.stop, y.stop, z.stop)).max() < 1500


def test_nothing_is_left_to_do(done):
    again = done.snakemake("-n", "--quiet", "rules", "--", "derived_volumes")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_spoiled_mesh_is_found_and_written_again(done, workspace):
    described(workspace, done)
    for name in ("results", ".snakemake"):
        shutil.copytree(done.folder / name, workspace.folder / name)
    folder = workspace.folder / "results/tools/derived/surfaces"
    shard = max((folder / "mesh").glob("*.shard"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    running.replace(shard, bytes(data))
    target = "results/tools/derived/surfaces/objects_verified.json"
    command = "--cores", "1", "--quiet", "rules"
    found = workspace.snakemake(*command, "--", target)
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("verify_objects: ")]
    assert found.returncode != 0 and ".shard has changed since it was written (1 of " in line
    assert "run again with -R write_objects" in line
    mended = workspace.snakemake(*command, "-R", "write_objects", "--", target)
    assert mended.returncode == 0, mended.stderr
    assert json.loads((workspace.folder / target).read_text())["objects"] > 1
    assert (folder / "mesh" / shard.name).read_bytes() == (
        done.folder / "results/tools/derived/surfaces/mesh" / shard.name
    ).read_bytes()


@pytest.mark.slow
def test_kills_of_every_kind_of_job_change_no_byte(done, workspace):
    """Two jobs of each rule die, before their first file appears and before their second."""
    described(workspace, done)
    dead = workspace.folder / "dead"
    dead.mkdir()
    finished = workspace.snakemake(
        "--cores", "2", "--retries", "4", "--quiet", "--", "derived_volumes",
        PYTHONPATH=f"{ROOT / 'tests/dying'}:{os.environ.get('PYTHONPATH', '')}",
        TERAREG_TEST_DEAD=str(dead), TERAREG_TEST_DEATHS="2", TERAREG_TEST_BELOW="/derived/",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    rules = re.findall(r"^rule (\w+):", (ROOT / "workflow/rules/derived.smk").read_text(), re.M)
    killed = {path.name.partition("-")[0] for path in dead.iterdir()}
    assert killed == {*rules, "finish_pyramid", "finalize_volume"}
    assert len(list(dead.iterdir())) > len(killed)
    once, again = (running.artefacts(w.folder / "results/tools") for w in (done, workspace))
    # begun files of killed jobs beside those that Snakemake tracks; the target clean removes them
    rests = {name for name in again if name.endswith(".part")}
    assert running.differing(once, {k: v for k, v in again.items() if k not in rests}) == []
    assert not [name for name in rests if "/mesh/" in name or "/precomputed/" in name]


@pytest.mark.slow
@pytest.mark.engine
def test_a_store_on_s3_holds_the_same_bytes(done, workspace, s3):
    client = s3.client()
    client.create_bucket(Bucket="brains")
    described(workspace, done, store="s3://brains/volumes")
    finished = workspace.snakemake("--cores", "2", "--quiet", "--", "derived_volumes", **s3.env)
    assert finished.returncode == 0, finished.stderr[-3000:]
    tracked = running.artefacts(workspace.folder / "results/tools")
    stored = objects(client, "brains", "volumes/tools/", ("run",))
    assert len(stored) > 50 and not tracked.keys() & stored.keys()
    once = running.artefacts(done.folder / "results/tools")
    assert running.differing(once, tracked | stored) == []
    again = workspace.snakemake("-n", "--quiet", "rules", "--", "derived_volumes", **s3.env)
    assert "Nothing to be done" in again.stdout + again.stderr

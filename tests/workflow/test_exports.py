"""Exports of a finished run: other programs find its volumes, regions and maps, at their places."""

from __future__ import annotations

import csv
import json
import re

import nibabel
import numpy as np
import pytest
import running
import SimpleITK as sitk
import tifffile

from terareg.exports.headers import affine_mm
from terareg.storage.records import file_hash
from terareg.storage.store import Store
from terareg.volumes.reader import Volume

CHANNEL, ATLAS = "ch0", "phantom"


def test_other_programs_read_what_the_run_made(finished, workspace):
    workspace = running.copy_of(finished, workspace, volumes=True)
    running.configure(
        workspace,
        export={
            "signal": {"from": f"corrected_volume/{CHANNEL}", "resolution_um": 50},
            "regions": {"from": f"labels/{ATLAS}", "format": "nrrd"},
            "numbers": {"from": f"labels/{ATLAS}", "format": "tiff", "labels": "consecutive"},
            "growth": {"from": f"registration/{ATLAS}/jacobian"},
            "atlas": {"from": f"atlases/{ATLAS}/template"},
            "carried": {"from": f"atlas_space/{ATLAS}/{CHANNEL}"},
            "colours": {"from": f"labels/{ATLAS}", "format": "png_series", "labels": "rgb"},
            "look": {"from": f"fused/{CHANNEL}", "format": "pyramid_8bit", "outlines": True},
            "shared": {"from": f"fused/{CHANNEL}", "format": "pyramid_8bit", "common": True},
        },
    )
    jobs = running.planned(workspace, "exports")
    assert jobs == {"export_volume": 6, "export_planes": 3, "export_regions": 2, "exports": 1}
    done = workspace.snakemake("--cores", "2", "--quiet", "all", "--", "exports")
    assert done.returncode == 0, done.stderr
    folder, store = (
        workspace.folder / "results/demo/exports",
        Store(str(workspace.folder / "results")),
    )

    volume = Volume(store, f"demo/corrected_volume/{CHANNEL}")
    signal = nibabel.load(folder / "signal.nii.gz")
    np.testing.assert_allclose(signal.header.get_zooms(), [0.05] * 3)
    expected, frame = volume.resampled(50.0)
    whole = np.clip(expected, 0, 65535)
    np.testing.assert_allclose(np.asarray(signal.dataobj).T, whole, atol=0.51)
    summary = folder.parent / f"corrected_volume/{CHANNEL}/complete.json"
    shown = json.loads(summary.read_text())["window"]
    assert [signal.header["cal_min"], signal.header["cal_max"]] == pytest.approx(shown)
    record = json.loads((folder / "signal.nii.gz.json").read_text())
    assert record["clipped_high"] == np.count_nonzero(np.rint(expected) > 65535)
    np.testing.assert_allclose(signal.affine, affine_mm(frame, "RAS"), atol=1e-5)

    labels = Volume(store, f"demo/labels/{ATLAS}")
    regions = sitk.ReadImage(str(folder / "regions.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(regions), labels.read(0))
    numbers = tifffile.imread(folder / "numbers.ome.tif")
    with open(folder / "numbers.regions.tsv", newline="") as stream:
        ids = {int(r["value"]): int(r["id"]) for r in csv.DictReader(stream, delimiter="\t")}
    np.testing.assert_array_equal(np.vectorize((ids | {0: 0}).get)(numbers), labels.read(0))
    assert (folder / "numbers.itksnap.txt").read_text().startswith("# ITK-SNAP")

    # in the atlas the channel lies on the template
    template, carried = (nibabel.load(folder / f"{n}.nii.gz") for n in ("atlas", "carried"))
    assert template.shape == carried.shape
    np.testing.assert_allclose(template.affine, carried.affine, atol=1e-6)
    growth = nibabel.load(folder / "growth.nii.gz").get_fdata()
    assert 0 < growth.min() < 1 < growth.max() < 3

    record = json.loads((folder / "colours.planes.json").read_text())
    planes = sorted(e.key for e in store.list("demo/exports/colours"))
    assert len(planes) == record["planes"] == labels.frame.shape[0]
    page = (workspace.folder / "results/demo/exports/look/index.html").read_text()
    outlines = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))["outlines"]
    placement = json.loads((workspace.folder / "results/demo/stitching/placement.json").read_text())
    assert {name for name, *_ in outlines} == set(placement["tiles"])
    # tiles begin at the corner of the volume, and reach its other end
    edges = np.array([corners for _, corners, _ in outlines])
    assert np.abs(edges[:, :2].min(0)).max() < 2
    width_height = Volume(store, f"demo/fused/{CHANNEL}").frame.shape[:0:-1]
    assert np.abs(edges[:, 2:].max(0) - width_height).max() < 2
    # the other channel is less than a voxel off: one at most is lost on either side
    page = (workspace.folder / "results/demo/exports/shared/index.html").read_text()
    shared = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    lost = width_height - np.array([shared["width"], shared["height"]])
    assert np.all((lost >= 0) & (lost <= 2)), lost
    # what is there is not made again, and a changed file is noticed by its checksum
    assert running.planned(workspace, "exports") == {}
    told = json.loads(
        (workspace.folder / "results/demo/checksums/exports/signal.nii.gz.json").read_text()
    )
    assert told["sha256"] == file_hash(folder / "signal.nii.gz")


def test_viewers_show_regions_in_the_colours_of_the_ontology(finished):
    results = finished.folder / "results"
    with open(results / f"atlases/{ATLAS}/ontology.tsv", newline="") as stream:
        colours = {int(r["id"]): r["colour"] for r in csv.DictReader(stream, delimiter="\t")}
    state = json.loads((results / "demo/views/neuroglancer.json").read_text())
    shown = next(layer for layer in state["layers"] if layer["name"] == ATLAS)["segmentColors"]
    labels = Volume(Store(str(results)), f"demo/labels/{ATLAS}").read(0)
    present = set(np.unique(labels).tolist()) - {0}
    assert present and {i: shown[str(i)] for i in present} == {
        i: f"#{colours[i].lower()}" for i in present
    }
    group = json.loads((results / f"demo/labels/{ATLAS}/ome.zarr/zarr.json").read_text())
    label = group["attributes"]["ome"]["image-label"]
    listed = {c["label-value"]: bytes(c["rgba"][:3]).hex() for c in label["colors"]}
    assert {i: listed[i] for i in present} == {i: colours[i].lower() for i in present}
    assert {p["label-value"] for p in label["properties"]} >= present


def test_an_export_that_shows_nothing_more_is_one_sentence(finished, workspace):
    workspace = running.copy_of(finished, workspace, volumes=True)
    fine = {"from": f"corrected_volume/{CHANNEL}", "resolution_um": 0.1}
    running.configure(workspace, export={"fine": fine})
    done = workspace.snakemake("--cores", "1", "--quiet", "all", "--", "exports")
    assert done.returncode != 0
    assert "would add no detail; raise resolution_um" in done.stderr
    assert not (workspace.folder / "results/demo/exports/fine.nii.gz").exists()


pytestmark = pytest.mark.workflow

"""A sample that is a volume already: the right jobs, one sentence for bad images, true labels."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from PIL import Image
from plate_files import write_plate
from running import job_counts
from web_server import serving
from workspaces import ROOT, Workspace

from terareg.storage.records import read_json, read_table
from terareg.storage.store import Store
from terareg.volumes.reader import Volume

OF_TILES = {
    "index_acquisition", "sum_tiles", "estimate_flatfield", "sum_placed_tiles",
    "refine_flatfield", "sum_lines", "estimate_stripes", "correct_tiles", "import_tiles",
    "estimate_steps", "measure_displacements", "gather_displacements", "project_displacements",
    "threshold_displacements", "place_tiles", "export_render", "init_volume", "fuse_blocks",
    "draw_flatfield", "draw_stripes", "draw_sides", "draw_stitching",
}  # fmt: skip
OF_VOLUMES = {
    "index_input", "init_import", "import_volume", "finish_pyramid", "finalize_volume",
    "estimate_bias_field", "correct_volume", "prepare_atlas", "find_pose", "preview_alignment",
    "register",
    "transform_labels", "mesh_labels", "sum_regions", "measure_regions", "transform_volume",
    "check_inputs", "write_neuroglancer_state", "assess_registration", "make_report",
    "draw_brain", "make_slices", "first_look",
}  # fmt: skip


def write_nifti(path, array, spacing_um=(250.0, 250.0, 250.0), flipped=False):
    """NIfTI file whose array axes are SAR, or all of them turned round: IPL."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / 1000 for s in spacing_um[::-1]])
    right, anterior, superior = (1, 1, -1) if flipped else (-1, -1, 1)
    image.SetDirection([right, 0, 0, 0, anterior, 0, 0, 0, superior])
    sitk.WriteImage(image, str(path))


def described(workspace, channels=None, **over):
    """Configuration of a sample of one or more images beside an atlas that is named only."""
    config = workspace.sample("scan")
    if channels is None:
        write_nifti(workspace.folder / "t1.nii.gz", np.zeros((30, 40, 50), np.float32))
        channels = {"t1": "t1.nii.gz"}
    config["input"] = {"kind": "volume", "orientation": "SAR", "channels": channels} | over
    return config


def dry_run(workspace, config, *arguments):
    workspace.write(config)
    return job_counts(workspace.snakemake("-n", *arguments, "--quiet", "rules"))


def test_no_rule_about_tiles_is_needed(workspace):
    jobs = dry_run(workspace, described(workspace))
    assert jobs.keys() >= OF_VOLUMES
    assert OF_TILES.isdisjoint(jobs)
    assert jobs["import_volume"] == jobs["register"] == 1


def test_a_cohort_of_tiles_and_volumes(workspace):
    workspace.write(workspace.sample("brain"), "tiles.yaml")
    write_nifti(workspace.folder / "t2.nii.gz", np.zeros((30, 40, 50), np.uint16))
    channels = {"t1": "t1.nii.gz", "t2": "t2.nii.gz"}
    described(workspace)
    workspace.write(described(workspace, channels), "scan.yaml")
    jobs = dry_run(workspace, {"cohort": ["tiles.yaml", "scan.yaml"]})
    assert jobs["index_acquisition"] == jobs["index_input"] == 1
    assert jobs["init_volume"] == jobs["init_import"] == 2
    assert jobs["place_tiles"] == 1 and jobs["register"] == 2


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("stitching", {"index_input", "check_inputs"}),
        ("fused_volumes", {"index_input", "check_inputs", "init_import", "import_volume",
                           "finish_pyramid", "finalize_volume"}),
    ],
)  # fmt: skip
def test_targets(workspace, target, expected):
    jobs = dry_run(workspace, described(workspace), target)
    assert jobs.keys() - {target, "total"} == expected


def test_a_large_ome_zarr_is_sized_from_its_metadata(workspace):
    """Two channels of 400 GB each, of which there is nothing but metadata and a chunk."""
    folder = workspace.folder / "brain.zarr"
    (folder / "0").mkdir(parents=True)
    scale = [{"type": "scale", "scale": [1, 4, 2, 2]}]
    axes = [{"name": a, "unit": "micrometer"} for a in "czyx"]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    (folder / "0/.zarray").write_text(json.dumps({"shape": [2, 2000, 10000, 10000],
                                                  "chunks": [1, 64, 64, 64],
                                                  "dtype": "<u2"}))  # fmt: skip
    (folder / "0/0.0.0.0").write_bytes(b"x")
    channels = {name: {"path": "brain.zarr", "channel": n} for n, name in enumerate("ab")}
    jobs = dry_run(workspace, described(workspace, channels))
    assert jobs["import_volume"] == 2 * 8, "50 GB a job"
    assert jobs["total"] <= 500


def test_loading_reads_headers_without_a_numeric_package(workspace):
    blocker = workspace.folder / "sitecustomize.py"
    blocked = ("torch", "SimpleITK", "tensorstore", "zarr", "tifffile", "scipy", "skimage")
    blocker.write_text(f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n")
    workspace.write(described(workspace))
    done = workspace.snakemake("-n", "--quiet", "all", PYTHONPATH=str(workspace.folder))
    assert done.returncode == 0, done.stderr


def test_paths_with_braces_blanks_and_other_letters(workspace):
    folder = workspace.folder / "süß {x} [0 x 1]"
    folder.mkdir()
    config = described(workspace)
    (workspace.folder / "t1.nii.gz").rename(folder / "t1 {y}.nii.gz")
    config["input"]["channels"] = {"t1": f"{folder.name}/t1 {{y}}.nii.gz"}
    (workspace.folder / "atlas").rename(folder / "atlas")
    atlas = config["atlases"]["mouse"]
    for key in ("template", "annotation", "ontology"):
        atlas[key] = f"{folder.name}/{atlas[key]}"
    points = workspace.folder / "süße Punkte [1].csv"
    points.write_text("z_um,y_um,x_um\n1,2,3\n")
    config["points"] = {"cells": {"path": points.name, "space": "sample", "atlas": "mouse"}}
    jobs = dry_run(workspace, config)
    assert jobs["import_volume"] == jobs["prepare_atlas"] == jobs["transform_points"] == 1


def test_every_file_of_the_user_may_have_braces_in_its_path(tmp_path):
    """In its name, in folders above it, in the folder of the run and in that of the sample."""
    workspace = Workspace(tmp_path / "süß {x} [0 x 1]")
    config = described(workspace)
    own = workspace.folder / "{scan} ü"
    own.mkdir()
    (workspace.folder / "t1.nii.gz").rename(own / "t1 {kind}.nii.gz")
    config["input"]["channels"] = {"t1": f"{own.name}/t1 {{kind}}.nii.gz"}
    write_nifti(own / "{labels}.nii.gz", np.ones((30, 40, 50), np.uint16))
    header = "name,z_um,y_um,x_um\n"
    for name in ("cells {sample}", "marks", "atlas marks"):
        (own / f"{name}.csv").write_text(f"{header}a,10,20,30\n")
    config["points"] = {
        "cells": {"path": f"{own.name}/cells {{sample}}.csv", "space": "sample", "atlas": "mouse"}
    }
    marks = {"sample": f"{own.name}/marks.csv", "atlas": f"{own.name}/atlas marks.csv"}
    config["fiducials"] = {"mouse": marks}
    config["sample_labels"] = {"mouse": {"path": f"{own.name}/{{labels}}.nii.gz"}}
    workspace.write(config, "{x}.yaml")
    (workspace.folder / "workflow").unlink()
    elsewhere = ("--snakefile", str(ROOT / "workflow/Snakefile"))

    def snakemake(*arguments):
        return workspace.snakemake(*elsewhere, *arguments, configfile="{x}.yaml")

    jobs = job_counts(snakemake("-n", "--quiet", "rules"))
    assert jobs["copy_own_file"] == 3 and jobs["transform_points"] == jobs["score_labels"] == 1
    checked = ("--cores", "2", "results/scan/inputs.json")
    assert snakemake(*checked).returncode == 0
    copies = {path.name: path for path in (workspace.folder / "results/scan/own").iterdir()}
    assert sorted(name[9:] for name in copies) == [
        "atlas-marks.csv", "cells-sample-.csv", "marks.csv",
    ]  # fmt: skip
    # an edited file is copied and checked again, and what is wrong with it is said
    (own / "cells {sample}.csv").write_text(f"{header}a,10,20,thirty\n")
    done = snakemake(*checked)
    assert done.returncode == 1
    assert "points {scan} ü/cells {sample}.csv, line 2: '10', '20', 'thirty' are not" in done.stderr


def absent(workspace):
    return described(workspace, {"t1": "absent.nii.gz"})


def tiff_without_spacing(workspace):
    tifffile.imwrite(workspace.folder / "a.tif", np.zeros((5, 6, 7), np.uint8))
    return described(workspace, {"t1": "a.tif"})


def two_shapes(workspace):
    described(workspace)
    write_nifti(workspace.folder / "t2.nii.gz", np.zeros((30, 40, 51), np.float32))
    return described(workspace, {"t1": "t1.nii.gz", "t2": "t2.nii.gz"})


def another_orientation(workspace):
    return described(workspace, orientation="RAS")


def another_unit(workspace):
    """A sample of 12.5 mm beside an atlas of 0.25 mm."""
    config = described(workspace)
    path = workspace.folder / "atlas/annotation.nii.gz"
    write_nifti(path, np.zeros((30, 40, 50), np.uint16), (5.0, 5.0, 5.0))
    config["atlases"]["mouse"]["annotation"] = str(path)
    return config


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (another_unit, "sample scan is 12.5 mm long but atlas mouse 0.25 mm"),
        (absent, "sample scan: absent.nii.gz does not exist; correct the path"),
        (tiff_without_spacing, "a.tif states no voxel size; set input.spacing_um"),
        (two_shapes, "channel t2 has shape (30, 40, 51) (z, y, x) but channel t1 has (30, 40, 50)"),
        (
            another_orientation,
            "has orientation SAR (z, y, x; in order x, y, z: RAS) in its header, not RAS",
        ),
    ],
)
def test_bad_images_stop_the_workflow_before_any_job(workspace, make, words):
    workspace.write(make(workspace))
    done = workspace.snakemake("--cores", "1")
    assert done.returncode != 0
    assert [line for line in (done.stdout + done.stderr).splitlines() if words in line]
    assert "Traceback" not in done.stderr
    assert not (workspace.folder / "results").exists()


def toy_brain():
    """Intensities and labels of a toy brain of 40 voxels a side, no two axes alike."""
    z, y, x = np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij")
    inside = (z / 11) ** 2 + (y / 17) ** 2 + (x / 13) ** 2 < 1
    front = ((z - 3) / 5) ** 2 + ((y - 8) / 5) ** 2 + (x / 9) ** 2 < 1
    low = ((z + 5) / 3) ** 2 + ((y + 4) / 7) ** 2 + (x / 6) ** 2 < 1
    labels = inside.astype(np.uint16)
    labels[front], labels[low] = 2, 3
    return np.array([0, 100, 180, 40], np.float32)[labels], labels


@pytest.mark.slow
def test_a_floating_point_nifti_becomes_labels_and_regions(workspace):
    """Small numbers around zero, not a number outside, moved, and every axis turned round."""
    values, labels = toy_brain()
    config = workspace.sample("scan")
    for name, image in (("template", values), ("annotation", labels)):
        path = workspace.folder / "atlas" / f"{name}.nii.gz"
        write_nifti(path, image)
        config["atlases"]["mouse"][name] = str(path)
    ontology = workspace.folder / "atlas/ontology.csv"
    ontology.write_text("id,acronym,name\n1,B,brain\n2,F,front\n3,L,low\n")
    config["atlases"]["mouse"] |= {"ontology": str(ontology), "orientation": "SAR"}
    moved = [np.roll(a, (1, -2, 2), (0, 1, 2))[::-1, ::-1, ::-1] for a in (values, labels)]
    scan = moved[0] * 1e-3 - 0.05
    scan[:, :, :2] = np.nan
    write_nifti(workspace.folder / "scan.nii.gz", scan, flipped=True)
    marks = np.array([[12, 20, 20], [20, 30, 16], [25, 12, 24]])
    landmarks = {}
    for side, places in (("atlas", marks), ("sample", 39 - (marks + (1, -2, 2)))):
        rows = [f"P{n},{','.join(map(str, um))}" for n, um in enumerate((places * 250).tolist())]
        landmarks[side] = str(workspace.folder / f"{side}.csv")
        Path(landmarks[side]).write_text("\n".join(["name,z_um,y_um,x_um", *rows, ""]))
    config |= {
        "input": {"kind": "volume", "orientation": "IPL", "channels": {"t1": "scan.nii.gz"}},
        "intensity": {"bias": {"enabled": False}},
        "registration": {"iterations": 3, "levels": 1, "resolution_um": 500,
                         "pose": {"search": False, "extent": "whole"},
                         "landmarks": {"mouse": landmarks}, "error_bars": True},
        "labels": {"resolution_um": 250},
        "volume": {"chunk": 16, "block": 32},
    }  # fmt: skip
    # points of both spaces: the regions of those in the atlas are known
    cells = np.random.default_rng(0).uniform(8, 31, (500, 3)) * 250
    lines = [",".join(f"{v:.1f}" for v in place) for place in cells]
    (workspace.folder / "p.csv").write_text("\n".join(["z_um,y_um,x_um", *lines]) + "\n")
    config["points"] = {
        space: {"path": "p.csv", "atlas": "mouse", "space": space} for space in ("sample", "atlas")
    }
    workspace.write(config)
    wanted = ("results/scan/regions/mouse.tsv", "results/scan/views/neuroglancer.json",
              "results/scan/views/first_look_mouse.png",
              "results/scan/points/sample.tsv", "results/scan/points/atlas.tsv")  # fmt: skip
    done = workspace.snakemake("--cores", "2", *wanted, "--quiet")
    assert done.returncode == 0, done.stderr

    for space in ("sample", "atlas"):
        summary = workspace.folder / f"results/scan/points/{space}/summary.json"
        reading = json.loads(summary.read_text())
        assert reading["points"] == 500 and reading["outside_volume"] == 0
        assert reading["in_region_percent"] > 50 and reading["other"] == ""
    state = json.loads((workspace.folder / "results/scan/views/neuroglancer.json").read_text())
    drawn = {layer["name"]: layer for layer in state["layers"]}
    for space in ("sample", "atlas"):
        assert len(drawn[f"points {space}"]["annotations"]) == 500
    first = drawn["points sample"]["annotations"][0]["point"]
    np.testing.assert_allclose(first, np.round(cells[0], 1)[::-1], atol=1e-6)

    store = Store(str(workspace.folder / "results"))
    volume = Volume(store, "scan/fused/t1")
    stored = volume.read(0)
    assert volume.dtype == np.float32 and volume.frame.orientation == "IPL"
    np.testing.assert_array_equal(stored, np.nan_to_num(scan))
    complete = json.loads((workspace.folder / "results/scan/fused/t1/complete.json").read_text())
    assert complete["clipped_low"] == 40 * 40 * 2

    found = Volume(store, "scan/labels/mouse").read(0)
    for region in (1, 2, 3):
        both = np.count_nonzero((found == region) & (moved[1] == region))
        dice = 2 * both / (np.count_nonzero(found == region) + np.count_nonzero(moved[1] == region))
        assert dice > 0.8, f"region {region}: {dice:.2f}"
    with open(workspace.folder / "results/scan/regions/mouse.tsv", newline="") as stream:
        rows = {(r["acronym"], r["hemisphere"]): r for r in csv.DictReader(stream, delimiter="\t")
                if r["scope"] == "own"}  # fmt: skip
    front, low = (float(rows[name, "both"]["t1_mean"]) for name in "FL")
    assert front == pytest.approx(0.13, abs=0.02) and low == pytest.approx(-0.01, abs=0.02)
    for region, name in enumerate("BFL", 1):
        row = {key: float(value) for key, value in rows[name, "both"].items() if "mm3" in key}
        true = np.count_nonzero(labels == region) * 0.25**3
        assert row["volume_low_mm3"] < row["volume_mm3"] < row["volume_high_mm3"]
        assert abs(row["volume_mm3"] - true) < 4 * row["volume_sd_mm3"] < 2 * true

    counted = [
        {(r["acronym"], r["hemisphere"]): r for r in read_table(workspace.folder / name)}
        for name in wanted[3:]
    ]
    for name in "BFL":
        low, count, high = (
            int(counted[0][name, "both"][key]) for key in ("count_low", "count", "count_high")
        )
        assert low <= count <= high and low < high and count > 10
    assert "count_low" not in counted[1]["B", "both"]

    # the first look has the image beside the atlas
    picture = np.asarray(Image.open(workspace.folder / wanted[2]).convert("L"), float)
    third = picture.shape[1] // 3
    rows = slice(picture.shape[0] // 10, picture.shape[0] // 3)
    shown = [picture[rows, start : start + third] for start in (0, third)]
    assert all(image.std() > 20 for image in shown)

    layers = json.loads((workspace.folder / wanted[1]).read_text())["layers"]
    (layer,) = [layer for layer in layers if layer["name"] == "error bars mouse (um)"]
    assert "registration/mouse/deviation" in json.dumps(layer["source"])
    shown = Volume(store, "scan/registration/mouse/deviation").read(0)
    assert 0 < np.median(shown) < 2000
    (layer,) = [layer for layer in layers if layer["name"] == "landmarks mouse"]
    shown = {each["description"]: each["point"] for each in layer["annotations"]}
    places = (39 - (marks + (1, -2, 2)))[:, ::-1] * 250  # x, y, z
    assert shown == {f"P{n}": place for n, place in enumerate(places.tolist())}

    # a channel that is added later is imported and measured, and nothing is registered again
    write_nifti(workspace.folder / "more.nii.gz", np.nan_to_num(scan) + 1, flipped=True)
    config["input"]["channels"]["more"] = "more.nii.gz"
    workspace.write(config)
    planned = job_counts(workspace.snakemake("-n", wanted[0], "--quiet", "rules"))
    assert planned["init_import"] == planned["import_volume"] == planned["finalize_volume"] == 1
    assert "measure_regions" in planned
    assert not planned.keys() & {"find_pose", "register", "transform_labels"}


@pytest.mark.slow
def test_a_plate_becomes_a_page_of_tiles_with_its_wells_and_sites(workspace):
    random = np.random.default_rng(5)
    light = 1 - (np.linspace(-1, 1, 60)[:, None] ** 2 + np.linspace(-1, 1, 80) ** 2) / 4
    sites = {well: list((random.integers(100, 900, (n, 2, 60, 80)) * light).astype(np.uint16))
             for well, n in (("A/1", 2), ("B/2", 9))}  # fmt: skip
    write_plate(workspace.folder / "plate.zarr", sites, axes="cyx")
    page = {"from": "fused/dapi", "format": "pyramid_8bit", "outlines": True,
            "clip_percent": [0, 100]}  # fmt: skip
    even = page | {"illumination": "log_statistics", "outlines": False}
    config = {
        "sample": "plate",
        "input": {"kind": "volume", "orientation": "SAR",
                  "channels": {"dapi": {"path": "plate.zarr", "channel": 1}}},
        "atlases": {}, "export": {"page": page, "even": even},
    }  # fmt: skip
    workspace.write(config)
    wanted = [f"results/plate/exports/{name}.planes.json" for name in ("page", "even")]
    done = workspace.snakemake("--cores", "2", *wanted, "--quiet")
    assert done.returncode == 0, done.stderr
    expected = np.zeros((360, 480), np.uint16)
    expected[:60, :80], expected[:60, 80:160] = (image[1] for image in sites["A/1"])
    for n, image in enumerate(sites["B/2"]):
        expected[180 + n // 3 * 60 :, 240 + n % 3 * 80 :][:60, :80] = image[1]
    folder = workspace.folder / "results/plate"
    stored = Volume(Store(str(workspace.folder / "results")), "plate/fused/dapi").read(0)
    np.testing.assert_array_equal(stored, expected[None])
    text = (folder / "exports/page/index.html").read_text()
    found = {name: edges for name, edges, _ in json.loads(
        re.search(r'"outlines": (\[.*?\]\]\])', text)[1])}  # fmt: skip
    assert len(found) == 13 and found.items() >= {
        "A1": [0, 0, 240, 180], "B2": [240, 180, 480, 360], "A1/0": [0, 0, 80, 60],
        "A1/1": [80, 0, 160, 60], "B2/3": [240, 240, 320, 300],
    }.items()  # fmt: skip
    # brightness of the sites, row by row from their middle: as they are, and with the light evened
    of_pages = {}
    for name in ("page", "even"):
        grey = np.zeros((360, 480))
        for y, x in np.ndindex(2, 2):
            tile = f"exports/{name}/z0000_files/9/{x}_{y}.jpg"
            grey[y * 256 :, x * 256 :][:256, :256] = np.asarray(Image.open(folder / tile))
        of_sites = [grey[180 + n // 3 * 60 :, 240 + n % 3 * 80 :][:60, :80] for n in range(9)]
        of_pages[name] = np.mean(of_sites, axis=0)
    corner, middle = np.s_[:10, :10], np.s_[25:35, 35:45]
    ratios = {name: mean[corner].mean() / mean[middle].mean() for name, mean in of_pages.items()}
    assert ratios["page"] < 0.65 and ratios["even"] > 0.85
    record = read_json(folder / "exports/even.planes.json")["illumination"]
    assert record["images"] == 11
    assert record["unevenness_percent_corrected"] < record["unevenness_percent"] / 2
    assert "illumination" not in read_json(folder / "exports/page.planes.json")


def ome_zarr(folder, values):
    """OME-Zarr 0.4 of voxels of 250 um, in chunks of 16 voxels."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    array = group.create_array("0", shape=values.shape, chunks=(16, 16, 16), dtype=values.dtype)
    array[...] = values
    scale = [{"type": "scale", "scale": [250, 250, 250]}]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["multiscales"] = [image | {"version": "0.4"}]


@pytest.mark.slow
@pytest.mark.engine
def test_images_on_s3_and_the_web_are_imported_as_those_on_disk(workspace, s3):
    values, labels = toy_brain()
    values = (values * 90).astype(np.uint16)
    write_nifti(workspace.folder / "a.nii.gz", values)
    write_nifti(workspace.folder / "b.nii", values[::-1].copy())
    ome_zarr(workspace.folder / "d.ome.zarr", values[:, ::-1])
    client = s3.client()
    client.create_bucket(Bucket="lab")
    client.upload_file(str(workspace.folder / "a.nii.gz"), "lab", "images/a.nii.gz")
    config = workspace.sample("scan")
    for name, image in (("template", values), ("annotation", labels)):
        path = workspace.folder / "atlas" / f"{name}.nii.gz"
        write_nifti(path, image)
        config["atlases"]["mouse"][name] = str(path)
    config["atlases"]["mouse"]["orientation"] = "SAR"
    ontology = workspace.folder / "atlas/ontology.csv"
    ontology.write_text("id,acronym,name\n1,B,brain\n2,F,front\n3,L,low\n")
    config["atlases"]["mouse"]["ontology"] = str(ontology)
    with serving(workspace.folder) as url:
        channels = {
            "d": f"{url}/d.ome.zarr", "a": "s3://lab/images/a.nii.gz", "b": f"{url}/b.nii"
        }  # fmt: skip
        config["input"] = {"kind": "volume", "orientation": "SAR", "channels": channels}
        workspace.write(config)
        wanted = [f"results/scan/fused/{name}/complete.json" for name in channels]
        wanted.append("results/scan/views/first_look_mouse.png")
        done = workspace.snakemake("--cores", "2", *wanted, "--quiet", **s3.env)
        assert done.returncode == 0, done.stderr
        store = Store(str(workspace.folder / "results"))
        for name, expected in (("a", values), ("b", values[::-1]), ("d", values[:, ::-1])):
            np.testing.assert_array_equal(Volume(store, f"scan/fused/{name}").read(0), expected)
        plans = {
            n: read_json(workspace.folder / f"results/scan/fused/{n}/plan.json") for n in channels
        }
        absent = {name: plan["source"]["absent_chunks"] for name, plan in plans.items()}
        assert absent == {"d": None, "a": 0, "b": 0}
        # what changed is read again
        ome_zarr(workspace.folder / "d.ome.zarr", values)
        again = job_counts(workspace.snakemake("-n", *wanted, "--quiet", "rules", **s3.env))
        assert again["index_input"] == again["first_look"] == again["init_import"] == 1
        done = workspace.snakemake("--cores", "2", wanted[0], "--quiet", **s3.env)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(Volume(store, "scan/fused/d").read(0), values)

"""Cells of a generated brain, from its volume to counts per region."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from scipy import ndimage

from terareg.storage.records import read_table
from terareg.storage.store import Store
from terareg.volumes.reader import Volume

SPACING_UM = 25.0
DIAMETER_UM = 100.0
SHAPE = (88, 112, 120)


def write_nifti(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([SPACING_UM / 1000] * 3)
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    sitk.WriteImage(image, str(path))


def brain_with_cells():
    """Labels, tissue without and image with cells, and the voxels of their centres."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    inside = (z / 38) ** 2 + (y / 52) ** 2 + (x / 55) ** 2 < 1
    labels = inside.astype(np.uint16)
    labels[inside & (y > 5)] = 2
    labels[inside & (z < -12) & (y <= 5)] = 3
    tissue = np.array([0, 900, 1100, 700], np.float32)[labels]
    tissue = ndimage.gaussian_filter(tissue, 1.0)
    # a cell on the border of two regions may be counted in either
    parts = [ndimage.binary_erosion(labels == n, iterations=2) for n in (1, 2, 3)]
    core = np.argwhere(np.logical_or.reduce(parts) & ndimage.binary_erosion(inside, iterations=5))
    centres = np.empty((0, 3))
    for place in rng.permutation(core)[:1000] + rng.uniform(-0.5, 0.5, (1000, 3)):
        if len(centres) == 100:
            break
        if (np.linalg.norm(centres - place, axis=1) > 4.4).all():
            centres = np.vstack([centres, place])
    cells, index = np.zeros_like(tissue), np.indices(SHAPE, np.float32)
    for place in centres:
        box = tuple(slice(int(p) - 4, int(p) + 6) for p in place)
        far = sum((i[box] - p) ** 2 for i, p in zip(index, place))
        cells[box][far < (DIAMETER_UM / SPACING_UM / 2) ** 2] = 1
    noise = 30 * np.sqrt(np.maximum(tissue, 100) / 900)
    image = 100 + tissue + 12 * noise * ndimage.gaussian_filter(cells, 0.5)
    image += noise * rng.standard_normal(image.shape)
    return labels, tissue, np.clip(np.rint(image), 0, 65535).astype(np.uint16), centres


def write_marks(folder, centres):
    """Half of the cells, and places away from all cells, of which some are on other blobs."""
    places = np.random.default_rng(1).uniform(0, np.array(SHAPE), (4000, 3))
    far = np.linalg.norm(places[:, None] - centres[None], axis=2).min(1) > 8
    rows = [(*place, "yes") for place in centres[::2]] + [(*p, "no") for p in places[far]]
    lines = [",".join(f"{v * SPACING_UM:.1f}" for v in row[:3]) + f",{row[3]}" for row in rows]
    (folder / "marks.csv").write_text("\n".join(["z_um,y_um,x_um,cell", *lines]) + "\n")
    return "marks.csv"


@pytest.mark.slow
def test_cells_are_found_and_counted_in_the_regions_they_lie_in(workspace):
    labels, tissue, image, centres = brain_with_cells()
    config = workspace.sample("scan")
    folder = workspace.folder / "atlas"
    write_nifti(folder / "template.nii.gz", tissue)
    write_nifti(folder / "annotation.nii.gz", labels)
    (folder / "ontology.csv").write_text("id,acronym,name,parent\n1,B,brain,9\n2,F,front,9\n"
                                         "3,L,low,9\n9,T,tissue,\n")  # fmt: skip
    names = {"template": "template.nii.gz", "annotation": "annotation.nii.gz",
             "ontology": "ontology.csv"}  # fmt: skip
    config["atlases"]["mouse"] = {k: str(folder / v) for k, v in names.items()}
    config["atlases"]["mouse"]["orientation"] = "SAR"
    write_nifti(workspace.folder / "scan.nii.gz", image)
    config |= {
        "input": {"kind": "volume", "orientation": "SAR", "channels": {"cfos": "scan.nii.gz"}},
        "intensity": {"bias": {"enabled": False}},
        "registration": {"iterations": 3, "levels": 1, "resolution_um": 100,
                         "pose": {"search": False, "extent": "whole"}},
        "labels": {"resolution_um": 25},
        "volume": {"chunk": 16, "block": 32},
        "cells": {"bright": {"channel": "cfos", "diameter_um": DIAMETER_UM, "heat_map_um": 0},
                  "none": {"channel": "cfos", "diameter_um": DIAMETER_UM, "threshold": 900},
                  # low enough for many that are none, which the marks tell from cells
                  "judged": {"channel": "cfos", "diameter_um": DIAMETER_UM, "threshold": 3,
                             "roundness": 0, "marks": write_marks(workspace.folder, centres)}},
        "derived": {"blobs": {"from": "fused/cfos", "do": "signal", "method": "top_hat",
                              "background_um": 200, "threshold": 200, "weak": 120},
                    # a fibre that another program found, as probabilities
                    "fibre": {"from": str(workspace.folder / "fibre.tif"), "do": "signal",
                              "method": "probability",
                              "threshold": 0.5, "spacing_um": [SPACING_UM] * 3,
                              "image": "fused/cfos", "length": True, "thickest_um": 200}},
    }  # fmt: skip
    fibre = np.zeros(SHAPE, np.uint8)
    fibre[40:45, 20:96, 50:55] = 200
    tifffile.imwrite(workspace.folder / "fibre.tif", fibre)
    workspace.write(config)
    results = workspace.folder / "results/scan"
    wanted = ("cells/bright/mouse/regions.tsv", "cells/none.csv",
              "views/neuroglancer.json", "derived/blobs/regions/mouse.tsv",
              "cells/bright/objects_verified.json", "cells/judged.csv",
              "derived/fibre/regions/mouse.tsv")  # fmt: skip
    paths = [f"results/scan/{name}" for name in wanted]
    done = workspace.snakemake("--cores", "2", *paths, "--quiet")
    assert done.returncode == 0, done.stderr

    # every cell once, where it is
    with open(results / "cells/bright.csv", newline="") as stream:
        found = [[float(r[f"{a}_um"]) for a in "zyx"] for r in csv.DictReader(stream)]
    found = np.array(found) / SPACING_UM
    near = np.linalg.norm(found[:, None] - centres[None], axis=2)
    hits = len({int(n) for n in near.argmin(1)[near.min(1) < 2]})
    assert 2 * hits / (len(found) + len(centres)) >= 0.95

    # a filter that was trained by marks leaves out what only looks like cells
    judged = json.loads((results / "cells/judged.json").read_text())
    learned = judged["filter"]
    assert learned["unfiltered"] < 0.7 < 0.95 < learned["accuracy"] and learned["rejected"] > 20
    with open(results / "cells/judged.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = np.array([[float(r[f"{a}_um"]) for a in "zyx"] for r in rows]) / SPACING_UM
    hits = (np.linalg.norm(centres[:, None] - kept[None], axis=2).min(1) < 2).sum()
    assert hits >= 0.95 * len(centres) and len(kept) - hits <= 0.1 * len(centres)
    assert all(float(row["probability"]) >= 0.5 for row in rows)

    # counts of regions within 3 % of all cells, those above added up
    with open(results / wanted[0], newline="") as stream:
        rows = {(r["acronym"], r["scope"], r["hemisphere"]): r
                for r in csv.DictReader(stream, delimiter="\t")}  # fmt: skip
    own = labels[tuple(np.rint(centres).astype(int).T)]
    for region, acronym in ((1, "B"), (2, "F"), (3, "L")):
        count = int(rows[acronym, "own", "both"]["count"])
        assert abs(count - np.count_nonzero(own == region)) <= 0.03 * len(centres)
        volume = np.count_nonzero(labels == region) * (SPACING_UM / 1000) ** 3
        per_mm3 = float(rows[acronym, "own", "both"]["per_mm3"])
        assert per_mm3 == pytest.approx(np.count_nonzero(own == region) / volume, rel=0.1)
    sides = [int(rows["T", "tree", side]["count"]) for side in ("left", "right", "both")]
    assert sides[0] + sides[1] == sides[2] == len(found) - int(rows["", "own", "both"]["count"])
    assert abs(sides[1] - np.count_nonzero(centres[:, 2] > (SHAPE[2] - 1) / 2)) <= 0.03 * len(
        centres
    )
    density = sitk.GetArrayFromImage(
        sitk.ReadImage(str(results / "cells/bright/mouse/density.nrrd"))
    )
    assert density.shape == labels.shape
    assert density.sum() * (SPACING_UM / 1000) ** 3 == pytest.approx(len(found), abs=2)

    # none are a table without lines, said in the log and the summary
    assert len((results / "cells/none.csv").read_text().splitlines()) == 1
    assert json.loads((results / "cells/none.json").read_text())["cells"] == 0
    assert "check the channel" in (results / "logs/gather_cells/none.log").read_text()
    layers = json.loads((results / wanted[2]).read_text())["layers"]
    (source,) = [each["source"] for each in layers if each["name"] == "cells bright"]
    info = workspace.folder / "results" / source.split("{store}/")[1] / "info"
    assert json.loads(info.read_text())["annotation_type"] == "POINT"
    assert Path(info).stat().st_size < 5000

    # the same blobs as signal: where the cells are, and summed by region as a plain count does
    store = Store(str(workspace.folder / "results"))
    mask = Volume(store, "scan/derived/blobs").read(0)
    regions = Volume(store, "scan/labels/mouse").read(0)
    assert mask[tuple(np.rint(centres).astype(int).T)].mean() > 0.95
    rows = {(r["acronym"], r["scope"], r["hemisphere"]): r for r in read_table(results / wanted[3])}
    for region, acronym in ((1, "B"), (2, "F"), (3, "L")):
        inside = (mask > 0) & (regions == region)
        row = rows[acronym, "own", "both"]
        volume = np.count_nonzero(inside) * (SPACING_UM / 1000) ** 3
        assert float(row["signal_mm3"]) == pytest.approx(volume)
        assert float(row["intensity_mean"]) == pytest.approx(image[inside].mean())
        share = 100 * inside.sum() / np.count_nonzero(regions == region)
        assert float(row["signal_percent"]) == pytest.approx(share)
    # the fibre is as long as it is, divided between the regions that it passes through
    lengths = {(r["acronym"], r["scope"], r["hemisphere"]): float(r["length_mm"])
               for r in read_table(results / wanted[-1])}  # fmt: skip
    along = labels[42, 20:96, 52]
    for region, acronym in ((1, "B"), (2, "F"), (3, "L")):
        true_mm = np.count_nonzero(along == region) * SPACING_UM / 1000
        assert lengths[acronym, "own", "both"] == pytest.approx(true_mm, abs=0.12)
    assert lengths["T", "tree", "both"] == pytest.approx(
        np.count_nonzero(along) * SPACING_UM / 1000, abs=0.1
    )
    sides = [float(rows["T", "tree", side]["signal_mm3"]) for side in ("left", "right", "both")]
    assert sides[0] + sides[1] == pytest.approx(sides[2])

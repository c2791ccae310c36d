"""Tiles that are distorted within themselves through the workflow: seams show everything once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from distorted_tiles import Distorted, write_distorted
from scipy import ndimage
from workspaces import Workspace

from terareg.storage.store import Store
from terareg.volumes.reader import Volume

pytestmark = pytest.mark.slow

RESULTS = "results/bent"
WANTED = ("fused_volumes", f"{RESULTS}/views/seams.png", f"{RESULTS}/stitching/render/stack.json")


def test_seams_of_distorted_tiles_are_not_doubled(tmp_path):
    workspace, tiles = Workspace(tmp_path), Distorted()
    config, scene = write_distorted(workspace.folder, tiles)
    workspace.write(config)

    done = workspace.snakemake("--cores", "2", *WANTED, "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    results = workspace.folder / RESULTS
    placement = json.loads((results / "stitching/placement.json").read_text())
    told = placement["summary"]
    assert told["tiles_distorted"] == 4 and told["links_kept"] == 4
    assert told["field_misfit_after_vox"] < 0.2 * told["field_misfit_before_vox"]
    stack = json.loads((results / "stitching/render/stack.json").read_text())
    assert "4 of 4 tiles are distorted" in stack["versionNotes"]

    volume = Volume(Store(str(results.parent)), "bent/fused/signal")
    plane = volume.read(0)[volume.frame.shape[0] // 2].astype(np.float32)
    offset = json.loads((results / "fused/signal/plan.json").read_text())["offset_vox"]
    places = [np.subtract(tile["integer"], offset)[1:] for tile in placement["tiles"].values()]
    covered = np.zeros(plane.shape, int)
    for y, x in places:
        covered[max(y, 0) : y + tiles.shape[1], max(x, 0) : x + tiles.shape[2]] += 1
    inside = ndimage.binary_erosion(plane > 0, iterations=8)
    # moved tiles alone show everything twice there, which leaves 0.94
    fine = (plane - ndimage.gaussian_filter(plane, 2)) ** 2
    contrast = [fine[inside & where].mean() ** 0.5 for where in (covered == 2, covered == 1)]
    assert contrast[0] / contrast[1] > 0.97
    true = scene.image[scene.image.shape[0] // 2]
    corner = np.array(next(iter(scene.origins.values()))[1:]) - places[0]
    there = ndimage.shift(true, -corner, order=1)[: plane.shape[0], : plane.shape[1]]
    alike = [ndimage.gaussian_filter(image, 5)[inside] for image in (plane, there)]
    assert np.corrcoef(*alike)[0, 1] > 0.9

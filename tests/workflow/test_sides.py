"""Two sides through the workflow: one volume, without a seam, whatever the batches."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import running
from two_sides import SPACING_UM, TwoSides, write_two_sides
from workspaces import Workspace

from terareg.storage.store import Store
from terareg.volumes.reader import Volume

pytestmark = pytest.mark.slow

SIDES = TwoSides()
FUSED = "results/sides/fused/signal"


def run(workspace, *arguments: str):
    done = workspace.snakemake("--cores", "2", "fused_volumes", *arguments, "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """The workspace of a finished run, and the tissue in the frame of the fused volume."""
    workspace = Workspace(tmp_path_factory.mktemp("sides"))
    config, tissue, _ = write_two_sides(workspace.folder, SIDES)
    workspace.write(config)
    run(workspace)
    return workspace, tissue


def voxels(workspace) -> dict[str, str]:
    found = running.artefacts(workspace.folder / FUSED)
    return {k: v for k, v in found.items() if k.startswith("ome.zarr/")}


def test_two_sides_become_one_volume_without_a_seam(fused):
    workspace, tissue = fused
    results = workspace.folder / "results/sides"
    shift = json.loads((results / "stitching/channels/right.json").read_text())
    assert shift["against"] == "left"
    assert np.abs(np.subtract(shift["shift_vox"], SIDES.shift_vox)).max() < 0.1
    placement = json.loads((results / "stitching/placement.json").read_text())
    measured_on = {(k["a"], k["b"]): k["side"] for k in placement["links"]}
    assert measured_on["LOC000", "LOC003"] == "left" and measured_on["LOC002", "LOC005"] == "right"
    match = json.loads((results / "stitching/sides/signal.json").read_text())
    assert match["weights"] == "content" and 40 < match["own_percent"][0] < 60
    assert match["across"] == "volume" and match["left_percent"] < 1 and not match["warnings"]
    volume = Volume(Store(str(workspace.folder / "results")), "sides/fused/signal")
    seen = np.asarray(volume.read(0), float)
    start = json.loads((results / "fused/signal/plan.json").read_text())["offset_vox"]
    assert seen.shape == tissue.shape, start
    covered = (seen > 0)[2:-2]
    ratio = np.where(covered, seen[2:-2], 0).sum(axis=(0, 1))
    ratio /= np.where(covered, tissue[2:-2], 0).sum(axis=(0, 1))
    width = seen.shape[2]
    low, high = (slice(round(a * width), round(b * width)) for a, b in ((0.3, 0.45), (0.55, 0.7)))
    assert abs(ratio[high].mean() / ratio[low].mean() - 1) < 0.01
    # noise of the camera is about 1 %; the far half of a side alone would be blurred by 3 pixels
    for near in (slice(16, low.stop), slice(high.start, -16)):
        shown, there = seen[4:-4, 16:-16, near], tissue[4:-4, 16:-16, near]
        there = there * shown.mean() / there.mean()
        assert np.std(shown - there) / there.mean() < 0.025
        assert np.corrcoef(shown.ravel(), there.ravel())[0, 1] > 0.99


def test_every_side_has_its_own_files_and_there_is_one_volume(fused):
    results = fused[0].folder / "results/sides"
    assert {path.name for path in (results / "intensity").iterdir()} == {"left", "right"}
    assert [path.name for path in (results / "fused").iterdir()] == ["signal"]
    volume = Volume(Store(str(results.parent)), "sides/fused/signal")
    assert volume.level_frame(0).spacing_um == SPACING_UM


def test_kept_tiles_and_lost_blocks_give_the_same_bytes(fused):
    """What a killed job left is taken over, and the rest is written again."""
    workspace, _ = fused
    before = voxels(workspace)
    folder = workspace.folder / FUSED
    assert len(before) > 4
    shutil.rmtree(folder / "ome.zarr/0/c/0/0")
    for path in (*sorted((folder / "blocks").glob("0_0_*")), *(folder / "batches").iterdir()):
        path.unlink()
    kept = sorted(path.name for path in (folder / "blocks").iterdir())
    assert kept and len(voxels(workspace)) < len(before)
    running.configure(workspace, intensity__corrected_tiles="keep")
    run(workspace)
    assert running.differing(voxels(workspace), before) == []
    assert {path.name for path in (folder / "blocks").iterdir()} > set(kept)

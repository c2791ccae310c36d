"""An atlas that the configuration only names, from its folder to terareg's form."""

from __future__ import annotations

import json

import pytest
from brainglobe_truth import NAME, SHAPE, write_newer
from running import job_counts


@pytest.mark.slow
def test_a_named_atlas_is_prepared_and_followed(workspace):
    """Of levels of OME-Zarr images, which are folders: a changed chunk prepares it again."""
    manifest = write_newer(workspace.folder / "brainglobe")
    env = {"BRAINGLOBE_DIR": str(workspace.folder / "brainglobe")}
    workspace.write(workspace.sample(grid=(1, 2), planes=100, atlases={"ccf": {"name": NAME}}))
    target = "results/atlases/ccf/atlas.json"
    done = workspace.snakemake("--cores", "1", target, **env)
    assert done.returncode == 0, done.stderr
    atlas = json.loads((workspace.folder / target).read_text())
    assert atlas["origin"] == f"BrainGlobe {NAME} 1.2"
    assert tuple(atlas["frame"]["shape"]) == SHAPE and atlas["frame"]["orientation"] == "PIL"
    done = workspace.snakemake("-n", target, "--quiet", "rules", **env)
    assert "Nothing to be done" in done.stdout + done.stderr
    annotations = manifest.parents[3] / "annotation-sets/small-annotation/1_0"
    chunk = annotations / "annotations_compressed.ome.zarr/1/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes())
    done = workspace.snakemake("-n", target, "--quiet", "rules", **env)
    assert job_counts(done)["prepare_atlas"] == 1

"""A disk that is too small, or fills up while a run goes on."""

from __future__ import annotations

import subprocess

import pytest
import running

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_any_work(acquired, workspace, small_disk):
    running.with_acquisition(workspace, acquired, store=str(small_disk / "store"))
    (small_disk / "filler").write_bytes(bytes(199 * 2**20))
    done = workspace.snakemake("--cores", "1", "--quiet")
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("check_inputs: ")]
    assert "GB free but this sample needs about" in line
    assert {p.parent.name for p in small_disk.rglob("*.json")} <= {"logs", "checksums"}


def test_a_disk_that_fills_up_stops_the_run_and_a_rerun_ends_with_the_same_bytes(
    acquired, finished, workspace, small_disk
):
    running.with_acquisition(
        workspace, acquired, store=str(small_disk / "store"), volume__formats=["ome-zarr"],
        intensity__bias={"enabled": False}, input__channels={"ch0": 0},
    )  # fmt: skip
    done = workspace.snakemake("--cores", "1", "results/demo/inputs.json", "--quiet")
    assert done.returncode == 0, done.stderr
    (small_disk / "filler").write_bytes(bytes(196 * 2**20))
    done = workspace.snakemake("--cores", "1", "fused_volumes", "--quiet")
    assert done.returncode != 0
    lines = [x for x in done.stderr.splitlines() if x.startswith("fuse_blocks: ")]
    assert lines and "full" in lines[0] and "(log: " in lines[0], done.stderr
    (small_disk / "filler").unlink()
    done = workspace.snakemake("--cores", "2", "fused_volumes", "--quiet")
    assert done.returncode == 0, done.stderr
    mine = running.artefacts(small_disk / "store/demo/fused/ch0/ome.zarr")
    theirs = running.artefacts(finished.folder / "results/demo/fused/ch0/ome.zarr")
    assert mine == theirs and len(mine) > 3

"""Faults of disks, clocks and people: each is noticed, and a rerun ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import running

CHANNELS = ("ch0", "ch1")


@pytest.fixture
def fused(finished, workspace):
    """A copy of the finished run with its volumes."""
    return running.copy_of(finished, workspace, volumes=True)


def volume(workspace, channel: str) -> Path:
    return workspace.folder / "results/demo/fused" / channel


def record(workspace, channel: str) -> Path:
    """Record of the first block of a volume."""
    return min((volume(workspace, channel) / "blocks").glob("*.json"))


def finest_shard(workspace, channel: str) -> Path:
    """The object that holds the finest level of that block."""
    names = json.loads(record(workspace, channel).read_text())["objects"]
    return workspace.folder / "results" / next(n for n in names if "ome.zarr/0/" in n)


def spoil(path: Path) -> None:
    """Change one bit of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    running.replace(path, bytes(data))


def test_spoiled_and_lost_blocks_are_found_and_written_again(fused, finished):
    """A corrupted block, a record without its array, an array without its record."""
    run = ("--cores", "2", "--quiet", "rules", "--keep-going")
    verified, complete = (
        [f"results/demo/fused/{channel}/{name}.json" for channel in CHANNELS]
        for name in ("verified", "complete")
    )
    spoil(finest_shard(fused, "ch0"))
    finest_shard(fused, "ch1").unlink()
    done = fused.snakemake(*run, *verified)
    assert done.returncode != 0
    lines = sorted(x for x in done.stderr.splitlines() if x.startswith("verify_volume: "))
    assert len(lines) == 2 and "fused/ch0" in lines[0] and "fused/ch1" in lines[1]
    for line in lines:
        assert "1 of 1 blocks have changed since they were written (first: 0_0_0)" in line
        assert "-R fuse_blocks" in line
    done = fused.snakemake(*run, "-R", "fuse_blocks", "--", *complete)
    assert done.returncode == 0, done.stderr
    record(fused, "ch0").unlink()
    done = fused.snakemake(*run, "-R", "fuse_blocks", "--", *verified)
    assert done.returncode == 0, done.stderr
    for channel in CHANNELS:
        mine = running.artefacts(volume(fused, channel), "verified.json")
        assert running.differing(mine, running.artefacts(volume(finished, channel))) == []


def test_a_flipped_bit_in_a_file_between_two_jobs_stops_the_second(finished, workspace):
    copy = running.copy_of(finished, workspace)
    folder = copy.folder / "results/demo"
    spoil(folder / "intensity/ch0/flatfield.tif")
    done = copy.snakemake("--cores", "1", "--quiet", "rules", "-R", "draw_flatfield", "--",
                          "results/demo/views/flatfield_ch0.png")  # fmt: skip
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("draw_flatfield: ")]
    assert "intensity/ch0/flatfield.tif has changed since refine_flatfield wrote" in line
    assert "it was damaged or edited, so delete it and run again" in line


def test_spoiled_meshes_and_names_are_found(fused):
    folder = "results/demo/labels/phantom"
    target = f"{folder}/objects_verified.json"
    spoil(min((fused.folder / folder / "precomputed/mesh").glob("*.index")))
    done = fused.snakemake("--cores", "1", "--quiet", "rules", "--", target)
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("verify_objects: ")]
    assert done.returncode != 0 and ".index has changed since it was written (1 of " in line
    assert "run again with -R mesh_labels" in line
    done = fused.snakemake("--cores", "1", "--quiet", "rules", "-R", "mesh_labels", "--", target)
    assert done.returncode == 0, done.stderr


def test_two_runs_on_one_sample_are_refused(fused):
    """The second says that the first is at work, and disturbs nothing."""
    (fused.folder / "results/demo/report.html").unlink()
    locks = fused.folder / ".snakemake/locks"
    first = subprocess.Popen(
        fused.command("--cores", "1", "--quiet", "all", "-R", "register", "--", "registration"),
        cwd=fused.folder, env=fused.environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not any(locks.glob("*")) and first.poll() is None:
            time.sleep(0.05)
        second = fused.snakemake("--cores", "1")
        assert second.returncode != 0 and "lock" in second.stderr.lower()
        assert not (fused.folder / "results/demo/report.html").exists()
    finally:
        for process in (*psutil.Process(first.pid).children(recursive=True), first):
            process.kill()
        first.wait()


def test_clocks_that_run_ahead_or_behind_change_nothing(finished, workspace):
    """What a machine wrote whose clock is a day off counts by its content."""
    copy = running.copy_of(finished, workspace)
    placement = copy.folder / "results/demo/stitching/placement.json"
    data = placement.read_bytes()
    for days in (1, -1):
        shifted = time.time() + days * 86400
        placement.unlink()
        placement.write_bytes(data)
        os.utime(placement, (shifted, shifted))
        assert running.planned(copy) == {}

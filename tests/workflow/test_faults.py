"""Faults of disks, clocks and people: each is noticed, and a rerun ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import time

import psutil
import pytest
import running

VOLUME = "results/demo/fused/ch1"
FUSE = ("--cores", "2", "--quiet", "rules", "--rerun-incomplete")


@pytest.fixture
def fused(finished, workspace):
    """A copy of the finished run with its volumes."""
    return running.copy_of(finished, workspace, volumes=True)


def blocks_of(workspace) -> list:
    """Records of the blocks of a volume, in order."""
    return sorted((workspace.folder / VOLUME / "blocks").glob("*.json"))


def finest_shard(workspace, record) -> object:
    """Path of the object that holds the finest level of a block."""
    names = json.loads(record.read_text())["objects"]
    return workspace.folder / "results" / next(n for n in names if "ome.zarr/0/" in n)


def spoil(path) -> None:
    """Change one bit of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    running.replace(path, bytes(data))


def test_spoiled_and_lost_blocks_are_found_and_written_again(fused, finished):
    """A corrupted block, a record without its array, an array without its record."""
    corrupted, without_array, without_record = blocks_of(fused)[:3]
    spoil(finest_shard(fused, corrupted))
    finest_shard(fused, without_array).unlink()
    without_record.unlink()
    target = f"{VOLUME}/verified.json"
    done = fused.snakemake(*FUSE, target)
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("verify_volume: ")]
    assert "blocks missing" in line or "not what was written" in line
    done = fused.snakemake(*FUSE, "-R", "fuse_block", "--", f"{VOLUME}/complete.json")
    assert done.returncode == 0, done.stderr
    done = fused.snakemake(*FUSE, target)
    assert done.returncode != 0, "the corrupted block has its record and its size"
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("verify_volume: ")]
    assert f"1 of {len(blocks_of(fused)) + 1} blocks are not what was written" in line
    assert "-R fuse_block" in line
    done = fused.snakemake(*FUSE, "-R", "fuse_block", "--", target)
    assert done.returncode == 0, done.stderr
    assert json.loads((fused.folder / target).read_text())["blocks"] == len(blocks_of(fused))
    mine = running.artefacts(fused.folder / VOLUME, "verified.json")
    assert running.differing(mine, running.artefacts(finished.folder / VOLUME)) == []


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

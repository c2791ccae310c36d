"""Whatever is killed, whenever: running again ends in the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time

import psutil
import pytest
import running

pytestmark = pytest.mark.slow

KILLS = 5  # of each kind
#: what knows of the other channel, which the disturbed run leaves out
OTHER = ("acquisition.json", "stitching/xml_import.xml")


def jobs_of(snakemake: psutil.Process) -> list[psutil.Process]:
    """Shells and scripts that a running snakemake has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [p for p in snakemake.children(recursive=True) if _is_script(p)]
    return []


def _is_script(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(".snakemake/scripts" in part for part in process.cmdline())
    return False


def run_and_kill(workspace, moment_s: float, victim: str) -> bool:
    """Start snakemake and kill it, or its jobs, so long after its first job started.

    False if the work was done before. Jobs of a killed snakemake live on beside the next one.
    """
    arguments = ("--cores", "2", "--rerun-incomplete", "corrected_volumes", "--quiet")
    log = open(workspace.folder / "run.log", "ab")
    with log, subprocess.Popen(
        workspace.command(*arguments), cwd=workspace.folder, stdout=log, stderr=log,
        env=workspace.environment(),
    ) as process:  # fmt: skip
        parent = psutil.Process(process.pid)
        while not jobs_of(parent) and process.poll() is None:
            time.sleep(0.01)
        deadline = time.monotonic() + moment_s
        while process.poll() is None:
            due = time.monotonic() >= deadline
            if due and victim == "snakemake":
                process.kill()
                break
            jobs = jobs_of(parent) if due else []
            if jobs:
                for job in jobs:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        job.kill()
                break
            time.sleep(0.01)
        killed = process.wait(120) != 0
    return killed


def test_ten_kills_change_no_byte(finished, acquired, tmp_path):
    """Five times the jobs, five times Snakemake itself, at moments drawn from a fixed seed."""
    workspace = running.with_acquisition(
        type(finished)(tmp_path / "killed"), acquired, input__channels={"ch0": 0}
    )
    moments = random.Random(2026)
    kills = ["job", "snakemake"] * KILLS
    while kills:
        victim = kills[-1]
        if not run_and_kill(workspace, moments.uniform(0, 4), victim):
            # all done: what a later stage made is lost, and the rest of the kills falls on it
            for name in ("results/demo/fused", "results/demo/corrected_volume"):
                running.remove(workspace.folder / name)
            continue
        kills.pop()
        if victim == "snakemake":
            again = ("--cores", "1", "--rerun-incomplete", "corrected_volumes", "--quiet")
            locked = workspace.snakemake(*again)
            assert locked.returncode != 0 and "--unlock" in locked.stderr
            assert workspace.snakemake("--unlock").returncode == 0
    done = workspace.snakemake("--cores", "2", "--rerun-incomplete", "corrected_volumes", "--quiet")
    assert done.returncode == 0, done.stderr
    again = running.artefacts(workspace.folder / "results/demo", *OTHER)
    once = running.artefacts(finished.folder / "results/demo")
    assert any(name.startswith("corrected_volume/ch0/ome.zarr/0/c/") for name in again)
    assert [name for name in again if again[name] != once.get(name)] == []
    made = ("fused/ch0/", "corrected_volume/ch0/", "bias/ch0", "intensity/ch0", "stitching/xml_")
    assert [n for n in once if n.startswith(made) and n not in again and n not in OTHER] == []
    assert not list((workspace.folder / "results").rglob("*.part"))

"""Whatever is killed, whenever: running again ends in the bytes of an undisturbed run."""

from __future__ import annotations

import subprocess

import pytest
import running
from kills import Engine, assert_same, disturb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def on_this_machine(workspace) -> Engine:
    """The chain on two cores, in a copy of the finished run."""
    results = workspace.folder / "results/demo"

    def start(*arguments, stdout):
        command = workspace.command("--cores", "2", "--rerun-incomplete", *arguments)
        return subprocess.Popen(
            command, cwd=workspace.folder, stdout=stdout, stderr=stdout,
            env=workspace.environment(),
        )  # fmt: skip

    def unlock():
        if not list((workspace.folder / ".snakemake/locks").glob("*")):
            return  # killed after its work
        locked = workspace.snakemake("--cores", "1", "--rerun-incomplete")
        assert locked.returncode != 0 and "--unlock" in locked.stderr
        assert workspace.snakemake("--unlock").returncode == 0

    return Engine(
        start=start,
        unlock=unlock,
        lose=lambda names: [running.remove(results / name) for name in names],
        artefacts=lambda: running.artefacts(results),
        within_s=8,
    )


def test_kills_change_no_byte(finished, workspace, kills):
    """Of the jobs and of Snakemake itself, in turn."""
    engine = on_this_machine(running.copy_of(finished, workspace, volumes=True))
    disturb(engine, ["job", "snakemake"] * kills, workspace.folder / "run.log")
    assert_same(engine.artefacts(), running.artefacts(finished.folder / "results/demo"))
    assert not list((workspace.folder / "results").rglob("*.part"))

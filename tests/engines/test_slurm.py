"""The chain on a real SLURM cluster: the bytes of one machine, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time

import psutil
import pytest
import running
from workspaces import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FLATFIELD = "intensity/ch0/nominal/flatfield.tif"
# the cluster's squeue answers when something has happened (slurm_cluster.py): no need to wait first
SOON = ("--slurm-init-seconds-before-status-checks", "1")


class Run:
    """Snakemake at work on the cluster; a context that ends it if it is still there."""

    def __init__(self, workspace: Workspace, cluster, *arguments: str) -> None:
        environment = workspace.environment(**cluster.environment())
        # the workflow's environment, behind the programs of the cluster
        environment["PATH"] = f"{cluster.folder / 'bin'}:{workspace.environment()['PATH']}"
        self._cluster = cluster
        self._log = workspace.folder / "run.log"
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                workspace.command("--profile", "slurm", *SOON, *arguments),
                cwd=workspace.folder, stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait(30)

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def success(self, limit_s: float = 1000) -> str:
        """Wait for the end, which must be a good one; returns what was printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(limit_s)
        state = f"{self.text}\n{self._cluster.jobs()}\n{self._cluster.logs()}"
        assert self.process.returncode == 0, state
        return self.text

    def job_at_work(self, rule: str, beyond: int = 0, limit_s: float = 120) -> dict[str, str]:
        """The newest job of a rule, once its script runs and ``beyond`` others were before it."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.process.poll() is None:
            jobs = self._cluster.jobs(rule)
            if len(jobs) > beyond and script_of(self._cluster, jobs[-1]):
                return jobs[-1]
            time.sleep(0.2)
        raise AssertionError(f"no job of {rule} at work: {self.text}\n{self._cluster.jobs()}")


def script_of(cluster, job: dict[str, str]) -> list[psutil.Process]:
    """The process of a job that does the work: neither Snakemake nor SLURM."""
    found = []
    for process in cluster.processes(job["JobID"]):
        with contextlib.suppress(psutil.Error):
            if any(".snakemake/scripts" in part for part in process.cmdline()):
                found.append(process)
    return found


def same_flatfield(workspace, finished) -> bool:
    one, other = (w.folder / "results/demo" / FLATFIELD for w in (workspace, finished))
    return one.read_bytes() == other.read_bytes()


def test_a_cluster_gives_the_bytes_of_one_machine(
    cluster, finished, acquired, raw_before, tmp_path
):
    workspace = running.with_acquisition(Workspace(tmp_path / "whole"), acquired)
    with Run(workspace, cluster) as run:
        run.success()
    for name, least in (("demo", 300), ("atlases", 5)):
        # the report tells the seconds of every job
        here = running.artefacts(finished.folder / "results" / name, "report.html")
        there = running.artefacts(workspace.folder / "results" / name, "report.html")
        assert len(here) >= least
        assert running.differing(here, there) == []
    assert (workspace.folder / "results/demo/report.html").exists()
    assert running.states(workspace.folder / "demo/raw") == raw_before
    jobs = cluster.jobs()
    assert {job["State"] for job in jobs} == {"COMPLETED"}
    assert {job["NodeList"] for job in jobs} <= set(cluster.names)


def test_killed_jobs_are_tried_again_with_more(cluster, finished, acquired, tmp_path):
    """Cancelled once, its script killed once; each new attempt has more memory and time."""
    workspace = running.with_acquisition(Workspace(tmp_path / "killed"), acquired)
    with Run(workspace, cluster, f"results/demo/{FLATFIELD}") as run:
        cluster.ask("scancel", run.job_at_work("sum_tiles")["JobID"])
        job = run.job_at_work("sum_tiles", beyond=1)
        for process in script_of(cluster, job):
            process.send_signal(signal.SIGKILL)
        text = run.success()
    jobs = cluster.jobs("sum_tiles")
    assert [job["State"] for job in jobs] == ["CANCELLED", "FAILED", "COMPLETED"]
    for key, unit in (("MinMemory", megabytes), ("TimeLimit", minutes)):
        asked = [unit(job[key]) for job in jobs]
        assert asked[0] < asked[1] < asked[2], (key, asked)
    assert "sum_tiles" in text and ".snakemake/slurm_logs/rule_sum_tiles" in text
    assert same_flatfield(workspace, finished)


def test_a_lost_node_costs_its_job_and_no_byte(cluster, finished, acquired, tmp_path):
    """SLURM notices, and the same job starts again on the node that is left."""
    workspace = running.with_acquisition(Workspace(tmp_path / "lost"), acquired)
    with Run(workspace, cluster, f"results/demo/{FLATFIELD}") as run:
        job = run.job_at_work("sum_tiles")
        cluster.lose_node(job["NodeList"])
        end = time.monotonic() + 120
        while cluster.jobs("sum_tiles")[0]["State"] != "PENDING":
            assert time.monotonic() < end, f"{cluster.jobs()}\n{cluster.logs()}"
            time.sleep(0.5)
        # SLURM holds it back for two minutes, which teach nothing
        cluster.ask("scontrol", "update", f"JobId={job['JobID']}", "StartTime=now")
        run.success()
    jobs = cluster.jobs("sum_tiles")
    assert [(j["JobID"], j["State"]) for j in jobs] == [(job["JobID"], "COMPLETED")]
    assert jobs[0]["NodeList"] in set(cluster.names) - {job["NodeList"]}
    assert same_flatfield(workspace, finished)


def megabytes(text: str) -> float:
    """Memory as SLURM prints it: 2G, 1000M."""
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def minutes(text: str) -> int:
    """Time limit as SLURM prints it: 30:00, 1:00:00, 1-00:00:00."""
    days, _, clock = text.rpartition("-")
    hours, mins, _ = ("0:" + clock).split(":")[-3:]
    return int(days or 0) * 1440 + int(hours) * 60 + int(mins)

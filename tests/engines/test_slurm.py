"""The chain on a real SLURM cluster: the bytes of one machine, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import running
from kills import finish_after_kills, shares
from workspaces import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SUMS = "results/demo/intensity/ch0/nominal/sums/0.npz"
# the cluster's squeue answers when something has happened (slurm_cluster.py): no need to wait first
SOON = ("--slurm-init-seconds-before-status-checks", "1")

#: a script of ``sum_tiles`` that needs more than the 2048 MB of its first attempt, and less than
#: the 3072 MB of its second one, for longer than SLURM leaves unseen
LARGE = """\
import sys, time
if any(".snakemake/scripts" in part and "sum_tiles" in part for part in sys.orig_argv):
    held = bytes([1]) * (1900 << 20)
    time.sleep(5)
    del held
"""


def submit(workspace: Workspace, cluster, *arguments: str, stdout, **env: str):
    """Start Snakemake on the cluster; its output goes to an open file."""
    environment = workspace.environment(**cluster.environment(), **env)
    # the workflow's environment, behind the programs of the cluster
    environment["PATH"] = f"{cluster.folder / 'bin'}:{workspace.environment()['PATH']}"
    return subprocess.Popen(
        workspace.command("--profile", "slurm", *SOON, *arguments),
        cwd=workspace.folder, stdout=stdout, stderr=stdout, env=environment,
    )  # fmt: skip


class Run:
    """Snakemake at work on the cluster; a context that ends it if it is still there."""

    def __init__(self, workspace: Workspace, cluster, *arguments: str, **env: str) -> None:
        self._cluster = cluster
        self._log = workspace.folder / "run.log"
        with open(self._log, "ab") as log:
            self.process = submit(workspace, cluster, *arguments, stdout=log, **env)

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

    def failure(self, limit_s: float = 300) -> str:
        """Wait for the end, which must be a bad one; returns what was printed."""
        assert self.process.wait(limit_s) == 1, self.text
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


def unlock(workspace) -> None:
    done = workspace.snakemake("--unlock")
    assert done.returncode == 0, done.stderr


def without_sums(finished, folder: Path) -> Workspace:
    """A finished run that lacks what one job of ``sum_tiles`` makes."""
    workspace = running.copy_of(finished, Workspace(folder))
    (workspace.folder / SUMS).unlink()
    return workspace


def same_sums(workspace, finished) -> bool:
    return (workspace.folder / SUMS).read_bytes() == (finished.folder / SUMS).read_bytes()


@pytest.mark.timeout(3000)
def test_a_cluster_gives_the_bytes_of_one_machine(
    cluster, finished, acquired, raw_before, workspace, kills
):
    """Snakemake is killed on the way; its jobs go on and meet those of the next one.

    Pictures are left to AWS, whose jobs show more: here they would read the same folders.
    """
    running.with_acquisition(workspace, acquired)
    start = functools.partial(submit, workspace, cluster, *running.WITHOUT_PICTURES)
    log = workspace.folder / "run.log"
    finish_after_kills(start, lambda: unlock(workspace), shares(kills, (0.1, 0.6)), log)
    end = time.monotonic() + 120
    while any(job["State"] == "RUNNING" for job in cluster.jobs()):
        assert time.monotonic() < end, cluster.jobs()
        time.sleep(0.5)
    for name, least in (("demo", 250), ("atlases", 5)):
        here, there = (
            running.artefacts(w.folder / "results" / name, *running.PICTURES)
            for w in (finished, workspace)
        )
        assert len(here) >= least
        assert running.differing(here, there) == []
    assert running.states(workspace.folder / "demo/raw") == raw_before
    jobs = cluster.jobs()
    assert {job["State"] for job in jobs} == {"COMPLETED"}, cluster.logs()
    assert {job["NodeList"] for job in jobs} <= set(cluster.names)


def test_killed_jobs_are_tried_again_with_more(cluster, finished, tmp_path):
    """Cancelled once, its script killed once; each new attempt has more memory and time."""
    workspace = without_sums(finished, tmp_path / "killed")
    with Run(workspace, cluster, SUMS) as run:
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
    assert same_sums(workspace, finished)


def test_a_job_that_needs_more_memory_than_it_asked_for_gets_it(cluster, finished, tmp_path):
    """SLURM kills what is above its request; the next attempt asks for half as much again."""
    workspace = without_sums(finished, tmp_path / "memory")
    running.configure(workspace, jobs__threads=1)
    (tmp_path / "sitecustomize.py").write_text(LARGE)
    with Run(workspace, cluster, SUMS, PYTHONPATH=str(tmp_path)) as run:
        text = run.success()
    jobs = cluster.jobs("sum_tiles")
    assert [(job["State"], megabytes(job["MinMemory"])) for job in jobs] == [
        ("FAILED", 2048), ("COMPLETED", 3072)
    ]  # fmt: skip
    assert_named(text, jobs[0], "FAILED")
    assert "exceeded memory limit" in said_by_slurm(workspace, jobs[0])
    assert same_sums(workspace, finished)


def test_a_job_over_its_time_limit_is_named_and_gets_longer(cluster, finished, tmp_path):
    workspace = without_sums(finished, tmp_path / "time")
    with Run(workspace, cluster, SUMS) as run:
        job = run.job_at_work("sum_tiles")
        let_time_run_out(cluster, job)
        text = run.success()
    jobs = cluster.jobs("sum_tiles")
    assert [job["State"] for job in jobs] == ["TIMEOUT", "COMPLETED"]
    # rounded up to minutes after it has been doubled
    assert minutes(jobs[1]["TimeLimit"]) >= 2 * minutes(job["TimeLimit"]) - 1
    assert_named(text, jobs[0], "TIMEOUT")
    assert "DUE TO TIME LIMIT" in said_by_slurm(workspace, jobs[0])
    assert same_sums(workspace, finished)


def test_a_killed_snakemake_leaves_jobs_that_disturb_nobody(cluster, finished, tmp_path):
    """The next run starts beside the jobs of the killed one; both write the same files."""
    workspace = without_sums(finished, tmp_path / "orphans")
    with Run(workspace, cluster, SUMS) as run:
        orphan = run.job_at_work("sum_tiles")
        for process in script_of(cluster, orphan):
            process.send_signal(signal.SIGSTOP)
        run.process.kill()
    with Run(workspace, cluster, SUMS) as run:
        assert "--unlock" in run.failure()
    unlock(workspace)
    with Run(workspace, cluster, SUMS) as run:
        run.job_at_work("sum_tiles", beyond=1)
        for process in script_of(cluster, orphan):
            process.send_signal(signal.SIGCONT)
        run.success()
    assert {job["State"] for job in cluster.jobs()} == {"COMPLETED"}
    assert same_sums(workspace, finished)
    assert running.planned(workspace, SUMS) == {}


def test_a_lost_node_costs_its_job_and_no_byte(cluster, finished, tmp_path):
    """SLURM notices, and the same job starts again on the node that is left."""
    workspace = without_sums(finished, tmp_path / "lost")
    with Run(workspace, cluster, SUMS) as run:
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
    assert same_sums(workspace, finished)


def let_time_run_out(cluster, job: dict[str, str]) -> None:
    """Stop the work of a job and let its time limit be now."""
    for process in script_of(cluster, job):
        process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 30
    while True:
        try:
            cluster.ask("scontrol", "update", f"JobId={job['JobID']}", "EndTime=now")
            return
        except RuntimeError as error:
            # a job cannot end in the second in which it began
            if "Invalid time" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.5)


def assert_named(text: str, job: dict[str, str], state: str) -> None:
    """What Snakemake printed tells of the end of a job, and where its logs are."""
    told = text[text.index(f"SLURM-job '{job['JobID']}' failed, SLURM status is: '{state}'") :]
    assert "Error in rule sum_tiles" in text
    assert re.search(r"log: results/demo/logs/sum_tiles/ch0_0\.log", text), text
    assert re.search(rf"\.snakemake/slurm_logs/rule_sum_tiles/\S*/{job['JobID']}\.log", told), told


def said_by_slurm(workspace, job: dict[str, str]) -> str:
    """SLURM's own log of a job, which stays when it has failed."""
    (path,) = workspace.folder.glob(f".snakemake/slurm_logs/rule_*/*/{job['JobID']}.log")
    return path.read_text()


def megabytes(text: str) -> float:
    """Memory as SLURM prints it: 2G, 1000M."""
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def minutes(text: str) -> int:
    """Time limit as SLURM prints it: 30:00, 1:00:00, 1-00:00:00."""
    days, _, clock = text.rpartition("-")
    hours, mins, _ = ("0:" + clock).split(":")[-3:]
    return int(days or 0) * 1440 + int(hours) * 60 + int(mins)

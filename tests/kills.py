"""Snakemake, or its jobs, killed at random moments, on any engine."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

#: what is made again on one machine, whose bytes must be those of an unbroken run
TARGET = "results/demo/corrected_volume/ch0/complete.json"
MADE = ("fused/ch0/", "corrected_volume/ch0/", "bias/ch0", "intensity/ch0/", "stitching/xml_")
#: what is lost before the first kill, and whenever all has been made again before the last one
LOST = (
    ("fused/ch0", "corrected_volume/ch0"),
    ("intensity/ch0", "stitching", "bias", "fused/ch0", "corrected_volume/ch0"),
)
_WORKS = re.compile(rb": (?:starts|is submitted)$", re.MULTILINE)
_STEPS = re.compile(rb": done in .*, (\d+) of (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Engine:
    """A finished run on an engine, to be disturbed.

    Attributes
    ----------
    start : callable
        Start Snakemake with more arguments, its output in an open file.
    unlock : callable
    lose : callable
        Remove files and folders of the sample's results and of its part of the store.
    artefacts : callable
        Digests of all artefacts of the sample.
    within_s : float
        A kill comes at most so long after the jobs are known.
    """

    start: Callable[..., subprocess.Popen]
    unlock: Callable[[], None]
    lose: Callable[[Iterable[str]], None]
    artefacts: Callable[[], dict[str, str]]
    within_s: float


def finish_after_kills(
    start: Callable[..., subprocess.Popen],
    unlock: Callable[[], None],
    first_kills: Iterable[float],
    log: Path,
) -> None:
    """One whole chain in several runs, of which all but the last are killed.

    What a killed Snakemake has started lives on beside the next one.

    Parameters
    ----------
    first_kills : iterable of float
        How much of its steps each killed run has done, from 0 to 1.
    """
    for share in first_kills:
        with open(log, "ab") as stream, start(stdout=stream) as process:
            begun = log.stat().st_size
            try:
                while process.poll() is None:
                    steps = _STEPS.findall(log.read_bytes()[begun:])
                    if steps and int(steps[-1][0]) >= share * int(steps[-1][1]):
                        break
                    time.sleep(0.02)
                assert process.poll() is None, "the run was over before it was killed"
                process.kill()
                process.wait(30)
            finally:
                process.kill()
        unlock()
    with open(log, "ab") as stream, start(stdout=stream) as process:
        try:
            assert process.wait(1400) == 0, log.read_text()[-5000:]
        finally:
            process.kill()


def shares(count: int, first: tuple[float, float]) -> list[float]:
    """Of a fixed seed, how far runs get: the first one within limits, those after it anywhere."""
    chance = random.Random(2026)
    return [chance.uniform(*(first if n == 0 else (0.05, 0.8))) for n in range(count)]


def disturb(engine: Engine, victims: Iterable[str], log: Path) -> None:
    """Kill ``snakemake``, or each ``job`` it has, at moments from a fixed seed; then finish.

    What a killed Snakemake has started lives on beside the next one.
    """
    moments, victims, passes = random.Random(2026), list(victims), 0
    while victims:
        engine.lose(LOST[passes % len(LOST)])
        passes += 1
        while victims and _killed(engine, victims[-1], moments.uniform(0, engine.within_s), log):
            if victims.pop() == "snakemake":
                engine.unlock()
    with open(log, "ab") as stream, engine.start(TARGET, stdout=stream) as process:
        assert process.wait(900) == 0, log.read_text()[-5000:]


def assert_same(again: dict[str, str], once: dict[str, str], but: Iterable[str] = ()) -> None:
    """The disturbed run has all that the unbroken one has, with the same bytes but of a few."""
    made = [name for name in once if name.startswith(MADE)]
    assert any(name.startswith("corrected_volume/ch0/ome.zarr/0/c/") for name in made)
    assert [n for n in made if again.get(n) != once[n] and n not in but] == []
    more = [name for name in again if name.startswith(MADE) and name not in once]
    assert more == []


def scripts_of(snakemake: psutil.Process) -> list[psutil.Process]:
    """Processes that do the work of a running Snakemake's jobs on this machine."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in snakemake.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(".snakemake/scripts" in part for part in process.cmdline()):
                    found.append(process)
    return found


def _killed(engine: Engine, victim: str, moment_s: float, log: Path) -> bool:
    """Run until a moment and kill; False if the work was done before."""
    with open(log, "ab") as stream, engine.start(TARGET, stdout=stream) as process:
        begun = log.stat().st_size
        try:
            while process.poll() is None and not _WORKS.search(log.read_bytes()[begun:]):
                time.sleep(0.02)
            due = time.monotonic() + moment_s
            while process.poll() is None:
                if time.monotonic() >= due and _kill(process, victim):
                    break
                time.sleep(0.02)
            return process.wait(300) != 0
        finally:
            process.kill()


def _kill(process: subprocess.Popen, victim: str) -> bool:
    """Kill Snakemake or what its jobs run just now; whether there was something to kill."""
    if victim == "snakemake":
        process.kill()
        return True
    jobs = scripts_of(psutil.Process(process.pid))
    for job in jobs:
        with contextlib.suppress(psutil.NoSuchProcess):
            job.kill()
    return bool(jobs)

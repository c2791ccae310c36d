"""The plan of a run: what each stage of a sample takes (standard library only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from terareg.core.extents import Sample
from terareg.derived.cost import RULES as _DERIVED
from terareg.derived.cost import derived_gb, entry_lines
from terareg.execution.requests import granted_mb, request_mb, threads_of
from terareg.execution.rule_table import RULES, jobs_of_rules
from terareg.volumes.cost import import_lines, uncompressed_gb

_START_CPU_S = 5.0  # of a job, Snakemake's own processes included
_DISK_GB_PER_S = 0.5

#: headings of the stages, in the order of the work
STAGES = {
    "acquisition": "Input",
    "intensity": "Flat-field",
    "stitching": "Stitching",
    "fused": "Fused volume",
    "bias": "Bias field",
    "registration": "Registration",
    "regions": "Regions",
    "derived": "Derived volumes",
    "exports": "Exports",
    "cells": "Cells",
    "views": "Pictures and report",
    "cohort": "Cohort",
}


@dataclass(frozen=True)
class Planned:
    """A stage, or all stages, of one sample's plan.

    Attributes
    ----------
    stage : str
    jobs : int
    cpu_hours : float
        Processor time, the start of every job included.
    longest_minutes : float
        Of the longest job, on its threads.
    read_gb, written_gb : float
    memory_mb : float
        Request of the largest job.
    """

    stage: str
    jobs: int
    cpu_hours: float
    longest_minutes: float
    read_gb: float
    written_gb: float
    memory_mb: float


def store_gb(sample: Sample) -> float:
    """The most that a sample adds to the store, assuming no compression."""
    volumes = uncompressed_gb(sample, sample.size.volume_gb)
    if sample.corrects_bias:
        volumes += uncompressed_gb(sample, sample.corrected_gb)
    size = sample.size
    tiles = 0 if sample.streams or not sample.tiled else size.raw_channels * size.channel_gb
    return size.channels * volumes + tiles + derived_gb(sample)


def make_plan(sample: Sample, counts: Mapping[str, int] | None = None) -> list[Planned]:
    """Plan of a sample, stage by stage in the order of the work.

    ``counts`` has the number of jobs of each rule that are to run; by default, all from raw data to
    report.
    """
    counts = jobs_of_rules(sample) if counts is None else counts
    rows = []
    for stage in STAGES:
        jobs, cpu, longest, read, written, memory = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for name, rule in RULES.items():
            if rule.stage != stage or not counts.get(name):
                continue
            load, count = rule.load(sample), counts[name]
            share = count / max(1, load.jobs)
            threads = threads_of(name, sample)
            disk = (load.read_gb + load.written_gb) / _DISK_GB_PER_S
            seconds = max(load.cpu_s / threads, disk) / max(1, load.jobs)
            jobs += count
            cpu += share * load.cpu_s + count * _START_CPU_S
            longest = max(longest, seconds / 60)
            read, written = read + share * load.read_gb, written + share * load.written_gb
            memory = max(memory, granted_mb(request_mb(name, sample, threads), threads))
        if jobs:
            rows.append(Planned(stage, jobs, cpu / 3600, longest, read, written, memory))
    return rows


def stage_title(stage: str, *, tiled: bool) -> str:
    """Title of a stage; a sample without tiles has an imported volume."""
    return "Imported volume" if stage == "fused" and not tiled else STAGES[stage]


def size_text(gb: float) -> str:
    """Gigabytes in words; in megabytes where they would read 0.0 GB."""
    return f"{gb:.1f} GB" if gb >= 0.05 or gb == 0 else f"{1000 * gb:.2g} MB"


def plan_text(name: str, sample: Sample, counts: Mapping[str, int] | None = None) -> str:
    """The plan of a sample (:func:`make_plan`) as a table for people."""
    rows = make_plan(sample, counts)
    columns = ("jobs", "CPU h", "longest min", "read GB", "written GB", "memory MB")
    lines = [f"{name:22}" + "".join(f"{c:>13}" for c in columns)]
    for row in rows:
        values = (
            str(row.jobs), f"{row.cpu_hours:.2f}", f"{row.longest_minutes:.1f}",
            f"{row.read_gb:.1f}", f"{row.written_gb:.1f}", f"{row.memory_mb:.0f}",
        )  # fmt: skip
        title = stage_title(row.stage, tiled=sample.tiled)
        lines.append(f"{title:22}" + "".join(f"{v:>13}" for v in values))
    if counts is None or counts.get("import_volume"):
        lines += import_lines(sample)
    if any(counts is None or counts.get(rule) for rule in _DERIVED):
        lines += entry_lines(sample, threads_of("derive_blocks", sample))
    raw = sample.raw_gb
    what = "raw data" if sample.size.channels else "sources"
    moved = sum(row.read_gb + row.written_gb for row in rows)
    jobs, hours = sum(row.jobs for row in rows), sum(row.cpu_hours for row in rows)
    lines.append(
        f"{jobs} jobs, {hours:.1f} CPU hours; {size_text(raw)} of {what}, every byte of it read or "
        f"written {moved / raw:.1f} times; space needed in the store: {size_text(store_gb(sample))}"
    )
    return "\n".join(lines) + "\n"

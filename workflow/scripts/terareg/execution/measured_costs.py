"""What a run took, stage by stage, compared with its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from terareg.execution.rule_table import RULES
from terareg.execution.run_plan import STAGES, Planned, stage_title

#: the most bytes that should be moved for each byte of raw data where tiles are deep: raw data read
#: once, some planes for statistics and displacements, volumes written
WANTED_BYTES = 2.3


def measured_stages(records: Iterable[Mapping[str, Any]]) -> dict[str, Planned]:
    """Sum up job records (:func:`terareg.execution.job.run_job`) by stage.

    ``memory_mb`` is the largest peak of a job's process; hours and minutes are as in a plan.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(RULES[record["rule"]].stage, []).append(record)
    return {
        stage: Planned(
            stage,
            len(found[stage]),
            sum(r["cpu_s"] for r in found[stage]) / 3600,
            max(r["seconds"] for r in found[stage]) / 60,
            sum(r["bytes_read"] for r in found[stage]) / 1e9,
            sum(r["bytes_written"] for r in found[stage]) / 1e9,
            max(r["peak_mb"] for r in found[stage]),
        )
        for stage in STAGES
        if stage in found
    }


def measured_rules(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sum up job records by rule, in alphabetical order.

    Returns
    -------
    list of dict
        rule, jobs, seconds and cpu_s of all its jobs, longest_s, peak_mb of the largest one.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["rule"], []).append(record)
    return [
        {
            "rule": rule,
            "jobs": len(jobs),
            "seconds": sum(r["seconds"] for r in jobs),
            "longest_s": max(r["seconds"] for r in jobs),
            "cpu_s": sum(r["cpu_s"] for r in jobs),
            "peak_mb": max(r["peak_mb"] for r in jobs),
        }
        for rule, jobs in sorted(found.items())
    ]


def cost_table(
    plan: Sequence[Planned],
    records: Iterable[Mapping[str, Any]],
    raw_gb: float,
    *,
    tiled: bool = True,
) -> dict[str, Any]:
    """Table of the report: each stage as measured, and as planned in brackets.

    Parameters
    ----------
    plan : sequence of Planned
        See :func:`terareg.execution.run_plan.make_plan`.
    records : iterable of mapping
        Of all jobs so far.
    raw_gb : float
        Raw data of all channels.
    tiled : bool
        Whether the sample consists of tiles.

    Returns
    -------
    dict
        ``columns`` and ``rows`` of text, ``bytes_per_raw_byte`` measured and ``planned`` (None
        without records), the ``wanted`` figure, and ``rules``, see :func:`measured_rules`.
    """
    records = list(records)
    measured = measured_stages(records)
    columns = (
        "stage", "jobs", "processor (h)", "longest job (min)", "read (GB)", "written (GB)",
        "memory of the largest job (MB)",
    )  # fmt: skip
    rows = [_row(stage_title(p.stage, tiled=tiled), measured.get(p.stage), p) for p in plan]
    done = list(measured.values())
    rows.append(_row("all", _sum(done) if done else None, _sum(plan)))
    moved = sum(m.read_gb + m.written_gb for m in done)
    return {
        "columns": columns,
        "rows": rows,
        "bytes_per_raw_byte": moved / raw_gb if done else None,
        "planned": sum(p.read_gb + p.written_gb for p in plan) / raw_gb,
        "wanted": WANTED_BYTES,
        "rules": measured_rules(records),
    }


def _sum(stages: Sequence[Planned]) -> Planned:
    return Planned(
        "all",
        sum(s.jobs for s in stages),
        sum(s.cpu_hours for s in stages),
        max(s.longest_minutes for s in stages),
        sum(s.read_gb for s in stages),
        sum(s.written_gb for s in stages),
        max(s.memory_mb for s in stages),
    )


def _row(title: str, measured: Planned | None, planned: Planned) -> list[str]:
    def cell(name: str) -> str:
        wanted = _number(getattr(planned, name))
        return f"{_number(getattr(measured, name))} ({wanted})" if measured else f"– ({wanted})"

    names = ("jobs", "cpu_hours", "longest_minutes", "read_gb", "written_gb", "memory_mb")
    return [title, *map(cell, names)]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"

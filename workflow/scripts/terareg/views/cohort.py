"""The page of a comparison: who was compared, which regions differ, and how that was tested."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terareg.storage.store import write_atomic
from terareg.views import thresholds
from terareg.views.conclusion import reason
from terareg.views.page import embedded_image, render_page
from terareg.views.tables import parse, rows_table, show

_TEMPLATE = "cohort.html.j2"
_SHOWN = 25  # regions of a table
_FAMILIES = {
    ("tree", "both"): "regions with all their parts, both sides together",
    ("tree", "sides"): "regions with all their parts, left and right separately",
    ("own", "both"): "regions without their parts, both sides together",
    ("own", "sides"): "regions without their parts, left and right separately",
}
_COLUMNS = (
    ("acronym", "region"), ("name", "name"), ("mean_reference", "{0}"), ("mean_compared", "{1}"),
    ("percent", "difference (%)"), ("hedges_g", "Hedges' g"), ("interval", "95 % interval"),
    ("p", "p"), ("q", "q"),
)  # fmt: skip
_TESTS = {
    "linear_model": "p-values are from the t-test of the group in a linear model",
    "permutation": "p-values are from permutations (Freedman and Lane)",
}
Row = Mapping[str, str]


@dataclass(frozen=True)
class ComparisonFiles:
    """What the page shows.

    Attributes
    ----------
    effects, samples : sequence of mapping
        Rows of ``statistics.tsv`` and ``samples.tsv``, as text.
    pictures : mapping of Path to str
        Pictures and their captions.
    """

    effects: Sequence[Row]
    samples: Sequence[Row]
    pictures: Mapping[Path, str]


def map_title(name: str) -> str:
    """A map of a comparison in words: "log_jacobian", or "cells_" or "image_" and a name."""
    if name.startswith("cells_"):
        return f"{name.removeprefix('cells_')}: density (per mm³)"
    if name.startswith("image_"):
        return f"{name.removeprefix('image_')}: brightness (grey value)"
    return "Local change of volume (natural logarithm of the Jacobian)"


def measure_title(measure: str) -> str:
    """A measure in words."""
    fixed = {"volume_mm3": "Volume (mm³)", "volume_percent": "Volume (% of all regions)"}
    if measure in fixed:
        return fixed[measure]
    for ending, words in (
        ("_intensity_per_mm3", "brightness of the signal (per mm³)"),
        ("_percent", "signal (% of the region)"),
        ("_per_mm3", "density (per mm³)"),
        ("_count", "count"),
        ("_mean", "mean brightness"),
    ):
        if measure.endswith(ending):
            return f"{measure.removesuffix(ending)}: {words}"
    return measure


def verdict_of(summary: Mapping[str, Any], atlas: str) -> tuple[str, str]:
    """How a registration is judged, and what failed or warned in words.

    Parameters
    ----------
    summary : mapping
        Content of ``registration/{atlas}/summary.json``.
    atlas : str

    Returns
    -------
    status : {"pass", "warn", "fail"}
    reasons : str
    """
    verdicts = thresholds.judge(thresholds.of_registration(summary, atlas))
    told = [v for v in verdicts if v.status != thresholds.PASS]
    status = verdicts[0].status if verdicts else thresholds.PASS
    words = [
        reason({"subject": "", "text": v.text, "shown": f"{show(v.value)} {v.unit}".strip()})
        for v in told
    ]
    return status, "; ".join(words)


def gather_page(
    name: str, files: ComparisonFiles, settings: Mapping[str, Any], groups: Sequence[str]
) -> dict[str, Any]:
    """Collect what the page of a comparison shows.

    Parameters
    ----------
    name : str
    files : ComparisonFiles
    settings : mapping
        Its section of the configuration.
    groups : sequence of str
        The reference and the other one.

    Returns
    -------
    dict
        For the template.
    """
    measures = dict.fromkeys(row["measure"] for row in files.effects)
    used = [row for row in files.samples if row["used"] == "yes"]
    sections = [_measure(m, files.effects, settings["fdr"], groups) for m in measures]
    fixed = ("sample", "group", "used", "verdict", "reasons")
    covariates = [key for key in files.samples[0] if key not in fixed]
    columns = ["sample", "group", *covariates, "registration", "what failed or warned", "used"]
    keys = ("sample", "group", *covariates, "verdict", "reasons", "used")
    return {
        "name": name,
        "groups": list(groups),
        "sizes": [sum(row["group"] == group for row in used) for group in groups],
        "suspect": [row for row in files.samples if row["verdict"] == thresholds.FAIL],
        "found": [(s["title"], s["found"], s["tests"]) for s in sections],
        "fdr": settings["fdr"],
        "measures": sections,
        "samples": rows_table(
            "", columns, [[parse(row[k]) for k in keys] for row in files.samples]
        ),
        "pictures": [
            {"source": embedded_image(path), "caption": text}
            for path, text in files.pictures.items()
        ],
        "methods": _methods(settings, covariates),
        "settings": rows_table("", ("setting", "value"), [[k, v] for k, v in settings.items()]),
    }


def write_page(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write the page atomically."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render_page(_TEMPLATE, data).encode())


def _measure(
    measure: str, effects: Sequence[Row], fdr: float, groups: Sequence[str]
) -> dict[str, Any]:
    rows = [row for row in effects if row["measure"] == measure and row["p"]]
    families: dict[tuple[str, str], list[Row]] = {family: [] for family in _FAMILIES}
    for row in rows:
        sides = "both" if row["hemisphere"] == "both" else "sides"
        families[row["scope"], sides].append(row)
    counts = [
        [_FAMILIES[family], int(members[0]["tests"]) if members else 0, _found(members, fdr)]
        for family, members in families.items()
    ]
    tables = [
        _table(_FAMILIES[family], families[family], groups)
        for family in (("tree", "both"), ("tree", "sides"))
        if families[family]
    ]
    return {
        "title": measure_title(measure),
        "found": counts[0][2],
        "tests": counts[0][1],
        "families": rows_table("", ("family of tests", "tests", f"q at most {fdr:g}"), counts),
        "tables": tables,
    }


def _found(rows: Sequence[Row], fdr: float) -> int:
    """Tests that are found; rows of regions with the same values are one."""
    keys = ("mean_reference", "mean_compared", "t")
    return len({tuple(row[k] for k in keys) for row in rows if float(row["q"]) <= fdr})


def _table(title: str, rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Any]:
    best = sorted(rows, key=lambda row: (float(row["p"]), -abs(float(row["hedges_g"]))))[:_SHOWN]
    sided = any(row["hemisphere"] != "both" for row in best)
    heads = [head.format(*groups) for _, head in _COLUMNS]
    if sided:
        heads.insert(2, "side")
    lines = []
    for row in best:
        interval = f"{show(parse(row['g_low']))} to {show(parse(row['g_high']))}"
        cells = [interval if key == "interval" else parse(row[key]) for key, _ in _COLUMNS]
        if sided:
            cells.insert(2, row["hemisphere"])
        lines.append(cells)
    return rows_table(f"Smallest p-values of {title}", heads, lines)


def _methods(settings: Mapping[str, Any], covariates: Sequence[str]) -> str:
    beside = f" with {', '.join(covariates)} as covariates" if covariates else ""
    version = importlib.metadata.version("scipy")
    return (
        f"Regions of atlas {settings['atlas']} were compared with a linear model of the "
        f"group{beside}; {_TESTS[settings['test']]}. Hedges' g is the difference in standard "
        "deviations of the residuals, corrected for bias in small samples; its interval is from "
        "the noncentral t distribution. q is the false discovery rate of Benjamini and Hochberg "
        "within a family: one measure, of regions with or without their parts, of both sides "
        "together or of left and right separately. Regions with the same values in all samples "
        "count as one test. A region has no value in a sample in which less than "
        f"{show(100 * settings['min_coverage'])} % of it was imaged. Computed with terareg and "
        f"SciPy {version}."
    )

"""Pictures of the measurements: region volumes, fiducial errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from terareg.views.figures import canvas

_LEAST_SIDE = 0.2  # of the larger side, for a difference of sides to be a percentage


@canvas.picture
def region_bars(
    rows: Sequence[Mapping[str, Any]],
    *,
    value: str = "volume_mm3",
    label: str = "volume (mm³)",
    most: int = 20,
) -> Figure:
    """Draw the largest regions, left against right.

    Parameters
    ----------
    rows : sequence of mapping
        As in ``regions/*.tsv``: ``acronym``, ``hemisphere`` (left, right, both), the column
        ``value``; where there is a ``scope``, the rows of "own" are drawn.
    value : str
        Column of the bars.
    label : str
        Axis label with unit.
    most : int
        Regions shown, the largest sum first.
    """
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("scope", "own") != "own":
            continue
        name = str(row.get("acronym") or row.get("name"))
        side = str(row.get("hemisphere", "both")).lower()
        try:
            amount = float(row[value])
        except (TypeError, ValueError):
            continue
        if np.isfinite(amount):
            table.setdefault(name, {})[side] = amount
    sided = any({"left", "right"} & set(v) for v in table.values())
    if sided:
        table = {
            n: {s: v for s, v in d.items() if s in ("left", "right")} for n, d in table.items()
        }
    table = {n: d for n, d in table.items() if sum(d.values()) > 0}
    if not table:
        return canvas.nothing(f"Largest regions: {label}", "no region contains any.")
    names = sorted(table, key=lambda n: (-sum(table[n].values()), n))[:most]
    figure = canvas.new_figure(8.6, 1.7 + 0.33 * len(names), f"Largest regions: {label}")
    axes = canvas.axes_grid(figure, 1, 1)[0, 0]
    place = np.arange(len(names))
    sides = ("left", "right") if sided else sorted({s for d in table.values() for s in d})
    for number, (side, colour) in enumerate(zip(sides, (canvas.BLUE, canvas.ORANGE, canvas.GREEN))):
        shift = (number - (len(sides) - 1) / 2) * 0.8 / len(sides)
        amounts = [table[n].get(side, 0.0) for n in names]
        axes.barh(place + shift, amounts, 0.8 / len(sides), color=colour, label=side)
    if sided:
        reach = max(max(table[n].values()) for n in names)
        for y, name in enumerate(names):
            left, right = (table[name].get(s, 0.0) for s in ("left", "right"))
            # where nearly all is on one side, a difference of sides says nothing
            if min(left, right) < _LEAST_SIDE * max(left, right):
                continue
            text = f"{100 * (right - left) / ((left + right) / 2):+.0f} %"
            axes.text(max(left, right) + 0.01 * reach, y, text, va="center", fontsize=8)
        axes.set_xlim(0, reach * 1.12)
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.set_xlabel(label + ("; number: right minus left, percent of their mean" if sided else ""))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(axis="x", alpha=0.3)
    return figure


@canvas.picture
def fiducial_errors(rows: Sequence[Mapping[str, Any]], *, voxel_um: float | None = None) -> Figure:
    """Draw the distance of every named point from its partner, before and after registration.

    Parameters
    ----------
    rows : sequence of mapping
        As in ``accuracy/*.tsv``: ``name``, ``error_um``, and ``affine_error_um`` (before the
        deformation) where known; rows of a ``kind`` other than "fiducial" are left out.
    voxel_um : float, optional
        Working resolution, drawn as a line.
    """
    rows = [
        r for r in rows
        if r.get("kind", "fiducial") == "fiducial" and _finite(r.get("error_um"))
    ]  # fmt: skip
    if not rows:
        return canvas.nothing("Fiducial errors", "no fiducial was scored.")
    rows = sorted(rows, key=lambda r: (-float(r["error_um"]), str(r["name"])))
    errors = np.array([float(r["error_um"]) for r in rows])
    before = np.array(
        [float(r["affine_error_um"]) if _finite(r.get("affine_error_um")) else np.nan for r in rows]
    )
    named = len(rows) <= 40
    figure = canvas.new_figure(8.6, 2.0 + (0.24 * len(rows) if named else 4.0), "Fiducial errors")
    axes = canvas.axes_grid(figure, 1, 1)[0, 0]
    place = np.arange(len(rows))
    if np.isfinite(before).any():
        axes.plot(before, place, "s", ms=4, mfc="none", color=canvas.GREY, label="affine alone")
    axes.plot(errors, place, "o", ms=5, color=canvas.BLUE, label="registered")
    axes.axvline(errors.mean(), color=canvas.ORANGE, ls="--", label=f"mean {errors.mean():.0f} µm")
    if voxel_um:
        axes.axvline(voxel_um, color=canvas.GREEN, ls=":", label=f"working voxel {voxel_um:g} µm")
    if named:
        axes.set_yticks(place, [str(r["name"]) for r in rows])
    else:
        axes.set_ylabel("points, worst first")
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("distance from the counterpart (µm)")
    axes.set_title(f"{len(rows)} points, 95th percentile {np.percentile(errors, 95):.0f} µm")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _finite(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False

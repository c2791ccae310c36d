"""Compare a score with its limits (floors) and show both as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Floors:
    """Limits that a run must meet.

    Attributes
    ----------
    tile_max_vox, flatfield_rms_percent, tre_working_voxels, region_volume_percent : float
        Upper limits (tile error in voxels, target registration error in working voxels).
    cell_count_percent : float
        Upper limit of the sum of the differences of counts per region.
    dice, jacobian, cells_f1 : float
        Lower limits; the Jacobian must be greater than its limit.
    """

    tile_max_vox: float = 1.0
    flatfield_rms_percent: float = 3.0
    tre_working_voxels: float = 1.5
    region_volume_percent: float = 3.0
    cells_f1: float = 0.95
    cell_count_percent: float = 3.0
    dice: float = 0.8
    jacobian: float = 0.0


@dataclass(frozen=True)
class FloorCheck:
    """One line of the table: name, value as text, limit as text, passed (None: no limit)."""

    name: str
    value: str
    limit: str
    passed: bool | None


def verdicts(
    result: dict[str, Any], floors: Floors, working_voxel_um: float | None = None
) -> list[FloorCheck]:
    """Compare a score with its floors.

    ``working_voxel_um`` is the voxel size of the registration; by default that of
    ``sample_to_atlas_displacement.nrrd``. Figures that were not requested are left out.
    """
    lines = []

    def add(name: str, value: float | None, form: str, limit: str = "", passed=None) -> None:
        if value is not None:
            lines.append(FloorCheck(name, form.format(value), limit, passed))

    tiles = result["tile_error_vox"] or {"mean": None, "max": None}
    add("tile error, mean (voxels)", tiles["mean"], "{:.3f}")
    add("tile error, max (voxels)", tiles["max"], "{:.3f}", f"<= {floors.tile_max_vox:g}",
        _at_most(tiles["max"], floors.tile_max_vox))  # fmt: skip
    value = result["flatfield_rms_percent"]
    add("flat-field, rms (%)", value, "{:.2f}", f"<= {floors.flatfield_rms_percent:g}",
        _at_most(value, floors.flatfield_rms_percent))  # fmt: skip
    add("fused volume, PSNR (dB)", result["fused_psnr_db"], "{:.1f}")
    add("bias field, rms (%)", result["bias_rms_percent"], "{:.2f}")
    if result["tre_um"] is not None:
        details = result["details"]["registration"]
        voxel = working_voxel_um or details.get("working_voxel_um")
        tre = result["tre_um"]
        add("TRE at the start (um)", tre["start"], "{:.0f}")
        add("TRE of the best affine (um)", details["best_affine_um"], "{:.0f}")
        if voxel:
            limit = floors.tre_working_voxels * voxel
            add("TRE, mean (um)", tre["mean"], "{:.1f}", f"<= {limit:.0f}",
                _at_most(tre["mean"], limit))  # fmt: skip
        else:
            add("TRE, mean (um)", tre["mean"], "{:.1f}")
        add("TRE, 95 % (um)", tre["p95"], "{:.1f}")
        value = result["jacobian_min"]
        add("Jacobian, min", value, "{:.3f}", f"> {floors.jacobian:g}",
            bool(value > floors.jacobian))  # fmt: skip
    value = result["dice_mean"]
    add("Dice, mean over regions", value, "{:.3f}", f">= {floors.dice:g}",
        None if value is None else bool(value >= floors.dice))  # fmt: skip
    value = result["region_volume_error_percent"]
    add("region volumes, mean error (%)", value, "{:.2f}", f"<= {floors.region_volume_percent:g}",
        _at_most(value, floors.region_volume_percent))  # fmt: skip
    value = result.get("cells_f1")
    add("cells of contrast 4 and more, F1", value, "{:.3f}", f">= {floors.cells_f1:g}",
        None if value is None else bool(value >= floors.cells_f1))  # fmt: skip
    value = result.get("cell_count_error_percent")
    add("cells per region, error (%)", value, "{:.2f}", f"<= {floors.cell_count_percent:g}",
        _at_most(value, floors.cell_count_percent))  # fmt: skip
    cost = result["details"].get("cost")
    if cost:
        add("CPU jobs, seconds in all", cost["seconds_total"], "{:.0f}")
        add("largest job (MB)", cost["peak_memory_mb"], "{:.0f}")
    return lines


def _at_most(value: float | None, limit: float) -> bool | None:
    return None if value is None else bool(value <= limit)


def format_table(lines: Sequence[FloorCheck]) -> str:
    """Return the verdicts as text, one per line."""
    head = ("figure", "value", "floor", "")
    words = {True: "pass", False: "FAIL", None: ""}
    rows = [head, *((v.name, v.value, v.limit, words[v.passed]) for v in lines)]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    text = []
    for row in rows:
        name, value, limit, word = (f"{cell:<{width}}" for cell, width in zip(row, widths))
        text.append(f"{name}  {value.strip():>{widths[1]}}  {limit}  {word}".rstrip())
    return "\n".join(text)

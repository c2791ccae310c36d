"""Limits of quality: which figures of a run are judged, and at which values they warn or fail.

The table is plain data, so that a configuration can replace any number in it. ``text`` and
``advice`` are written for the person at the microscope; ``key`` is the figure that
:mod:`terareg.views.report` measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from terareg.core.errors import ConfigError
from terareg.intensity.saturation import SATURATED_PERCENT

FAIL, WARN, PASS = "fail", "warn", "pass"
_ORDER = {FAIL: 0, WARN: 1, PASS: 2}
#: unit of logarithms of a ratio, which are shown as the per cent by which it is more than one
LOG_RATIO = "log ratio"
_EXPOSURE = "Lower the exposure next time; the intensities of bright regions are underestimated."

# key: text, unit, worse (above or below the limits), warn, fail, advice
THRESHOLDS: dict[str, dict[str, Any]] = {
    "input.not_finite_percent": {
        "text": "Voxels without a finite value, stored as 0",
        "unit": "%",
        "worse": "above",
        "warn": 0,
        "fail": 50.0,
        "advice": "Harmless outside the brain; inside, see registration.missing_data_correction.",
    },
    "acquisition.problems": {
        "text": "Problems found in the raw data",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Read the list in section Acquisition: metadata and files disagree.",
    },
    "acquisition.missing_planes": {
        "text": "Planes missing in the raw data",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Copy the planes again, or accept that they are black or interpolated.",
    },
    "intensity.seam_percent": {
        "text": "Brightness step between neighbouring tiles that is left, beyond noise",
        "unit": "%",
        "worse": "above",
        "warn": 1.0,
        "fail": 5.0,
        "advice": "Section Flat-field says how much of the step comes from gains, an additive "
        "image or stripes, and which of these are corrected. What remains comes from misplaced "
        "or distorted tiles, from tissue that changed in between, or from a flat-field that needs "
        "more planes or an image.",
    },
    "intensity.saturated_percent": {
        "text": "Raw pixels at the upper limit of the camera",
        "unit": "%",
        "worse": "above",
        "warn": SATURATED_PERCENT,
        "fail": 5.0,
        "advice": _EXPOSURE,
    },
    "stitching.contradicted_steps": {
        "text": "Directions in which neighbours seem to be on another side than the layout says",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "The stage runs the other way, or its axes are exchanged: section Stitching says "
        "which, and what to change in the sample file or the table of tiles.",
    },
    "stitching.kept_percent": {
        "text": "Neighbours with tissue in their overlap whose seam was seen to fit, or whose "
        "measured displacement was used",
        "unit": "%",
        "worse": "below",
        "warn": 95.0,
        "fail": 70.0,
        "advice": "Look at the map of the tiles: if the unused displacements are all in one row or "
        "column, the stage slipped there; if they are all that go one way, it may run the other "
        "way than the layout says; if they are all there are, the voxel size or the overlap may be "
        "wrong (input.spacing_um, input.overlap).",
    },
    "stitching.loose_tiles": {
        "text": "Tiles with tissue whose position was not measured",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "They are at their nominal stage positions: look at their seams.",
    },
    "stitching.loop_closure_vox": {
        "text": "Largest contradiction among the displacements around four tiles",
        "unit": "voxels",
        "worse": "above",
        "warn": 1.5,
        "fail": 5.0,
        "advice": "Look at the worst seams; a stage that drifts needs a larger search radius.",
    },
    "stitching.residual_p95_vox": {
        "text": "Residual misfit between neighbouring tiles, 95th percentile",
        "unit": "voxels",
        "worse": "above",
        "warn": 1.0,
        "fail": 3.0,
        "advice": "Tiles may be warped or tilted: look at the worst seams.",
    },
    "stitching.lean_left_vox": {
        "text": "Change of the displacement of neighbours over the stack that is not corrected",
        "unit": "voxels",
        "worse": "above",
        "warn": 1.5,
        "fail": 5.0,
        "advice": "Tiles lean or change size with depth; the warnings of section Stitching name "
        "them. stitching.model: auto corrects a lean; look at the seams of the first and last "
        "planes.",
    },
    "stitching.leaning_tiles": {
        "text": "Tiles that lean",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Check that stage and camera are square to each other; section Stitching gives "
        "the names and figures of the tiles.",
    },
    "stitching.bent_tiles": {
        "text": "Tiles that are rotated, scaled or sheared relative to their neighbours",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Fusion corrects this; look at their seams, and check that camera and objective "
        "are fixed, unless the tiles are distorted within themselves as well. Section Stitching "
        "gives the names and figures of the tiles.",
    },
    "stitching.distorted_tiles": {
        "text": "Tiles that are distorted within themselves",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Fusion puts them right near their seams. Far from any seam nothing is known: "
        "match the refractive index of sample and medium, or acquire with more overlap. Their size "
        "stands in section Stitching.",
    },
    "stitching.seam_misfit_vox": {
        "text": "Residual misfit of parts of seams beyond the scatter of their points, 95th "
        "percentile",
        "unit": "voxels",
        "worse": "above",
        "warn": 1.5,
        "fail": None,
        "advice": "Tiles are warped within themselves, and not corrected unless a warning says so: "
        "look at the seams. Try stitching.model: elastic, or acquire with more overlap, "
        "using only the centre of the field of view.",
    },
    "stitching.seams_off_percent": {
        "text": "Seams that correlate less than half as well at the placed positions as at their "
        "own best fit",
        "unit": "%",
        "worse": "above",
        "warn": 0,
        "fail": 10,
        "advice": "Look at the pictures of the worst seams; the warnings of section Stitching name "
        "them.",
    },
    "stitching.channel_shift_vox": {
        "text": "Shift of a channel against the alignment channel, corrected in fusion",
        "unit": "voxels",
        "worse": "above",
        "warn": 20.0,
        "fail": None,
        "advice": "A shift this large is rarely chromatic: check the alignment of the cameras, "
        "and look at both channels together in the viewer.",
    },
    "stitching.channels_unmeasured": {
        "text": "Channels whose shift against the alignment channel could not be measured",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "They are fused at the position of the alignment channel: compare them in the "
        "viewer, or give the shift (stitching.channel_shift_um).",
    },
    "stitching.channel_left_vox": {
        "text": "Shift of a channel that may remain in its volume (two standard errors)",
        "unit": "voxels",
        "worse": "above",
        "warn": 0.5,
        "fail": 2.0,
        "advice": "The channels share little structure: compare them in the viewer, or give a "
        "shift measured with beads (stitching.channel_shift_um).",
    },
    "stitching.sides_brightness": {
        "text": "Brightness of one side of a channel relative to the other, corrected in fusion",
        "unit": "times",
        "worse": "above",
        "warn": 2.0,
        "fail": 5.0,
        "advice": "Check that both light-sheets were on and equally strong, and that the dark "
        "offset of both sides is right (section Flat-field).",
    },
    "stitching.sides_left_percent": {
        "text": "Remaining difference in brightness where the sides of a channel meet",
        "unit": "%",
        "worse": "above",
        "warn": 3.0,
        "fail": 15.0,
        "advice": "A single factor does not suit all tiles: look at the middle of the volume, and "
        "at the flat-fields of both sides.",
    },
    "stitching.sides_sharper": {
        "text": "Sharpness of each side of a channel in its own half, relative to the other side "
        "there",
        "unit": "times",
        "worse": "below",
        "warn": 1.0,
        "fail": 0.9,
        "advice": "The light seems to enter from the other end: swap the ends in input.sides.",
    },
    "volume.saturated_percent": {
        "text": "Saturated voxels",
        "unit": "%",
        "worse": "above",
        "warn": 0.5,
        "fail": 5.0,
        "advice": _EXPOSURE,
    },
    "volume.clipped_percent": {
        "text": "Voxels clipped by a correction",
        "unit": "%",
        "worse": "above",
        "warn": 0.5,
        "fail": 5.0,
        "advice": "Compare the dark offset and the flat-field with the raw images.",
    },
    "registration.jacobian_min": {
        "text": "Strongest local shrinkage: volume in the sample relative to the atlas (Jacobian)",
        "unit": "",
        "worse": "below",
        "warn": 0.1,
        "fail": 0.0,
        "advice": "Zero or less is a fold: raise registration.regularisation.",
    },
    "registration.jacobian_max": {
        "text": "Strongest local growth: volume in the sample relative to the atlas (Jacobian)",
        "unit": "",
        "worse": "above",
        "warn": 4.0,
        "fail": 10.0,
        "advice": "Raise registration.regularisation, or check whether tissue is swollen or torn.",
    },
    "registration.scale_factor": {
        "text": "Length of the sample relative to the atlas (factor, larger or smaller)",
        "unit": "",
        "worse": "above",
        "warn": 1.15,
        "fail": 1.3,
        "advice": "Brains of one age differ by less, even after clearing: check the voxel size, "
        "or give an atlas of this age; if it is wrong, volumes are wrong by the third power of "
        "this factor.",
    },
    "registration.scale_ratio": {
        "text": "Largest ratio of the stretch along two axes",
        "unit": "",
        "worse": "above",
        "warn": 1.25,
        "fail": 1.6,
        "advice": "A brain is rarely stretched along one axis only: check the voxel size along "
        "each axis.",
    },
    "registration.inverse_error_vox": {
        "text": "Largest error after mapping to the sample and back",
        "unit": "voxels of the registration",
        "worse": "above",
        "warn": 0.5,
        "fail": 2.0,
        "advice": "Raise the resolution or the number of time steps.",
    },
    "registration.gain": {
        "text": "Gain in the probability of a voxel by the deformation over the affine alone",
        "unit": LOG_RATIO,
        "worse": "below",
        "warn": 0.01,
        "fail": 0.0,
        "advice": "The deformation explains no more than the affine: check the initial pose.",
    },
    "registration.held_back_gain": {
        "text": "Gain in the probability of a voxel by the deformation over the affine alone, in "
        "blocks held back from the fit, beyond chance",
        "unit": LOG_RATIO,
        "worse": "below",
        "warn": 0.01,
        "fail": -0.02,
        "advice": "At 0 the images cannot tell whether the deformation is right: look at the "
        "borders. Below, it follows noise, or contrast that is absent from the atlas: raise "
        "registration.regularisation, or register another channel.",
    },
    "registration.unexplained_percent": {
        "text": "Fraction of the tissue in regions that differ from the prediction by more than "
        "noise",
        "unit": "%",
        "worse": "above",
        "warn": 10.0,
        "fail": 40.0,
        "advice": "Do not trust the borders of the regions that section Registration names.",
    },
    "registration.worse_percent": {
        "text": "Fraction of the tissue in regions that the affine alone fits better, in blocks "
        "held back",
        "unit": "%",
        "worse": "above",
        "warn": 10.0,
        "fail": 40.0,
        "advice": "Raise registration.regularisation, or register another channel; section "
        "Registration names the regions.",
    },
    "registration.matching_percent": {
        "text": "Fraction of the sample's tissue that the atlas explains",
        "unit": "%",
        "worse": "below",
        "warn": 70.0,
        "fail": 30.0,
        "advice": "Look at the map of missing tissue and artefacts, slice by slice if need be.",
    },
    "registration.missing_percent": {
        "text": "Fraction of the atlas tissue that is missing from the sample",
        "unit": "%",
        "worse": "above",
        "warn": 10.0,
        "fail": 50.0,
        "advice": "Look where it is missing: volumes of regions there come from the atlas, not "
        "from this brain.",
    },
    "registration.artefact_percent": {
        "text": "Fraction of the atlas tissue where the sample shows an artefact",
        "unit": "%",
        "worse": "above",
        "warn": 15.0,
        "fail": 40.0,
        "advice": "Look at the map for bubbles, debris or staining artefacts; or the contrast "
        "differs too much.",
    },
    "registration.residual_percent": {
        "text": "Typical difference between sample and prediction (SD, relative to bright tissue)",
        "unit": "%",
        "worse": "above",
        "warn": 15.0,
        "fail": 30.0,
        "advice": "Noise, or structures that are absent from the atlas: register another channel.",
    },
    "regions.coverage_percent": {
        "text": "Fraction of the atlas volume that was imaged",
        "unit": "%",
        "worse": "below",
        "warn": 95.0,
        "fail": 50.0,
        "advice": "Expected if only part of a brain was imaged; otherwise check orientation and "
        "pose.",
    },
    "points.other_reading_percent": {
        "text": "Points that would be inside a region as well if their file were read otherwise",
        "unit": "%",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "The axes or the unit of these points are probably wrong, and so is every count: "
        "section Cells and signal says which reading fits.",
    },
    "points.in_region_percent": {
        "text": "Cells or points inside a region of the atlas",
        "unit": "%",
        "worse": "below",
        "warn": 80.0,
        "fail": 5.0,
        "advice": "Look in the viewer at the cells or points outside of every region: they are "
        "counted nowhere. If that is nearly all of them, points have another unit or order of "
        "axes, or are voxels of another image.",
    },
    "accuracy.mean_um": {
        "text": "Fiducial error, mean",
        "unit": "µm",
        "worse": "above",
        "warn": 150.0,
        "fail": 500.0,
        "advice": "Look at the worst points in the accuracy table: are they marked correctly?",
    },
    "overlap.dice_mean": {
        "text": "Overlap with the labels of the sample (Dice), mean over the regions",
        "unit": "",
        "worse": "below",
        "warn": 0.7,
        "fail": 0.4,
        "advice": "Look at the worst regions; thin regions always score low.",
    },
}


@dataclass(frozen=True)
class Verdict:
    """One judged figure.

    Attributes
    ----------
    status : str
        "pass", "warn" or "fail".
    key, text, unit, advice : str
        From the table of thresholds.
    subject : str
        What was measured: a channel, an atlas, or empty.
    value : float
    limits : str
        The limits in words.
    """

    status: str
    key: str
    text: str
    unit: str
    advice: str
    subject: str
    value: float
    limits: str


def merge_thresholds(changes: Mapping[str, Mapping[str, float | None]] | None) -> dict[str, dict]:
    """Return the table with the ``warn`` and ``fail`` of ``changes`` in place of the defaults."""
    table = {key: dict(row) for key, row in THRESHOLDS.items()}
    for key, limits in (changes or {}).items():
        if key not in table:
            raise ConfigError(f"threshold {key!r} is unknown; choose one of {', '.join(table)}")
        for name, value in limits.items():
            if name not in ("warn", "fail"):
                raise ConfigError(f"threshold {key}: {name!r} is unknown; give warn or fail")
            if value is not None and not isinstance(value, (int, float)):
                raise ConfigError(
                    f"threshold {key}: {name} {value!r} is not a number; give one, "
                    "or null for no limit"
                )
            table[key][name] = value
    return table


def judge(
    measured: Iterable[tuple[str, str, float | None]],
    changes: Mapping[str, Mapping[str, float | None]] | None = None,
) -> list[Verdict]:
    """Judge figures; failures come first, then warnings, each in the order of ``measured``.

    Parameters
    ----------
    measured : iterable of (key, subject, value)
        Values that are None or not a number were not measured and get no verdict.
    changes : mapping, optional
        See :func:`merge_thresholds`.
    """
    table = merge_thresholds(changes)
    verdicts = []
    for key, subject, value in measured:
        if value is None or not math.isfinite(value):
            continue
        row = table[key]
        words = {name: row[name] for name in ("text", "unit", "advice")}
        status = _status(float(value), row)
        verdicts.append(
            Verdict(status, key, **words, subject=subject, value=float(value), limits=_limits(row))
        )
    return sorted(verdicts, key=lambda v: _ORDER[v.status])


def of_registration(summary: Mapping[str, Any], atlas: str) -> list[tuple[str, str, float | None]]:
    """Figures of a registration to be judged, from its ``summary.json``.

    Where the atlas was reached through another one, those of the other's registration and, if it
    has some, of the known transform between the two follow, each with its own subject.
    """
    found = _of_one(summary, atlas)
    if "through" in summary:
        through = summary["through"]
        found += _of_one(summary.get("registered") or {}, through)
        found += _of_one(summary.get("known_registration") or {}, f"{atlas} to {through}")
    return found


def _of_one(summary: Mapping[str, Any], atlas: str) -> list[tuple[str, str, float | None]]:
    figures = {key: finite(summary.get(key)) for key in ("jacobian_min", "jacobian_max")}
    scale = finite(summary.get("scale"))
    figures["scale_factor"] = max(scale, 1 / scale) if scale else None
    for key in ("scale_ratio", "unexplained_percent", "worse_percent"):
        figures[key] = finite(summary.get(key))
    figures["held_back_gain"] = beyond_chance(
        finite(summary.get("held_back_gain")), finite(summary.get("held_back_error"))
    )
    levels = summary.get("levels") or [{}]
    error, voxel = finite(summary.get("inverse_error_um")), finite(levels[-1].get("voxel_um"))
    voxel = voxel or finite(summary.get("voxel_um"))
    figures["inverse_error_vox"] = error / voxel if error is not None and voxel else None
    before, after = (finite(summary.get(f"match_{k}")) for k in ("affine", "deformed"))
    if before is not None and after is not None:
        figures["gain"] = before - after
    mixture = summary.get("mixture") or {}
    expected = summary.get("expected_tissue") or {}
    shares = {"matching": (mixture.get("shares") or {}).get("match")}
    shares |= {name: expected.get(name) for name in ("missing", "artefact")}
    sigmas = [sigma[0] for sigma in mixture.get("sigma", ())]
    shares["residual"] = max(sigmas, default=None)
    for name, share in shares.items():
        figures[f"{name}_percent"] = None if share is None or finite(share) is None else 100 * share
    return [(f"registration.{key}", atlas, value) for key, value in figures.items()]


def beyond_chance(value: float | None, error: float | None) -> float | None:
    """A value less twice its standard error, 0 where that is larger; None without one of them."""
    if value is None or error is None:
        return None
    return math.copysign(max(abs(value) - 2 * error, 0.0), value)


def finite(value: Any) -> float | None:
    """The value as a float if it is a finite number or the text of one, else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _status(value: float, row: Mapping[str, Any]) -> str:
    for status in (FAIL, WARN):
        limit = row[status]
        if limit is None:
            continue
        # a value at the limit itself fails a lower limit, but not an upper one
        if value > limit if row["worse"] == "above" else value <= limit:
            return status
    return PASS


def _limits(row: Mapping[str, Any]) -> str:
    words = "above" if row["worse"] == "above" else "at or below"
    limits = ((s, in_unit(row[s], row["unit"])) for s in (WARN, FAIL) if row[s] is not None)
    parts = [f"{s}s {words} {value:.3g}{f' {unit}' if unit else ''}" for s, (value, unit) in limits]
    return ", ".join(parts)


def in_unit(value: float, unit: str) -> tuple[float, str]:
    """A value and its unit as readers see them."""
    if unit == LOG_RATIO:
        percent = 100 * math.expm1(value)
        return (round(percent, 1) if abs(percent) >= 0.05 else 0.0), "%"
    return value, unit.replace("voxels", "voxel", 1) if value == 1 else unit

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

FAIL, WARN, PASS = "fail", "warn", "pass"
_ORDER = {FAIL: 0, WARN: 1, PASS: 2}

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
        "advice": "Read the list in section Acquisition; metadata and files disagree.",
    },
    "acquisition.missing_planes": {
        "text": "Planes missing in the raw data",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Copy the planes again, or accept that they are blank or interpolated.",
    },
    "intensity.seam_percent": {
        "text": "Brightness step left between neighbouring tiles",
        "unit": "%",
        "worse": "above",
        "warn": 1.0,
        "fail": 5.0,
        "advice": "Section Intensity says how much of it are gains, an additive image or stripes, "
        "and what of these is corrected. Unexplained steps are of tiles in the wrong place, of "
        "tissue that changed in between, or of a profile that needs more planes or an image.",
    },
    "stitching.kept_percent": {
        "text": "Neighbours with tissue in their overlap whose measured displacement was used",
        "unit": "%",
        "worse": "below",
        "warn": 95.0,
        "fail": 70.0,
        "advice": "Look at the map of the tiles: are displacements that were not used in one row "
        "or column?",
    },
    "stitching.loose_tiles": {
        "text": "Tiles with tissue whose place nothing measured",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "They lie where the stage should have moved them: look at their seams.",
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
        "text": "Misfit left between neighbouring tiles, exceeded by one in twenty",
        "unit": "voxels",
        "worse": "above",
        "warn": 1.0,
        "fail": 3.0,
        "advice": "Tiles may be warped or tilted; look at the worst seams.",
    },
    "stitching.lean_left_vox": {
        "text": "Displacement of neighbours that changes over the stack and is not corrected",
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
        "advice": "Look whether stage and camera are square to each other; their names and figures "
        "stand in section Stitching.",
    },
    "stitching.bent_tiles": {
        "text": "Tiles that are turned, larger or sheared against their neighbours",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "Fusion puts them right; look at their seams, and whether camera and objective "
        "are fixed. Their names and figures stand in section Stitching.",
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
        "text": "Misfit of parts of seams that is left, exceeded by one in twenty",
        "unit": "voxels",
        "worse": "above",
        "warn": 1.5,
        "fail": None,
        "advice": "Tiles are warped within themselves, and not corrected unless a warning says so: "
        "look at the seams. Try stitching.model: elastic, or acquire with more overlap towards the "
        "middle of the objective's field.",
    },
    "stitching.seams_off_percent": {
        "text": "Seams that correlate less than half as well as placed as at their own best fit",
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
        "advice": "So much is seldom chromatic: look whether the cameras are aligned, and at both "
        "channels together in the viewer.",
    },
    "stitching.channels_unmeasured": {
        "text": "Channels whose shift against the alignment channel could not be measured",
        "unit": "",
        "worse": "above",
        "warn": 0,
        "fail": None,
        "advice": "They are fused where the alignment channel lies: compare them in the viewer, or "
        "give the shift (stitching.channel_shift_um).",
    },
    "stitching.channel_left_vox": {
        "text": "Shift of a channel that may be left in its volume (two standard errors)",
        "unit": "voxels",
        "worse": "above",
        "warn": 0.5,
        "fail": 2.0,
        "advice": "The channels share little structure: compare them in the viewer, or give the "
        "shift of beads (stitching.channel_shift_um).",
    },
    "stitching.sides_brightness": {
        "text": "Brightness of one side of a channel over that of the other, corrected in fusion",
        "unit": "times",
        "worse": "above",
        "warn": 2.0,
        "fail": 5.0,
        "advice": "Look whether both lights were on and equally strong, and whether the dark "
        "offset of both sides is right (section Flat-field).",
    },
    "stitching.sides_left_percent": {
        "text": "Difference in brightness that is left where the sides of a channel meet",
        "unit": "%",
        "worse": "above",
        "warn": 3.0,
        "fail": 15.0,
        "advice": "One factor does not fit all tiles: look at the middle of the volume, and at the "
        "flat-fields of both sides.",
    },
    "stitching.sides_sharper": {
        "text": "How many times sharper each side of a channel is in its own half than in the "
        "other's",
        "unit": "times",
        "worse": "below",
        "warn": 1.0,
        "fail": 0.9,
        "advice": "The light seems to enter from the other end: exchange the ends in input.sides.",
    },
    "volume.saturated_percent": {
        "text": "Saturated voxels",
        "unit": "%",
        "worse": "above",
        "warn": 0.5,
        "fail": 5.0,
        "advice": "Lower the exposure next time; intensities of bright regions are too small.",
    },
    "volume.clipped_percent": {
        "text": "Voxels clipped by a correction",
        "unit": "%",
        "worse": "above",
        "warn": 0.5,
        "fail": 5.0,
        "advice": "Compare dark offset and flat-field with the raw images.",
    },
    "registration.jacobian_min": {
        "text": "Strongest local shrinkage: volume in the sample over that in the atlas (Jacobian)",
        "unit": "",
        "worse": "below",
        "warn": 0.1,
        "fail": 0.0,
        "advice": "Zero or less is a fold: raise the smoothness of the deformation.",
    },
    "registration.jacobian_max": {
        "text": "Strongest local growth: volume in the sample over that in the atlas (Jacobian)",
        "unit": "",
        "worse": "above",
        "warn": 4.0,
        "fail": 10.0,
        "advice": "Raise registration.regularisation, or look whether tissue is swollen or torn.",
    },
    "registration.scale_factor": {
        "text": "Length of the sample against that of the atlas, larger or smaller by this factor",
        "unit": "",
        "worse": "above",
        "warn": 1.15,
        "fail": 1.3,
        "advice": "Brains of one age differ by less, clearing included: check the voxel size, or "
        "give an atlas of this age; every volume is wrong by the third power.",
    },
    "registration.scale_ratio": {
        "text": "Stretch along one axis over that along another, the largest ratio",
        "unit": "",
        "worse": "above",
        "warn": 1.25,
        "fail": 1.6,
        "advice": "A brain is not stretched along one axis only: check the voxel size along each.",
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
        "text": "Gain by the deformation over the affine alone (log likelihood of a voxel)",
        "unit": "",
        "worse": "below",
        "warn": 0.01,
        "fail": 0.0,
        "advice": "The deformation explains no more than the affine: check the initial pose.",
    },
    "registration.held_back_gain": {
        "text": "Gain by the deformation over the affine alone, on blocks held back from the fit "
        "(log likelihood of a voxel)",
        "unit": "",
        "worse": "below",
        "warn": 0.01,
        "fail": -0.02,
        "advice": "The deformation follows noise, or a contrast that the atlas lacks: raise "
        "registration.regularisation, or register another channel.",
    },
    "registration.unexplained_percent": {
        "text": "Share of the tissue in regions that differ from the prediction by more than noise",
        "unit": "%",
        "worse": "above",
        "warn": 10.0,
        "fail": 40.0,
        "advice": "Do not trust the borders of the regions that section Registration names.",
    },
    "registration.worse_percent": {
        "text": "Share of the tissue in regions that the affine fits better on blocks held back",
        "unit": "%",
        "worse": "above",
        "warn": 10.0,
        "fail": 40.0,
        "advice": "Raise registration.regularisation, or register another channel; section "
        "Registration names the regions.",
    },
    "registration.matching_percent": {
        "text": "Share of the sample's tissue that the atlas explains",
        "unit": "%",
        "worse": "below",
        "warn": 70.0,
        "fail": 30.0,
        "advice": "Look at the map of missing tissue and artefacts, slice by slice if need be.",
    },
    "registration.missing_percent": {
        "text": "Share of the atlas's tissue that is missing in the sample",
        "unit": "%",
        "worse": "above",
        "warn": 10.0,
        "fail": 50.0,
        "advice": "Look where it is missing: volumes of regions there are the atlas's, not this "
        "brain's.",
    },
    "registration.artefact_percent": {
        "text": "Share of the atlas's tissue where the sample shows an artefact",
        "unit": "%",
        "worse": "above",
        "warn": 15.0,
        "fail": 40.0,
        "advice": "Look at the map: bubbles, debris, stain; or the contrast differs too much.",
    },
    "registration.residual_percent": {
        "text": "Typical difference of sample and prediction (SD, relative to bright tissue)",
        "unit": "%",
        "worse": "above",
        "warn": 15.0,
        "fail": 30.0,
        "advice": "Noise, or structures that the atlas lacks: register another channel.",
    },
    "regions.coverage_percent": {
        "text": "Share of the atlas's volume that was imaged",
        "unit": "%",
        "worse": "below",
        "warn": 95.0,
        "fail": 50.0,
        "advice": "Expected for a part of a brain; otherwise check orientation and pose.",
    },
    "accuracy.mean_um": {
        "text": "Fiducial error, mean",
        "unit": "µm",
        "worse": "above",
        "warn": 150.0,
        "fail": 500.0,
        "advice": "Look at the worst points in the accuracy table: are they marked right?",
    },
    "overlap.dice_mean": {
        "text": "Overlap with the sample's own labels (Dice), mean of the regions",
        "unit": "",
        "worse": "below",
        "warn": 0.7,
        "fail": 0.4,
        "advice": "Look at the worst regions; thin ones are low by nature.",
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
            raise ConfigError(f"threshold {key!r} is not known; choose among {', '.join(table)}")
        for name, value in limits.items():
            if name not in ("warn", "fail"):
                raise ConfigError(f"threshold {key}: {name!r} is not known; give warn or fail")
            if value is not None and not isinstance(value, (int, float)):
                raise ConfigError(f"threshold {key}: {name} {value!r} is not a number")
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
    for key in ("scale_ratio", "held_back_gain", "unexplained_percent", "worse_percent"):
        figures[key] = finite(summary.get(key))
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
    unit = f" {row['unit']}" if row["unit"] else ""
    parts = [f"{s}s {words} {row[s]:g}{unit}" for s in (WARN, FAIL) if row[s] is not None]
    return ", ".join(parts)

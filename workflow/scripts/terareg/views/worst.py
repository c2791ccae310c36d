"""The worst regions of a registration, in words and with the windows in which they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from terareg.core.frames import Frame
from terareg.regions.quality import LIMITS

#: regions that are shown with a zoom
SHOWN = 6
# the window is so many times as wide as a cube of the region's volume, and has so many voxels at
# least
_WIDE, _LEAST_VOXELS = 3.0, 24


def reason_text(row: Mapping[str, Any]) -> str:
    """Why a row of ``quality.tsv`` stands where it stands, for example "47 % missing"."""
    reason = row["reason"]
    if reason == "volume":
        low, high = float(row["volume_ratio_low"]), float(row["volume_ratio_high"])
        if 1 / max(low, 1e-3) > high:
            return f"shrunk to {low:.2g} of its volume in one place"
        return f"stretched to {high:.2g} times its volume in one place"
    if reason == "fit":
        return f"differs from the prediction by {float(row['fit_percent']):.0f}\u00a0%"
    return f"{float(row[f'{reason}_percent']):.0f}\u00a0% {reason}"


def needs_a_look(row: Mapping[str, Any]) -> bool:
    """Whether a measure of a row exceeds its limit, see :data:`terareg.regions.quality.LIMITS`."""
    return float(row["score"]) >= 1


def limits_text() -> str:
    """The limits in words."""
    return (
        f"A region deserves a look if it differs from the prediction by {LIMITS['fit_percent']:g} "
        f"% of bright tissue or more, if {LIMITS['missing_percent']:g} % of it are missing or "
        f"{LIMITS['artefact_percent']:g} % are artefacts, or if its volume changes by a factor of "
        f"{LIMITS['volume_factor']:g} somewhere."
    )


def with_side(name: str, side: str) -> str:
    """A region's name and its side, which some atlases have in the name already."""
    return name if re.search(rf"\b{side}\b", name, re.IGNORECASE) else f"{name}, {side}"


def zoom_title(number: int, row: Mapping[str, Any]) -> str:
    """Title of a zoom."""
    return f"{number}. {row['acronym']}, {row['hemisphere']}: {reason_text(row)}"


def sentence(row: Mapping[str, Any]) -> dict[str, Any]:
    """A region of the first page: its name, its side, why it is there, and whether to look."""
    acronym = f" ({row['acronym']})" if row["acronym"] != row["name"] else ""
    return {
        "name": with_side(f"{row['name']}{acronym}", row["hemisphere"]),
        "why": reason_text(row),
        "look": needs_a_look(row),
    }


def zoom_um(row: Mapping[str, Any], frame: Frame) -> tuple[list[float], float]:
    """Centre (z, y, x) and half the width of the window that shows a region, micrometres."""
    place = [float(row[f"{axis}_um"]) for axis in "zyx"]
    side = 1000 * float(row["volume_mm3"]) ** (1 / 3)
    half = max(_WIDE * side, _LEAST_VOXELS * min(frame.spacing_um)) / 2
    return place, float(np.clip(half, None, max(frame.extent_um) / 2))

"""Whether a list of points was read as it was meant.

A file does not say that its z and x are exchanged, or that its micrometres are voxels, and points
that are read wrongly may well stay inside the image. They do not lie where tissue is, however: read
in the right way, more of them are in regions of the atlas. So the same coordinates are read in
other orders and units as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from terareg.core.frames import Frame
from terareg.regions.point_files import AXES, Listed

_MOST_POINTS = 5000  # that are read in other ways
_LEAST_GAIN = 0.1  # of all points, for another way to be told
_LEAST_SD = 3.0  # standard deviations of the difference between two ways
_UNITS = {"um": "micrometres", "mm": "millimetres", "vox": "voxels"}

#: whether places (n, 3) in micrometres lie in a region, bool (n,)
InRegions = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """How well points lie in the regions of an atlas.

    Attributes
    ----------
    points : int
    in_region_percent : float
        Of all points.
    other : str
        Another way of reading the file by which clearly more do, in words, or empty.
    other_percent : float or None
        Of the points that were read in other ways, by that way.
    """

    points: int
    in_region_percent: float
    other: str = ""
    other_percent: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For the summary of a list of points."""
        return asdict(self)

    def sentence(self, name: str) -> str:
        """What to say of the points ``name`` if another way fits better, or empty."""
        if not self.other:
            return ""
        return (
            f"points {name}: {_percent(self.in_region_percent)} of them are inside a region of the "
            f"atlas, but {_percent(self.other_percent or 0)} would be {self.other}; correct axes "
            f"or units of points.{name}, or the names of the columns in its file"
        )


def judge_reading(
    listed: Listed | None, in_file: np.ndarray, frame: Frame, in_regions: InRegions
) -> Reading:
    """Compare the way in which points were read with others.

    Parameters
    ----------
    listed : Listed or None
        Coordinates as the file has them; None where the file itself states axes and units.
    in_file : numpy.ndarray of float64, shape (n, 3)
        Places as they were read, micrometres.
    frame : Frame
        The volume that they are in.
    in_regions : callable
        See :data:`InRegions`.

    Returns
    -------
    Reading
    """
    lie = in_regions(in_file)
    found = Reading(len(lie), 100 * float(np.mean(lie)))
    if listed is None:
        return found
    chosen = np.unique(np.linspace(0, len(lie) - 1, _MOST_POINTS).astype(int))
    lie, best, words = lie[chosen], -1.0, ""
    for unit in dict.fromkeys([listed.unit, *_UNITS]):
        for order in itertools.permutations(range(len(AXES))):
            if unit == listed.unit and order == (0, 1, 2):
                continue
            values = listed.values[chosen][:, order]
            place = replace(listed, values=values, unit=unit).position_um(frame)
            other = in_regions(place)
            share = float(np.mean(other))
            if share > best and _is_clear(lie, other):
                best, words = share, _words(unit, order, unit == listed.unit)
    return replace(found, other=words, other_percent=100 * best) if words else found


def _is_clear(lie: np.ndarray, other: np.ndarray) -> bool:
    """Whether more points lie in regions by another way than chance can make."""
    gained, lost = int((other & ~lie).sum()), int((lie & ~other).sum())
    gain = gained - lost
    return gain >= _LEAST_GAIN * len(lie) and gain >= _LEAST_SD * math.sqrt(gained + lost)


def _words(unit: Any, order: tuple[int, ...], same_unit: bool) -> str:
    moved = [n for n, source in enumerate(order) if n != source]
    words = ""
    if len(moved) == 2:
        words = f"if {AXES[moved[0]]} and {AXES[moved[1]]} were exchanged"
    elif moved:
        taken = ", ".join(AXES[source] for source in order)
        words = f"if what is read as {taken} were {', '.join(AXES)}"
    if same_unit:
        return words
    return f"{words or 'if'} and the unit were {_UNITS[unit]}".replace("if and", "if")


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 1 or value == 0 else "less than 1 %"

"""How many points lie in every region and hemisphere, and how densely."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from terareg.core.errors import PointsError

if TYPE_CHECKING:
    from terareg.atlas.ontology import Ontology

_SIDES = ("", "left", "right")
_COUNTED = {"left": [1], "right": [2], "both": [0, 1, 2]}
#: name of the row of what lies in no region
OUTSIDE = "in no region"
# share of counts that lie within the interval
_INTERVAL = 0.9

#: region ids, uint32 (n,), and hemispheres ("left", "right" or "") of points
Located = tuple[np.ndarray, Sequence[str]]


def count_table(
    located: Located,
    measured: Sequence[Mapping[str, Any]],
    ontology: Ontology,
    drawn: Iterable[Located] = (),
) -> list[dict[str, Any]]:
    """Points per region and hemisphere, with the volumes of the regions in the sample.

    Parameters
    ----------
    located : tuple
        Region of every point, 0 for none, and its hemisphere.
    measured : sequence of mapping
        Rows of the region table (:func:`terareg.regions.measure.region_table`): id, scope,
        hemisphere, volume_mm3, coverage; text or numbers.
    ontology : Ontology
    drawn : iterable of tuple
        The same in every draw of the registration's error and in its opposite, which follows it
        (:meth:`terareg.regions.drawn_regions.Shifts.regions`).

    Returns
    -------
    list of dict
        A row for each row of the region table, in its order: id, acronym, name, parent, depth,
        scope ("own", or "tree" with all regions below), hemisphere, count, with draws
        ``count_low`` and ``count_high`` (ends of the interval of 90 %, widened to whole points),
        volume_mm3 (of the region in the sample), per_mm3 (None without volume) and coverage (share
        of the region that was imaged). The last row has id 0: what lies in no region.

    Raises
    ------
    PointsError
        If a point lies in a region that the table lacks.
    """
    own = _by_region(located, drawn)
    outside = own.pop(0)
    known = {int(row["id"]) for row in measured}
    lost = sorted(set(own) - known)
    if lost:
        raise PointsError(
            f"{int(own[lost[0]][0].sum())} points are in region {lost[0]}, which is not in the "
            "table of regions; make the table again from this atlas"
        )
    scopes = {"own": own, "tree": ontology.roll_up(own)}
    none = np.zeros_like(outside)
    rows = []
    for row in measured:
        region, scope, side = int(row["id"]), str(row["scope"]), str(row["hemisphere"])
        counts = _figures(scopes[scope].get(region, none)[:, _COUNTED[side]].sum(1))
        volume = float(row["volume_mm3"])
        rows.append(
            {
                **ontology.columns(region),
                "scope": scope,
                "hemisphere": side,
                **counts,
                "volume_mm3": volume,
                "per_mm3": counts["count"] / volume if volume else None,
                "coverage": None if row["coverage"] in ("", None) else float(row["coverage"]),
            }
        )
    last = dict.fromkeys(rows[0] if rows else ("id", "count"))
    rows.append(last | {"id": 0, "acronym": "", "name": OUTSIDE, "scope": "own",
                        "hemisphere": "both", **_figures(outside.sum(1))})  # fmt: skip
    return rows


def _by_region(located: Located, drawn: Iterable[Located]) -> dict[int, np.ndarray]:
    """Points of every region that has any and of 0, int64 (1 + draws, 3), by hemisphere."""
    found = []
    # draws are looked up one after the other and not held
    for ids, sides in itertools.chain([located], drawn):
        side = np.array([_SIDES.index(s) for s in sides], np.int64)
        key, count = np.unique(np.asarray(ids, np.int64) * 3 + side, return_counts=True)
        found.append(dict(zip(key.tolist(), count.tolist())))
    counts: dict[int, np.ndarray] = {}
    for region in sorted({0}.union(*({key // 3 for key in one} for one in found))):
        counts[region] = np.array([[one.get(region * 3 + s, 0) for s in range(3)] for one in found])
    return counts


def _figures(counts: np.ndarray) -> dict[str, Any]:
    """Columns of a row from the counts as registered (first) and in every draw."""
    figures: dict[str, Any] = {"count": int(counts[0])}
    if len(counts) > 1:
        # the mean of the draws is no nearer to the truth, see docs/development/decisions.md;
        # a draw and its opposite say the same of the error's size
        draws = (len(counts) - 1) // 2
        deviation = math.sqrt(float(np.mean((counts[1:] - counts[0]) ** 2)))
        reach = float(stats.t.ppf((1 + _INTERVAL) / 2, draws)) * deviation
        figures["count_low"] = max(0, math.floor(counts[0] - reach))
        figures["count_high"] = math.ceil(counts[0] + reach)
    return figures

"""How many points lie in every region and hemisphere, and how densely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import PointsError

if TYPE_CHECKING:
    from terareg.atlas.ontology import Ontology

_SIDES = {"left": ("left",), "right": ("right",), "both": ("left", "right", "")}
#: name of the row of what lies in no region
OUTSIDE = "in no region"


@dataclass(frozen=True)
class _Counts:
    """Points of a region by hemisphere; they can be added."""

    of: Mapping[str, int]

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(Counter(self.of) + Counter(other.of))


def count_table(
    region_ids: np.ndarray,
    hemispheres: Sequence[str],
    measured: Sequence[Mapping[str, Any]],
    ontology: Ontology,
) -> list[dict[str, Any]]:
    """Points per region and hemisphere, with the volumes of the regions in the sample.

    Parameters
    ----------
    region_ids : numpy.ndarray of uint32, shape (n,)
        Region of every point; 0 for none.
    hemispheres : sequence of str
        "left", "right" or "" of every point.
    measured : sequence of mapping
        Rows of the region table (:func:`terareg.regions.measure.region_table`): id, scope,
        hemisphere, volume_mm3, coverage; text or numbers.
    ontology : Ontology

    Returns
    -------
    list of dict
        A row for each row of the region table, in its order: id, acronym, name, parent, depth,
        scope ("own", or "tree" with all regions below), hemisphere, count, volume_mm3 (of the
        region in the sample), per_mm3 (None without volume) and coverage (share of the region that
        was imaged). The last row has id 0: what lies in no region.

    Raises
    ------
    PointsError
        If a point lies in a region that the table lacks.
    """
    found = Counter(zip(np.asarray(region_ids).tolist(), hemispheres))
    by_region: dict[int, dict[str, int]] = {}
    for (region, side), count in found.items():
        by_region.setdefault(region, {})[side] = count
    outside = sum(by_region.pop(0, {}).values())
    own = {region: _Counts(sides) for region, sides in by_region.items()}
    known = {int(row["id"]) for row in measured}
    lost = sorted(set(own) - known)
    if lost:
        raise PointsError(
            f"{sum(own[lost[0]].of.values())} points lie in region {lost[0]}, which is not in the "
            "table of regions; make the table again from this atlas"
        )
    scopes = {"own": own, "tree": ontology.roll_up(own)}
    rows = []
    for row in measured:
        region, scope, side = int(row["id"]), str(row["scope"]), str(row["hemisphere"])
        of = scopes[scope].get(region, _Counts({})).of
        count = sum(of.get(each, 0) for each in _SIDES[side])
        volume = float(row["volume_mm3"])
        rows.append(
            {
                **ontology.columns(region),
                "scope": scope,
                "hemisphere": side,
                "count": count,
                "volume_mm3": volume,
                "per_mm3": count / volume if volume else None,
                "coverage": None if row["coverage"] in ("", None) else float(row["coverage"]),
            }
        )
    none = dict.fromkeys(rows[0] if rows else ("id", "count"))
    rows.append(none | {"id": 0, "acronym": "", "name": OUTSIDE, "scope": "own",
                        "hemisphere": "both", "count": outside})  # fmt: skip
    return rows

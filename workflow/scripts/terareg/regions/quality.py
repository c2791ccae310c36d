"""How well every region is registered: fit, missing tissue, artefacts, local change of volume.

The measures of a registration for the whole brain hide a region that is torn, and the maps behind
them do not name it. Here they are gathered by region and hemisphere, on the sample's working grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame

if TYPE_CHECKING:
    from terareg.atlas.ontology import Ontology
    from terareg.registration.transform import Transform

#: values from which a region deserves a look, and how the report calls them
LIMITS = {
    "fit_percent": 8.0,
    "missing_percent": 20.0,
    "artefact_percent": 20.0,
    "volume_factor": 2.0,
}
SIDES = {1: "left", 2: "right"}
# fewest voxels of a region on one side that is judged, and of its matching part
_JUDGED = 20
# smallest share of a region that is judged apart from its part on the other side
_APART = 0.2
# standard deviation of the blur before the worst place of a region is looked for, voxels
_BLUR = 1.0


@dataclass(frozen=True)
class FitMaps:
    """What a registration knows of every voxel of the sample's working grid.

    Attributes
    ----------
    residual : numpy.ndarray, float32, shape (channels, z, y, x)
        Prediction minus sample, where 1 is the brightness of bright tissue.
    match, artefact, missing : numpy.ndarray, float32, shape (z, y, x)
        Probabilities.
    volume_ratio : numpy.ndarray, float32, shape (z, y, x)
        Local volume in the sample over that in the atlas, beside the affine.
    """

    residual: np.ndarray
    match: np.ndarray
    artefact: np.ndarray
    missing: np.ndarray
    volume_ratio: np.ndarray

    def badness(self) -> np.ndarray:
        """The largest measure of every voxel in units of its limit, float32 (z, y, x)."""
        worst = np.abs(self.residual).max(0) * self.match * (100 / LIMITS["fit_percent"])
        for values, key in ((self.missing, "missing"), (self.artefact, "artefact")):
            np.maximum(worst, values * (100 / LIMITS[f"{key}_percent"]), out=worst)
        change = np.abs(np.log2(np.maximum(self.volume_ratio, 1e-3)))
        np.maximum(worst, change / np.log2(LIMITS["volume_factor"]), out=worst)
        return worst


def volume_ratio_on(
    frame: Frame, transform: Transform, jacobian: np.ndarray, jacobian_frame: Frame
) -> np.ndarray:
    """Volume ratios of the atlas's grid at the voxels of a grid of the sample, float32.

    Parameters
    ----------
    frame : Frame
        Grid in sample space.
    transform : Transform
        Its ``to_atlas_planes`` is used.
    jacobian : numpy.ndarray, shape ``jacobian_frame.shape``
        Interpolated linearly; beyond its faces the nearest value is taken.
    """
    found = np.empty(frame.shape, np.float32)
    for z, position_um in enumerate(transform.to_atlas_planes(frame)):
        index = jacobian_frame.to_index(np.moveaxis(position_um, 0, -1))
        ndimage.map_coordinates(
            jacobian, np.moveaxis(index, -1, 0), found[z], order=1, mode="nearest"
        )
    return found


def judged_sides(labels: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The side with which every voxel is judged: a sliver of a region goes with its other part.

    Some atlases give a region of each side an id of its own, and those of others have one on one
    side alone. The middle plane of the grid then cuts off a few voxels of it, of which nothing can
    be said by themselves. A side that holds less than a fifth of its region is judged with the
    other side, whatever the atlas.

    Parameters
    ----------
    labels : numpy.ndarray of uint32, shape (z, y, x)
        Region of every voxel, 0 for none.
    sides : numpy.ndarray of uint8, same shape
        1 left, 2 right, 0 for none.

    Returns
    -------
    numpy.ndarray of uint8, same shape
    """
    regions, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape)
    counts = np.bincount((compact * 3 + sides).reshape(-1), minlength=3 * regions.size)
    left, right = counts.reshape(-1, 3)[:, 1:].T
    taken = np.tile(np.arange(3, dtype=np.uint8), (regions.size, 1))
    taken[left < _APART * (left + right), 1] = 2
    taken[right < _APART * (left + right), 2] = 1
    return taken[compact, sides]


def region_quality(
    labels: np.ndarray, sides: np.ndarray, frame: Frame, maps: FitMaps, ontology: Ontology
) -> list[dict[str, Any]]:
    """Rows of the table of regions, the worst first.

    Parameters
    ----------
    labels : numpy.ndarray of uint32, shape (z, y, x)
        Region of every voxel, 0 for none.
    sides : numpy.ndarray of uint8, same shape
        1 left, 2 right.
    frame : Frame
        Grid of all arrays, in sample space.
    maps : FitMaps
    ontology : Ontology

    Returns
    -------
    list of dict
        One for each region and hemisphere with at least 20 voxels, slivers as
        :func:`judged_sides` has them. Keys: id, acronym, name, hemisphere, voxels and volume_mm3
        (that the atlas gives it in the sample), fit_percent (median
        difference from the prediction where the sample matches, percent of bright tissue, of the
        channel where it is largest; None if too little of it matches), missing_percent and
        artefact_percent (shares of its volume), volume_ratio, volume_ratio_low and
        volume_ratio_high (median, smallest and largest local ratio), score (the largest measure in
        units of its limit in :data:`LIMITS`; 1 and more deserves a look), reason (that measure),
        and z_um, y_um, x_um (its worst place).

    Raises
    ------
    VolumeError
        If no region is large enough.
    """
    sides = judged_sides(labels, sides)
    code = np.where((labels > 0) & (sides > 0), labels.astype(np.int64) * 3 + sides, 0)
    keys, compact = np.unique(code, return_inverse=True)
    compact = compact.reshape(labels.shape)
    counts = np.bincount(compact.reshape(-1))
    chosen = np.flatnonzero((counts >= _JUDGED) & (keys > 0))
    if not chosen.size:
        raise VolumeError(
            f"no region of the atlas has {_JUDGED} voxels of {frame.spacing_um} um in the sample; "
            "check the initial pose of the registration"
        )
    measured = _measures(compact, chosen, maps)
    worst = ndimage.gaussian_filter(maps.badness(), _BLUR)
    places = ndimage.maximum_position(worst, compact, chosen)
    rows = []
    for n, number in enumerate(chosen.tolist()):
        region, side = divmod(int(keys[number]), 3)
        values = {name: float(column[n]) for name, column in measured.items()}
        row: dict[str, Any] = {
            "id": region,
            "acronym": ontology[region].acronym,
            "name": ontology[region].name,
            "hemisphere": SIDES[side],
            "voxels": int(counts[number]),
            "volume_mm3": float(counts[number] * frame.voxel_volume_um3 / 1e9),
        }
        row |= {name: value if np.isfinite(value) else None for name, value in values.items()}
        row["score"], row["reason"] = _score(row)
        point = frame.to_um(np.array(places[n]))
        rows.append(row | dict(zip(("z_um", "y_um", "x_um"), point.tolist())))
    return sorted(rows, key=lambda row: (-row["score"], row["id"], row["hemisphere"]))


def _measures(compact: np.ndarray, chosen: np.ndarray, maps: FitMaps) -> dict[str, np.ndarray]:
    """Columns of measures, one value for each chosen number; not a number where unknown."""
    seen = np.where(maps.match > 0.5, compact, 0)
    enough = np.bincount(seen.reshape(-1), minlength=compact.max() + 1)[chosen] >= _JUDGED
    fits = [np.abs(ndimage.median(channel, seen, chosen)) for channel in maps.residual]
    fit = np.where(enough, 100 * np.max(fits, axis=0), np.nan)
    ratio = maps.volume_ratio
    return {
        "fit_percent": fit,
        "missing_percent": 100 * ndimage.mean(maps.missing, compact, chosen),
        "artefact_percent": 100 * ndimage.mean(maps.artefact, compact, chosen),
        "volume_ratio": ndimage.median(ratio, compact, chosen),
        "volume_ratio_low": ndimage.minimum(ratio, compact, chosen),
        "volume_ratio_high": ndimage.maximum(ratio, compact, chosen),
    }


def _score(row: Mapping[str, Any]) -> tuple[float, str]:
    """The largest measure in units of its limit, and which one it is."""
    found = {
        key.removesuffix("_percent"): row[key] / LIMITS[key]
        for key in ("fit_percent", "missing_percent", "artefact_percent")
        if row[key] is not None
    }
    extremes = (row["volume_ratio_low"], row["volume_ratio_high"])
    change = max(abs(np.log2(max(ratio, 1e-3))) for ratio in extremes)
    found["volume"] = float(change / np.log2(LIMITS["volume_factor"]))
    reason = max(found, key=lambda key: found[key])
    return found[reason], reason

"""How much of every region and hemisphere is signal, how bright that is, and how long.

The mask lies on the full grid of a channel, regions on a coarser level of the same volume, whose
voxels hold whole voxels of the mask. So sums are taken at full resolution, by voxel of the regions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.objects.line_lengths import line_lengths

if TYPE_CHECKING:
    from terareg.atlas.ontology import Ontology
    from terareg.regions.measure import RegionSums
    from terareg.regions.warp import BlockReader

#: what is summed, in the order in which :class:`terareg.regions.measure.RegionSums` gets it
SUMS = ("voxels", "intensity")
#: the same with the length of centre lines
SUMS_AND_LENGTH = (*SUMS, "length_nm")
_PIECE_VOX = 256
_SIDES = {"left": [1], "right": [2], "both": [0, 1, 2]}


def voxels_within(regions: Frame, mask: Frame, name: str) -> Box:
    """Voxels of the mask along (z, y, x) in a voxel of the regions.

    Raises
    ------
    VolumeError
        If voxels of the regions are not whole voxels of the mask.
    """
    factor: Box = tuple(round(s / t) for s, t in zip(regions.spacing_um, mask.spacing_um))
    if min(factor) >= 1:
        wanted = mask.downsampled(factor)
        near = np.allclose(wanted.spacing_um, regions.spacing_um, rtol=1e-4)
        if wanted.shape == regions.shape and near:
            return factor
    raise VolumeError(
        f"{name}: regions of {regions.shape} voxels of {regions.spacing_um} um are not a "
        f"coarser level of its {mask.shape} voxels of {mask.spacing_um} um; make it from all of a "
        "channel"
    )


def check_one_grid(mask: Frame, channel: Frame, name: str) -> None:
    """Raise :class:`VolumeError` if a mask that was made elsewhere has not the channel's voxels."""
    near = np.allclose(mask.spacing_um, channel.spacing_um, rtol=1e-3)
    if mask.shape != channel.shape or not near:
        raise VolumeError(
            f"{name}: the channel has {channel.shape} voxels of {channel.spacing_um} um, and the "
            f"signal {mask.shape} of {mask.spacing_um} um; make it on the grid of the channel, or "
            "take image away, which leaves the mask without tables of regions"
        )


def signal_sums(
    mask: BlockReader,
    channel: BlockReader,
    box: tuple[Box, Box],
    factor: Box,
    thickest_um: float | None = None,
) -> tuple[list[np.ndarray], int]:
    """Voxels of signal, their brightness and length, in every voxel of a box of regions.

    Parameters
    ----------
    mask, channel : BlockReader
        On one grid; the mask is not 0 where there is signal. The channel is read where there is.
    box : tuple
        First voxel (z, y, x) of the regions, and the one beyond the last.
    factor : tuple of int
        See :func:`voxels_within`.
    thickest_um : float, optional
        Diameter of the thickest fibres; with it the length of centre lines is measured, see
        :func:`terareg.objects.line_lengths.line_lengths`.

    Returns
    -------
    list of numpy.ndarray of float32, shape of the box
        :data:`SUMS`, or :data:`SUMS_AND_LENGTH`.
    int
        Voxels of the mask that were left of what is too thick to have a length.
    """
    start, stop = box
    names = SUMS if thickest_um is None else SUMS_AND_LENGTH
    totals = [np.zeros([b - a for a, b in zip(start, stop)], np.float32) for _ in names]
    thick = 0
    edges = [max(1, _PIECE_VOX // f) for f in factor]
    for first in itertools.product(*(range(a, b, e) for a, b, e in zip(start, stop, edges))):
        last = [min(b, a + e) for a, b, e in zip(first, stop, edges)]
        begin: Box = tuple(a * f for a, f in zip(first, factor))
        end: Box = tuple(min(n, b * f) for b, f, n in zip(last, factor, mask.frame.shape))
        found = mask.read(begin, end) != 0
        if found.any():
            place = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start))
            totals[0][place] = _added(found.astype(np.float64), factor)
            bright = np.where(found, channel.read(begin, end), 0)
            totals[1][place] = _added(bright.astype(np.float64), factor)
            if thickest_um is not None:
                frame = mask.frame
                lengths, left = line_lengths(
                    mask.read, (begin, end), frame.shape, frame.spacing_um, thickest_um
                )
                totals[2][place] = _added(lengths.astype(np.float64), factor)
                thick += left
    return totals, thick


def signal_table(
    sums: RegionSums, measured: Sequence[Mapping[str, Any]], ontology: Ontology, voxel_mm3: float
) -> list[dict[str, Any]]:
    """Signal of every region and hemisphere, with the volumes of the regions in the sample.

    Parameters
    ----------
    sums : RegionSums
        With the channels :data:`SUMS` or :data:`SUMS_AND_LENGTH`.
    measured : sequence of mapping
        Rows of the region table: id, scope, hemisphere, volume_mm3, coverage; text or numbers.
    ontology : Ontology
    voxel_mm3 : float
        Volume of a voxel of the mask.

    Returns
    -------
    list of dict
        A row for each row of the region table, in its order: id, acronym, name, parent, depth,
        scope, hemisphere; signal_mm3, signal_percent (of the region's volume), intensity_sum (grey
        values of all voxels of signal), intensity_per_mm3 (of the region), intensity_mean (of the
        signal), with lengths length_mm and length_mm_per_mm3 (of the region), volume_mm3,
        coverage. None where there is nothing to divide by.
    """
    with_length = sums.channels == SUMS_AND_LENGTH
    own = {region: _amount(sides) for region, sides in sums.cells().items()}
    scopes = {"own": own, "tree": ontology.roll_up(own)}
    rows = []
    for row in measured:
        region, scope, side = int(row["id"]), str(row["scope"]), str(row["hemisphere"])
        found = scopes[scope].get(region, np.zeros((len(sums.channels), 3)))
        voxels, intensity, *length_nm = found[:, _SIDES[side]].sum(axis=1).tolist()
        volume, signal = float(row["volume_mm3"]), voxels * voxel_mm3
        length = {}
        if with_length:
            length_mm = length_nm[0] / 1e6
            per_mm3 = length_mm / volume if volume else None
            length = {"length_mm": length_mm, "length_mm_per_mm3": per_mm3}
        rows.append(
            {
                **ontology.columns(region),
                "scope": scope,
                "hemisphere": side,
                "signal_mm3": signal,
                "signal_percent": 100 * signal / volume if volume else None,
                "intensity_sum": intensity,
                "intensity_per_mm3": intensity / volume if volume else None,
                "intensity_mean": intensity / voxels if voxels else None,
                **length,
                "volume_mm3": volume,
                "coverage": None if row["coverage"] in ("", None) else float(row["coverage"]),
            }
        )
    return rows


def _amount(sides: Mapping[int, Any]) -> np.ndarray:
    """Totals of all channels by hemisphere (0 neither, 1 left, 2 right), float64 (channels, 3)."""
    totals = np.zeros((len(next(iter(sides.values())).channels), 3))
    for side, cell in sides.items():
        totals[:, side] = [channel.total for channel in cell.channels]
    return totals


def _added(voxels: np.ndarray, factor: Box) -> np.ndarray:
    """Sums over whole voxels of the regions; the last may hold fewer."""
    for axis, f in enumerate(factor):
        voxels = np.add.reduceat(voxels, np.arange(0, voxels.shape[axis], f), axis)
    return voxels

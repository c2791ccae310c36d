"""Volume and intensity of every region and hemisphere.

Blocks are added one by one to :class:`RegionSums`. Counts, sums and sums of squares of integer
voxels are exact integers of any size, so that the result does not depend on the division into
blocks, their order, or the number of jobs; those of float32 voxels are float64, and the division
changes only their last digits. Means and standard deviations are computed from them once, at the
end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.regions.labels import slabs
from terareg.regions.volume_errors import interval
from terareg.storage.records import read_json, write_json

if TYPE_CHECKING:
    from terareg.atlas.ontology import Ontology
    from terareg.atlas.prepare import Atlas
    from terareg.registration.transform import Transform

_ERRORS = ("volume_sd_mm3", "volume_low_mm3", "volume_high_mm3")
_STATISTICS = ("mean", "sd", "min", "max", "sum")
# bincount adds in float64: this many squares of 16-bit values stay exact, below 2**53
_EXACT_VOXELS = 2**20


@dataclass(frozen=True)
class _Intensity:
    """Sums over one channel in one set of voxels, exact for integers; they can be added."""

    total: int | float
    squares: int | float
    low: int | float
    high: int | float

    def __add__(self, other: _Intensity) -> _Intensity:
        return _Intensity(
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )


@dataclass(frozen=True)
class _Cell:
    """Number of voxels and sums of channels in one set of voxels; they can be added."""

    voxels: int
    channels: tuple[_Intensity, ...]

    def __add__(self, other: _Cell) -> _Cell:
        both = zip(self.channels, other.channels)
        return _Cell(self.voxels + other.voxels, tuple(a + b for a, b in both))


class RegionSums:
    """Sums over each region and hemisphere in the blocks added so far.

    Parameters
    ----------
    ids : array_like of int
        Ids that labels may have; 0 (no region) is always allowed and not counted.
    channels : sequence of str
        Names of the channels that every block has.
    voxel_volume_um3 : float
        Voxel volume of the grid of the blocks.
    """

    def __init__(
        self, ids: Sequence[int] | np.ndarray, channels: Sequence[str], voxel_volume_um3: float
    ) -> None:
        self.ids = np.unique(np.append(np.asarray(ids, np.uint32), np.uint32(0)))
        self.channels = tuple(channels)
        self.voxel_volume_um3 = float(voxel_volume_um3)
        self._cells: dict[tuple[int, int], _Cell] = {}

    def add_block(
        self, labels: np.ndarray, hemispheres: np.ndarray, channels: Mapping[str, np.ndarray]
    ) -> None:
        """Add one block.

        Parameters
        ----------
        labels : numpy.ndarray of uint32
        hemispheres : numpy.ndarray of uint8, same shape
            0 neither, 1 left, 2 right.
        channels : mapping of name to numpy.ndarray of uint8, uint16 or float32, same shape

        Raises
        ------
        VolumeError
            If shapes differ, a channel is missing or of another type, or a label is unknown.
        """
        if set(channels) != set(self.channels):
            raise VolumeError(
                f"the block has channels {sorted(channels)} but the measurement needs "
                f"{sorted(self.channels)}; measure every block with the same channels"
            )
        if hemispheres.dtype != np.uint8:
            raise VolumeError(f"the hemispheres have type {hemispheres.dtype}; give uint8")
        for name, array in {"hemispheres": hemispheres, **channels}.items():
            if array.shape != labels.shape:
                raise VolumeError(
                    f"{name} has shape {array.shape} but the labels {labels.shape}; resample "
                    "labels and channels to one grid"
                )
            if array.dtype not in (np.uint8, np.uint16, np.float32):
                raise VolumeError(
                    f"{name} has type {array.dtype}; give uint8, uint16 or float32 voxels"
                )
        flat = labels.reshape(-1)
        arrays = [channels[name].reshape(-1) for name in self.channels]
        sides = hemispheres.reshape(-1)
        for start in range(0, flat.size, _EXACT_VOXELS):
            part = slice(start, start + _EXACT_VOXELS)
            self._add(flat[part], sides[part], [a[part] for a in arrays])

    def _add(self, labels: np.ndarray, sides: np.ndarray, arrays: list[np.ndarray]) -> None:
        known = np.minimum(np.searchsorted(self.ids, labels), len(self.ids) - 1)
        wrong = self.ids[known] != labels
        if wrong.any():
            first = int(labels[wrong][0])
            raise VolumeError(
                f"the labels contain id {first} ({int(np.count_nonzero(labels == first))} voxels "
                "here), which is not in the atlas; make the labels again from this atlas"
            )
        bins = known * 3 + sides
        inside = labels != 0
        if not inside.all():
            bins = bins[inside]
            arrays = [a[inside] for a in arrays]
        size = 3 * len(self.ids)
        counts = np.bincount(bins, minlength=size)
        seen = np.flatnonzero(counts)
        columns = []
        for array in arrays:
            values = array.astype(np.float64)
            whole = array.dtype.kind == "u"
            limits = np.iinfo(array.dtype) if whole else np.finfo(array.dtype)
            low = np.full(size, limits.max, array.dtype)
            high = np.full(size, limits.min, array.dtype)
            np.minimum.at(low, bins, array)
            np.maximum.at(high, bins, array)
            total = np.bincount(bins, values, size)
            squares = np.bincount(bins, values * values, size)
            if whole:
                # exact, since every sum of a part is below 2**53
                total, squares = total.astype(np.int64), squares.astype(np.int64)
            columns.append([a[seen].tolist() for a in (total, squares, low, high)])
        for n, position in enumerate(seen.tolist()):
            cell = _Cell(
                int(counts[position]),
                tuple(_Intensity(*(column[n] for column in part)) for part in columns),
            )
            self._put((int(self.ids[position // 3]), position % 3), cell)

    def _put(self, key: tuple[int, int], cell: _Cell) -> None:
        old = self._cells.get(key)
        self._cells[key] = cell if old is None else old + cell

    def merge(self, other: RegionSums) -> None:
        """Add the sums of other blocks of the same measurement."""
        if (
            other.channels != self.channels
            or other.voxel_volume_um3 != self.voxel_volume_um3
            or not np.array_equal(other.ids, self.ids)
        ):
            raise VolumeError(
                "region sums from different atlases, channels or grids cannot be added; measure "
                "all blocks again"
            )
        for key, cell in other._cells.items():
            self._put(key, cell)

    def cells(self) -> dict[int, dict[int, _Cell]]:
        """Sums per region id and hemisphere (0 neither, 1 left, 2 right), ascending."""
        table: dict[int, dict[int, _Cell]] = {}
        for region, side in sorted(self._cells):
            table.setdefault(region, {})[side] = self._cells[region, side]
        return table

    def to_json(self) -> dict:
        """Return a JSON-able dictionary; integers may exceed 64 bits."""
        return {
            "ids": self.ids.tolist(),
            "channels": list(self.channels),
            "voxel_volume_um3": self.voxel_volume_um3,
            "cells": [
                [region, side, cell.voxels]
                + [[c.total, c.squares, c.low, c.high] for c in cell.channels]
                for region, sides in self.cells().items()
                for side, cell in sides.items()
            ],
        }

    @classmethod
    def from_json(cls, data: dict) -> RegionSums:
        """Inverse of :meth:`to_json`."""
        sums = cls(data["ids"], data["channels"], data["voxel_volume_um3"])
        for region, side, voxels, *channels in data["cells"]:
            sums._cells[region, side] = _Cell(voxels, tuple(_Intensity(*c) for c in channels))
        return sums


def save_sums(path: str | os.PathLike, sums: RegionSums) -> None:
    """Write sums as JSON, see :func:`load_sums`."""
    write_json(path, sums.to_json())


def load_sums(paths: Sequence[str | os.PathLike]) -> RegionSums:
    """Read sums and add them up."""
    first, *rest = (RegionSums.from_json(read_json(path)) for path in paths)
    for sums in rest:
        first.merge(sums)
    return first


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much of each atlas region was imaged in the sample.

    Attributes
    ----------
    atlas, imaged : dict of (id, hemisphere) to int
        Half voxels of the region in the atlas, and those of them that map into the imaged
        volume. Voxels whose centres lie on the plane between the hemispheres are shared equally.
    half_voxel_um3 : float
        Volume of half an atlas voxel.
    """

    atlas: dict[tuple[int, int], int]
    imaged: dict[tuple[int, int], int]
    half_voxel_um3: float


def region_coverage(
    transform: Transform,
    atlas: Atlas,
    sample_frame: Frame,
    *,
    imaged: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Coverage:
    """Map every labelled atlas voxel to the sample and test whether it was imaged.

    Parameters
    ----------
    transform : Transform
        Maps atlas points to sample points; its ``to_sample_grid`` is used.
    atlas : Atlas
    sample_frame : Frame
        Imaged volume; positions inside its outer faces count as imaged.
    imaged : callable, optional
        Further restriction, for example to the union of the tiles: takes sample positions
        (3, ...) in um, order z, y, x, and returns bool (...).
    """
    totals = np.zeros(3 * len(atlas.ids), np.int64)
    found = np.zeros_like(totals)
    sides = atlas.hemispheres, atlas.hemispheres_below
    for start, stop in slabs(atlas.frame):
        part = atlas.frame.cropped((start, 0, 0), (stop, *atlas.frame.shape[1:]))
        position = transform.to_sample_grid(part)
        inside = sample_frame.contains(np.moveaxis(position, 0, -1))
        if imaged is not None:
            inside &= imaged(position)
        for hemispheres in sides:
            bins = atlas.index[start:stop].astype(np.int64) * 3 + hemispheres[start:stop]
            totals += np.bincount(bins.reshape(-1), minlength=totals.size)
            found += np.bincount(bins[inside], minlength=totals.size)
    keys = [(int(atlas.ids[n // 3]), n % 3) for n in range(totals.size)]
    counted = [(k, int(t), int(f)) for k, t, f in zip(keys, totals, found) if t and k[0]]
    return Coverage(
        {k: t for k, t, _ in counted},
        {k: f for k, _, f in counted},
        atlas.frame.voxel_volume_um3 / 2,
    )


def region_table(
    sums: RegionSums,
    ontology: Ontology,
    coverage: Coverage,
    draws: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> list[dict]:
    """Rows of the region table.

    ``draws`` are volumes in every draw of the registration's error, see
    :func:`terareg.regions.volume_errors.volume_draws`.

    For every region of the annotation, and for its ancestors, there are rows for hemisphere
    "left", "right" and "both" ("both" includes voxels that are on neither side). Rows of scope
    "own" count voxels with exactly this id; rows of scope "tree" also count those of all
    descendants, and exist for every region. Regions without any voxel or signal are listed too.

    Returns
    -------
    list of dict
        In the ontology's order, keys: id, acronym, name, parent, depth, scope, hemisphere,
        voxels (of the measured grid), volume_mm3, with draws volume_sd_mm3, volume_low_mm3 and
        volume_high_mm3 (its standard deviation and interval of 90 %; None for a region without
        volume in the atlas), atlas_volume_mm3, coverage (share of the
        region's atlas volume that was imaged, None if it has none on this side), and for every
        channel ``<channel>_mean``, ``_sd`` (of the voxels, divisor n), ``_min``, ``_max``,
        ``_sum`` (None where there is no voxel).
    """
    own: dict[int, dict[int, _Cell]] = sums.cells()
    extents = _extents(coverage)
    regions = {i for i in sums.ids.tolist() if i} | set(extents)
    drawn: dict[int, dict[int, np.ndarray]] = {}
    for (region_id, side), volumes in (draws or {}).items():
        drawn.setdefault(region_id, {})[side] = volumes
    scopes = {
        "own": {i: _Row(own.get(i, {}), extents.get(i, {}), drawn.get(i, {})) for i in regions}
    }
    scopes["tree"] = ontology.roll_up(scopes["own"])
    rows = []
    for region in ontology:
        for scope in ("own", "tree"):
            row = scopes[scope].get(region.id)
            if row is None:
                continue
            for hemisphere, sides in (("left", (1,)), ("right", (2,)), ("both", (0, 1, 2))):
                cells = [row.cells[s] for s in sides if s in row.cells]
                extent = [row.extents[s] for s in sides if s in row.extents]
                voxels = sum(c.voxels for c in cells)
                total = sum(e[0] for e in extent)
                volume = voxels * sums.voxel_volume_um3 / 1e9
                errors = {}
                if draws is not None:
                    changed = [row.draws[s] for s in sides if s in row.draws]
                    found = (
                        interval(volume, np.sum(changed, axis=0)) if changed else (None, None, None)
                    )
                    errors = dict(zip(_ERRORS, found))
                rows.append(
                    {
                        **ontology.columns(region.id),
                        "scope": scope,
                        "hemisphere": hemisphere,
                        "voxels": voxels,
                        "volume_mm3": volume,
                        **errors,
                        "atlas_volume_mm3": total * coverage.half_voxel_um3 / 1e9,
                        "coverage": sum(e[1] for e in extent) / total if total else None,
                    }
                    | _statistics(sums.channels, cells)
                )
    return rows


@dataclass(frozen=True)
class _Row:
    """Sums, atlas extent and drawn volumes of one region, by hemisphere; they can be added."""

    cells: dict[int, _Cell]
    extents: dict[int, tuple[int, int]]
    draws: dict[int, np.ndarray]

    def __add__(self, other: _Row) -> _Row:
        cells, extents, draws = dict(self.cells), dict(self.extents), dict(self.draws)
        for side, cell in other.cells.items():
            cells[side] = cells[side] + cell if side in cells else cell
        for side, (total, imaged) in other.extents.items():
            old = extents.get(side, (0, 0))
            extents[side] = (old[0] + total, old[1] + imaged)
        for side, volumes in other.draws.items():
            draws[side] = draws[side] + volumes if side in draws else volumes
        return _Row(cells, extents, draws)


def _extents(coverage: Coverage) -> dict[int, dict[int, tuple[int, int]]]:
    table: dict[int, dict[int, tuple[int, int]]] = {}
    for (region, side), total in coverage.atlas.items():
        table.setdefault(region, {})[side] = (total, coverage.imaged[region, side])
    return table


def _statistics(channels: Sequence[str], cells: list[_Cell]) -> dict[str, float | int | None]:
    result: dict[str, float | int | None] = {}
    voxels = sum(c.voxels for c in cells)
    for n, name in enumerate(channels):
        if not voxels:
            values: tuple[float | None, ...] = (None, None, None, None, 0)
        else:
            parts = [c.channels[n] for c in cells]
            total = sum(p.total for p in parts)
            # n * sum(x^2) - sum(x)^2 is exact in integers; in floats it may fall below 0
            variance = max(0, voxels * sum(p.squares for p in parts) - total * total)
            values = (
                total / voxels,
                math.sqrt(variance / (voxels * voxels)),
                min(p.low for p in parts),
                max(p.high for p in parts),
                total,
            )
        result |= {f"{name}_{key}": value for key, value in zip(_STATISTICS, values)}
    return result

"""Voxels, place and intensity of every label, from tables of blocks that are merged exactly.

Everything that is counted is an integer: voxels, sums of indices, of intensities and of their
squares. Merged tables are therefore the same however the volume was cut. Intensities that are
floating-point numbers are summed in float64, in the order of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame

_BOX_LOW, _BOX_HIGH = ("z_min", "y_min", "x_min"), ("z_max", "y_max", "x_max")
#: sums of squares do not fit into 64 bits and are kept as two numbers of this many bits and more
_HALF = 32
_TOGETHER = 1 << 20  # voxels of planes that are counted at once


@dataclass(frozen=True)
class CountTable:
    """Counts of pairs of a label and a region, in the order of label, then region.

    Attributes
    ----------
    label, region : numpy.ndarray of uint64, shape (n,)
        The region is 0 where none was given.
    columns : dict of str to numpy.ndarray, shape (n,)
        ``voxels``; ``z``, ``y``, ``x`` (sums of indices); ``z_min`` to ``x_max`` (first and last
        index); with intensities ``sum``, ``min``, ``max``, and their squares (``square_high`` x
        2^32 + ``square_low`` for integers, ``square`` otherwise).
    """

    label: np.ndarray
    region: np.ndarray
    columns: dict[str, np.ndarray]

    def arrays(self) -> dict[str, np.ndarray]:
        """All columns by name, see :meth:`of`."""
        return {"label": self.label, "region": self.region, **self.columns}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> CountTable:
        """Inverse of :meth:`arrays`."""
        columns = {k: v for k, v in arrays.items() if k not in ("label", "region")}
        return cls(arrays["label"], arrays["region"], columns)


def count_block(
    labels: np.ndarray,
    start: tuple[int, int, int],
    image: np.ndarray | None = None,
    regions: np.ndarray | None = None,
) -> CountTable:
    """Count the voxels of a block; 0 is background.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers, shape (z, y, x)
    start : tuple of int
        Index of the block's first voxel in the volume.
    image : numpy.ndarray, optional
        Intensities on the same grid.
    regions : numpy.ndarray of unsigned integers, optional
        Regions on the same grid, for example of an atlas.
    """
    for name, other in (("image", image), ("regions", regions)):
        if other is not None and other.shape != labels.shape:
            raise VolumeError(f"{name} have shape {other.shape} but the labels have {labels.shape}")
    # one plane of an image at a time: sums of floats depend on what is summed together
    depth = max(1, _TOGETHER // labels[0].size) if image is None else 1
    planes = [
        _count_planes(
            labels[z : z + depth],
            (start[0] + z, start[1], start[2]),
            None if image is None else image[z : z + depth],
            None if regions is None else regions[z : z + depth],
        )
        for z in range(0, labels.shape[0], depth)
    ]
    return merge_counts(planes)


def _count_planes(
    labels: np.ndarray,
    start: tuple[int, int, int],
    image: np.ndarray | None,
    regions: np.ndarray | None,
) -> CountTable:
    """Counts of some planes, from their runs of equal voxels along x."""
    _, height, width = labels.shape
    change = np.ones(labels.shape, bool)
    np.not_equal(labels[..., 1:], labels[..., :-1], out=change[..., 1:])
    if regions is not None:
        change[..., 1:] |= regions[..., 1:] != regions[..., :-1]
    every = np.flatnonzero(change)
    label = labels.reshape(-1)[every]
    kept = label > 0
    begin, length = every[kept], np.diff(every, append=labels.size)[kept]
    label = label[kept].astype(np.uint64)
    region = np.zeros(len(label), np.uint64)
    if regions is not None:
        region = regions.reshape(-1)[begin].astype(np.uint64)
    row, x = np.divmod(begin, width)
    z, y = np.divmod(row, height)
    z, y, x = z + start[0], y + start[1], x + start[2]
    columns = {
        "voxels": length,
        "z": length * z,
        "y": length * y,
        "x": length * x + length * (length - 1) // 2,
        "z_min": z,
        "y_min": y,
        "x_min": x,
        "z_max": z,
        "y_max": y,
        "x_max": x + length - 1,
    }
    if image is not None:
        values = np.ascontiguousarray(image).reshape(-1)
        wide = values.astype(np.int64 if values.dtype.kind in "ui" else np.float64)
        columns["sum"] = np.add.reduceat(wide, every)[kept]
        columns["min"] = np.minimum.reduceat(values, every)[kept]
        columns["max"] = np.maximum.reduceat(values, every)[kept]
        squares = np.add.reduceat(wide * wide, every)[kept]
        if values.dtype.kind in "ui":
            columns["square_high"] = squares >> _HALF
            columns["square_low"] = squares & ((1 << _HALF) - 1)
        else:
            columns["square"] = squares
    return merge_counts([CountTable(label, region, columns)])


def merge_counts(tables: Iterable[CountTable]) -> CountTable:
    """One table of several, of different blocks; a table may name a pair more than once."""
    tables = list(tables)
    if not tables:
        raise VolumeError("there are no blocks to count")
    label = np.concatenate([t.label for t in tables])
    region = np.concatenate([t.region for t in tables])
    # without regions one key is enough
    order = np.lexsort((region, label)) if region.any() else np.argsort(label, kind="stable")
    label, region = label[order], region[order]
    new = np.ones(len(label), bool)
    new[1:] = (label[1:] != label[:-1]) | (region[1:] != region[:-1])
    begin = np.flatnonzero(new)
    columns = {}
    for name in tables[0].columns:
        values = np.concatenate([t.columns[name] for t in tables])[order]
        if name in _BOX_LOW or name == "min":
            way: np.ufunc = np.minimum
        elif name in _BOX_HIGH or name == "max":
            way = np.maximum
        else:
            way = np.add
        columns[name] = way.reduceat(values, begin) if len(begin) else values
    if "square_low" in columns:
        low = columns["square_low"]
        columns["square_high"] = columns["square_high"] + (low >> _HALF)
        columns["square_low"] = low & ((1 << _HALF) - 1)
    return CountTable(label[begin], region[begin], columns)


def object_rows(table: CountTable, frame: Frame) -> Iterator[dict]:
    """Rows of the table of objects, ascending by label.

    Parameters
    ----------
    table : CountTable
        Of the whole volume.
    frame : Frame
        Grid of the labels.

    Yields
    ------
    dict
        ``label``, ``voxels``, ``volume_um3``, ``centroid_z_um`` to ``centroid_x_um``, ``z_min`` to
        ``x_max`` (index of the first voxel, and that after the last), with intensities ``sum``,
        ``min``, ``max``, ``mean`` and ``sd`` (of the population), with regions ``region`` (that
        with most of the voxels, the smaller id of two equal ones) and ``region_share``.
    """
    regional = bool(np.any(table.region))
    whole = merge_counts([CountTable(table.label, np.zeros_like(table.region), table.columns)])
    main = _main_region(table) if regional else {}
    c = whole.columns
    for i, label in enumerate(whole.label.tolist()):
        voxels = int(c["voxels"][i])
        row: dict = {
            "label": label, "voxels": voxels, "volume_um3": voxels * frame.voxel_volume_um3
        }  # fmt: skip
        centre = frame.to_um(np.array([int(c[axis][i]) / voxels for axis in "zyx"]))
        row |= {f"centroid_{axis}_um": float(v) for axis, v in zip("zyx", centre)}
        row |= {name: int(c[name][i]) for name in _BOX_LOW}
        row |= {name: int(c[name][i]) + 1 for name in _BOX_HIGH}
        if "sum" in c:
            row |= _intensities(c, i, voxels)
        if regional:
            region, most = main[label]
            row |= {"region": region, "region_share": most / voxels}
        yield row


def region_rows(table: CountTable, frame: Frame) -> Iterator[dict]:
    """Rows of the table of regions, ascending by region; 0 is outside of all.

    Yields
    ------
    dict
        ``region``, ``objects`` (labels with most of their voxels in it), ``voxels`` (labelled ones)
        and ``volume_um3``.
    """
    main = [region for region, _ in _main_region(table).values()]
    homes, counts = np.unique(np.array(main, np.uint64), return_counts=True)
    objects = dict(zip(homes.tolist(), counts.tolist()))
    for region in np.unique(table.region):
        voxels = int(table.columns["voxels"][table.region == region].sum())
        yield {
            "region": int(region),
            "objects": objects.get(int(region), 0),
            "voxels": voxels,
            "volume_um3": voxels * frame.voxel_volume_um3,
        }


def _main_region(table: CountTable) -> dict[int, tuple[int, int]]:
    """Region with most voxels of each label, and how many these are."""
    order = np.lexsort((table.region, -table.columns["voxels"].astype(np.int64), table.label))
    label = table.label[order]
    new = np.ones(len(label), bool)
    new[1:] = label[1:] != label[:-1]
    chosen = order[new]
    values = zip(table.region[chosen].tolist(), table.columns["voxels"][chosen].tolist())
    return dict(zip(table.label[chosen].tolist(), values))


def _intensities(c: dict[str, np.ndarray], i: int, voxels: int) -> dict:
    total = c["sum"][i].item()
    if "square" in c:
        spread = float(c["square"][i]) / voxels - (total / voxels) ** 2
    else:
        square = (int(c["square_high"][i]) << _HALF) + int(c["square_low"][i])
        spread = (square * voxels - total * total) / voxels**2  # of integers: exact until divided
    return {
        "sum": total,
        "min": c["min"][i].item(),
        "max": c["max"][i].item(),
        "mean": total / voxels,
        "sd": max(spread, 0.0) ** 0.5,
    }

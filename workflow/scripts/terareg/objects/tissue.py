"""Where tissue is: a mask at low resolution, from means of voxels over cells."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.levels import Box

_BRIGHT = 99  # percentile from which grey values count as equal
#: :func:`dark_spread` from which there may be no background: brains with background around them
#: have .04 to .17 (serial two-photon, light sheet, MRI), crops from inside .28 to .51, noise .38
NO_BACKGROUND = 0.22


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from background.

    Attributes
    ----------
    threshold : float, optional
        Mean grey value from which a cell is tissue. If not given, it is that which separates grey
        values best (Otsu 1979), where the brightest hundredth counts as equal.
    least_share : float
        Pieces that are smaller than this share of the largest are left out.
    """

    threshold: float | None = None
    least_share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.least_share <= 1:
            raise ConfigError(f"least_share {self.least_share} is not a fraction; give 0 to 1")


def cell_sums(
    voxels: np.ndarray, start: Box, cell: Box
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of voxels over the cells of a grid that a block touches.

    Parameters
    ----------
    voxels : numpy.ndarray, shape (z, y, x)
    start : tuple of int
        Index of the first voxel in the volume.
    cell : tuple of int
        Voxels of a cell along z, y, x; the first cell begins at voxel 0.

    Returns
    -------
    first : numpy.ndarray of int64, shape (3,)
        Index of the first cell.
    sums : numpy.ndarray of int64, or of float64 for floating-point voxels
    counts : numpy.ndarray of int64
        Voxels of the block in each cell.
    """
    wide = np.int64 if voxels.dtype.kind in "uib" else np.float64
    first = np.array([a // c for a, c in zip(start, cell)], np.int64)
    sums: np.ndarray = voxels
    counts = np.ones((1, 1, 1), np.int64)
    for axis in range(3):
        index = (start[axis] + np.arange(voxels.shape[axis])) // cell[axis]
        begin = np.flatnonzero(np.diff(index, prepend=-1))
        ends = np.append(begin, voxels.shape[axis])
        if axis == 0:
            # reduceat would copy all voxels to the wider type
            layers = (voxels[a:b] for a, b in itertools.pairwise(ends))
            sums = np.stack([layer.sum(axis=0, dtype=wide) for layer in layers])
        else:
            sums = np.add.reduceat(sums, begin, axis=axis)
        width = np.diff(ends)
        counts = counts * width.reshape([-1 if a == axis else 1 for a in range(3)])
    return first, sums, counts


def tissue_mask(means: np.ndarray, settings: TissueSettings) -> tuple[np.ndarray, float]:
    """Tissue in an image of means: smooth, threshold, fill holes, leave out small pieces.

    Parameters
    ----------
    means : numpy.ndarray of float, shape (z, y, x)
    settings : TissueSettings

    Returns
    -------
    mask : numpy.ndarray of bool
    threshold : float
        Grey value that was used.

    Raises
    ------
    VolumeError
        If nothing or everything would be tissue.
    """
    smooth = _smooth(means)
    threshold = settings.threshold
    if threshold is None:
        if smooth.min() == smooth.max():
            raise VolumeError(
                f"all means are {smooth.min():g}, so no threshold separates tissue from "
                "background; check the source"
            )
        threshold = float(threshold_otsu(_capped(smooth)))
    mask = ndimage.binary_fill_holes(smooth >= threshold)
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        raise VolumeError(
            f"no mean reaches the threshold {threshold:g} (the largest is {smooth.max():g}); give "
            "a lower one"
        )
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = sizes >= max(1.0, settings.least_share * sizes.max())
    mask = kept[pieces]
    if mask.all():
        raise VolumeError(f"everything is above the threshold {threshold:g}; give a higher one")
    return mask, threshold


def dark_spread(means: np.ndarray, threshold: float) -> float:
    """How much the part below a threshold varies, relative to its distance from the rest.

    Background is even: its standard deviation is a small part of the difference between both means.
    Where there is none, a threshold cuts one broad distribution in two (a Gaussian: .38).

    Parameters
    ----------
    means : numpy.ndarray of float, shape (z, y, x)
    threshold : float
        Of :func:`tissue_mask`.

    Returns
    -------
    float
        0 if nothing lies on one side.
    """
    values = _capped(_smooth(means))
    dark, bright = values[values < threshold], values[values >= threshold]
    if not dark.size or not bright.size:
        return 0.0
    return float(dark.std() / (bright.mean() - dark.mean()))


def _smooth(means: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(means.astype(np.float64), 0.7)


def _capped(smooth: np.ndarray) -> np.ndarray:
    """A few bright structures would otherwise be told from all the rest."""
    return np.minimum(smooth, np.percentile(smooth, _BRIGHT))


def boxes_of(mask: np.ndarray) -> np.ndarray:
    """First cell and the one after the last of every piece of a mask, shape (n, 6), z to x."""
    pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    found = ndimage.find_objects(pieces)
    rows = [[*(s.start for s in box), *(s.stop for s in box)] for box in found]
    return np.array(rows, np.int64).reshape(-1, 6)

"""Connected components of a volume, block by block, the same as of the whole volume at once.

A block is labelled together with the planes that follow it along each axis. A voxel of these
planes has a label there and one in the block that owns it, and the two are the same component.
Every pair of neighbouring voxels lies in at least one such extended block, diagonal neighbours
across edges and corners of blocks included, so that these equivalences are all that there are.
Components are numbered from 1 in the order of their first voxels (z, then y, then x), which does
not depend on how the volume was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage import measure

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.levels import Box
from terareg.volumes.plan import Block

CONNECTIVITIES = (6, 18, 26)


@dataclass(frozen=True)
class ComponentSettings:
    """What a component is.

    Attributes
    ----------
    connectivity : int
        Neighbours of a voxel: 6 (faces), 18 (faces and edges) or 26 (and corners).
    low, high : float, optional
        Voxels from ``low`` to ``high``, both included, are foreground. If neither is given, the
        voxels are labels: 0 is background, and voxels of different labels are never connected.
    dust_vox : int
        Components with fewer voxels in the whole volume are left out.
    """

    connectivity: int = 26
    low: float | None = None
    high: float | None = None
    dust_vox: int = 0

    def __post_init__(self) -> None:
        if self.connectivity not in CONNECTIVITIES:
            raise ConfigError(f"connectivity {self.connectivity} is unknown; use 6, 18 or 26")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(
                f"the lower threshold {self.low} is above the upper one, {self.high}; swap them"
            )
        if self.dust_vox < 0:
            raise ConfigError(f"dust of {self.dust_vox} voxels is impossible; give 0 or more")

    @property
    def of_labels(self) -> bool:
        """Whether voxels are labels and no threshold makes the foreground."""
        return self.low is None and self.high is None


@dataclass(frozen=True)
class BlockComponents:
    """Components of one block, numbered from 1 within it.

    Attributes
    ----------
    voxels : numpy.ndarray of int64, shape (n,)
        Voxels of each component that the block owns.
    first : numpy.ndarray of int64, shape (n,)
        First of these voxels, counted through the whole volume; meaningless where there are none.
    low : tuple of numpy.ndarray of uint32
        Components in the block's own first planes along z, y, x.
    high : tuple of numpy.ndarray of uint32
        Components in the planes that follow the block along z, y, x, in the extended block; of no
        extent where the volume ends.
    strong : numpy.ndarray of bool, shape (n,), optional
        Components that by themselves deserve to be kept, for components of which a strong voxel is
        asked (hysteresis).
    """

    voxels: np.ndarray
    first: np.ndarray
    low: tuple[np.ndarray, ...]
    high: tuple[np.ndarray, ...]
    strong: np.ndarray | None = None


def extended(block: Block, shape: Box) -> tuple[Box, Box]:
    """Start and stop of a block and the planes after it, within a volume of ``shape``."""
    return block.start, tuple(min(b + 1, n) for b, n in zip(block.stop, shape))


def label_voxels(voxels: np.ndarray, settings: ComponentSettings) -> tuple[np.ndarray, int]:
    """Components of an array.

    Parameters
    ----------
    voxels : numpy.ndarray, shape (z, y, x)
    settings : ComponentSettings

    Returns
    -------
    labels : numpy.ndarray of integers, shape of ``voxels``
        From 1; 0 is background.
    count : int
    """
    rank = CONNECTIVITIES.index(settings.connectivity) + 1
    if settings.of_labels:
        if voxels.dtype.kind == "f":
            raise VolumeError(
                "components of equal voxels need labels, but the voxels are floating-point "
                "numbers; set low or high"
            )
        if voxels.dtype == np.uint64:
            voxels = voxels.view(np.int64)  # which is what is compared: only equality counts
        labels = measure.label(voxels, background=0, connectivity=rank)
        return labels, int(labels.max(initial=0))
    inside = np.ones(voxels.shape, bool) if settings.low is None else voxels >= settings.low
    if settings.high is not None:
        inside &= voxels <= settings.high
    neighbours = ndimage.generate_binary_structure(3, rank)
    labels = np.empty(voxels.shape, np.int32)
    return labels, int(ndimage.label(inside, neighbours, output=labels))


def block_components(labels: np.ndarray, count: int, block: Block, shape: Box) -> BlockComponents:
    """What other blocks have to know of a block.

    Parameters
    ----------
    labels : numpy.ndarray of integers
        Of the extended block, see :func:`extended` and :func:`label_voxels`.
    count : int
        Its number of components.
    block : Block
    shape : tuple of int
        Of the volume.
    """
    own = labels[tuple(slice(n) for n in block.shape)]
    voxels = np.zeros(count + 1, np.int64)
    first = np.zeros(count + 1, np.int64)
    _, height, width = shape
    corner = (block.start[0] * height + block.start[1]) * width + block.start[2]
    for z in range(own.shape[0] - 1, -1, -1):  # from the end, so that the first voxel is kept
        y, x = np.nonzero(own[z])
        found = own[z][y, x]
        voxels += np.bincount(found, minlength=count + 1)
        first[found[::-1]] = (corner + (z * height + y) * width + x)[::-1]
    low = tuple(own.take(0, axis).astype(np.uint32) for axis in range(3))
    high = tuple(
        labels.take(n, axis).astype(np.uint32)
        if labels.shape[axis] > n
        else np.zeros((0, 0), np.uint32)
        for axis, n in enumerate(block.shape)
    )
    return BlockComponents(voxels[1:], first[1:], low, high)


def shared_voxels(
    block: Block,
    high_planes: Sequence[np.ndarray],
    low_planes: Callable[[Box], Sequence[np.ndarray] | None],
) -> Iterator[tuple[Box, np.ndarray, np.ndarray]]:
    """Pairs of components that are the same, of a block and of those after it.

    Parameters
    ----------
    block : Block
    high_planes : sequence of numpy.ndarray
        Of this block, see :class:`BlockComponents`.
    low_planes : callable
        Returns the low planes of the block at an index, None if there is none.

    Yields
    ------
    index : tuple of int
        Of the other block.
    here, there : numpy.ndarray of uint32, shape (n,)
        Numbers of the same component in the two blocks.
    """
    for axis, high in enumerate(high_planes):
        if not high.size:
            continue
        across = [a for a in range(3) if a != axis]
        inner = tuple(block.shape[a] for a in across)
        for more in ((0, 0), (0, 1), (1, 0), (1, 1)):
            step = [0, 0, 0]
            step[axis] = 1
            for a, m in zip(across, more):
                step[a] = m
            index: Box = tuple(i + s for i, s in zip(block.index, step))
            other = low_planes(index)
            if other is None:
                continue
            here = high[tuple(slice(n, None) if m else slice(n) for n, m in zip(inner, more))]
            there = other[axis][tuple(slice(1) if m else slice(None) for m in more)]
            both = (here > 0) & (there > 0)
            pairs = np.unique(np.stack([here[both], there[both]]), axis=1)
            yield index, pairs[0], pairs[1]


def renumber(labels: np.ndarray, block: Block, numbers: np.ndarray) -> np.ndarray:
    """Final components of a block.

    Parameters
    ----------
    labels : numpy.ndarray of integers
        Of the extended block, see :func:`label_voxels`.
    block : Block
    numbers : numpy.ndarray of uint32, shape (n,)
        Final numbers of the block's components.

    Returns
    -------
    numpy.ndarray of uint32, shape ``block.shape``
    """
    own = labels[tuple(slice(n) for n in block.shape)]
    table = np.concatenate([np.zeros(1, np.uint32), numbers])
    result = np.empty(block.shape, np.uint32)
    for plane, out in zip(own, result):
        np.take(table, plane, out=out)
    return result

"""Where a source is read at all: labels of the sample outside of which voxels count as zeros."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.storage.records import read_record
from terareg.volumes.objects import record_key
from terareg.volumes.reader import Volume

# planes of the mask that are held at once
_PLANES = 64


class Mask:
    """Labels on any grid of the same axes; a voxel is inside if the label at its centre is not 0.

    Records of the mask's blocks say which of them hold nothing, and which nothing but labels: there
    the mask itself is not read.

    Parameters
    ----------
    volume : Volume
        Labels.

    Raises
    ------
    ConfigError
        If it is an image.
    """

    def __init__(self, volume: Volume) -> None:
        if not volume.is_segmentation:
            raise ConfigError(f"within: {volume.name} is an image; give a volume of labels")
        self._volume = volume
        self._blocks = {block.index: block for block in volume.plan.blocks()}
        self._range = lru_cache(maxsize=4096)(self._range_of)

    def is_outside(self, frame: Frame) -> bool:
        """Whether no voxel of a grid is inside, as far as records tell."""
        return self._ends(frame)[1] == 0

    def keep(self, voxels: np.ndarray, frame: Frame) -> np.ndarray:
        """Voxels of a grid with zeros outside of the mask; the array may be changed.

        Parameters
        ----------
        voxels : numpy.ndarray, shape ``frame.shape``
        frame : Frame
        """
        if self._ends(frame)[0] > 0:
            return voxels
        if not voxels.flags.writeable:
            voxels = voxels.copy()
        for first in range(0, frame.shape[0], _PLANES):
            last = min(first + _PLANES, frame.shape[0])
            part = frame.cropped((first, 0, 0), (last, *frame.shape[1:]))
            voxels[first:last][nearest_labels(self._volume, part) == 0] = 0
        return voxels

    def _ends(self, frame: Frame) -> tuple[int, int]:
        """Smallest and largest label in the blocks that a grid touches."""
        plan, low, high, numbers = self._volume.plan, [], [], []
        for axis, (index, inside) in enumerate(_nearest(self._volume.frame, frame)):
            if not inside.any():
                return 0, 0
            low += [] if inside.all() else [0]
            found = index[inside]
            edge = plan.block[axis]
            numbers.append(range(int(found[0]) // edge, int(found[-1]) // edge + 1))
        for number in itertools.product(*numbers):
            smallest, largest = self._range(number)
            low.append(smallest)
            high.append(largest)
        return min(low), max(high)

    def _range_of(self, index: tuple[int, int, int]) -> tuple[int, int]:
        store, key = self._volume.store, self._volume.key
        record = read_record(store, record_key(key, self._blocks[index]))
        if record is None:
            raise VolumeError(
                f"within: block {self._blocks[index].name} of {store.address(key)} is missing; run "
                "again to have it written"
            )
        return record["min"], record["max"]


def nearest_labels(volume: Volume, frame: Frame) -> np.ndarray:
    """Label at the centre of every voxel of a grid; 0 outside of the volume.

    Parameters
    ----------
    volume : Volume
        Labels, on any grid of the same axes.
    frame : Frame
    """
    index, inside = zip(*_nearest(volume.frame, frame))
    start = [int(i.min()) for i in index]
    stop = [int(i.max()) + 1 for i in index]
    found = volume.read(0, start, stop)[np.ix_(*(i - a for i, a in zip(index, start)))]
    found[~np.logical_and.outer(np.logical_and.outer(*inside[:2]), inside[2])] = 0
    return found


def _nearest(grid: Frame, frame: Frame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Along each axis the voxel of ``grid`` at each voxel of ``frame``, and whether it exists."""
    found = []
    for axis in range(3):
        step = (frame.axes_um()[axis] - grid.origin_um[axis]) / grid.spacing_um[axis]
        nearest = np.floor(step + 0.5).astype(np.int64)
        last = grid.shape[axis] - 1
        found.append((np.clip(nearest, 0, last), (nearest >= 0) & (nearest <= last)))
    return found

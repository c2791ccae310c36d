"""Dividing a volume by a smooth multiplicative field, block by block, into another volume."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped, to_integer
from terareg.volumes.plan import Block
from terareg.volumes.reader import Volume

_SLAB_VOXELS = 1 << 22


def correct_block(
    volume: Volume, level: int, bias_evaluate: Callable[[Frame], np.ndarray], block: Block
) -> tuple[np.ndarray, Clipped]:
    """Voxels of a block of a level, divided by the bias field.

    Parameters
    ----------
    volume : Volume
        Never written to.
    level : int
    bias_evaluate : callable
        Gives the field, float32 and positive, at the voxels of a frame.
    block : Block
        In voxels of the level.

    Returns
    -------
    array : numpy.ndarray of the volume's type
        Computed in float32; integers are rounded and clipped.
    clipped : Clipped
        Number of voxels outside the type's range.

    Raises
    ------
    VolumeError
        If the field is not positive and finite, or not of the block's shape.
    """
    result = volume.read(level, block.start, block.stop)
    clipped = Clipped()
    planes = max(1, _SLAB_VOXELS // (block.shape[1] * block.shape[2]))
    for first in range(0, block.shape[0], planes):
        part = result[first : first + planes]
        start = (block.start[0] + first, *block.start[1:])
        stop = (start[0] + part.shape[0], *block.stop[1:])
        field = bias_evaluate(volume.level_frame(level).cropped(start, stop))
        if field.shape != part.shape:
            raise VolumeError(
                f"the bias field has shape {field.shape} but block {block.name} of "
                f"{volume.plan.name} has {part.shape}; estimate it again"
            )
        if not (np.isfinite(field).all() and field.min() > 0):
            raise VolumeError(
                f"the bias field of {volume.plan.name} is not positive in block {block.name}; "
                "estimate it again"
            )
        values = np.divide(part, field, dtype=np.float32)
        if volume.dtype.kind == "f":
            part[...] = values
        else:
            part[...], more = to_integer(values, volume.dtype)
            clipped += more
    return result, clipped

"""Convert: the same voxels in another format, layout, encoding, region or place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import LABELS
from terareg.derived.tool import Measured, Tool
from terareg.volumes.importing import as_stored
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Convert(Tool):
    """Copies voxels. What is special about a conversion is said by the keys of the output."""

    by_planes = True

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The voxels of the block."""
        voxels = self.source.read(block.start, block.stop)
        return as_kind(self.source.name, voxels, self.dtype, self.source.kind)


def image_values(name: str, voxels: np.ndarray) -> np.ndarray:
    """Voxels of an image as integers of 8 or 16 bits, or else as float32, as they are.

    Numbers that are not finite stay; integers that float32 cannot hold are a :class:`VolumeError`.
    """
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32, copy=False)
    if voxels.dtype.kind == "u" and voxels.itemsize <= 2:
        return voxels
    return as_stored(name, voxels, np.dtype(np.float32))[0]


def as_kind(name: str, voxels: np.ndarray, dtype: str, kind: str) -> tuple[np.ndarray, Clipped]:
    """Voxels in the type in which volumes store them, without losing a value.

    Parameters
    ----------
    name : str
        Of the source, for messages.
    voxels : numpy.ndarray
    dtype : str
        From :func:`terareg.derived.catalogue.same_dtype`.
    kind : str
        "image" or "labels".

    Returns
    -------
    array : numpy.ndarray of ``dtype``
    clipped : Clipped
        Numbers of an image that are not finite, stored as 0.

    Raises
    ------
    VolumeError
        If a value cannot be stored, for example a negative id.
    """
    if kind != LABELS:
        return as_stored(name, voxels, np.dtype(dtype))
    if voxels.dtype.kind == "i" and voxels.size and voxels.min() < 0:
        raise VolumeError(
            f"{name} contains the id {voxels.min()}, but labels cannot be negative; give ids of 0 "
            "or more"
        )
    return np.ascontiguousarray(voxels, np.dtype(dtype)), Clipped()

"""Linear maps of grey values: what lies between two values is spread over a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terareg.core.numeric import Clipped, to_integer


@dataclass(frozen=True)
class Stretch:
    """``low`` becomes ``bottom`` and ``high`` becomes ``top``; what lies beyond is clipped.

    Attributes
    ----------
    low, high : float
        Of the source; ``high`` is larger.
    bottom, top : float
        Of the result.
    dtype : str
        NumPy name of the type of the result.
    """

    low: float
    high: float
    bottom: float
    top: float
    dtype: str

    def apply(self, voxels: np.ndarray) -> tuple[np.ndarray, Clipped]:
        """The mapped voxels, in float32 arithmetic, rounded; values beyond are clipped and counted.

        Not a number becomes ``bottom`` and counts as too low.
        """
        if voxels.dtype.kind == "u" and voxels.itemsize <= 2:
            # every value is computed once, and looked up for each voxel
            table, below, above = self._map(np.arange(np.iinfo(voxels.dtype).max + 1))
            low = int(np.count_nonzero(voxels < self.low)) if below else 0
            high = int(np.count_nonzero(voxels > self.high)) if above else 0
            return table[voxels], Clipped(low, high)
        mapped, below, above = self._map(voxels)
        return mapped, Clipped(below, above)

    def _map(self, values: np.ndarray) -> tuple[np.ndarray, int, int]:
        below = int(np.count_nonzero(~(values >= self.low)))
        above = int(np.count_nonzero(values > self.high))
        scale = np.float32((self.top - self.bottom) / (self.high - self.low))
        result = (values.astype(np.float32) - np.float32(self.low)) * scale
        result += np.float32(self.bottom)
        if below:
            result[~(values >= self.low)] = self.bottom
        if above:
            result[values > self.high] = self.top
        np.clip(result, self.bottom, self.top, out=result)
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return result, below, above
        return to_integer(result, dtype, overwrite=True)[0], below, above


def full_range(dtype: str) -> tuple[float, float]:
    """Smallest and largest value of an integer type; 0 and 1 for floats."""
    if np.dtype(dtype).kind == "f":
        return 0.0, 1.0
    return 0.0, float(np.iinfo(dtype).max)

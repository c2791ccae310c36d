"""Maps of how much the first of two sides counts: coarse grids, linear between their points."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: value of a map where only the first side counts
WHOLE = 250
_STEPS = 16  # between two points along z, if there are as many planes


@dataclass(frozen=True)
class ShareMap:
    """Share of the first side at the points of a grid.

    Attributes
    ----------
    start_vox, step_vox : tuple of float
        Place of the first point and distance of the points (z, y, x), voxels.
    values : numpy.ndarray of uint8, shape (z, y, x)
        From 0 (only the second side counts) to ``WHOLE`` (only the first one). Beyond the grid
        that of its nearest point holds.
    """

    start_vox: tuple[float, float, float]
    step_vox: tuple[float, float, float]
    values: np.ndarray

    def filled(self, value: int) -> ShareMap:
        """The same grid with one value everywhere."""
        return replace(self, values=np.full_like(self.values, value))

    def depth(self, z: float) -> float:
        """The plane, near ``z``, whose shares hold there, so that few planes have to be computed.

        Between two points along z they change in sixteen steps.
        """
        thick = max(1.0, self.step_vox[0] // _STEPS)
        return (math.floor(z / thick) + 0.5) * thick - 0.5

    def plane(self, z: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Shares, float32 (rows, columns), at plane ``z``, rows ``y`` and columns ``x``, voxels.

        Each is computed from its own place alone, so that the bytes do not depend on the others.
        """
        low, high, part = self._between(0, np.array([float(z)]))
        grid = self.values[low[0]].astype(np.float32)
        grid += part[0] * (self.values[high[0]].astype(np.float32) - grid)
        grid *= np.float32(1 / WHOLE)
        low, high, part = self._between(1, y)
        rows = grid[low] + part[:, None] * (grid[high] - grid[low])
        low, high, part = self._between(2, x)
        result: np.ndarray = rows[:, low]
        result += part * (rows[:, high] - result)
        return result

    def at(self, places: np.ndarray) -> np.ndarray:
        """Shares, float64 (n), at the points of the grid nearest to ``places``, (3, n)."""
        index = tuple(self._nearest(axis, place) for axis, place in enumerate(places))
        shares: np.ndarray = np.divide(self.values[index], float(WHOLE))
        return shares

    def extent(
        self, side: int, first: tuple[float, ...], last: tuple[float, ...]
    ) -> list[tuple[float, float]] | None:
        """Where a side counts within a box, as ranges (z, y, x) of places, or None for nowhere.

        ``first`` and ``last`` are the outermost places of the box.
        """
        counts = self.values > 0 if side == 0 else self.values < WHOLE
        ends = []
        for axis, (a, b) in enumerate(zip(first, last)):
            low, high, _ = self._between(axis, np.array([a, b], float))
            ends.append((int(low[0]), int(high[1]) + 1))
        part = counts[tuple(slice(*e) for e in ends)]
        if not part.any():
            return None
        found = []
        for axis, (begin, _) in enumerate(ends):
            others = tuple(k for k in range(3) if k != axis)
            shown = begin + np.flatnonzero(part.any(axis=others))
            start, step = self.start_vox[axis], self.step_vox[axis]
            # between a point that counts and one that does not, voxels still count
            below, above = int(shown[0]) - 1, int(shown[-1]) + 1
            found.append(
                (
                    -np.inf if below < 0 else start + below * step,
                    np.inf if above == self.values.shape[axis] else start + above * step,
                )
            )
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShareMap) and self.to_json() == other.to_json()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return {
            "start_vox": list(self.start_vox),
            "step_vox": list(self.step_vox),
            "shape": list(self.values.shape),
            "values": packed(self.values),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ShareMap:
        """Inverse of :meth:`to_json`."""
        z, y, x = (float(v) for v in data["start_vox"])
        dz, dy, dx = (float(v) for v in data["step_vox"])
        return cls((z, y, x), (dz, dy, dx), unpacked(data["values"], data["shape"]))

    def _between(self, axis: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points before and after places along an axis, and how far they are from the first."""
        last = self.values.shape[axis] - 1
        steps = np.clip((places - self.start_vox[axis]) / self.step_vox[axis], 0, last)
        low = np.floor(steps).astype(np.intp)
        return low, np.minimum(low + 1, last), (steps - low).astype(np.float32)

    def _nearest(self, axis: int, places: np.ndarray) -> np.ndarray:
        steps = np.rint((places - self.start_vox[axis]) / self.step_vox[axis])
        nearest: np.ndarray = np.clip(steps, 0, self.values.shape[axis] - 1).astype(np.intp)
        return nearest


def packed(values: np.ndarray) -> str:
    """An array of uint8 as base64."""
    return base64.b64encode(np.ascontiguousarray(values, np.uint8).tobytes()).decode("ascii")


def unpacked(text: str, shape) -> np.ndarray:
    """Inverse of :func:`packed`; an array of another size is a ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(tuple(shape))

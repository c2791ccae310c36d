"""Where the voxels of an array lie: :class:`Frame`, and anatomical orientation codes.

An orientation code has one letter per array axis (z, y, x) and names the direction in which the
index of that axis *increases*: R/L (right, left), A/P (anterior, posterior), S/I (superior,
inferior). The Allen CCF read as a NumPy array is ``RIP``; the same data are written ``PIR`` where
axes are listed x, y, z (ITK, CloudReg), and ``lsa`` by BrainGlobe, which names the origin instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from terareg.core.errors import ConfigError
from terareg.core.orientation import all_orientations, check_orientation, opposite

__all__ = ["Frame", "all_orientations", "check_orientation", "orientation_matrix"]


def orientation_matrix(source: str, target: str) -> np.ndarray:
    """Signed permutation that turns vectors along ``source`` axes into ``target`` axes.

    Parameters
    ----------
    source, target : str
        Orientation codes.

    Returns
    -------
    numpy.ndarray, float64, shape (3, 3)
        ``m @ v_source = v_target``, both in array axis order (z, y, x).
    """
    source, target = check_orientation(source), check_orientation(target)
    matrix = np.zeros((3, 3))
    for row, wanted in enumerate(target):
        for column, given in enumerate(source):
            if given == wanted:
                matrix[row, column] = 1.0
            elif given == opposite(wanted):
                matrix[row, column] = -1.0
    return matrix


@dataclass(frozen=True)
class Frame:
    """Grid of an array in micrometres.

    Attributes
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    spacing_um : tuple of float
        Distance of neighbouring voxel centres, all positive.
    origin_um : tuple of float
        Position of the centre of voxel (0, 0, 0).
    orientation : str
        Code of the array axes, see the module's docstring.
    """

    shape: tuple[int, int, int]
    spacing_um: tuple[float, float, float]
    origin_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orientation: str = "SAR"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing_um", tuple(float(s) for s in self.spacing_um))
        object.__setattr__(self, "origin_um", tuple(float(o) for o in self.origin_um))
        object.__setattr__(self, "orientation", check_orientation(self.orientation))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ConfigError(
                f"shape {self.shape} is not that of a volume; give three positive sizes"
            )
        if len(self.spacing_um) != 3 or not all(
            math.isfinite(s) and s > 0 for s in self.spacing_um
        ):
            raise ConfigError(
                f"voxel size {self.spacing_um} um is impossible; give three positive numbers "
                "in micrometres"
            )

    @property
    def extent_um(self) -> tuple[float, float, float]:
        """Size of the volume from outer face to outer face."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing_um))

    @property
    def voxel_volume_um3(self) -> float:
        """Volume of one voxel."""
        return math.prod(self.spacing_um)

    @property
    def centre_um(self) -> np.ndarray:
        """Centre of the volume, shape (3,)."""
        return np.array(
            [o + (n - 1) / 2 * s for n, s, o in zip(self.shape, self.spacing_um, self.origin_um)]
        )

    def axes_um(self) -> list[np.ndarray]:
        """Voxel centres along each axis, three float64 vectors."""
        return [
            o + s * np.arange(n) for n, s, o in zip(self.shape, self.spacing_um, self.origin_um)
        ]

    def to_um(self, index: np.ndarray) -> np.ndarray:
        """Map voxel indices, shape (..., 3), to micrometres."""
        point_um: np.ndarray = np.asarray(index, float) * np.array(self.spacing_um)
        point_um += np.array(self.origin_um)
        return point_um

    def to_index(self, point_um: np.ndarray) -> np.ndarray:
        """Map micrometres, shape (..., 3), to (fractional) voxel indices."""
        index: np.ndarray = np.asarray(point_um, float) - np.array(self.origin_um)
        index /= np.array(self.spacing_um)
        return index

    def contains(self, point_um: np.ndarray) -> np.ndarray:
        """Whether points, shape (..., 3), lie inside the outer faces."""
        index = self.to_index(point_um)
        low, high = -0.5, np.array(self.shape) - 0.5
        inside: np.ndarray = np.all((index >= low) & (index <= high), axis=-1)
        return inside

    def downsampled(self, factor: Sequence[int]) -> Frame:
        """Grid of block means over ``factor`` voxels; a partial block at the end counts."""
        return replace(
            self,
            shape=tuple(-(-n // f) for n, f in zip(self.shape, factor)),
            spacing_um=tuple(s * f for s, f in zip(self.spacing_um, factor)),
            origin_um=tuple(
                o + s * (f - 1) / 2 for o, s, f in zip(self.origin_um, self.spacing_um, factor)
            ),
        )

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Frame:
        """Grid of the box ``start <= index < stop``."""
        return replace(
            self,
            shape=tuple(b - a for a, b in zip(start, stop)),
            origin_um=tuple(self.to_um(np.array(start))),
        )

    def resampled(self, spacing_um: Sequence[float]) -> Frame:
        """Grid of another spacing that covers the same outer faces (rounded outwards)."""
        shape: tuple[int, int, int] = tuple(
            max(1, math.ceil(n * s / t - 1e-6))
            for n, s, t in zip(self.shape, self.spacing_um, spacing_um)
        )
        origin: tuple[float, float, float] = tuple(
            o - s / 2 + t / 2 for o, s, t in zip(self.origin_um, self.spacing_um, spacing_um)
        )
        return Frame(shape, tuple(spacing_um), origin, self.orientation)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return {
            "shape": list(self.shape),
            "spacing_um": list(self.spacing_um),
            "origin_um": list(self.origin_um),
            "orientation": self.orientation,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Frame:
        """Inverse of :meth:`to_json`."""
        return cls(
            tuple(data["shape"]),
            tuple(data["spacing_um"]),
            tuple(data["origin_um"]),
            data["orientation"],
        )

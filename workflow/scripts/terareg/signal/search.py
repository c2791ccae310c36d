"""At which voxel size, and in which boxes, cells are looked for (standard library only).

The costs, the plan and the search itself need it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from terareg.core.errors import VolumeError

#: voxels across a cell that are enough: a coarser level of the volume is used if it has more
ACROSS = 5.0
#: standard deviation of the filter in diameters: a ball has the largest answer at 0.29, the
#: clearest at 0.35
SIGMA = 1 / 3
#: radius of the filter, standard deviations
REACH = 4.0
#: samples of the noise along each axis of a window; they are half a diameter apart
SAMPLES = 4
_BOX_VOX = 256
_LEAST_VOXELS = 1.0  # of a diameter, along any axis
_MOST_OF_VOLUME = 0.25  # of its longest edge: beyond, the unit is wrong


def three(value: float | Sequence[float]) -> tuple[float, float, float]:
    """One number for all axes, or one for each of (z, y, x)."""
    values = [value] * 3 if isinstance(value, (int, float)) else list(value)
    return tuple(float(v) for v in values)


def check_size(
    diameter_um: Sequence[float], shape: Sequence[int], spacing_um: Sequence[float], what: str
) -> None:
    """Raise unless cells of a size can be looked for in a volume.

    Parameters
    ----------
    diameter_um : sequence of float
        Along (z, y, x).
    shape, spacing_um : sequence
        Of the volume, voxels and micrometres, (z, y, x).
    what : str
        Where the diameter is given.

    Raises
    ------
    VolumeError
        If a cell is less than a voxel across, or more than a quarter of the volume.
    """
    across = [d / s for d, s in zip(diameter_um, spacing_um)]
    if min(across) < _LEAST_VOXELS:
        axis = across.index(min(across))
        raise VolumeError(
            f"{what}: a diameter of {diameter_um[axis]:g} um is {min(across):.2g} voxels of "
            f"{spacing_um[axis]:g} um along {'zyx'[axis]}, less than {_LEAST_VOXELS:g}; cells so "
            "small cannot be told from noise: give their diameter in the image, in micrometres, "
            "or use a finer volume"
        )
    longest = max(n * s for n, s in zip(shape, spacing_um))
    if max(diameter_um) > _MOST_OF_VOLUME * longest:
        raise VolumeError(
            f"{what}: a diameter of {max(diameter_um):g} um is {max(diameter_um) / longest:.0%} of "
            f"the whole volume, which is {longest / 1e3:.4g} mm long; give the diameter of a cell "
            "in micrometres"
        )


def working_um(settings: Mapping[str, Any]) -> float:
    """Voxel size that is fine enough for a set of cells."""
    given = settings["resolution_um"]
    return float(given) if given is not None else min(three(settings["diameter_um"])) / ACROSS


def step_vox(diameter_um: Sequence[float], spacing_um: Sequence[float]) -> tuple[int, int, int]:
    """Distance of the voxels from which the noise is measured."""
    return tuple(max(1, round(d / s / 2)) for d, s in zip(diameter_um, spacing_um))


def reach_vox(diameter_um: Sequence[float], spacing_um: Sequence[float]) -> tuple[int, int, int]:
    """How far the filter sees."""
    return tuple(int(REACH * SIGMA * d / s + 0.5) + 2 for d, s in zip(diameter_um, spacing_um))


def box_vox(diameter_um: Sequence[float], spacing_um: Sequence[float]) -> tuple[int, int, int]:
    """Edges of the boxes that are searched one at a time: whole windows of the noise."""
    windows = (SAMPLES * step for step in step_vox(diameter_um, spacing_um))
    return tuple(max(1, _BOX_VOX // w) * w for w in windows)


def read_mvox(diameter_um: Sequence[float], spacing_um: Sequence[float]) -> float:
    """Millions of voxels that the search of one box reads."""
    sizes = zip(
        box_vox(diameter_um, spacing_um),
        step_vox(diameter_um, spacing_um),
        reach_vox(diameter_um, spacing_um),
    )
    return math.prod(box + 2 * (SAMPLES * step + reach) for box, step, reach in sizes) / 1e6

"""The region of a source that an entry of ``derived:`` is made from (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from terareg.core.errors import ConfigError
from terareg.core.levels import Box

_ALMOST = 1e-6  # of a voxel; 24.999999 voxels are 25


def box_of(
    settings: Mapping[str, Any],
    shape: Sequence[int],
    spacing_um: Sequence[float],
    where: str,
    *,
    clip: bool = False,
) -> tuple[Box, Box]:
    """First voxel, and the one beyond the last, of the region that is read of a level.

    Parameters
    ----------
    settings : mapping
        Of an entry: ``box_vox`` ([[z, y, x], [z, y, x]], voxels of the level that is read) or
        ``box_um`` (micrometres from the outer corner of the source, widened to whole voxels), or
        neither for everything.
    shape : sequence of int
        Voxels (z, y, x) of the level.
    spacing_um : sequence of float
        Their size.
    where : str
        Key of the entry, for messages.
    clip : bool
        Cut a region that leaves the volume, instead of refusing it: the shape is not exact yet.

    Raises
    ------
    ConfigError
        If the region leaves the volume.
    """
    key = next((k for k in ("box_vox", "box_um") if settings.get(k) is not None), None)
    if key is None:
        return (0, 0, 0), tuple(shape)
    first, last = settings[key]
    if key == "box_um":
        first = [math.floor(v / s + _ALMOST) for v, s in zip(first, spacing_um)]
        last = [math.ceil(v / s - _ALMOST) for v, s in zip(last, spacing_um)]
    if clip:
        first = [min(a, n - 1) for a, n in zip(first, shape)]
        last = [max(a + 1, min(b, n)) for a, b, n in zip(first, last, shape)]
    if not all(0 <= a < b <= n for a, b, n in zip(first, last, shape)):
        raise ConfigError(
            f"{where}.{key}: {settings[key]} reaches beyond the volume, whose level has "
            f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:g}' for s in spacing_um)} "
            "um (z, y, x); give a region inside it"
        )
    return tuple(first), tuple(last)

"""Levels of a multi-resolution volume (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[int, int, int]

#: which axes are halved from one level to the next
HALVED = ("finest", "yx", "zyx")


def level_factors(
    shape: Sequence[int], spacing_um: Sequence[float], chunk: int, halved: str = "finest"
) -> list[Box]:
    """Cumulative downsampling factors (z, y, x), (1, 1, 1) first.

    From one level to the next, the axes whose spacing is within a factor of sqrt(2) of the finest
    are halved, so that a coarse z axis is left alone until voxels are nearly cubic; sizes round up.
    Levels are added until one chunk of ``chunk`` voxels along each axis holds the whole volume.
    With ``halved`` "yx" only y and x are ever halved, with "zyx" every axis that is longer than one
    voxel is, whatever the spacing.
    """
    factors = [(1, 1, 1)]
    while True:
        factor = factors[-1]
        sizes = [-(-n // f) for n, f in zip(shape, factor)]
        if max(sizes[1:] if halved == "yx" else sizes) <= chunk:
            return factors
        spacing = [s * f for s, f in zip(spacing_um, factor)]
        finest = min(s for s, n in zip(spacing, sizes) if n > 1)
        limit = finest * math.sqrt(2) * (1 + 1e-9)
        chosen = {
            "finest": [s <= limit for s in spacing],
            "yx": [False, True, True],
            "zyx": [True, True, True],
        }[halved]
        factors.append(tuple(f * 2 if n > 1 and c else f for f, n, c in zip(factor, sizes, chosen)))


def coarsest_level(
    spacings_um: Sequence[Sequence[float]], wanted_um: Sequence[float]
) -> int | None:
    """Coarsest level that is at least as fine as wanted along every axis.

    An axis that is coarser than wanted already at level 0 sets no limit, because no level is finer.

    Parameters
    ----------
    spacings_um : sequence of (z, y, x)
        Voxel size of each level, finest first.
    wanted_um : sequence of float
        (z, y, x).

    Returns
    -------
    int or None
        None if level 0 is coarser than wanted along every axis.
    """
    finest = spacings_um[0]
    axes = [a for a in range(3) if finest[a] <= wanted_um[a] * (1 + 1e-6)]
    if not axes:
        return None
    best = 0
    for level, spacing in enumerate(spacings_um):
        fine = all(spacing[a] <= wanted_um[a] * (1 + 1e-6) for a in axes)
        kept = all(spacing[a] <= finest[a] for a in range(3) if a not in axes)
        if fine and kept:
            best = level
    return best

"""How much of the tiles channels and sides are compared on (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_TILES = 24  # looked at for structure, one plane at each of the depths
DEPTHS = 3  # of the stack that are looked at, fewer in thin stacks
MOST_PLACES = 10  # a tile at a depth, with structure in both channels, that are compared
PLANES = 24  # compared at each place
FIELD = 3  # patches along each side of the field of view
PATCH_PX = 128  # edge of a patch, pixels, in large tiles
_LEAST_SEARCH = 4  # voxels
SIDE_TILES = 24  # on which the sides of a channel are compared, where distance decides
_SIDE_DEPTHS = 3  # of the stack at which they are compared, two planes at each, at least
_SIDE_DEPTHS_Z = 9  # the same where the sides differ along z
_SIDE_UM = 300.0  # along z between these where what sides show decides
_MOST_DEPTHS = 16
LOOKED_AT = 8  # planes of a tile by which the side is chosen that a displacement is measured on
WIDEN = 2  # a shift that is not found is looked for once more over this many times the range


def side_depths(planes: int, z_um: float, axis: int, content: bool) -> int:
    """Depths of the stack at which the sides of a channel are compared, two planes at each.

    ``axis`` is that of the light, and ``content`` says whether what they show decides where each
    counts.
    """
    least = _SIDE_DEPTHS if axis else _SIDE_DEPTHS_Z
    if not content:
        return least
    return max(least, min(_MOST_DEPTHS, math.ceil(planes * z_um / _SIDE_UM)))


def search_in_voxels(
    search_um: Sequence[float], spacing_um: Sequence[float], tile_shape: Sequence[int]
) -> list[int]:
    """Voxels (z, y, x) to search, up to a quarter of the tile; no z in stacks too thin for it.

    Where a few voxels are larger than the search, these are searched: among fewer places patches
    may agree by chance.
    """
    search = [max(_LEAST_SEARCH, math.ceil(s / p - 1e-9)) for s, p in zip(search_um, spacing_um)]
    if tile_shape[0] < 4:
        search[0] = 0
    return [min(s, n // 4) for s, n in zip(search, tile_shape)]

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
SIDE_TILES = 24  # on which the sides of a channel are compared
SIDE_DEPTHS = 3  # of the stack at which they are compared, two planes at each
SIDE_DEPTHS_Z = 9  # the same where the sides differ along z
WIDEN = 2  # a shift that is not found is looked for once more over this many times the range


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

"""Shapes of tiles that are more than moved: what they mean, in a matrix and in words.

What a tile shows at index i lies, relative to its origin, at ``i + B @ ((i - middle) / (n - 1))``.
The columns of its shape B say how far (z, y, x), in voxels, what it shows moves from its first
plane to its last, from its first row to its last, and from its first column to its last; the first
one is its lean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from terareg.core.errors import few

#: voxels over the tile from which a lean or another shape is told and may be corrected
LEAST_VOX = 1.0
_LEAST_STRETCH = 0.1  # %, from which a tile is called stretched


def in_planes(
    shape: np.ndarray, tile_shape: Sequence[int], planes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where planes of a tile show what they show, without what it moves along z.

    Parameters
    ----------
    shape : numpy.ndarray, (3, 3)
    tile_shape : sequence of int
    planes : numpy.ndarray, (n)
        Numbers of planes of the tile.

    Returns
    -------
    linear : numpy.ndarray, (2, 2)
    moved : numpy.ndarray, (n, 2)
        Index (y, x) of plane k lies, beside the origin, at ``linear @ index + moved[k]``.
    """
    slopes = _slopes(shape, tile_shape)[1:]
    middle = (np.array(tile_shape, float) - 1) / 2
    depth = np.asarray(planes, float)[:, None] - middle[0]
    return np.eye(2) + slopes[:, 1:], depth * slopes[:, 0] - slopes[:, 1:] @ middle[1:]


def matrix_of(shape: np.ndarray, tile_shape: Sequence[int]) -> np.ndarray:
    """Matrix, (3, 3), from places relative to a tile's middle to its indices relative to it."""
    return np.linalg.inv(np.eye(3) + _slopes(shape, tile_shape))


def shape_warnings(shapes: Mapping[str, np.ndarray], tiles: int, size: Sequence[int]) -> list[str]:
    """A sentence for the user about those tiles that are turned, larger or sheared.

    Parameters
    ----------
    shapes : mapping
        Tile name to its shape; those that only lean, or by less than a voxel, are left out.
    tiles : int
        Number of all tiles.
    size : sequence of int
        Shape of a tile's array.
    """
    told = {n: shape for n, shape in shapes.items() if np.abs(shape[:, 1:]).max() > LEAST_VOX}
    if not told:
        return []
    worst = sorted(told, key=lambda name: -float(np.abs(told[name][:, 1:]).max()))
    words = few([f"{name} ({shape_words(told[name], size)})" for name in worst])
    return [f"{len(told)} of {tiles} tiles are rotated, scaled or sheared: {words}"]


def shape_words(shape: np.ndarray, size: Sequence[int]) -> str:
    """How much a tile is turned, shows things larger or smaller, is stretched, and leans."""
    slope = _slopes(shape, size)
    plane = np.eye(2) + slope[1:, 1:]
    turned = math.degrees(math.atan2(plane[1, 0] - plane[0, 1], plane[0, 0] + plane[1, 1]))
    larger = 100 / math.sqrt(max(float(np.linalg.det(plane)), 1e-9)) - 100
    words = [
        f"{abs(turned):.2f} degrees {'counter' if turned > 0 else ''}clockwise",
        f"{abs(larger):.2f} % {'larger' if larger > 0 else 'smaller'}",
    ]
    stretch = 50 * math.hypot(slope[1, 1] - slope[2, 2], slope[1, 2] + slope[2, 1])
    if stretch > _LEAST_STRETCH:
        words.append(f"stretched by {stretch:.2f} %")
    moves = [*zip("zyx", np.asarray(shape)[:, 0]), ("z", shape[0, 1]), ("z", shape[0, 2])]
    ways = ("over the stack",) * 3 + ("over its height", "over its width")
    words += [
        f"{axis} {by:+.1f} px {way}" for (axis, by), way in zip(moves, ways) if abs(by) > LEAST_VOX
    ]
    return ", ".join(words)


def _slopes(shape: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Change of the place per voxel, (3, 3)."""
    slopes: np.ndarray = np.asarray(shape, float) / np.maximum(np.array(size, float) - 1, 1)
    return slopes

"""Closed surfaces of labels, made block by block and joined without holes.

Marching cubes (Lorensen and Cline 1987), by zmesh for all labels at once, works in cells between
eight voxels. A block owns the cells that begin at its voxels, for which it reads one more plane
along each axis; so the surfaces of all blocks together are those of the whole volume, triangle by
triangle. Vertices lie half-way between two voxels, and are counted in fractions of a voxel, so that
the same vertex has the same integers in every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import zmesh

from terareg.core.levels import Box
from terareg.volumes.plan import Block

#: steps of vertices per voxel
STEPS = 64
#: a vertex index of the volume fits into this many bits along each axis
_BITS = 21
# share of its volume that an object may lack, and its root
_VOLUME_ERROR, _NEAR = 1e-3, 0.03


@dataclass(frozen=True)
class Surface:
    """Triangles of one label.

    Attributes
    ----------
    vertices : numpy.ndarray of int64, shape (n, 3)
        z, y, x in steps of 1/64 voxel from the centre of the volume's first voxel.
    faces : numpy.ndarray of int64, shape (m, 3)
        Counter-clockwise seen from outside in the coordinates x, y, z.
    """

    vertices: np.ndarray
    faces: np.ndarray


def block_surfaces(
    labels: np.ndarray, block: Block, shape: Box, wanted: frozenset[int] | None = None
) -> Iterator[tuple[int, Surface]]:
    """Surfaces of all labels in the cells of a block, ascending by label; 0 has none.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
        The block and the planes after it, see :func:`terareg.objects.labelling.extended`.
    block : Block
    shape : tuple of int
        Of the volume. Surfaces close at its border.
    wanted : frozenset of int, optional
        Labels to make; all, if not given.

    Yields
    ------
    label : int
    surface : Surface
        Not closed where the label continues in another block.
    """
    # outside of the volume there is background: one plane of it at each end
    pad = [(int(a == 0), int(b == n)) for a, b, n in zip(block.start, block.stop, shape)]
    if wanted is not None or any(map(any, pad)):
        labels = np.pad(labels, pad)
    if wanted is not None:
        known = [label for label in wanted if label <= np.iinfo(labels.dtype).max]
        labels[np.isin(labels, np.array(known, labels.dtype), invert=True)] = 0
    corner = np.array([a - before for a, (before, _) in zip(block.start, pad)])
    mesher = zmesh.Mesher((1, 1, 1))
    mesher.mesh(labels)
    for label in sorted(mesher.ids()):
        found = mesher.get(label)
        mesher.erase(label)
        steps = (STEPS * found.vertices).astype(np.int64) + STEPS * corner
        # of z, y, x, which turns the other way round than x, y, z
        yield int(label), Surface(steps, found.faces[:, ::-1].astype(np.int64))


def joined(surfaces: Iterable[Surface]) -> Surface:
    """One surface of those of several blocks, which share the vertices at their borders."""
    surfaces = list(surfaces)
    if len(surfaces) == 1:
        return surfaces[0]
    return merged(*surfaces)


def merged(*surfaces: Surface) -> Surface:
    """One surface of some, with one vertex at each place and no triangle without extent."""
    vertices = np.concatenate([s.vertices for s in surfaces])
    offsets = np.cumsum([0] + [len(s.vertices) for s in surfaces])
    faces = np.concatenate([s.faces + o for s, o in zip(surfaces, offsets)])
    moved = vertices - vertices.min(0)
    if moved.max(initial=0) >> _BITS:  # an object of more than 32768 voxels
        _, first, inverse = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
    else:
        codes = (moved[:, 0] << 2 * _BITS) | (moved[:, 1] << _BITS) | moved[:, 2]
        order = np.argsort(codes)
        codes = codes[order]
        new = np.append(True, codes[1:] != codes[:-1])
        first, inverse = order[new], np.empty(len(order), np.int64)
        inverse[order] = np.cumsum(new) - 1
    faces = inverse[faces]
    whole = (
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    )
    return Surface(vertices[first], faces[whole])


def enclosed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume inside a closed surface, in the cube of the vertices' unit.

    Parameters
    ----------
    vertices : numpy.ndarray, shape (n, 3)
        z, y, x.
    faces : numpy.ndarray of integers, shape (m, 3)
        A surface whose triangles face outwards has a positive volume.
    """
    a, b, c = (vertices[faces[:, n]].astype(np.float64)[:, ::-1] for n in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def with_volume(vertices: np.ndarray, faces: np.ndarray, volume: float) -> np.ndarray:
    """Vertices moved along their normals until the surface encloses a volume.

    Marching cubes cuts the corners of voxels and simplification those of the surface, which makes
    small and thin objects too small. Newton's method, three steps at most. No vertex moves by more
    than half of the mean edge at once.

    Parameters
    ----------
    vertices : numpy.ndarray, shape (n, 3)
    faces : numpy.ndarray of integers, shape (m, 3)
    volume : float
        Wanted, in the cube of the vertices' unit; it is met to one part in a thousand, unless that
        is too far.
    """
    corners, place = faces.T.copy(), vertices.T.astype(np.float64)
    for _ in range(3):
        a, b, c = (place[:, corner] for corner in corners)
        b, c = b - a, c - a
        # outwards of z, y, x, which turns the other way round than x, y, z
        normal = np.stack([b[i] * c[j] - b[j] * c[i] for i, j in ((2, 1), (0, 2), (1, 0))])
        missing = volume - float(np.einsum("ij,ij->", a, normal)) / 6
        if abs(missing) <= _VOLUME_ERROR * volume:
            break
        # six times the change of volume with the place of each vertex
        way = np.stack(
            [sum(np.bincount(corner, part, place.shape[1]) for corner in corners)
             for part in normal]
        )  # fmt: skip
        length = np.sqrt(np.einsum("ij,ij->j", way, way))
        rate = length.sum() / 6
        if rate == 0:
            break
        limit = 0.5 * float(np.sqrt(np.einsum("ij,ij->j", b, b)).mean())
        way = np.divide(way, length, out=np.zeros_like(way), where=length > 0)
        place = place + np.clip(missing / rate, -limit, limit) * way
        if abs(missing) <= min(_NEAR * volume, limit * rate):
            break  # what is left is about the square of that
    return place.T.copy()

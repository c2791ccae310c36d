"""Fewer triangles within an error: edges are collapsed in order of the error that this makes.

Quadric error metrics (Garland and Heckbert 1997): every vertex carries the sum of squared distances
to the planes of the triangles that it stands for, weighted by area, and an edge becomes a vertex
where that sum is least. Here many edges are collapsed at once, none of them beside another one, so
that the result does not depend on the order in which they are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

_MOST_ROUNDS = 200
_LEAST_SHARE = 0.002  # a round that collapses fewer of the vertices is the last
_TURN = 0.2  # cosine of the largest angle by which a triangle may turn
_PASSES = 3
_COST_STEPS = 1 << 20  # costs of edges are compared in as many steps of the largest
_SHUFFLE = np.uint64(0x9E3779B97F4A7C15)  # an odd number, so that products differ
_TOGETHER = 1_000_000  # triangles of surfaces that are simplified at once


@dataclass
class _Mesh:
    """Vertices, their quadrics (10 numbers) and weights, faces, which vertices stay, and which of
    the first vertices each was."""

    vertices: np.ndarray
    quadrics: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    fixed: np.ndarray
    origin: np.ndarray


def simplified_together(
    surfaces: Sequence[tuple[np.ndarray, np.ndarray]], error: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """:func:`simplified` for many surfaces, which costs much less than one by one.

    Parameters
    ----------
    surfaces : sequence of tuple of numpy.ndarray
        Vertices and faces of each.
    error : float
    """
    if error <= 0:
        return list(surfaces)
    result: list[tuple[np.ndarray, np.ndarray]] = []
    first = 0
    while first < len(surfaces):
        last, triangles = first, 0
        while last < len(surfaces) and (last == first or triangles < _TOGETHER):
            triangles += len(surfaces[last][1])
            last += 1
        result += _together(surfaces[first:last], error)
        first = last
    return result


def _together(
    surfaces: Sequence[tuple[np.ndarray, np.ndarray]], error: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in surfaces])
    vertices = np.concatenate([vertices for vertices, _ in surfaces])
    faces = np.concatenate([faces + start for (_, faces), start in zip(surfaces, starts)])
    vertices, faces, origin = _simplified(vertices, faces, error, None)
    # vertices keep their order, so that those of a surface stay together
    starts = np.searchsorted(origin, starts)
    owner = np.searchsorted(starts, faces[:, 0], "right") - 1
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(len(surfaces) + 1))
    return [
        (vertices[a:b], faces[order[c:d]] - a)
        for a, b, c, d in zip(starts[:-1], starts[1:], ends[:-1], ends[1:])
    ]


def simplified(
    vertices: np.ndarray, faces: np.ndarray, error: float, fixed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges while the root mean square distance from the original planes allows it.

    Closed surfaces stay closed, of the same topology; edges at a border, and those of more than two
    triangles, keep their place.

    Parameters
    ----------
    vertices : numpy.ndarray of float64, shape (n, 3)
    faces : numpy.ndarray of integers, shape (m, 3)
    error : float
        Largest root mean square distance of a vertex from the planes that it stands for, in the
        unit of the vertices.
    fixed : numpy.ndarray of bool, shape (n,), optional
        Vertices that keep their place.

    Returns
    -------
    vertices : numpy.ndarray of float64, shape (k, 3)
    faces : numpy.ndarray of int64, shape (l, 3)
    """
    return _simplified(vertices, faces, error, fixed)[:2]


def _simplified(
    vertices: np.ndarray, faces: np.ndarray, error: float, fixed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces, and which of the old vertices each vertex was, ascending."""
    faces = np.asarray(faces, np.int64)
    vertices = np.asarray(vertices, np.float64)
    if not len(faces) or error <= 0:
        return vertices, faces, np.arange(len(vertices))
    centre = vertices.mean(axis=0)  # large coordinates would cost digits of the distances
    mesh = _with_quadrics(vertices - centre, faces, fixed)
    rejected = np.zeros(0, np.int64)
    for _ in range(_MOST_ROUNDS):
        before = len(mesh.vertices)
        collapsed, rejected = _round(mesh, error, rejected)
        if collapsed < max(1, _LEAST_SHARE * before):
            break
    return mesh.vertices + centre, mesh.faces, mesh.origin


def _with_quadrics(vertices: np.ndarray, faces: np.ndarray, fixed: np.ndarray | None) -> _Mesh:
    a, b, c = (vertices[faces[:, n]] for n in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    unit = np.divide(normal, length[:, None], out=np.zeros_like(normal), where=length[:, None] > 0)
    plane = np.column_stack([unit, -np.einsum("ij,ij->i", unit, a)])
    upper = np.triu_indices(4)
    each = plane[:, upper[0]] * plane[:, upper[1]] * (length / 2)[:, None]
    quadrics = np.zeros((len(vertices), 10))
    weights = np.zeros(len(vertices))
    for n in range(3):
        for i in range(10):
            quadrics[:, i] += np.bincount(faces[:, n], each[:, i], len(vertices))
        weights += np.bincount(faces[:, n], length / 2, len(vertices))
    stay = np.zeros(len(vertices), bool) if fixed is None else fixed.copy()
    keys, counts = _edges(faces, len(vertices))
    odd = keys[counts != 2]
    stay[odd // len(vertices)] = stay[odd % len(vertices)] = True
    return _Mesh(vertices, quadrics, weights, faces, stay, np.arange(len(vertices)))


def _edges(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges as first x count + second vertex, and how many triangles each has."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(pairs.min(1) * count + pairs.max(1), return_counts=True)


def _round(mesh: _Mesh, error: float, rejected: np.ndarray) -> tuple[int, np.ndarray]:
    """Collapse edges that are not beside one another; return their number and those not to try."""
    count = len(mesh.vertices)
    keys, _ = _edges(mesh.faces, count)
    u, v = np.divmod(keys, count)
    place, cost = _best_place(mesh, u, v)
    possible = (cost <= error**2) & ~(mesh.fixed[u] & mesh.fixed[v])
    if len(rejected):
        possible &= ~np.isin(keys, rejected)
    if not possible.any():
        return 0, rejected
    rank = np.full(len(keys), len(keys))
    chosen = np.flatnonzero(possible)
    # digits that depend on place and unit decide nothing; equal ones in an order without direction
    about = np.rint(cost[chosen] * (_COST_STEPS / error**2))
    shuffled = keys[chosen].astype(np.uint64) * _SHUFFLE
    rank[chosen[np.lexsort((shuffled, about))]] = np.arange(len(chosen))
    picked = _apart(u, v, rank, count)
    good = _keeps_shape(mesh, (u, v), place, picked)
    refused = keys[picked[~good]]
    picked = picked[good]
    touched = np.zeros(count, bool)
    touched[u[picked]] = touched[v[picked]] = True
    number = _collapse(mesh, u[picked], v[picked], place[picked])
    rejected = np.concatenate([rejected, refused])
    first, second = np.divmod(rejected, count)
    # an edge at a vertex that has moved may be tried again
    first, second = (n[~touched[first] & ~touched[second]] for n in (first, second))
    first, second = number[first], number[second]
    new = len(mesh.vertices)
    return len(picked), np.minimum(first, second) * new + np.maximum(first, second)


def _best_place(mesh: _Mesh, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the vertex of each collapsed edge lies, and its mean squared distance."""
    q = mesh.quadrics[u] + mesh.quadrics[v]
    weight = np.maximum(mesh.weights[u] + mesh.weights[v], 1e-300)
    a, b = mesh.vertices[u], mesh.vertices[v]
    middle = (a + b) / 2
    # a weak pull towards the middle decides where planes leave the place open
    pull = 1e-3 * weight
    m00, m01, m02, m03, m11, m12, m13, m22, m23, _ = q.T
    m00, m11, m22 = m00 + pull, m11 + pull, m22 + pull
    right = np.stack([-m03, -m13, -m23]) + pull * middle.T
    c00, c01, c02 = m11 * m22 - m12 * m12, m02 * m12 - m01 * m22, m01 * m12 - m02 * m11
    c11, c12, c22 = m00 * m22 - m02 * m02, m01 * m02 - m00 * m12, m00 * m11 - m01 * m01
    determinant = m00 * c00 + m01 * c01 + m02 * c02
    place = np.stack(
        [
            c00 * right[0] + c01 * right[1] + c02 * right[2],
            c01 * right[0] + c11 * right[1] + c12 * right[2],
            c02 * right[0] + c12 * right[1] + c22 * right[2],
        ]
    )
    place = (place / np.where(determinant == 0, 1, determinant)).T
    reach = np.linalg.norm(b - a, axis=1)
    far = np.linalg.norm(place - middle, axis=1) > 2 * reach
    place = np.where((far | (determinant == 0))[:, None], middle, place)
    place = np.where(mesh.fixed[u][:, None], a, np.where(mesh.fixed[v][:, None], b, place))
    x, y, z = place.T
    q = q.T
    total = (
        q[0] * x * x + q[4] * y * y + q[7] * z * z + q[9]
        + 2 * (q[1] * x * y + q[2] * x * z + q[5] * y * z + q[3] * x + q[6] * y + q[8] * z)
    )  # fmt: skip
    return place, np.maximum(total, 0) / weight


def _apart(u: np.ndarray, v: np.ndarray, rank: np.ndarray, count: int) -> np.ndarray:
    """Edges in order of rank of which no two share a vertex or are joined by an edge."""
    open_ = rank < len(rank)
    picked = []
    for _ in range(_PASSES):
        rank_now = np.where(open_, rank, len(rank))
        least = np.full(count, len(rank))
        np.minimum.at(least, u, rank_now)
        np.minimum.at(least, v, rank_now)
        around = least.copy()
        np.minimum.at(around, u, least[v])
        np.minimum.at(around, v, least[u])
        found = np.flatnonzero(open_ & (rank == around[u]) & (rank == around[v]))
        if not len(found):
            break
        picked.append(found)
        taken = np.zeros(count, bool)
        taken[u[found]] = taken[v[found]] = True
        beside = taken.copy()
        beside[u[taken[v]]] = beside[v[taken[u]]] = True
        open_ &= ~(beside[u] | beside[v])
    return np.concatenate(picked) if picked else np.zeros(0, np.int64)


def _keeps_shape(
    mesh: _Mesh, ends: tuple[np.ndarray, np.ndarray], place: np.ndarray, picked: np.ndarray
) -> np.ndarray:
    """Whether the collapse of each picked edge keeps the topology and turns no triangle over."""
    u, v = (end[picked] for end in ends)
    count = len(mesh.vertices)
    both = np.concatenate([ends[0], ends[1]]), np.concatenate([ends[1], ends[0]])
    beside = sparse.csr_array((np.ones(len(both[0]), np.int32), both), shape=(count, count))
    # the two ends of an edge of a closed surface have two neighbours in common, or it is a neck;
    # these keep at least three neighbours, or two triangles would lie on each other
    common = beside[u].multiply(beside[v])
    few = (np.diff(beside.indptr) <= 3).astype(np.int32)
    good = (np.asarray(common.sum(axis=1)).reshape(-1) == 2) & (common @ few == 0)
    owner = np.full(count, -1)
    owner[u] = owner[v] = np.arange(len(picked))
    moved = mesh.vertices.copy()
    moved[u] = moved[v] = place[picked]
    of_faces = owner[mesh.faces]
    near = np.flatnonzero((of_faces >= 0).any(axis=1))
    of_faces = of_faces[near]
    gone = (of_faces >= 0).sum(axis=1) >= 2
    near, edge = near[~gone], of_faces[~gone].max(axis=1)
    old, new = (_normals(points, mesh.faces[near]) for points in (mesh.vertices, moved))
    along = np.einsum("ij,ij->i", old, new)
    turned = along <= _TURN * np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    good[edge[turned]] = False
    return good


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, n]] for n in range(3))
    return np.cross(b - a, c - a)


def _collapse(mesh: _Mesh, u: np.ndarray, v: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Collapse edges to their first vertex; return the new number of every vertex."""
    count = len(mesh.vertices)
    mesh.vertices[u] = place
    mesh.quadrics[u] += mesh.quadrics[v]
    mesh.weights[u] += mesh.weights[v]
    mesh.fixed[u] |= mesh.fixed[v]
    target = np.arange(count)
    target[v] = u
    faces = target[mesh.faces]
    whole = (
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    )
    kept = np.ones(count, bool)
    kept[v] = False
    number = np.cumsum(kept) - 1
    mesh.faces = number[faces[whole]]
    mesh.vertices, mesh.quadrics = mesh.vertices[kept], mesh.quadrics[kept]
    mesh.weights, mesh.fixed = mesh.weights[kept], mesh.fixed[kept]
    mesh.origin = mesh.origin[kept]
    return number[target]

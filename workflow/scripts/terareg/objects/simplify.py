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
class _Edges:
    """Edges in order: vertices ``u < v``, the place of a vertex in place of both, and its cost."""

    u: np.ndarray
    v: np.ndarray
    place: np.ndarray
    cost: np.ndarray

    @property
    def key(self) -> np.ndarray:
        """Both vertices as one number, in the order of the edges."""
        return _key(self.u, self.v)


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
    edges = _costed(mesh, *_edges(mesh.faces)[:2])
    rejected = np.zeros(0, np.int64)
    for _ in range(_MOST_ROUNDS):
        before = len(mesh.vertices)
        collapsed, edges, rejected = _round(mesh, edges, error, rejected)
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
    u, v, counts = _edges(faces)
    stay[u[counts != 2]] = stay[v[counts != 2]] = True
    return _Mesh(vertices, quadrics, weights, faces, stay, np.arange(len(vertices)))


def _key(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u << 32 | v


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second vertex of every edge, sorted, and how many triangles each has."""
    a, b, c = faces.T
    pairs = ((a, b), (b, c), (c, a))
    keys = [_key(np.minimum(one, two), np.maximum(one, two)) for one, two in pairs]
    unique, counts = np.unique(np.concatenate(keys), return_counts=True)
    return unique >> 32, unique & 0xFFFFFFFF, counts


def _costed(mesh: _Mesh, u: np.ndarray, v: np.ndarray) -> _Edges:
    return _Edges(u, v, *_best_place(mesh, u, v))


def _round(
    mesh: _Mesh, edges: _Edges, error: float, rejected: np.ndarray
) -> tuple[int, _Edges, np.ndarray]:
    """Collapse edges that are not beside one another.

    Returns their number, the edges that are left, and the keys of those not to try.
    """
    count, u, v, cost = len(mesh.vertices), edges.u, edges.v, edges.cost
    possible = (cost <= error**2) & ~(mesh.fixed[u] & mesh.fixed[v])
    # as both are sorted, where a key would be put is where it is
    possible[np.searchsorted(edges.key, rejected)] = False
    if not possible.any():
        return 0, edges, rejected
    rank = np.full(len(u), len(u))
    chosen = np.flatnonzero(possible)
    # digits that depend on place and unit decide nothing; equal ones in an order without direction
    about = np.rint(cost[chosen] * (_COST_STEPS / error**2))
    shuffled = (u[chosen] * count + v[chosen]).astype(np.uint64) * _SHUFFLE
    rank[chosen[_sorted(about.astype(np.uint64), shuffled)]] = np.arange(len(chosen))
    picked = _apart(u, v, rank, count)
    good = _keeps_shape(mesh, (u, v), edges.place, picked)
    refused = picked[~good]
    picked = picked[good]
    touched = np.zeros(count, bool)
    touched[u[picked]] = touched[v[picked]] = True
    rejected = np.union1d(rejected, _key(u[refused], v[refused]))
    # an edge at a vertex that has moved may be tried again
    rejected = rejected[~touched[rejected >> 32] & ~touched[rejected & 0xFFFFFFFF]]
    number = _collapse(mesh, u[picked], v[picked], edges.place[picked])
    new = np.zeros(len(mesh.vertices), bool)
    new[number[u[picked]]] = True
    rejected = _key(number[rejected >> 32], number[rejected & 0xFFFFFFFF])
    return len(picked), _renewed(mesh, edges, touched, number, new), rejected


def _sorted(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Order by two keys, the first up to ``_COST_STEPS``."""
    both = first << np.uint64(43) | then >> np.uint64(21)
    order = np.argsort(both)
    # several times as fast, and the same unless digits that were cut off decide
    ranked = both[order]
    return np.lexsort((then, first)) if (ranked[1:] == ranked[:-1]).any() else order


def _renewed(
    mesh: _Mesh, edges: _Edges, touched: np.ndarray, number: np.ndarray, new: np.ndarray
) -> _Edges:
    """Edges of a mesh after a round: what no collapse has touched costs what it did."""
    kept = ~(touched[edges.u] | touched[edges.v])
    u, v = number[edges.u[kept]], number[edges.v[kept]]
    a, b, c = mesh.faces.T
    beside = _edges(mesh.faces[new[a] | new[b] | new[c]])
    at_new = new[beside[0]] | new[beside[1]]
    more = _costed(mesh, beside[0][at_new], beside[1][at_new])
    where = np.searchsorted(_key(u, v), more.key)
    return _Edges(
        np.insert(u, where, more.u), np.insert(v, where, more.v),
        np.insert(edges.place[kept], where, more.place, axis=0),
        np.insert(edges.cost[kept], where, more.cost),
    )  # fmt: skip


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
    owner = np.full(count, -1)
    owner[u] = owner[v] = np.arange(len(picked))
    here = np.flatnonzero((owner[ends[0]] >= 0) | (owner[ends[1]] >= 0))
    one, other = ends[0][here], ends[1][here]
    both = np.concatenate([one, other]), np.concatenate([other, one])
    beside = sparse.csr_array((np.ones(len(both[0]), np.int32), both), shape=(count, count))
    # the two ends of an edge of a closed surface have two neighbours in common, or it is a neck;
    # these keep at least three neighbours, or two triangles would lie on each other
    common = beside[u].multiply(beside[v])
    neighbours = np.bincount(ends[0], minlength=count) + np.bincount(ends[1], minlength=count)
    few = (neighbours <= 3).astype(np.int32)
    good = (np.asarray(common.sum(axis=1)).reshape(-1) == 2) & (common @ few == 0)
    moved = mesh.vertices.copy()
    moved[u] = moved[v] = place[picked]
    of_faces = owner[mesh.faces]
    # of the corners of a face that remains one at most belongs to a picked edge
    a, b, c = (of_faces >= 0).T
    near = np.flatnonzero((a ^ b ^ c) & ~(a & b & c))
    edge = np.maximum(np.maximum(*of_faces[near, :2].T), of_faces[near, 2])
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

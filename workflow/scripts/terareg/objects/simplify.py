"""Fewer triangles within an error: edges are collapsed in order of the error that this makes.

Quadric error metrics (Garland and Heckbert 1997): every vertex carries the sum of squared distances
to the planes of the triangles that it stands for, weighted by area, and an edge becomes a vertex
where that sum is least. Here many edges are collapsed at once, no two of which share a vertex. Of
those that together would turn a triangle over, or make an edge of four triangles, the worst wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

_MOST_ROUNDS = 200
_LEAST_SHARE = 0.002  # a round that collapses fewer of the vertices is the last
_TURN = 0.2  # cosine of the largest angle by which a triangle may turn
_PASSES = 3
# errors of edges are compared in so many steps of the largest: were they told apart further, most
# edges would wait for a neighbour, and the result has neither fewer triangles nor a smaller error
_STEPS = 64
_SHUFFLE = 0x1E3779B97F4A7C15  # an odd number, so that products differ
_NEVER = np.iinfo(np.int64).max
_TOGETHER = 150_000  # triangles of surfaces that are simplified at once
_PART = 4096  # edges or triangles whose numbers are in the processor's cache at once
_SIDES = ((0, 1), (1, 2), (2, 0))

#: first and second vertex of edges, and their order
_Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class _Mesh:
    """Vertices, which keep their number when others are gone, and faces.

    ``rows`` has for each vertex the 10 numbers of its quadric, its weight and its place;
    ``places`` the same places as columns; ``faces`` are columns, too. A vertex that is ``fixed``
    keeps its place; one of the ``border`` may have fewer than three triangles.
    """

    rows: np.ndarray
    places: np.ndarray
    faces: np.ndarray
    fixed: np.ndarray
    border: np.ndarray


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
    mesh, edges = _prepared(vertices - centre, faces, fixed, error)
    left = len(vertices)
    for _ in range(_MOST_ROUNDS):
        collapsed, edges = _round(mesh, edges, error)
        if collapsed < max(1, _LEAST_SHARE * left):
            break
        left -= collapsed
    used = np.zeros(len(vertices), bool)
    used[mesh.faces] = True
    number = np.cumsum(used) - 1
    return mesh.places.T[used] + centre, number[mesh.faces.T], np.flatnonzero(used)


def _parts(count: int) -> Iterator[slice]:
    return (slice(n, n + _PART) for n in range(0, count, _PART))


def _prepared(
    vertices: np.ndarray, faces: np.ndarray, fixed: np.ndarray | None, error: float
) -> tuple[_Mesh, _Edges]:
    """A mesh, and its edges that may be collapsed."""
    count, columns, places = len(vertices), faces.T.copy(), vertices.T.copy()
    each = np.empty((len(faces), 11))
    for part in _parts(len(faces)):
        normal, a = _normals(places, columns[:, part])
        length = np.sqrt(_dot(normal, normal))
        unit = normal / np.where(length > 0, length, 1)
        (x, y, z), d, half = unit, -_dot(unit, a), length / 2
        products = (x * x, x * y, x * z, x * d, y * y, y * z, y * d, z * z, z * d, d * d)
        for column, product in zip(each[part].T, products):
            np.multiply(product, half, out=column)
        each[part, 10] = half
    corners = sparse.csr_array(
        (np.ones(faces.size), faces.reshape(-1), np.arange(0, faces.size + 1, 3)),
        shape=(len(faces), count),
    )
    u, v, sheets, proper = _edges(columns)
    stay = np.zeros(count, bool) if fixed is None else fixed.copy()
    border, knot = np.zeros(count, bool), np.zeros(count, bool)
    stay[u[~proper]] = stay[v[~proper]] = True
    border[u[~proper]] = border[v[~proper]] = True
    # where more than two sheets meet, nothing is collapsed
    several = ~proper & (sheets > 1)
    knot[u[several]] = knot[v[several]] = True
    free = proper & ~(knot[u] | knot[v])
    mesh = _Mesh(np.hstack([corners.T @ each, vertices]), places, columns, stay, border)
    return mesh, _possible(mesh, u[free], v[free], error)


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lower and higher vertex of every edge, sorted, how many triangles it has, and whether these
    are one on each side."""
    keys = []
    for i, j in _SIDES:
        one, other = faces[i], faces[j]
        keys.append(np.minimum(one, other) << 33 | np.maximum(one, other) << 1 | (one > other))
    both = np.sort(np.concatenate(keys))
    edge = both >> 1
    first = np.flatnonzero(np.append(True, edge[1:] != edge[:-1]))
    sheets = np.diff(first, append=len(edge))
    last = first + sheets - 1
    proper = (sheets == 2) & (both[first] & 1 == 0) & (both[last] & 1 == 1)
    return edge[first] >> 32, edge[first] & 0xFFFFFFFF, sheets, proper


def _normals(places: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals of faces, twice as long as the area, and their first corners; columns."""
    a, b, c = (places.take(corner, axis=1) for corner in faces)
    b -= a
    c -= a
    return np.stack([b[i] * c[j] - b[j] * c[i] for i, j in ((1, 2), (2, 0), (0, 1))]), a


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _possible(mesh: _Mesh, u: np.ndarray, v: np.ndarray, error: float) -> _Edges:
    """Those of some edges whose collapse stays within the error, and their order."""
    order = np.full(len(u), _NEVER)
    for part in _parts(len(u)):
        one, other = u[part], v[part]
        _, squared = _best_place(mesh, one, other)
        good = (squared <= error**2) & ~(mesh.fixed[one] & mesh.fixed[other])
        # digits that depend on place and unit decide nothing; equal ones in an order without
        # direction
        about = np.rint(squared[good] * (_STEPS / error**2)).astype(np.int64)
        mixed = ((one[good] * len(mesh.rows) + other[good]) * _SHUFFLE) & (1 << 48) - 1
        order[part][good] = about << 48 | mixed
    good = order < _NEVER
    return u[good], v[good], order[good]


def _best_place(mesh: _Mesh, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the vertex of each collapsed edge lies (columns), and its mean squared distance."""
    first, both = mesh.rows.take(u, axis=0), mesh.rows.take(v, axis=0)
    both += first
    columns = np.ascontiguousarray(both.T)
    m00, m01, m02, m03, m11, m12, m13, m22, m23, m33, weight = columns[:11]
    weight = np.maximum(weight, 1e-300)
    middle = columns[11:] * 0.5
    # a weak pull towards the middle decides where planes leave the place open
    pull = 1e-3 * weight
    n00, n11, n22 = m00 + pull, m11 + pull, m22 + pull
    r0, r1, r2 = pull * middle - columns[[3, 6, 8]]
    c00, c01, c02 = n11 * n22 - m12 * m12, m02 * m12 - m01 * n22, m01 * m12 - m02 * n11
    c11, c12, c22 = n00 * n22 - m02 * m02, m01 * m02 - n00 * m12, n00 * n11 - m01 * m01
    determinant = n00 * c00 + m01 * c01 + m02 * c02
    open_ = determinant == 0
    place = np.stack(
        [
            c00 * r0 + c01 * r1 + c02 * r2,
            c01 * r0 + c11 * r1 + c12 * r2,
            c02 * r0 + c12 * r1 + c22 * r2,
        ]
    )
    place /= np.where(open_, 1, determinant)
    half, way = middle - first[:, 11:].T, place - middle
    far = np.flatnonzero(open_ | (_dot(way, way) > 16 * _dot(half, half)))
    place[:, far] = middle[:, far]
    for end in (v, u):
        stays = np.flatnonzero(mesh.fixed[end])
        place[:, stays] = mesh.places[:, end[stays]]
    x, y, z = place
    total = (
        m00 * x * x + m11 * y * y + m22 * z * z + m33
        + 2 * (m01 * x * y + m02 * x * z + m12 * y * z + m03 * x + m13 * y + m23 * z)
    )  # fmt: skip
    return place, np.maximum(total, 0) / weight


def _apart(edges: _Edges, count: int) -> np.ndarray:
    """Edges of which each comes before all others at its vertices; no two share a vertex."""
    u, v, order = edges
    left = np.arange(len(u))
    picked = []
    taken = np.zeros(count, bool)
    for _ in range(_PASSES):
        one, other, here = u[left], v[left], order[left]
        least = np.full(count, _NEVER)
        np.minimum.at(least, one, here)
        np.minimum.at(least, other, here)
        found = left[(here == least[one]) & (here == least[other])]
        picked.append(found)
        taken[u[found]] = taken[v[found]] = True
        left = left[~(taken[one] | taken[other])]
    result = np.concatenate(picked)
    # two with the same order may have met; the later one stays
    number, owner = np.arange(len(result)), np.full(count, -1)
    owner[u[result]] = number
    owner[v[result]] = number
    return result[(owner[u[result]] == number) & (owner[v[result]] == number)]


def _round(mesh: _Mesh, edges: _Edges, error: float) -> tuple[int, _Edges]:
    """Collapse edges that share no vertex; return their number and the edges to try next."""
    u, v, order = edges
    count = len(mesh.rows)
    picked = _apart(edges, count)
    one, other = u[picked], v[picked]
    places = [_best_place(mesh, one[part], other[part])[0] for part in _parts(len(picked))]
    place = np.concatenate([np.zeros((3, 0)), *places], axis=1)
    done, refused, near, faces = _collapsible(mesh, (one, other, order[picked]), place)
    new = np.zeros(count, bool)
    new[one[done]] = True
    _collapse(mesh, one[done], other[done], place[:, done])
    gone = _gone(faces)
    kept = np.ones(mesh.faces.shape[1], bool)
    kept[near[gone]] = False
    mesh.faces[:, near] = faces
    mesh.faces = mesh.faces[:, kept]
    # edges at a vertex that has moved may be tried again, all others cost what they did
    again = np.ones(len(u), bool)
    again[picked[refused]] = False
    moved = new.copy()
    moved[other[done]] = True
    again &= ~(moved[u] | moved[v])
    more_u, more_v = _edges_at(faces[:, ~gone], new)
    more = _possible(mesh, more_u, more_v, error)
    return int(done.sum()), tuple(
        np.concatenate([old[again], found]) for old, found in zip(edges, more)
    )


def _gone(faces: np.ndarray) -> np.ndarray:
    """Which faces have the same corner twice."""
    a, b, c = faces
    return (a == b) | (b == c) | (c == a)


def _edges_at(faces: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and higher vertex of the edges of new vertices; each has a triangle on both sides."""
    at_new = new[faces]
    ends: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for i, j in _SIDES:
        here = np.flatnonzero((faces[i] < faces[j]) & (at_new[i] | at_new[j]))
        ends[0].append(faces[i].take(here))
        ends[1].append(faces[j].take(here))
    return np.concatenate(ends[0]), np.concatenate(ends[1])


def _collapsible(
    mesh: _Mesh, picked: _Edges, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which of the picked edges can be collapsed together.

    Returns that, which cannot even alone, the numbers of the faces that have a vertex of
    a picked edge, and these faces with their new corners.
    """
    one, other, order = picked
    count = len(mesh.rows)
    done, refused = np.ones(len(one), bool), np.zeros(len(one), bool)
    # the last, which stands for none, is never done
    owner = np.full(count, len(one))
    owner[one] = owner[other] = np.arange(len(one))
    worth = np.append(order, -1)
    target = np.arange(count)
    target[other] = one
    moved = mesh.places.copy()
    moved[:, one] = moved[:, other] = place
    a, b, c = (owner != len(one)).take(mesh.faces)
    near = np.flatnonzero(a | b | c)
    before = mesh.faces.take(near, axis=1)
    after, owners = target.take(before), owner.take(before)
    look = np.arange(len(near))
    while True:
        turned, twice = _defects(mesh, moved, (before[:, look], after[:, look]), owner < len(one))
        at = np.concatenate([owner[turned], owner[np.stack([*twice, twice[1]])]], axis=1)
        if not at.size:
            # a surface of two triangles, or none, is none any more
            corners = np.bincount(after[:, ~_gone(after)].reshape(-1), minlength=count)
            few = np.flatnonzero(done & (corners[one] < 3) & ~mesh.border[one])
            if not len(few):
                return done, refused, near, after
            at = np.stack([few] * 3)
        # of all that meet at a defect the last has to wait; one that is alone is not tried again
        last = np.take_along_axis(at, worth[at].argmax(axis=0)[None], axis=0)[0]
        refused[last[((at == last) | (at == len(one))).all(axis=0)]] = True
        back = np.zeros(len(one) + 1, bool)
        back[last] = True
        undone = np.flatnonzero(back)
        done[undone] = False
        owner[one[undone]] = owner[other[undone]] = len(one)
        target[other[undone]] = other[undone]
        for end in (one[undone], other[undone]):
            moved[:, end] = mesh.places[:, end]
        a, b, c = back.take(owners)
        look = np.flatnonzero(a | b | c)
        after[:, look] = target.take(before[:, look])


def _defects(
    mesh: _Mesh, moved: np.ndarray, faces: tuple[np.ndarray, np.ndarray], new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners, before, of faces that turn too far, and ends of edges with two faces on a side."""
    before, after = faces
    a, b, c = new.take(after)
    whole = np.flatnonzero((a | b | c) & ~_gone(after))
    turned = [whole[:0]]
    for part in _parts(len(whole)):
        here = whole[part]
        corners = before.take(here, axis=1)
        old, now = _normals(mesh.places, corners)[0], _normals(moved, corners)[0]
        along = _dot(old, now)
        far = (along <= 0) | (along * along <= _TURN**2 * _dot(old, old) * _dot(now, now))
        turned.append(here[far])
    after = after.take(whole, axis=1)
    at_new = new.take(after)
    sides = [(after[i] << 32 | after[j])[at_new[i] | at_new[j]] for i, j in _SIDES]
    keys = np.sort(np.concatenate(sides))
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]])
    return before[:, np.concatenate(turned)], np.stack([twice >> 32, twice & 0xFFFFFFFF])


def _collapse(mesh: _Mesh, one: np.ndarray, other: np.ndarray, place: np.ndarray) -> None:
    """Collapse edges to their first vertices; faces stay as they are."""
    rows = mesh.rows.take(one, axis=0) + mesh.rows.take(other, axis=0)
    rows[:, 11:] = place.T
    mesh.rows[one] = rows
    mesh.places[:, one] = place
    mesh.fixed[one] |= mesh.fixed[other]
    mesh.border[one] |= mesh.border[other]

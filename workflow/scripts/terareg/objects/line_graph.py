"""Lines as graphs: vertices with places, and edges between them."""

from __future__ import annotations

import numpy as np

from terareg.objects.line_reach import SMOOTHING


def beside(edges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How many edges every vertex has, and the first and the last of its neighbours, (n, 2)."""
    both = np.concatenate([edges, edges[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    degree = np.bincount(both[:, 0], minlength=count)
    last = np.cumsum(degree) - 1
    near = np.full((count, 2), -1)
    some = degree > 0
    near[some, 0] = both[(last - degree + 1)[some], 1]
    near[some, 1] = both[last[some], 1]
    return degree, near


def walk(degree: np.ndarray, near: np.ndarray, ends: np.ndarray, steps: int) -> np.ndarray:
    """Walk from ends along their lines as far as these go on.

    Parameters
    ----------
    degree, near : numpy.ndarray
        Of :func:`beside`.
    ends : numpy.ndarray
        Vertices with one edge.
    steps : int

    Returns
    -------
    numpy.ndarray, shape (steps + 1, number of ends)
        Vertices; the last one is repeated.
    """
    path = [ends, near[ends, 0]]
    for _ in range(steps - 1):
        here, before = path[-1], path[-2]
        onward = np.where(near[here, 0] == before, near[here, 1], near[here, 0])
        path.append(np.where((degree[here] == 2) & (here != before), onward, here))
    return np.stack(path)


def smoothed(places: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Vertices between two others, moved towards their middle: lines of voxels are staircases.

    Places of whole voxels become sums of powers of 1/4, few enough to be exact: they do not depend
    on where a block begins.
    """
    between = np.bincount(edges.reshape(-1), minlength=len(places)) == 2
    for _ in range(SMOOTHING):
        total = np.zeros_like(places)
        for axis in range(3):
            for here, there in ((0, 1), (1, 0)):
                ends = places[edges[:, there], axis]
                total[:, axis] += np.bincount(edges[:, here], ends, len(places))
        places = np.where(between[:, None], places / 2 + total / 4, places)
    return places


def step_lengths(places: np.ndarray, edges: np.ndarray, spacing_um: np.ndarray) -> np.ndarray:
    """Micrometres of every edge, between places in voxels."""
    far = (places[edges[:, 0]] - places[edges[:, 1]]) * spacing_um
    length_um: np.ndarray = np.sqrt(far[:, 0] ** 2 + far[:, 1] ** 2 + far[:, 2] ** 2)
    return length_um

"""Centre lines of whole objects, from the voxels that thinning left of them in blocks.

Cores of what is thick are thinned on until nothing more can go. What is left are lines of voxels
whose loops are opened, and whose ends are carried on to the surface. Then lines are chosen as
TEASAR chooses paths (Sato et al. 2000, Pacific Graphics, 281-289): from a root, the farthest vertex
that is not yet near a line is joined to them; what lies within the tube around the way is done. So
side branches that come from the roughness of a surface go.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse, spatial
from scipy.sparse import csgraph

from terareg.core.levels import Box
from terareg.objects.line_graph import beside, smoothed, step_lengths, walk
from terareg.objects.line_reach import CELL, ROUNDS, axes_of_round, near_cells
from terareg.objects.line_voxels import DIRECTIONS, LineVoxels, centred, extent_step_um
from terareg.objects.skeletons import Skeleton, SkeletonSettings
from terareg.objects.thinning import BoxVoxels, ListedVoxels, Voxels, cleaned, edges_among, thinned

_SPARSE = 64  # voxels of a box for each one of a list that takes as much memory
_BACK = 6  # vertices from an end, towards which its direction is taken, at least
_WIDTHS = 1.0  # and at least so many diameters
_FURTHEST = 256  # and at most so many vertices
_ADDED = -2
_DIGITS = 6  # of places in voxels, so that the last voxels of the volume are met
_FLAT = 1e-9
_BESIDE = 0.92  # cosine of the angle within which directions count for an end
_FARTHEST = 4  # radii within which the surface is looked for in a direction
_HIT = 0.7  # voxels beside a direction, within which a voxel is met: 2/3 along a diagonal
_NEAR_HIT = 1.0
_OUTSIDE = 0.5  # voxels from the surface to the voxels outside, from which radii are measured
_LEAST = 0.75  # voxels along an axis that are worth to be added to an end


def joined_lines(
    found: LineVoxels,
    shape: Box,
    spacing_um: Sequence[float],
    settings: SkeletonSettings,
    rounds: int = ROUNDS,
) -> Iterator[tuple[int, Skeleton | None]]:
    """Skeletons of labels, ascending; None for one of which nothing is left.

    Parameters
    ----------
    found : LineVoxels
        What all blocks have of some labels, see :meth:`LineVoxels.together`.
    shape : tuple of int
        Of the volume.
    spacing_um : sequence of float
    settings : SkeletonSettings
    rounds : int
        Of thinning that were done in blocks.
    """
    spacing = np.array(spacing_um, float)
    ids, number = np.unique(found.labels, return_inverse=True)
    number = number.reshape(-1)
    left, needed = _thinned_on(found, number, spacing_um, rounds)
    listed = ListedVoxels(found.voxels[left], number[left] + 1)
    needed = np.append(needed, False)
    cleaned(listed, needed)
    rest = np.flatnonzero(listed.solid)
    edges = np.searchsorted(rest, edges_among(listed, rest))
    left = left[rest]
    number, places = number[left], found.places[left]
    radius_um = found.radius_um[left].astype(np.float64)
    degree = np.bincount(edges.reshape(-1), minlength=len(places))
    ends = np.flatnonzero(degree < 2)
    extents_um = (_known_extents(found, ids, left[ends]) - 0.5) * extent_step_um(spacing_um)
    deep = np.flatnonzero(radius_um < 0)
    deep_ends = np.flatnonzero(radius_um[ends] < 0)
    for each in np.unique(number[deep]).tolist():
        surface = _near_cores(found.between(ids[each], ids[each]), spacing_um, rounds)
        tree = spatial.cKDTree(surface * spacing)

        def far_um(
            at: np.ndarray, of: np.ndarray, least: np.ndarray, tree: spatial.cKDTree = tree
        ) -> np.ndarray:
            return tree.query(at * spacing)[0].astype(np.float32)

        chosen = deep[_range_of(number[deep], each)]
        places[chosen], radius_um[chosen] = centred(places[chosen], far_um, spacing)
        for row in deep_ends[_range_of(number[ends[deep_ends]], each)].tolist():
            end, most_um = ends[row], _FARTHEST * float(radius_um[ends[row]])
            near = tree.query_ball_point(places[end] * spacing, most_um)
            extents_um[row] = _extents_um(surface[near] - places[end], spacing, most_um)
    rows = np.full(len(places), -1)
    rows[ends] = np.arange(len(ends))
    forest = _Forest(places.astype(np.float64), edges, radius_um, number, rows)
    forest = _without_loops(forest, spacing)
    last = np.array(shape) - 1
    # ends first count with what lies ahead; then their lines are longer, and known better
    longer = _chosen(_carried_on(forest, extents_um, last, spacing), spacing, settings)
    longer = _without_spurs(longer, spacing, settings.spur_um)
    forest = longer.part(longer.row > _ADDED)
    forest = _carried_on(forest, extents_um, last, spacing)
    forest = _without_dust(forest, spacing, settings.dust_um)
    yield from zip(ids.tolist(), _skeletons(forest, len(ids)))


def _known_extents(found: LineVoxels, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Steps to the surface in all directions that blocks found, 0 where they found none."""
    extents = np.zeros((len(rows), len(DIRECTIONS)), np.float32)
    if len(found.ends):
        low = found.voxels.min(0)
        z, y, x = (found.voxels.max(0) - low + 1).tolist()
        strides = np.array([y * x, x, 1])

        def keys(labels: np.ndarray, voxels: np.ndarray) -> np.ndarray:
            return np.searchsorted(ids, labels) * (z * y * x) + (voxels - low) @ strides

        of_ends = keys(found.end_labels, found.ends)
        mine = keys(found.labels[rows], found.voxels[rows])
        at = np.minimum(np.searchsorted(of_ends, mine), len(of_ends) - 1)
        known = of_ends[at] == mine
        extents[known] = found.extents[at[known]]
    return extents


def _range_of(number: np.ndarray, each: int) -> slice:
    """Where a number is in an ascending list."""
    return slice(*np.searchsorted(number, [each, each + 1]))


def _near_cores(found: LineVoxels, spacing_um: Sequence[float], rounds: int) -> np.ndarray:
    """Voxels around a label, in cells near its cores: all that blocks know for certain."""
    cores = np.unique(found.voxels[found.radius_um < 0] // CELL, axis=0)
    surface = np.unique(found.surfaces, axis=0)
    # no box of all cells, which for an object that goes through the volume would be too large
    wide = np.array(near_cells(spacing_um, rounds))
    tree = spatial.cKDTree(cores / wide)
    far, _ = tree.query((surface // CELL) / wide, p=np.inf, distance_upper_bound=1 + 1e-9)
    return surface[np.isfinite(far)]


def _extents_um(steps: np.ndarray, spacing: np.ndarray, most_um: float) -> np.ndarray:
    """How far it is to the surface in all directions, given the steps to its voxels.

    A direction may slip between voxels that touch over an edge; then one beside it is met.
    """
    steps_um = steps * spacing
    found = np.full(len(DIRECTIONS), most_um)
    for n, way in enumerate(DIRECTIONS):
        along_um = steps_um @ way
        ahead = along_um > 0
        along_um = along_um[ahead]
        aside = (np.abs(steps_um[ahead] - along_um[:, None] * way) / spacing).max(1)
        beside_um = along_um[aside <= _NEAR_HIT].min(initial=most_um) + spacing.max()
        found[n] = along_um[aside <= _HIT].min(initial=min(beside_um, most_um))
    return found - _OUTSIDE * spacing.min()


def _thinned_on(
    found: LineVoxels, number: np.ndarray, spacing_um: Sequence[float], rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the voxels that are left when nothing more can go, and which of them lines need.

    In a box, or in a list where that is smaller.
    """
    done = found.radius_um >= 0
    if done.all():
        return np.arange(len(done)), done
    low = found.voxels.min(0)
    size = found.voxels.max(0) - low + 3
    voxels: Voxels
    if size.prod(dtype=float) <= _SPARSE * len(done):
        box = np.zeros(size, np.int32)
        places = np.ravel_multi_index(tuple((found.voxels - low + 1).T), size)
        box.reshape(-1)[places] = number + 1
        voxels = BoxVoxels(box, low.tolist())
    else:
        voxels = ListedVoxels(found.voxels, number + 1)
        places = np.arange(len(done))
    needed = np.zeros(len(voxels.solid), bool)
    needed[places] = done
    thinned(voxels, needed, (axes_of_round(n, spacing_um) for n in itertools.count(rounds)))
    left = np.flatnonzero(voxels.solid[places])
    return left, needed[places[left]]


@dataclass(frozen=True)
class _Forest:
    """Lines of some objects.

    Vertices are in voxels, each with the number of its object. Of those at which a line ends other
    than where a loop was opened, ``row`` says which of them it is; it is -1 for others, and -2 for
    what was added to ends.
    """

    places: np.ndarray
    edges: np.ndarray
    radius_um: np.ndarray
    number: np.ndarray
    row: np.ndarray

    @property
    def degree(self) -> np.ndarray:
        """Edges of each vertex."""
        return np.bincount(self.edges.reshape(-1), minlength=len(self.places))

    def part(self, kept: np.ndarray) -> _Forest:
        """Some vertices, and the edges between them."""
        renumbered = np.cumsum(kept) - 1
        edges = renumbered[self.edges[kept[self.edges].all(axis=1)]]
        columns = self.places, self.radius_um, self.number, self.row
        places, radius_um, number, row = (column[kept] for column in columns)
        return _Forest(places, edges, radius_um, number, row)

    def graph(self, spacing: np.ndarray) -> sparse.csr_array:
        """Weighted by micrometres."""
        # two vertices may have moved to one place
        weights = np.maximum(step_lengths(self.places, self.edges, spacing), _FLAT)
        pairs, count = (self.edges[:, 0], self.edges[:, 1]), len(self.places)
        return sparse.csr_array((weights, pairs), shape=(count, count))


def _without_loops(forest: _Forest, spacing: np.ndarray) -> _Forest:
    """The tree of shortest ways from the farthest vertex of each piece, edges sorted."""
    _, before, _ = _from_roots(forest.graph(spacing))
    ends = np.flatnonzero(before >= 0)
    edges = np.sort(np.stack([before[ends], ends], 1).astype(np.int64), axis=1)
    return replace(forest, edges=edges[np.lexsort((edges[:, 1], edges[:, 0]))])


def _from_roots(graph: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far vertices are from the root of their piece, the vertices before them, their pieces.

    The root is the vertex that is farthest from the first one of the piece; before it is none, a
    negative number.
    """
    _, piece = csgraph.connected_components(graph, directed=False)
    _, firsts = np.unique(piece, return_index=True)
    far = csgraph.dijkstra(graph, directed=False, indices=firsts, min_only=True)
    order = np.lexsort((np.arange(len(far)), -far, piece))
    roots = order[np.unique(piece[order], return_index=True)[1]]
    far, before, _ = csgraph.dijkstra(
        graph, directed=False, indices=roots, min_only=True, return_predecessors=True
    )
    return far, before, piece


def _carried_on(
    forest: _Forest, extents_um: np.ndarray, last: np.ndarray, spacing: np.ndarray
) -> _Forest:
    """Ends carried on straight to the surface, in steps of about the finest voxel.

    A vertex alone is what is left of an object about as wide as long, whose line is drawn where
    that is longest. ``last`` is the last voxel of the volume.
    """
    finest = float(spacing.min())
    degree = forest.degree
    ends = np.flatnonzero((degree == 1) & (forest.row >= 0))
    ways, certain = _ways(forest, ends, spacing)
    alone = np.flatnonzero((degree == 0) & (forest.row >= 0))
    # the direction that is opposite to each is as far from the end of the list
    around_um = extents_um[forest.row[alone]]
    longest = (around_um + around_um[:, ::-1]).argmax(1)
    both = np.stack([longest, len(DIRECTIONS) - 1 - longest], 1).reshape(-1)
    start = np.concatenate([ends, np.repeat(alone, 2)])
    ways = np.concatenate([ways, DIRECTIONS[both]])
    # a mean over the directions beside it
    share = np.maximum(ways @ DIRECTIONS.T - _BESIDE, 0)
    tip_um = (share * extents_um[forest.row[start]]).sum(1) / share.sum(1)
    ball_um = forest.radius_um[start] - _OUTSIDE * finest
    tip_um = np.where(
        np.append(certain, np.ones(len(both), bool)), np.maximum(tip_um, ball_um), ball_um
    )
    # voxels on the way to the last ones of the volume
    room = np.where(ways > 0, last - forest.places[start], forest.places[start]) * spacing
    room_um = (room / np.maximum(np.abs(ways), _FLAT)).min(1)
    far_um = np.minimum(tip_um, room_um)
    worth = (far_um[:, None] * np.abs(ways) / spacing).max(1) >= _LEAST
    count = np.where(worth, np.ceil(far_um / finest - 0.5), 0).astype(np.int64)
    which = np.repeat(np.arange(len(start)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 1
    here_um = far_um[which] * nth / count[which]
    places = forest.places[start[which]] + here_um[:, None] * ways[which] / spacing
    fresh = len(forest.places) + np.arange(len(which))
    before = np.where(nth == 1, start[which], fresh - 1)
    rest_um = tip_um[which] - here_um + _OUTSIDE * finest
    radius_um = np.minimum(forest.radius_um[start[which]], rest_um)
    return _Forest(
        np.concatenate([forest.places, np.clip(np.round(places, _DIGITS), 0, last)]),
        np.concatenate([forest.edges, np.stack([before, fresh], 1)]),
        np.append(forest.radius_um, radius_um),
        np.append(forest.number, forest.number[start[which]]),
        np.append(forest.row, np.full(len(which), _ADDED)),
    )


def _ways(forest: _Forest, ends: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along which lines end, shape (n, 3), and which are certain.

    Those of a short line that begins at a branch point are not: it may be a roughness of the
    surface of a wide tube, and point along the tube.
    """
    if not len(ends):
        return np.zeros((0, 3)), np.zeros(0, bool)
    # as far back as the line is wide, or some voxels
    back_um = np.maximum(_BACK * spacing.min(), _WIDTHS * 2 * forest.radius_um[ends])
    steps = min(int(2 * back_um.max() / spacing.min()) + 1, _FURTHEST)
    degree, near = beside(forest.edges, len(forest.places))
    path = walk(degree, near, ends, steps)
    gone = (forest.places[path] - forest.places[ends]) * spacing
    far = (gone**2).sum(2) >= back_um**2
    base = np.where(far.any(0), far.argmax(0), steps)
    within = np.arange(steps + 1)[:, None] <= base
    # the axis along which these vertices are spread most
    count = within.sum(0)
    gone = np.where(within[..., None], gone - (gone * within[..., None]).sum(0) / count[:, None], 0)
    way = np.linalg.eigh(np.einsum("pni,pnj->nij", gone, gone))[1][:, :, 2]
    onward = gone[0] - gone[base, np.arange(len(ends))]
    certain = far.any(0) | (degree[path[-1]] < 3)
    return way * np.where((way * onward).sum(1) < 0, -1, 1)[:, None], certain


def _chosen(forest: _Forest, spacing: np.ndarray, settings: SkeletonSettings) -> _Forest:
    """The lines that TEASAR chooses; objects without a branch keep all."""
    far, before, piece = _from_roots(forest.graph(spacing))
    branched = np.zeros(piece.max() + 1, bool)
    branched[piece[forest.degree > 2]] = True
    nodes = np.flatnonzero(branched[piece])
    if not len(nodes):
        return forest
    nodes = nodes[np.lexsort((nodes, -far[nodes], piece[nodes]))]
    kept = ~branched[piece]
    ends = np.append(np.flatnonzero(np.diff(piece[nodes])) + 1, len(nodes))
    reach_um = settings.scale * forest.radius_um + settings.margin_um
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist()):
        mine = nodes[begin:end]
        kept[mine[_on_lines(forest.places[mine] * spacing, reach_um[mine], before, mine)]] = True
    return forest.part(kept)


def _on_lines(
    places_um: np.ndarray, reach_um: np.ndarray, before: np.ndarray, nodes: np.ndarray
) -> np.ndarray:
    """Which vertices of a tree are on its lines.

    Parameters
    ----------
    places_um, reach_um : numpy.ndarray
        Of its vertices, the farthest from the root first.
    before : numpy.ndarray
        The vertex before each of the forest on the way from the root; negative for the root.
    nodes : numpy.ndarray
        Numbers of the vertices in the forest.
    """
    row = np.empty(len(before), np.int64)
    row[nodes] = np.arange(len(nodes))
    back = before[nodes]
    parent = np.where(back >= 0, row[np.maximum(back, 0)], -1).tolist()
    tree = spatial.cKDTree(places_um)
    on_line, done = [False] * len(nodes), np.zeros(len(nodes), bool)
    for target in range(len(nodes)):
        if done[target]:
            continue
        path, here = [], target
        while here >= 0 and not on_line[here]:
            path.append(here)
            on_line[here] = True
            here = parent[here]
        for near in tree.query_ball_point(places_um[path], reach_um[path]):
            done[near] = True
    return np.array(on_line)


def _without_spurs(forest: _Forest, spacing: np.ndarray, spur_um: float) -> _Forest:
    """Without branches that are shorter; at each branch point the shortest goes first."""
    while spur_um > 0 and len(forest.edges):
        degree, edges = forest.degree, forest.edges
        number, chain = _chains(edges, len(forest.places))
        length = np.bincount(chain, step_lengths(forest.places, edges, spacing), number)
        loose = np.bincount(chain, (degree[edges] == 1).any(axis=1), number) > 0
        at_branch = (degree[edges] > 2).any(axis=1)
        branch = np.full(number, -1)
        ends = np.where(degree[edges[:, 0]] > 2, edges[:, 0], edges[:, 1])
        branch[chain[at_branch]] = ends[at_branch]
        spurs = np.flatnonzero(loose & (branch >= 0) & (length < spur_um))
        spurs = spurs[np.lexsort((spurs, length[spurs], branch[spurs]))]
        _, first = np.unique(branch[spurs], return_index=True)
        if not len(first):
            break
        gone = edges[np.isin(chain, spurs[first])]
        kept = np.ones(len(degree), bool)
        kept[gone[degree[gone] <= 2]] = False
        forest = forest.part(kept)
    return forest


def _chains(edges: np.ndarray, count: int) -> tuple[int, np.ndarray]:
    """Number of chains, and the chain of each edge: edges between two ends or branch points."""
    degree = np.bincount(edges.reshape(-1), minlength=count)
    flat = edges.reshape(-1)
    order = np.argsort(flat, kind="stable")
    through = order[degree[flat[order]] == 2] // 2  # both edges of each vertex of two, in turn
    pairs = through.reshape(-1, 2)
    graph = sparse.coo_array(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(edges), len(edges))
    )
    number, chain = csgraph.connected_components(graph, directed=False)
    return int(number), chain


def _without_dust(forest: _Forest, spacing: np.ndarray, dust_um: float) -> _Forest:
    """Without pieces that are shorter."""
    number, piece = csgraph.connected_components(forest.graph(spacing), directed=False)
    steps_um = step_lengths(forest.places, forest.edges, spacing)
    length_um = np.bincount(piece[forest.edges[:, 0]], steps_um, number)
    return forest.part(length_um[piece] >= dust_um)


def _skeletons(forest: _Forest, count: int) -> Iterator[Skeleton | None]:
    """Smoothed lines of each object."""
    places = smoothed(forest.places, forest.edges)
    order = np.argsort(forest.number, kind="stable")
    row = np.empty(len(order), np.int64)
    row[order] = np.arange(len(order))
    edges = row[forest.edges]
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    starts = np.searchsorted(forest.number[order], np.arange(count + 1))
    first = np.searchsorted(edges[:, 0], starts)
    for n in range(count):
        mine = order[starts[n] : starts[n + 1]]
        of_edges = edges[first[n] : first[n + 1]] - starts[n]
        radius_um = forest.radius_um[mine].astype(np.float32)
        yield Skeleton(places[mine], of_edges, radius_um) if len(mine) else None

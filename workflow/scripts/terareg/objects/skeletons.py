"""Centre lines of tubes: vessels, tracts, processes; block by block, then joined.

TEASAR (Sato et al. 2000): from a root, the farthest voxel that is not yet near the centre lines is
joined to them by the cheapest path, where voxels near the surface are expensive; what lies within
the tube around the path is then done. All paths of a component come from one tree of cheapest
paths, so that there are no loops.

Neighbouring blocks share a plane. In every piece of a label in such a plane, the voxel farthest
from the piece's border is joined to the centre lines of both blocks, which therefore meet there. So
it is where a label leaves the volume: its centre line ends in the volume's last plane.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse, spatial
from scipy.sparse import csgraph

from terareg.core.errors import ConfigError
from terareg.volumes.plan import Block

_NEIGHBOURS = np.array([n for n in itertools.product((-1, 0, 1), repeat=3) if n > (0, 0, 0)])
_PENALTY = 1e4  # of a voxel at the surface, relative to one at the centre
_EXPONENT = 4
_SMOOTHING = 12


@dataclass(frozen=True)
class SkeletonSettings:
    """How centre lines are found.

    Attributes
    ----------
    scale : float
        What lies within this many radii of a path belongs to it,
    margin_um : float
        and this much more. Larger values leave out more short side branches.
    spur_um : float
        Side branches that are shorter are removed once blocks are joined.
    dust_um : float
        Pieces of centre lines that are shorter are left out.
    """

    scale: float = 1.5
    margin_um: float = 2.0
    spur_um: float = 0.0
    dust_um: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "margin_um", "spur_um", "dust_um"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"{name} {getattr(self, name)} is impossible for skeletons; give 0 or more"
                )


@dataclass(frozen=True)
class Skeleton:
    """Centre lines of one label.

    Attributes
    ----------
    vertices : numpy.ndarray, shape (n, 3)
        z, y, x in voxels of the volume; integers until :func:`joined_skeleton` smooths them.
    edges : numpy.ndarray of int64, shape (m, 2)
    radius_um : numpy.ndarray of float32, shape (n,)
        Distance to the nearest voxel outside of the label.
    """

    vertices: np.ndarray
    edges: np.ndarray
    radius_um: np.ndarray


def block_skeletons(
    labels: np.ndarray, block: Block, spacing_um: tuple[float, float, float],
    settings: SkeletonSettings,
) -> Iterator[tuple[int, Skeleton]]:  # fmt: skip
    """Centre lines of all labels in a block, ascending by label; 0 has none.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
        The block and the planes after it, see :func:`terareg.objects.labelling.extended`.
    block : Block
    spacing_um : tuple of float
        Of voxels along z, y, x.
    settings : SkeletonSettings
    """
    ids = np.unique(labels)
    ids = ids[ids != 0]
    compact = np.searchsorted(ids, labels).astype(np.int32) + 1
    compact[labels == 0] = 0
    for number, box in enumerate(ndimage.find_objects(compact), 1):
        # a voxel of background around, except where the label may go on in another block
        around = tuple(
            slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, labels.shape)
        )
        mask = compact[around] == number
        shared = []
        for axis, s in enumerate(around):
            if s.start == 0:
                shared.append((axis, 0))
            if s.stop == labels.shape[axis]:
                shared.append((axis, mask.shape[axis] - 1))
        found = _skeleton(mask, shared, spacing_um, settings)
        corner = np.array([a + s.start for a, s in zip(block.start, around)])
        yield int(ids[number - 1]), Skeleton(found.vertices + corner, found.edges, found.radius_um)


def _skeleton(
    mask: np.ndarray,
    shared: list[tuple[int, int]],
    spacing_um: tuple[float, float, float],
    settings: SkeletonSettings,
) -> Skeleton:
    """Centre lines of all pieces of a mask; ``shared`` are the planes at the border of a block."""
    depth_um = ndimage.distance_transform_edt(np.pad(mask, 1, "edge"), spacing_um)
    depth_um = depth_um[1:-1, 1:-1, 1:-1]
    if not np.isfinite(depth_um).all() or mask.all():
        depth_um = np.full(mask.shape, min(spacing_um) / 2)
    goals = np.zeros(mask.shape, bool)
    for axis, index in shared:
        goals[_goals(mask, axis, index, spacing_um)] = True
    pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    vertices, edges, radii = [np.zeros((0, 3), np.int64)], [np.zeros((0, 2), np.int64)], []
    total = 0
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        inside = pieces[box] == number
        points = np.argwhere(inside)
        place = tuple(points.T)
        nodes, links = _paths(
            points, depth_um[box][place], np.flatnonzero(goals[box][place]), spacing_um, settings
        )
        vertices.append(points[nodes] + [s.start for s in box])
        radii.append(depth_um[box][place][nodes])
        edges.append(links + total)
        total += len(nodes)
    radius_um = np.concatenate(radii or [np.zeros(0)]).astype(np.float32)
    return Skeleton(np.concatenate(vertices), np.concatenate(edges), radius_um)


def _goals(
    mask: np.ndarray, axis: int, index: int, spacing_um: tuple[float, float, float]
) -> tuple[np.ndarray, ...]:
    """The innermost voxel of each piece of a mask in a plane; the plane alone decides."""
    plane = mask.take(index, axis)
    across = [a for a in range(3) if a != axis]
    depth = ndimage.distance_transform_edt(np.pad(plane, 1), [spacing_um[a] for a in across])
    depth = depth[1:-1, 1:-1]
    pieces, count = ndimage.label(plane, np.ones((3, 3)))
    inside = np.argwhere(plane)
    piece = pieces[plane]
    # of voxels that are equally far from the border the first, in whatever part of the plane
    order = np.lexsort((inside[:, 1], inside[:, 0], -depth[plane], piece))
    best = inside[order[np.unique(piece[order], return_index=True)[1]]]
    places = np.full((3, count), index)
    places[across] = best.T
    return tuple(places)


def _paths(
    points: np.ndarray,
    depth_um: np.ndarray,
    goals: np.ndarray,
    spacing_um: tuple[float, float, float],
    settings: SkeletonSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels on the centre lines of one piece, as rows of ``points``, and the edges among them."""
    count = len(points)
    if count == 1:
        return np.zeros(1, np.int64), np.zeros((0, 2), np.int64)
    a, b, length_um = _links(points, spacing_um)
    plain = sparse.csr_array((length_um, (a, b)), shape=(count, count))
    share = 1 - depth_um / (1.01 * depth_um.max())
    cost = 1 + _PENALTY * share**_EXPONENT
    costly = sparse.csr_array((length_um * (cost[a] + cost[b]) / 2, (a, b)), shape=(count, count))
    far = csgraph.dijkstra(plain, directed=False, indices=goals[0] if len(goals) else 0)
    root = int(goals[0]) if len(goals) else int(far.argmax())
    distance = csgraph.dijkstra(plain, directed=False, indices=root)
    _, before = csgraph.dijkstra(costly, directed=False, indices=root, return_predecessors=True)
    places_um = points * np.array(spacing_um)
    tree = spatial.cKDTree(places_um)
    on_line = np.zeros(count, bool)
    done = np.zeros(count, bool)
    links: list[tuple[int, int]] = []

    def draw(target: int) -> None:
        path = []
        while not on_line[target]:
            path.append(target)
            on_line[target] = True
            if target == root:
                break
            links.append((target, int(before[target])))
            target = int(before[target])
        if path:
            reach = settings.scale * depth_um[path] + settings.margin_um
            # one by one: in a wide tube every voxel of the path has most others near it
            for place_um, reach_um in zip(places_um[path], reach):
                done[tree.query_ball_point(place_um, reach_um)] = True

    draw(root)
    for goal in goals.tolist():
        draw(goal)
    for target in np.lexsort((np.arange(count), -distance)).tolist():
        if not done[target]:
            draw(target)
            done[target] = True
    nodes = np.flatnonzero(on_line)
    number = np.cumsum(on_line) - 1
    return nodes, number[np.array(links, np.int64).reshape(-1, 2)]


def _links(
    points: np.ndarray, spacing_um: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of neighbouring voxels of a piece, each once, and their distances."""
    shape = points.max(0) + 3
    index = np.full(shape, -1)
    index[tuple((points + 1).T)] = np.arange(len(points))
    first, second, lengths = [], [], []
    for step in _NEIGHBOURS:
        other = index[tuple((points + 1 + step).T)]
        here = np.flatnonzero(other >= 0)
        first.append(here)
        second.append(other[here])
        lengths.append(np.full(len(here), np.linalg.norm(step * np.array(spacing_um))))
    return np.concatenate(first), np.concatenate(second), np.concatenate(lengths)


def joined_skeleton(
    parts: Iterable[Skeleton], spacing_um: tuple[float, float, float], settings: SkeletonSettings
) -> Skeleton | None:
    """One skeleton of those of several blocks: joined, without loops, spurs and dust, smoothed.

    Parameters
    ----------
    parts : iterable of Skeleton
        In whole voxels.
    spacing_um : tuple of float
    settings : SkeletonSettings

    Returns
    -------
    Skeleton or None
        Vertices in fractions of voxels; None if nothing is left.
    """
    parts = list(parts)
    vertices = np.concatenate([p.vertices for p in parts])
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    edges = np.concatenate([p.edges + o for p, o in zip(parts, offsets)])
    vertices, inverse = np.unique(vertices, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    radius_um = np.full(len(vertices), np.inf)
    # the radius of a voxel in a shared plane is that of the block that sees the nearer surface
    np.minimum.at(radius_um, inverse, np.concatenate([p.radius_um for p in parts]))
    edges = inverse[edges]
    places_um = vertices * np.array(spacing_um)
    edges = _without_loops(places_um, edges)
    edges = _without_spurs(places_um, edges, settings.spur_um)
    kept = _not_dust(places_um, edges, settings.dust_um)
    edges = edges[kept[edges].all(axis=1)] if len(edges) else edges
    if settings.spur_um > 0 and len(edges):
        kept &= np.bincount(edges.reshape(-1), minlength=len(vertices)) > 0
    if not kept.any():
        return None
    number = np.cumsum(kept) - 1
    edges = number[edges]
    smooth = _smoothed(vertices[kept].astype(np.float64), edges)
    return Skeleton(smooth, edges, radius_um[kept].astype(np.float32))


def _lengths(places_um: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places_um[edges[:, 0]] - places_um[edges[:, 1]], axis=1)


def _without_loops(places_um: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shortest tree of each piece, edges sorted."""
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    if not len(edges):
        return edges
    count = len(places_um)
    weights = _lengths(places_um, edges)
    graph = sparse.csr_array((weights, (edges[:, 0], edges[:, 1])), shape=(count, count))
    tree = csgraph.minimum_spanning_tree(graph).tocoo()
    return np.unique(np.sort(np.stack([tree.row, tree.col], 1), axis=1), axis=0).astype(np.int64)


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


def _without_spurs(places_um: np.ndarray, edges: np.ndarray, spur_um: float) -> np.ndarray:
    """Edges without branches that are shorter; at each branch point the shortest goes first."""
    while spur_um > 0 and len(edges):
        degree = np.bincount(edges.reshape(-1), minlength=len(places_um))
        number, chain = _chains(edges, len(places_um))
        length = np.bincount(chain, _lengths(places_um, edges), number)
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
        edges = edges[~np.isin(chain, spurs[first])]
    return edges


def _not_dust(places_um: np.ndarray, edges: np.ndarray, dust_um: float) -> np.ndarray:
    """Which vertices belong to pieces that are at least so long."""
    count = len(places_um)
    graph = sparse.coo_array(
        (np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count)
    )
    number, piece = csgraph.connected_components(graph, directed=False)
    length = np.bincount(piece[edges[:, 0]], _lengths(places_um, edges), number)
    kept: np.ndarray = length[piece] >= dust_um
    return kept


def _smoothed(vertices: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Vertices between two others, moved towards their middle: paths of voxels are staircases."""
    degree = np.bincount(edges.reshape(-1), minlength=len(vertices)) if len(edges) else [0]
    between = np.asarray(degree) == 2
    for _ in range(_SMOOTHING if len(edges) else 0):
        total = np.zeros_like(vertices)
        for axis in range(3):
            total[:, axis] += np.bincount(
                edges[:, 0], vertices[edges[:, 1], axis], minlength=len(vertices)
            )
            total[:, axis] += np.bincount(
                edges[:, 1], vertices[edges[:, 0], axis], minlength=len(vertices)
            )
        vertices = np.where(between[:, None], vertices / 2 + total / 4, vertices)
    return vertices


@dataclass(frozen=True)
class SkeletonFacts:
    """Measures of a skeleton.

    Attributes
    ----------
    length_um : float
        Of all centre lines.
    pieces, branch_points, ends : int
    radius_um : float
        Mean over vertices.
    """

    length_um: float
    pieces: int
    branch_points: int
    ends: int
    radius_um: float


def facts_of(skeleton: Skeleton, spacing_um: tuple[float, float, float]) -> SkeletonFacts:
    """Length, pieces, branch points, ends and mean radius of a skeleton."""
    places_um = skeleton.vertices * np.array(spacing_um)
    count = len(places_um)
    edges = skeleton.edges
    degree = np.bincount(edges.reshape(-1), minlength=count)
    # branch points beside one another are one branching, which the grid splits
    inner = edges[(degree[edges] > 2).all(axis=1)]
    return SkeletonFacts(
        float(_lengths(places_um, edges).sum()),
        count - len(edges),
        int(np.count_nonzero(degree > 2)) - len(inner),
        int(np.count_nonzero(degree == 1)),
        float(skeleton.radius_um.mean(dtype=float)),
    )


def encode_skeleton(skeleton: Skeleton, spacing_nm: np.ndarray, corner_nm: np.ndarray) -> bytes:
    """Neuroglancer's precomputed form, with the radius of each vertex.

    Parameters
    ----------
    skeleton : Skeleton
    spacing_nm, corner_nm : numpy.ndarray of float64, shape (3,)
        Of z, y, x: size of voxels, and place of the corner of the first one.
    """
    places_nm = ((skeleton.vertices + 0.5) * spacing_nm + corner_nm)[:, ::-1]
    return (
        np.array([len(places_nm), len(skeleton.edges)], "<u4").tobytes()
        + np.ascontiguousarray(places_nm, "<f4").tobytes()
        + np.ascontiguousarray(skeleton.edges, "<u4").tobytes()
        + (skeleton.radius_um * np.float32(1000)).astype("<f4").tobytes()
    )


def info_json(sharding: dict | None = None) -> dict:
    """Contents of ``info`` of a folder of such skeletons, which are in nanometres."""
    info = {
        "@type": "neuroglancer_skeletons",
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
    }
    return info | ({"sharding": sharding} if sharding else {})


def to_swc(skeleton: Skeleton, places_um: np.ndarray) -> str:
    """SWC text: number, type (0), x, y, z, radius (micrometres) and parent of every vertex.

    Every piece is a tree that begins at its end with the lowest number; parents come before their
    children.

    Parameters
    ----------
    skeleton : Skeleton
    places_um : numpy.ndarray, shape (n, 3)
        z, y, x of its vertices.
    """
    count = len(places_um)
    edges = skeleton.edges
    graph = sparse.coo_array(
        (np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count)
    ).tocsr()
    _, piece = csgraph.connected_components(graph, directed=False)
    degree = np.bincount(edges.reshape(-1), minlength=count)
    order = np.lexsort((np.arange(count), degree != 1, piece))
    roots = order[np.unique(piece[order], return_index=True)[1]]
    lines = ["# n type x_um y_um z_um radius_um parent"]
    number = np.zeros(count, np.int64)
    done = 0
    for root in roots.tolist():
        nodes, parents = csgraph.breadth_first_order(graph, root, directed=False)
        number[nodes] = np.arange(done + 1, done + len(nodes) + 1)
        for node in nodes.tolist():
            z, y, x = places_um[node]
            parent = -1 if node == root else number[parents[node]]
            lines.append(
                f"{number[node]} 0 {x:.4f} {y:.4f} {z:.4f} {skeleton.radius_um[node]:.4f} {parent}"
            )
        done += len(nodes)
    return "\n".join(lines) + "\n"

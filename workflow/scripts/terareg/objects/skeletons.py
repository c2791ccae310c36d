"""Skeletons: centre lines of objects, with radii; what is known of one, and its forms in files.

They are found by :mod:`terareg.objects.line_voxels`, block by block, and
:mod:`terareg.objects.centre_lines`, object by object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from terareg.core.errors import ConfigError


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
        Side branches that are shorter are removed.
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
        z, y, x in voxels of the volume.
    edges : numpy.ndarray of int64, shape (m, 2)
    radius_um : numpy.ndarray of float32, shape (n,)
        Distance to the nearest voxel outside of the label or of the volume.
    """

    vertices: np.ndarray
    edges: np.ndarray
    radius_um: np.ndarray


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
    steps_um = np.linalg.norm(places_um[edges[:, 0]] - places_um[edges[:, 1]], axis=1)
    return SkeletonFacts(
        float(steps_um.sum()),
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

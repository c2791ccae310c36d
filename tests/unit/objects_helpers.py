"""Volumes and blocks for tests of objects."""

import itertools

import DracoPy
import numpy as np

from terareg.core.frames import Frame
from terareg.objects.centre_lines import joined_lines
from terareg.objects.labelling import extended
from terareg.objects.line_reach import ROUNDS
from terareg.objects.line_voxels import LineVoxels, line_voxels, surroundings
from terareg.objects.multires import BITS, decode_manifest
from terareg.objects.skeletons import SkeletonSettings
from terareg.volumes.plan import Block
from terareg.volumes.reader import Levels

TOP = 2**BITS - 1


def blocks_of(shape, edge):
    """Blocks of any edge that cover a shape, in z, y, x order."""
    starts = [range(0, n, e) for n, e in zip(shape, edge)]
    return [
        Block(
            tuple(a // e for a, e in zip(start, edge)),
            start,
            tuple(min(a + e, n) for a, e, n in zip(start, edge, shape)),
        )
        for start in itertools.product(*starts)
    ]


class Held(Levels):
    """An array in memory as a volume of one level."""

    def __init__(self, array, spacing_um=(2.0, 1.0, 0.5), name="held"):
        self.array, self.name = array, name
        self.frames = (Frame(array.shape, spacing_um),)
        self.dtype = np.dtype(array.dtype)
        self.is_segmentation = array.dtype.kind == "u" and array.dtype.itemsize >= 4

    def _read(self, level, start, stop):
        return self.array[tuple(slice(a, b) for a, b in zip(start, stop))]


def ball(radius, shape):
    """Mask of a ball in the middle of a shape."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    return np.linalg.norm(index - (np.array(shape) - 1) / 2, axis=-1) < radius


def is_closed(faces):
    """Whether every directed edge has its opposite, as often."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward, counts = np.unique(edges, axis=0, return_counts=True)
    backward, opposite = np.unique(edges[:, ::-1], axis=0, return_counts=True)
    return np.array_equal(forward, backward) and np.array_equal(counts, opposite)


def surrounded_blocks(array, edge, spacing_um, rounds=ROUNDS):
    """Blocks of an edge, each with what thinning needs of its surroundings, and where it begins."""
    for block in blocks_of(array.shape, edge):
        start, stop = surroundings(block, array.shape, spacing_um, rounds)
        yield block, array[tuple(slice(a, b) for a, b in zip(start, stop))], start


def skeletons_of(labels, edge, spacing_um, chosen=SkeletonSettings(), rounds=ROUNDS):  # noqa: B008
    """Skeletons by label, from blocks of an edge."""
    parts = [
        line_voxels(voxels, start, block, spacing_um, rounds)
        for block, voxels, start in surrounded_blocks(labels, edge, spacing_um, rounds)
    ]
    whole = LineVoxels.together(parts)
    return dict(joined_lines(whole, labels.shape, spacing_um, chosen, rounds))


def tube(shape, spacing_um, lines, radius_um):
    """Mask of all points near polygonal lines, given in micrometres."""
    places = np.moveaxis(np.indices(shape), 0, -1) * np.array(spacing_um)
    mask = np.zeros(shape, bool)
    for line in lines:
        for a, b in itertools.pairwise(line):
            a, b = np.array(a, float), np.array(b, float)
            along = np.clip((places - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            mask |= np.linalg.norm(places - a - along[..., None] * (b - a), axis=-1) < radius_um
    return mask


def extended_blocks(array, edge):
    """Blocks of an edge, each with its voxels and those of the planes after it."""
    for block in blocks_of(array.shape, edge):
        start, stop = extended(block, array.shape)
        yield block, array[tuple(slice(a, b) for a, b in zip(start, stop))]


def decoded(manifest, fragments):
    """Cells, integer vertices counted from cell (0, 0, 0), triangles, of each level and cell."""
    start, levels = 0, []
    for positions, sizes in zip(manifest["fragment_positions"], manifest["fragment_offsets"]):
        level = []
        for cell, size in zip(positions.astype(np.int64), sizes.tolist()):
            if size:
                mesh = DracoPy.decode(fragments[start : start + size])
                level.append((cell, np.rint(mesh.points).astype(np.int64), mesh.faces))
            start += size
        levels.append(level)
    assert start == len(fragments)
    return levels


def together(level):
    """One surface of the cells of a level."""
    points = np.concatenate([cell * TOP + steps for cell, steps, _ in level])
    offsets = np.cumsum([0] + [len(steps) for _, steps, _ in level])
    faces = np.concatenate([faces + o for (_, _, faces), o in zip(level, offsets)])
    points, same = np.unique(points, axis=0, return_inverse=True)
    return points, same.reshape(-1)[faces]


def detail_of(store, key, level=0):
    """Vertices x, y, z in nanometres, and faces, of a level of detail of an unsharded mesh."""
    manifest = decode_manifest(store.read(f"{key}.index"))
    points, faces = together(decoded(manifest, store.read(key))[level])
    size = manifest["chunk_shape"].astype(float) * 2**level
    return manifest["grid_origin"] + points / TOP * size, faces

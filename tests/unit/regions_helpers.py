"""Stand-ins shared by the tests of the regions."""

import itertools

import numpy as np

from terareg.atlas.ontology import Ontology, Structure
from terareg.atlas.prepare import make_atlas
from terareg.core.frames import Frame


class AffineMap:
    """Has the methods of registration's Transform that regions use, for an affine map."""

    def __init__(self, affine=None, atlas_frame=None, sample_frame=None):
        self.affine = np.eye(4) if affine is None else np.asarray(affine, float)
        self.atlas_frame = atlas_frame
        self.sample_frame = sample_frame

    def to_sample(self, points_um):
        return np.asarray(points_um, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_atlas(self, points_um):
        inverse = np.linalg.inv(self.affine)
        return np.asarray(points_um, float) @ inverse[:3, :3].T + inverse[:3, 3]

    def to_atlas_grid(self, block):
        return np.moveaxis(self.to_atlas(grid(block)), -1, 0)

    def to_atlas_planes(self, block):
        yield from np.moveaxis(self.to_atlas_grid(block), 1, 0)

    def to_sample_grid(self, block):
        return np.moveaxis(self.to_sample(grid(block)), -1, 0)


def grid(frame: Frame) -> np.ndarray:
    """Positions of all voxels, shape (z, y, x, 3)."""
    return np.stack(np.meshgrid(*frame.axes_um(), indexing="ij"), -1)


def rotation(degrees=12.0, scale=(1.1, 0.9, 1.05), shift_um=(30.0, -20.0, 10.0)) -> np.ndarray:
    """Affine with a rotation about z, scales and a shift."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(scale)
    affine[:3, 3] = shift_um
    return affine


BIG_IDS = (1, 7, 312782632, 614454277, 2**32 - 1)


def toy_atlas(shape=(11, 9, 13), spacing_um=(25.0, 30.0, 20.0), orientation="RIP", seed=0):
    """Random labels with large ids in a forest: 10 above 1 and 7, 20 above 312782632."""
    structures = [
        Structure(10, "A", "Top A"),
        Structure(1, "A1", "Part one of A", 10),
        Structure(7, "A2", "Part two of A", 10),
        Structure(20, "B", "Top B"),
        Structure(312782632, "B1", "Part of B", 20),
        Structure(614454277, "C", "Alone"),
        Structure(2**32 - 1, "D", "Largest id"),
    ]
    rng = np.random.default_rng(seed)
    labels = np.array([0, *BIG_IDS], np.uint32)[rng.integers(0, 6, shape)]
    frame = Frame(shape, spacing_um, orientation=orientation)
    return make_atlas(labels, frame, Ontology(structures))


def blocks(shape, block):
    """All (start, stop) of a partition into blocks."""
    starts = (range(0, n, b) for n, b in zip(shape, block))
    for start in itertools.product(*starts):
        yield start, tuple(min(a + b, n) for a, b, n in zip(start, block, shape))

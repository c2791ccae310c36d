"""Which objects lie where: the spatial index that cloud-volume and igneous read.

Space is divided into boxes. Each has a file, named after its corners in nanometres
(``0-1000_0-1000_0-500.spatial``), with the labels in it and the box of each one's part: x, y, z of
the lower and of the upper corner. The ``info`` of meshes or skeletons says how large boxes are.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.storage.records import to_json

#: voxels along the edge of a box
EDGE_VOX = 512
_NM_PER_UM = 1000.0
_ALMOST = 1e-6  # of a nanometre

#: boxes of labels (lower and upper corner, x, y, z, in nanometres) by name of the file
Listed = dict[str, dict[int, list[float]]]


@dataclass(frozen=True)
class SpatialIndex:
    """Boxes of a volume.

    Attributes
    ----------
    resolution_nm : tuple of float
        Edges of a voxel, x, y, z. They are whole numbers, because cloud-volume cuts off fractions
        when it looks for files.
    first_vox, stop_vox : tuple of int
        First voxel of the volume in space, and the one beyond the last, x, y, z.
    level : int
        Level of the volume that objects are made from.
    edge_vox : int
        Edge of a box.
    """

    resolution_nm: Box
    first_vox: Box
    stop_vox: Box
    level: int = 0
    edge_vox: int = EDGE_VOX

    @classmethod
    def of(
        cls, frame: Frame, offset_vox: Box, level: int = 0, edge_vox: int = EDGE_VOX
    ) -> SpatialIndex | None:
        """The index of a volume with a grid whose first voxel lies at an offset (z, y, x).

        None if its voxels are not whole numbers of nanometres.
        """
        exact = [s * _NM_PER_UM for s in reversed(frame.spacing_um)]
        x, y, z = (round(nm) for nm in exact)
        if any(abs(nm - whole) > _ALMOST for nm, whole in zip(exact, (x, y, z))):
            return None
        first: Box = tuple(reversed(offset_vox))
        stop: Box = tuple(a + n for a, n in zip(first, reversed(frame.shape)))
        return cls((x, y, z), first, stop, level, edge_vox)

    def info(self) -> dict[str, object]:
        """What ``info`` says of the index."""
        edges = [self.edge_vox * r for r in self.resolution_nm]
        index = {"resolution": list(self.resolution_nm), "chunk_size": edges}
        return {"mip": self.level, "spatial_index": index}

    def add(self, listed: Listed, label: int, shape: tuple[np.ndarray, np.ndarray]) -> None:
        """List an object, given its points and simplices, see :meth:`parts`."""
        for name, box in self.parts(*shape).items():
            listed.setdefault(name, {})[label] = box

    def parts(self, points_nm: np.ndarray, simplices: np.ndarray) -> dict[str, list[float]]:
        """Boxes of the parts of one object, by name of the file.

        Parameters
        ----------
        points_nm : numpy.ndarray, shape (n, 3)
            x, y, z.
        simplices : numpy.ndarray of int, shape (m, k)
            Points of its triangles or lines. One that leaves a box is listed in all that its own
            box touches.
        """
        start = np.array(self.first_vox) * self.resolution_nm
        edge = self.edge_vox * np.array(self.resolution_nm)
        last = np.array(self._counts()) - 1

        def boxes_at(places: np.ndarray) -> np.ndarray:
            return np.clip((places - start) // edge, 0, last).astype(np.int64)

        if len(simplices):
            whole = points_nm.min(axis=0), points_nm.max(axis=0)
            first, other = map(boxes_at, whole)
            if (first == other).all():
                # as for most objects
                return {self._name(first.tolist()): np.concatenate(whole).tolist()}
        corners = [points_nm[simplices[:, n]] for n in range(simplices.shape[1])]
        low, high = functools.reduce(np.minimum, corners), functools.reduce(np.maximum, corners)
        begin, end = boxes_at(low), boxes_at(high)
        # the same boxes for most neighbours, so that one number for all of them is compared
        codes = np.ravel_multi_index((*begin.T, *end.T), self._counts() * 2)
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        least_of = np.minimum.reduceat(low[order], starts)
        most_of = np.maximum.reduceat(high[order], starts)
        ranges = np.hstack([begin, end])[order[starts]]
        found: dict[str, list[float]] = {}
        for row, least, most in zip(ranges.tolist(), least_of, most_of):
            spans = (range(a, b + 1) for a, b in zip(row[:3], row[3:]))
            for index in itertools.product(*spans):
                lower, upper = start + index * edge, start + (np.array(index) + 1) * edge
                # what lies a little outside of the volume belongs to its outermost boxes
                lower = np.where(np.array(index) == 0, -np.inf, lower)
                upper = np.where(np.array(index) == last, np.inf, upper)
                box = [*np.maximum(least, lower).tolist(), *np.minimum(most, upper).tolist()]
                known = found.setdefault(self._name(index), box)
                both = zip(known, box)
                found[self._name(index)] = [
                    min(a, b) if n < 3 else max(a, b) for n, (a, b) in enumerate(both)
                ]
        return found

    def files(self, listed: Iterable[Mapping[str, Mapping[str, list[float]]]]) -> dict[str, bytes]:
        """Files of all boxes by name, also of those without any object.

        Parameters
        ----------
        listed : iterable of mapping
            Boxes of labels by name of the file, from some of the objects each.
        """
        names = map(self._name, itertools.product(*map(range, self._counts())))
        found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        for each in listed:
            for name, labels in each.items():
                found[name] |= {str(label): box for label, box in labels.items()}
        return {name: to_json(labels) for name, labels in found.items()}

    def _counts(self) -> Box:
        x, y, z = (-(-(b - a) // self.edge_vox) for a, b in zip(self.first_vox, self.stop_vox))
        return x, y, z

    def _name(self, index: Iterable[int]) -> str:
        parts = []
        for number, first, stop, size in zip(
            index, self.first_vox, self.stop_vox, self.resolution_nm
        ):
            low = first + number * self.edge_vox
            high = min(low + self.edge_vox, stop)
            parts.append(f"{low * size}-{high * size}")
        return "_".join(parts) + ".spatial"

"""Reading a volume: boxes of a level, and the whole volume at a resolution."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import coarsest_level
from terareg.core.parallel import map_items
from terareg.storage.store import Store
from terareg.volumes.objects import read_level, read_plan
from terareg.volumes.plan import VolumePlan

logger = logging.getLogger(__name__)

_BLOCK_VOXELS = 1 << 21


class Levels:
    """One image at several resolutions; subclasses say where the voxels come from.

    Attributes
    ----------
    name : str
        For messages.
    frames : tuple of Frame
        Grid of each level, finest first; all share the outer faces of level 0 (the last voxel of an
        axis may reach beyond).
    dtype : numpy.dtype
    is_segmentation : bool
        Whether voxels are labels.
    """

    name: str
    frames: tuple[Frame, ...]
    dtype: np.dtype
    is_segmentation: bool

    def _read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        raise NotImplementedError

    def planes_together(self, level: int) -> int:
        """Planes along z that are decoded together: those of a chunk."""
        raise NotImplementedError

    @property
    def frame(self) -> Frame:
        """Grid of level 0."""
        return self.frames[0]

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.frames)

    def level_frame(self, level: int) -> Frame:
        """Grid of a level."""
        if not 0 <= level < self.levels:
            raise VolumeError(f"{self.name} has levels 0 to {self.levels - 1}, not {level}")
        return self.frames[level]

    def read(
        self, level: int, start: Sequence[int] | None = None, stop: Sequence[int] | None = None
    ) -> np.ndarray:
        """Voxels ``start <= index < stop`` of a level, (z, y, x), all of them by default.

        Raises
        ------
        VolumeError
            If the box extends outside the volume, or an object is missing or damaged. In a volume
            of terareg, lost data are never read as zeros.
        """
        shape = self.level_frame(level).shape
        start = (0, 0, 0) if start is None else tuple(int(a) for a in start)
        stop = shape if stop is None else tuple(int(b) for b in stop)
        if not all(0 <= a <= b <= n for a, b, n in zip(start, stop, shape)):
            raise VolumeError(
                f"box {start} to {stop} reaches beyond level {level} of {self.name}, whose shape "
                f"is {shape}"
            )
        if any(a == b for a, b in zip(start, stop)):
            return np.zeros([b - a for a, b in zip(start, stop)], self.dtype)
        return self._read(level, start, stop)

    def level_for(self, resolution_um: float | Sequence[float]) -> int:
        """Coarsest level that is fine enough, see :func:`terareg.core.levels.coarsest_level`.

        If none is, level 0, with a warning.
        """
        wanted = _three(resolution_um)
        level = coarsest_level([frame.spacing_um for frame in self.frames], wanted)
        if level is None:
            logger.warning(
                "%s: no level is as fine as %s um; level 0 (%s um) is used",
                self.name, wanted, self.frame.spacing_um,
            )  # fmt: skip
        return level or 0

    def resampled(
        self, target: float | Sequence[float] | Frame, workers: int = 1
    ) -> tuple[np.ndarray, Frame]:
        """The volume averaged onto another grid.

        Each voxel of the result is the mean, over its box, of a piecewise linear function that has
        the right mean over every voxel of the source (second-order conservative remapping). Integer
        ratios give plain block means, and intensities that are linear in space are reproduced at
        any ratio.

        Parameters
        ----------
        target : float, three floats, or Frame
            Spacing in micrometres of a grid with the same outer faces as level 0, or a grid in the
            same physical space and orientation. Voxels outside the volume are 0; those partly
            outside are the mean of the part inside.
        workers : int
            Threads.

        Returns
        -------
        array : numpy.ndarray, float32, shape ``frame.shape``
        frame : Frame
        """
        frame = target if isinstance(target, Frame) else self.frame.resampled(_three(target))
        if self.is_segmentation:
            raise VolumeError(
                f"{self.name} contains labels, which cannot be averaged; read a level instead"
            )
        if frame.orientation != self.frame.orientation:
            raise VolumeError(
                f"{self.name} has orientation {self.frame.orientation}, not {frame.orientation}; "
                "give a grid in its orientation"
            )
        level = self.level_for(frame.spacing_um)
        source = self.level_frame(level)
        axes = [AxisWeights(self.frame, source, frame, axis) for axis in range(3)]
        result = np.zeros(frame.shape, np.float32)

        def one(box: tuple[slice, ...]) -> None:
            rows = [w.rows(s) for w, s in zip(axes, box)]
            if any(matrix.shape[1] == 0 for _, matrix in rows):
                return
            start = [first for first, _ in rows]
            stop = [first + matrix.shape[1] for first, matrix in rows]
            values = self.read(level, start, stop).astype(np.float64)
            for axis, (_, matrix) in enumerate(rows):
                values = apply_along(matrix, values, axis)
            result[box] = values

        boxes = _output_boxes(frame, source)
        for _ in map_items(one, boxes, workers=workers, what=f"{self.name}: resampled boxes"):
            pass
        if self.dtype.kind == "u":
            # the linear pieces may undershoot at an edge where all voxels are near zero
            np.maximum(result, 0, out=result)
        return result, frame


class Volume(Levels):
    """A volume that terareg wrote.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the volume.
    plan : VolumePlan, optional
        Read from the store if not given.
    """

    def __init__(self, store: Store, key: str, plan: VolumePlan | None = None) -> None:
        self.store, self.key = store, key
        self.plan = read_plan(store, key) if plan is None else plan
        self.name = self.plan.name
        self.frames = tuple(level.frame for level in self.plan.levels)
        self.dtype = np.dtype(self.plan.dtype)
        self.is_segmentation = self.plan.is_segmentation

    def _read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        return read_level(self.store, self.key, self.plan, level, start, stop)

    def planes_together(self, level: int) -> int:
        """Planes of a chunk."""
        return self.plan.chunk[0]


class AxisWeights:
    """Weights that turn voxels of a level into voxels of the target along one axis."""

    def __init__(self, finest: Frame, source: Frame, target: Frame, axis: int) -> None:
        count, spacing = source.shape[axis], source.spacing_um[axis]
        face = finest.origin_um[axis] - finest.spacing_um[axis] / 2
        self.edges = face + spacing * np.arange(count + 1)
        # the last voxel of an odd axis is the mean of the part that lies inside the volume
        self.edges[-1] = face + finest.shape[axis] * finest.spacing_um[axis]
        self.first = target.origin_um[axis] - target.spacing_um[axis] / 2
        self.spacing = target.spacing_um[axis]

    def rows(self, part: slice) -> tuple[int, scipy.sparse.csr_matrix]:
        """First source voxel, and weights (target voxels in ``part``, source voxels used)."""
        edges, count = self.edges, len(self.edges) - 1
        centres = (edges[1:] + edges[:-1]) / 2
        row, column, weight = [], [], []
        for i in range(part.start, part.stop):
            low = max(self.first + i * self.spacing, edges[0])
            high = min(self.first + (i + 1) * self.spacing, edges[-1])
            if high - low < 1e-9 * self.spacing:
                continue
            begin = max(int(np.searchsorted(edges, low, "right")) - 1, 0)
            end = min(int(np.searchsorted(edges, high, "left")), count)
            for cell in range(begin, end):
                a, b = max(low, edges[cell]), min(high, edges[cell + 1])
                share = (b - a) / (high - low)
                before, after = max(cell - 1, 0), min(cell + 1, count - 1)
                row.append(i)
                column.append(cell)
                weight.append(share)
                if after > before:
                    offset = (a + b) / 2 - centres[cell]
                    slope = share * offset / (centres[after] - centres[before])
                    if abs(slope) > 1e-12:
                        row += [i, i]
                        column += [after, before]
                        weight += [slope, -slope]
        if not row:
            return 0, scipy.sparse.csr_matrix((part.stop - part.start, 0))
        first, last = min(column), max(column)
        matrix = scipy.sparse.csr_matrix(
            (weight, (np.array(row) - part.start, np.array(column) - first)),
            shape=(part.stop - part.start, last - first + 1),
        )
        return first, matrix


def apply_along(matrix: scipy.sparse.csr_matrix, values: np.ndarray, axis: int) -> np.ndarray:
    """The product of a matrix with all lines of ``values`` along an axis."""
    moved = np.moveaxis(values, axis, 0)
    shape = moved.shape[1:]
    out = matrix @ np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
    return np.moveaxis(out.reshape(-1, *shape), 0, axis)


def _output_boxes(target: Frame, source: Frame) -> list[tuple[slice, ...]]:
    """Boxes of the target that need about ``_BLOCK_VOXELS`` source voxels each."""
    ratio = [t / s for t, s in zip(target.spacing_um, source.spacing_um)]
    side = _BLOCK_VOXELS ** (1 / 3)
    edge = [max(1, int(side / max(r, 1.0))) for r in ratio]
    return [
        tuple(slice(a, min(a + e, n)) for a, e, n in zip((z, y, x), edge, target.shape))
        for z in range(0, target.shape[0], edge[0])
        for y in range(0, target.shape[1], edge[1])
        for x in range(0, target.shape[2], edge[2])
    ]


def _three(value: float | Sequence[float]) -> tuple[float, float, float]:
    values: Any = (value,) * 3 if np.isscalar(value) else value
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise VolumeError(f"resolution {value} um is impossible; give one or three positive sizes")
    return tuple(float(v) for v in values)

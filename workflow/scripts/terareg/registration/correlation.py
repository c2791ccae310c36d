"""Share of a sample's variance that no function of the atlas intensity explains, and its slopes.

One minus the correlation ratio of Roche 1998. The function is piecewise linear, a sum of hat
functions of the intensity, so that the share is differentiable::

    eta(x) = min_c  sum_y w(y) (J(y) - sum_k c_k h_k(I(x(y))))^2 / sum_y w(y) (J(y) - mean)^2

Where c is the minimum it adds nothing to the slopes (variable projection, Golub & Pereyra 2003).
They are written out here, since a search asks for them thousands of times on few voxels, where
automatic differentiation takes several times as long.

References
----------
Roche, A. et al. MICCAI 1998, 1115.
Golub, G. & Pereyra, V. Inverse Probl. 19, R1 (2003).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from terareg.core.frames import Frame

_BINS = 8
# of the trace of the normal equations, so that they can be solved where a level is not seen
_RIDGE = 1e-6


@dataclass(frozen=True)
class Seen:
    """Voxels of the sample: positions (3, n) in um, intensities (n,) and weights (n,)."""

    points_um: np.ndarray
    values: np.ndarray
    weight: np.ndarray


class CorrelationRatio:
    """The share for one image of the atlas, as a function of an affine.

    Parameters
    ----------
    atlas : numpy.ndarray, shape (z, y, x)
        Intensities from 0 to ``highest``.
    frame : Frame
        Of the atlas.
    cut : sequence of (axis, -1 or 1)
        Faces at which the atlas was cut. Beyond them the sample may go on as the atlas does at the
        face, or end: two levels of their own say which.
    sample : Seen
    highest : float
    """

    def __init__(
        self,
        atlas: np.ndarray,
        frame: Frame,
        cut: Sequence[tuple[int, int]],
        sample: Seen,
        highest: float,
    ) -> None:
        self._shape, self._cut = frame.shape, tuple(cut)
        self._step, self._origin = np.array(frame.spacing_um), np.array(frame.origin_um)
        self._cells = _cells(atlas / np.float32(highest))
        self._points = np.asarray(sample.points_um, np.float32)
        self._root = np.sqrt(np.asarray(sample.weight, np.float32))
        values = np.asarray(sample.values, np.float32)
        mean = np.average(values, weights=sample.weight)
        self._target = self._root * values
        spread = (self._target - self._root * mean) ** 2
        self._variance = max(float(spread.sum(dtype=np.float64)), 1e-9)
        self._levels = np.arange(_BINS, dtype=np.float32)[:, None]

    def unexplained(self, linear: np.ndarray, offset_um: np.ndarray) -> float:
        """Share that the map x_atlas = linear @ y_sample + offset (um) leaves, 0 best."""
        index = self._indices(linear, offset_um)
        image, _ = self._image(index, slopes=False)
        return self._fitted(image, self._before(index))[2]

    def slopes(
        self, linear: np.ndarray, offset_um: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """The share, and its derivatives by linear, (3, 3), and by the offset, (3,), per um."""
        index = self._indices(linear, offset_um)
        image, along = self._image(index, slopes=True)
        before = self._before(index)
        curve, rest, value = self._fitted(image, before)
        place = image * np.float32(_BINS - 1)
        low = np.minimum(place.astype(np.intp), _BINS - 2)
        steps = np.diff(curve[:_BINS])
        rise = steps.take(low)
        pull = rest * self._root
        pull *= np.float32(-2 / self._variance)
        if before is None:
            pull *= rise
            pull *= np.float32(_BINS - 1)
            by_index = [pull * one for one in along]
        else:
            place -= low
            line = curve[:_BINS].take(low) + rise * place
            onward, ends = curve[_BINS:]
            line -= ends + (onward - ends) * image
            rise *= np.float32(_BINS - 1)
            by_image = pull * (before * rise + (1 - before) * (onward - ends))
            by_index = [by_image * one for one in along]
            pull *= line
            for axis, slope in self._slopes_of_before(index):
                by_index[axis] += pull * slope
        by_linear = _product(np.stack(by_index), self._points.T)
        by_offset = np.array([one.sum(dtype=np.float64) for one in by_index])
        return value, by_linear / self._step[:, None], by_offset / self._step

    def _indices(self, linear: np.ndarray, offset_um: np.ndarray) -> list[np.ndarray]:
        """Position of every voxel of the sample along z, y and x, in voxels of the atlas."""
        matrix = (linear / self._step[:, None]).astype(np.float32)
        shift = ((offset_um - self._origin) / self._step).astype(np.float32)
        index = []
        for row, start in zip(matrix, shift):
            place = row[0] * self._points[0]
            place += row[1] * self._points[1]
            place += row[2] * self._points[2]
            place += start
            index.append(place)
        return index

    def _image(self, index: list[np.ndarray], slopes: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        """The atlas, relative to the highest intensity, and its slopes along z, y and x."""
        cell, parts = None, []
        for place, n in zip(index, self._shape):
            part = np.clip(place, 0, n - 1)
            low = part.astype(np.intp)
            part -= low
            parts.append(part)
            cell = low if cell is None else cell * n + low
        z, y, x = parts
        # linear along z, then y, then x: constants and slopes of each
        first = [one.take(cell) for one in self._cells]
        second = [a + z * b for a, b in zip(first[:4], first[4:])]
        third = [a + y * b for a, b in zip(second[:2], second[2:])]
        image = third[0] + x * third[1]
        if not slopes:
            return image, []
        upward = [a + y * b for a, b in zip(first[4:6], first[6:])]
        along = [upward[0] + x * upward[1], second[2] + x * second[3], third[1]]
        # positions before the first voxel are clamped
        return image, [slope * (place > 0) for slope, place in zip(along, index)]

    def _before(self, index: list[np.ndarray]) -> np.ndarray | None:
        """1 before all faces that were cut, 0 a voxel beyond one of them; None without such."""
        return reduce(np.multiply, self._ramps(index)) if self._cut else None

    def _slopes_of_before(self, index: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Axis and slope, for every face."""
        ramps = self._ramps(index)
        for number, (axis, sign) in enumerate(self._cut):
            within = (ramps[number] > 0) & (ramps[number] < 1)
            others = ramps[:number] + ramps[number + 1 :]
            yield axis, reduce(np.multiply, others, np.float32(-sign) * within)

    def _ramps(self, index: list[np.ndarray]) -> list[np.ndarray]:
        return [
            np.clip(self._shape[axis] - index[axis] if sign > 0 else index[axis] + 1, 0, 1)
            for axis, sign in self._cut
        ]

    def _fitted(
        self, image: np.ndarray, before: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The curve, what it leaves times the root of the weight, and the share."""
        terms = np.empty((_BINS if before is None else _BINS + 2, len(image)), np.float32)
        hats, root = terms[:_BINS], self._root
        np.subtract(image * np.float32(_BINS - 1), self._levels, out=hats)
        np.abs(hats, out=hats)
        np.subtract(1, hats, out=hats)
        np.maximum(hats, 0, out=hats)
        if before is not None:
            hats *= root * before
            beyond = root * (1 - before)
            terms[_BINS] = beyond * image
            terms[_BINS + 1] = beyond - terms[_BINS]
        else:
            hats *= root
        normal = _product(terms, terms.T).astype(np.float64)
        normal[np.diag_indices(len(normal))] += _RIDGE * np.trace(normal)
        right = _product(terms, self._target[:, None])[:, 0]
        curve = np.linalg.solve(normal, right).astype(np.float32)
        rest = self._target - _product(curve[None], terms)[0]
        return curve, rest, float((rest * rest).sum(dtype=np.float64)) / self._variance


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of two float32 matrices; PyTorch's sums depend on its own threads alone."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def _cells(volume: np.ndarray) -> np.ndarray:
    """Coefficients of the linear interpolation in every cell, float32 (8, voxels).

    Constant or slope along z, y and x, in the order of binary numbers. Beyond the last voxel of an
    axis slopes are 0.
    """
    parts = np.asarray(volume, np.float32)[None]
    for axis in (1, 2, 3):
        last = np.take(parts, [-1], axis)
        slope = np.diff(parts, axis=axis, append=last)
        parts = np.stack([parts, slope], 1).reshape(-1, *volume.shape)
    return parts.reshape(8, -1)

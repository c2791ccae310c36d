"""Linear interpolation of volumes at scattered points, with its gradient, in PyTorch.

The same as ``torch.nn.functional.grid_sample`` with aligned corners and clamped edges, and about
three times as fast on a processor: channels are gathered one by one in chunks that stay in its
cache, and the gradient by position is computed with the value, from the same eight corners. Sums of
the gradient by volume are taken in the order of the points, so that they do not depend on the
number of threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

# points at a time; temporary arrays of this length stay in the cache of a processor
_CHUNK = 2**16


def interpolate(
    volume: torch.Tensor, points: torch.Tensor, spacing: Sequence[float], origin: Sequence[float]
) -> torch.Tensor:
    """Linear interpolation, edges clamped; differentiable once, in volume and points.

    Parameters
    ----------
    volume : torch.Tensor, float32, shape (c, z, y, x)
    points : torch.Tensor, float32, shape (3, ...)
        Components z, y, x, in the unit of spacing and origin.
    spacing, origin : sequences of float
        Of the volume's voxels, along (z, y, x).

    Returns
    -------
    torch.Tensor, float32, shape (c, ...)
    """
    flat = points.reshape(3, -1)
    result = _Linear.apply(volume, flat, tuple(spacing), tuple(origin))
    return result.reshape(len(volume), *points.shape[1:])


class _Linear(torch.autograd.Function):
    """Interpolation at points of shape (3, n)."""

    @staticmethod
    def forward(ctx, volume, points, spacing, origin):
        wanted, grid = ctx.needs_input_grad[1], (volume.shape[1:], spacing, origin)
        padded = F.pad(volume[None], (0, 1) * 3, mode="replicate")[0].flatten(1)
        values = points.new_empty((len(volume), points.shape[1]))
        slopes = points.new_empty((len(volume), *points.shape)) if wanted else None
        for part in _chunks(points):
            index, fractions = _cells(points[:, part], *grid)
            for channel, one in enumerate(padded):
                corners = [one[n:].index_select(0, index) for n in _offsets(volume.shape[1:])]
                into = None if slopes is None else slopes[channel, :, part]
                values[channel, part] = _blend(corners, fractions, into)
        if slopes is not None:
            for axis in range(3):
                # zero where the position is clamped; at the upper end the corners are equal
                slopes[:, axis] *= (points[axis] > origin[axis]) / spacing[axis]
        ctx.grid, ctx.channels = grid, len(volume)
        ctx.save_for_backward(points if ctx.needs_input_grad[0] else None, slopes)
        return values

    @staticmethod
    def backward(ctx, gradient):
        points, slopes = ctx.saved_tensors
        by_volume = by_points = None
        if slopes is not None:
            by_points = slopes[0] * gradient[0]
            for slope, one in zip(slopes[1:], gradient[1:]):
                by_points.addcmul_(slope, one)
        if points is not None:
            shape = ctx.grid[0]
            sums = gradient.new_zeros((ctx.channels, math.prod(n + 1 for n in shape)))
            for part in _chunks(points):
                index, fractions = _cells(points[:, part], *ctx.grid)
                sides = [(1 - f, f) for f in fractions]
                for offset, (z, y, x) in zip(_offsets(shape), itertools.product(*sides)):
                    weight = z * y * x
                    for total, one in zip(sums, gradient):
                        total[offset:].index_add_(0, index, weight * one[part])
            nz, ny, nx = shape
            by_volume = sums.reshape(-1, nz + 1, ny + 1, nx + 1)[:, :nz, :ny, :nx]
        return by_volume, by_points, None, None


def _chunks(points: torch.Tensor) -> list[slice]:
    n = points.shape[1]
    size = max(1, n) if points.is_cuda else _CHUNK
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _cells(points, shape, spacing, origin) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Index of the lowest corner in the padded volume, and the fractions z, y, x."""
    integer = torch.int32 if math.prod(n + 1 for n in shape) < 2**31 else torch.int64
    index, fractions = None, []
    for p, n, s, o in zip(points, shape, spacing, origin):
        position = ((p - o) / s).clamp_(0, n - 1)
        low = position.floor()
        fractions.append(position.sub_(low))
        low = low.to(integer)
        index = low if index is None else index.mul_(n + 1).add_(low)
    return index, fractions


def _offsets(shape) -> list[int]:
    """Of the eight corners of a cell in the padded volume, z, y, x = 000, 001, 010, ..."""
    _, y, x = (n + 1 for n in shape)
    return [(a * y + b) * x + c for a, b, c in itertools.product((0, 1), repeat=3)]


def _blend(
    corners: list[torch.Tensor], fractions: list[torch.Tensor], slopes: torch.Tensor | None
) -> torch.Tensor:
    """Value from the eight corners; its slopes along z, y, x per voxel go into ``slopes``."""
    z, y, x = fractions
    pairs = list(zip(corners[::2], corners[1::2]))
    edges = [torch.lerp(a, b, x) for a, b in pairs]
    low, high = torch.lerp(edges[0], edges[1], y), torch.lerp(edges[2], edges[3], y)
    if slopes is not None:
        torch.sub(high, low, out=slopes[0])
        slopes[1] = torch.lerp(edges[1] - edges[0], edges[3] - edges[2], z)
        steps = [b.sub_(a) for a, b in pairs]
        slopes[2] = torch.lerp(
            torch.lerp(steps[0], steps[1], y), torch.lerp(steps[2], steps[3], y), z
        )
    return torch.lerp(low, high, z)

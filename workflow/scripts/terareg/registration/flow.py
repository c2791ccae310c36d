"""Flows of smooth velocity fields on a periodic box, in PyTorch.

Velocities are v = K^(1/2) u with a white u, where K is the Green's function of the energy
||L v||^2: K = sum_i w_i (1 - a_i^2 Laplacian)^(-2p) in the Fourier domain (Beg 2005 with one term;
several terms act at several widths at once, Risser 2011). Lengths are in the caller's unit.

References
----------
Beg, M. F. et al. Int. J. Comput. Vis. 61, 139 (2005). Ashburner, J. NeuroImage 38, 95 (2007).
Arsigny, V. et al. MICCAI 2006. Risser, L. et al. IEEE Trans. Med. Imaging 30, 1746 (2011).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import make_interp_spline

from terareg.registration.interpolation import interpolate

# squarings at least, and at most; largest slope of one step of integration
_SQUARINGS = 3
_MOST_SQUARINGS = 12
_SLOPE = 0.125
_SLOPE_OF_A_TIME = 0.5


@dataclass(frozen=True)
class SamplingGrid:
    """Regular grid for sampling: shape, spacing and origin along (z, y, x)."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]

    def points(self, device: torch.device) -> torch.Tensor:
        """Positions of all voxels, float32, shape (3, z, y, x), components z, y, x."""
        axes = [
            torch.tensor(o + s * np.arange(n), dtype=torch.float32, device=device)
            for n, s, o in zip(self.shape, self.spacing, self.origin)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Whether points (3, ...) lie between the first and the last voxel's centre, bool (...)."""
        inside = [
            (p >= o) & (p <= o + s * (n - 1))
            for p, n, s, o in zip(points, self.shape, self.spacing, self.origin)
        ]
        return inside[0] & inside[1] & inside[2]

    def beyond(self, faces: Iterable[tuple[int, int]], points: torch.Tensor) -> torch.Tensor:
        """Whether points (3, ...) lie beyond one of the faces, 0 to 1 over one voxel, (...).

        ``faces`` are pairs (axis, -1 or 1), see :func:`terareg.registration.images.cut_faces`.
        """
        before = torch.ones_like(points[0])
        for axis, sign in faces:
            step = self.spacing[axis]
            face = self.origin[axis] + step * (self.shape[axis] - 0.5 if sign > 0 else -0.5)
            before = before * (0.5 - sign * (points[axis] - face) / step).clamp(0, 1)
        return 1 - before

    def sample(self, volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Linear interpolation of ``volume`` (c, z, y, x) on this grid, edges clamped.

        ``points`` has shape (3, ...) with components z, y, x; the result has shape (c, ...).
        """
        return interpolate(volume, points, self.spacing, self.origin)


class Lattice:
    """A coarse regular grid that spans a fine one, for fields that are smooth on the coarse one.

    Fields are brought to the voxels by a cubic spline, which is exact for an affine map. With 2 or
    3 nodes along an axis the spline is linear or quadratic.

    Parameters
    ----------
    grid : SamplingGrid
        Voxels.
    spacing : float
        Largest distance of two nodes.
    device : torch.device

    Attributes
    ----------
    points : torch.Tensor, float32, shape (3, z, y, x)
        Positions of the nodes; those at the ends are the outermost voxels.
    """

    def __init__(self, grid: SamplingGrid, spacing: float, device: torch.device) -> None:
        counts, steps, self._matrices = [], [], []
        for n, step in zip(grid.shape, grid.spacing):
            nodes = min(n, max(2, 1 + math.ceil((n - 1) * step / spacing)))
            matrix = np.ones((n, 1))
            if nodes > 1:
                at = np.linspace(0, n - 1, nodes)
                matrix = make_interp_spline(at, np.eye(nodes), min(3, nodes - 1))(np.arange(n))
            self._matrices.append(torch.tensor(matrix, dtype=torch.float32, device=device))
            counts.append(nodes)
            steps.append(step * (n - 1) / max(1, nodes - 1))
        self.points = SamplingGrid(tuple(counts), tuple(steps), grid.origin).points(device)

    def spread(self, field: torch.Tensor) -> torch.Tensor:
        """Values at the voxels, shape (c, z, y, x), from those at the nodes."""
        return along_axes(field, self._matrices)


@dataclass(frozen=True)
class Kernel:
    """Smoothness of velocities: widths a_i (caller's unit), weights w_i, power p of L."""

    widths: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,)
    power: float = 2.0


class Flow:
    """Velocity fields on a periodic box, and their flows.

    Parameters
    ----------
    grid : SamplingGrid
        Voxels of the box; along an axis of n voxels, voxel n is voxel 0 again.
    kernel : Kernel
    times : int
        1 for a stationary velocity, otherwise number of velocities in unit time.
    device : torch.device

    Attributes
    ----------
    squarings : int
        2^squarings steps of integration for every velocity, see :meth:`follow`.
    """

    def __init__(
        self, grid: SamplingGrid, kernel: Kernel, *, times: int, device: torch.device
    ) -> None:
        self.grid, self.times = grid, times
        self.squarings = _SQUARINGS if times == 1 else 0
        self.root = kernel_root(grid, kernel, device)
        self.identity = grid.points(device)

    def velocity(self, white: torch.Tensor) -> torch.Tensor:
        """v = K^(1/2) u; ``white`` and result have shape (times, 3, z, y, x)."""
        axes = (-3, -2, -1)
        spectrum = torch.fft.rfftn(white, dim=axes) * self.root
        return torch.fft.irfftn(spectrum, s=self.grid.shape, dim=axes)

    def follow(self, velocity: torch.Tensor) -> None:
        """Take more steps of integration, if ``velocity`` (times, 3, z, y, x) needs them.

        Over one step the map of a velocity v is x + h v(x), one to one if h times the steepest
        slope of v (Frobenius norm of its derivative) is below 1. Steps are chosen to keep it below
        1/8 (stationary) or 1/2, and their number never falls.
        """
        square = torch.zeros_like(velocity[:, 0])
        for axis, step in enumerate(self.grid.spacing, 2):
            change = (velocity.roll(-1, axis) - velocity) / step
            square = square + change.square().sum(1)
        slope = float(square.max().sqrt()) / self.times
        largest = _SLOPE if self.times == 1 else _SLOPE_OF_A_TIME
        needed = math.ceil(math.log2(max(slope / largest, 1.0)))
        self.squarings = min(max(self.squarings, needed), _MOST_SQUARINGS)

    def displacement(self, velocity: torch.Tensor, sign: float) -> torch.Tensor:
        """phi - id for ``sign`` +1, phi^-1 - id for -1, shape (3, z, y, x)."""
        if self.times == 1:
            return self._exponential(velocity[0] * sign)
        # phi^-1 follows the velocities in reverse order: each step is composed on the inside
        u = torch.zeros_like(velocity[0])
        order = range(self.times) if sign < 0 else reversed(range(self.times))
        for t in order:
            step = self._exponential(velocity[t] * (sign / self.times))
            u = step + self.grid.sample(u, self.identity + step)
        return u

    def _exponential(self, velocity: torch.Tensor) -> torch.Tensor:
        """Displacement after unit time: a first step by the midpoint rule, then squarings."""
        u = velocity / 2**self.squarings
        if self.squarings:
            u = self.grid.sample(u, self.identity + u / 2)
        for _ in range(self.squarings):
            u = u + self.grid.sample(u, self.identity + u)
        return u


def along_axes(volumes: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply matrices (rows, n) onto the last three axes of (c, z, y, x)."""
    z, y, x = matrices
    volumes = volumes @ x.T
    volumes = y @ volumes
    shape = volumes.shape
    return (z @ volumes.reshape(shape[0], shape[1], -1)).reshape(shape[0], -1, *shape[2:])


def kernel_root(grid: SamplingGrid, kernel: Kernel, device: torch.device) -> torch.Tensor:
    """Multiplier K^(1/2) for rfftn, float32, from the exact Laplacian symbol."""
    nz, ny, nx = grid.shape
    frequencies = [
        np.fft.fftfreq(nz, grid.spacing[0]),
        np.fft.fftfreq(ny, grid.spacing[1]),
        np.fft.rfftfreq(nx, grid.spacing[2]),
    ]
    z, y, x = np.meshgrid(*frequencies, indexing="ij")
    laplacian = (2 * np.pi) ** 2 * (z**2 + y**2 + x**2)
    total = sum(
        w * (1 + a**2 * laplacian) ** (-2 * kernel.power)
        for a, w in zip(kernel.widths, kernel.weights)
    )
    return torch.tensor(np.sqrt(total / sum(kernel.weights)), dtype=torch.float32, device=device)


def change_grid(field: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Resample periodic fields (..., z, y, x) to another number of voxels in the same box.

    Fourier coefficients are truncated or padded with zeros; exact for band-limited fields.
    """
    old = field.shape[-3:]
    if tuple(old) == tuple(shape):
        return field
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(field.double(), dim=axes)
    result = torch.zeros((*field.shape[:-3], *shape), dtype=spectrum.dtype, device=field.device)
    keep = []
    for a, b in zip(old, shape):
        half = (min(a, b) - 1) // 2
        keep.append(torch.cat([torch.arange(0, half + 1), torch.arange(-half, 0)]))
    source = torch.meshgrid(*[k % n for k, n in zip(keep, old)], indexing="ij")
    target = torch.meshgrid(*[k % n for k, n in zip(keep, shape)], indexing="ij")
    result[(..., *target)] = spectrum[(..., *source)]
    scale = math.prod(shape) / math.prod(old)
    return (torch.fft.ifftn(result, dim=axes).real * scale).float()


def inverse_displacement(
    grid: SamplingGrid, displacement: torch.Tensor, start: torch.Tensor, n: int = 8
) -> torch.Tensor:
    """Inverse f(p) = -d(p + f(p)) of a displacement d by Newton's method from a good guess.

    Unlike a fixed-point iteration it also converges where the slope of d is above 1.
    ``displacement``, ``start`` and the result have shape (3, z, y, x).
    """
    points = grid.points(displacement.device)
    slopes = torch.stack(torch.gradient(displacement, spacing=grid.spacing, dim=(1, 2, 3)), 1)
    both = torch.cat([displacement, slopes.flatten(0, 1)])
    one = torch.eye(3, device=displacement.device)
    f = start
    for _ in range(n):
        d, slope = grid.sample(both, points + f).split([3, 9])
        matrix = slope.reshape(3, 3, -1).permute(2, 0, 1) + one
        step = torch.linalg.solve(matrix, (f + d).reshape(3, -1).T)
        f = f - step.T.reshape(f.shape)
    return f


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Set PyTorch's CPU threads within a block; the last bits of sums depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

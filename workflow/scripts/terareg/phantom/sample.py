"""A deformed sample of the phantom brain, with known truth.

The sample is a function: its value at any point of the sample frame is computed from the atlas at
the true anatomical position of the point, so blocks of any size agree and no whole volume is ever
held in memory.

Directions: ``Sample.to_atlas`` maps sample points to atlas points by an explicit formula,
``p = A^-1 x + d(x)`` with a two-scale B-spline displacement ``d``; ``Sample.to_sample`` is its
inverse, found by iteration to less than 0.01 um.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.core.errors import AtlasError
from terareg.core.frames import Frame, orientation_matrix
from terareg.phantom.atlas import PhantomAtlas, blurred
from terareg.phantom.fields import SplineField

_MEDIUM_COUNTS = 25.0
_APART = 1.05  # distance of counted cells, diameters


@dataclass(frozen=True)
class SampleSettings:
    """How the sample differs from the atlas.

    Attributes
    ----------
    seed : int
        Seed of all random numbers.
    rotation_deg, scale, shift_um : float
        Rotation angle about a random axis; largest deviation of the scale from 1 along an axis;
        largest translation along an axis, micrometres.
    coarse_um, fine_um : float
        Root mean square displacement of the two scales, beyond an affine map, micrometres.
    coarse_spacing_um, fine_spacing_um : float
        Distance between lattice nodes of the two scales.
    region_factor : float
        Standard deviation of the log intensity factor of a region.
    bias : float
        Standard deviation of the log bias field.
    texture : float
        Relative amplitude of the voxel-scale texture.
    cells : int
        Number of bright cells in channel 1.
    tissue_counts : tuple of float
        Intensity of template value 1 in each channel.
    counted_cells : int
        Number of cells of one size whose centres are part of the truth; they take the place of
        ``cells``, and there are none unless they are asked for.
    counted_cell_um : float
        Their diameter.
    counted_contrast : tuple of float
        Smallest and largest height of a counted cell above the tissue, in standard deviations of
        the texture where the template is 1.
    """

    seed: int = 0
    rotation_deg: float = 5.0
    scale: float = 0.04
    shift_um: float = 150.0
    coarse_um: float = 200.0
    fine_um: float = 50.0
    coarse_spacing_um: float = 2400.0
    fine_spacing_um: float = 1000.0
    region_factor: float = 0.06
    bias: float = 0.15
    texture: float = 0.15
    cells: int = 6000
    tissue_counts: tuple[float, float] = (5000.0, 3500.0)
    counted_cells: int = 0
    counted_cell_um: float = 160.0
    counted_contrast: tuple[float, float] = (2.0, 10.0)


def _without_affine_part(field: SplineField, extent: np.ndarray, size: float) -> SplineField:
    """Remove the best affine map over the middle of the volume; scale the rest to ``size`` rms.

    A cubic B-spline reproduces linear functions from their values at the nodes, so the affine part
    can be removed from the nodes themselves, which keeps pose and deformation separate.
    """
    axes = [np.linspace(0, e, 25) for e in extent]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    middle = (((points / extent - 0.5) / 0.48) ** 2).sum(-1) < 1
    values = np.moveaxis(field.grid(axes), 0, -1)[middle]
    matrix = np.linalg.lstsq(_homogeneous(points[middle]), values, rcond=None)[0]
    nodes = [o + s * np.arange(n) for o, s, n in
             zip(field.origin, field.spacing, field.nodes.shape[1:])]  # fmt: skip
    places = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    affine = np.moveaxis(_homogeneous(places) @ matrix, -1, 0)
    rest = replace(field, nodes=(field.nodes - affine).astype(np.float32))
    values = np.moveaxis(rest.grid(axes), 0, -1)[middle]
    return rest.scaled(size / np.sqrt((values**2).sum(-1).mean()))


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


class GeneratedSample:
    """The deformed brain as a function of position, two channels.

    Parameters
    ----------
    atlas : PhantomAtlas
    frame : Frame
        Grid of the sample (origin 0 at the centre of the first voxel), with its orientation.
    settings : SampleSettings

    Notes
    -----
    ``sample.block(start, stop)`` gives float32 (2, z, y, x) counts above the camera's offset:
    tissue, texture, cells and bias, without anything that a microscope adds.
    """

    def __init__(self, atlas: PhantomAtlas, frame: Frame, settings: SampleSettings) -> None:
        self.atlas, self.frame, self.settings = atlas, frame, settings
        rng = np.random.default_rng([settings.seed, 2])
        self.affine = self._make_affine(rng)
        self._inverse_affine = np.linalg.inv(self.affine)
        extent = np.array(frame.extent_um)
        self._displacement = self._make_displacement(rng, extent)
        wide, middle = (2600.0,) * 3, (3000.0,) * 3
        self._contrast = SplineField.random(rng, extent, wide, 2)
        self._bias = SplineField.random(rng, extent, middle, 2).scaled(settings.bias)
        voxels = frame.shape
        self._texture = [
            SplineField.random(rng, voxels, (1.3, 1.8, 1.8), max_nodes=512),
            SplineField.random(rng, voxels, (1.3, 2.2, 2.2), max_nodes=512),
            SplineField.random(rng, voxels, (2.5, 7.0, 7.0)),
        ]
        self._images = self._make_images(rng)
        self._missing, self._artefact = self._make_damage(rng)
        self._ragged = SplineField.random(rng, extent, (420.0,) * 3)
        counted = settings.counted_cells > 0
        self._cells = self._make_cells(rng) if not counted else np.empty((0, 4))
        self.counted_cells = self._make_counted_cells() if counted else np.empty((0, 4))

    # -------------------------------------------------------------- transform
    def _make_affine(self, rng: np.random.Generator) -> np.ndarray:
        s = self.settings
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        angle = np.deg2rad(s.rotation_deg)
        cross = np.cross(np.eye(3), axis)
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        scale = np.diag(1 + s.scale * rng.uniform(-1, 1, 3))
        matrix = (
            rotation
            @ scale
            @ orientation_matrix(self.atlas.frame.orientation, self.frame.orientation)
        )
        shift = s.shift_um * rng.uniform(-1, 1, 3)
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = self.frame.centre_um + shift - matrix @ self.atlas.frame.centre_um
        return affine

    def _make_displacement(self, rng, extent) -> tuple[SplineField, SplineField]:
        s = self.settings
        fields: tuple[SplineField, SplineField] = tuple(
            _without_affine_part(SplineField.random(rng, extent, (spacing,) * 3, 3), extent, size)
            for spacing, size in (
                (s.coarse_spacing_um, s.coarse_um),
                (s.fine_spacing_um, s.fine_um),
            )
        )
        # no folding: the Jacobian of the map is kept above 0.4 everywhere
        axes = [np.arange(0.0, e + 150, 150.0) for e in extent]
        inverse = self._inverse_affine[:3, :3]
        while True:
            total = np.asarray(sum(f.grid(axes) for f in fields), float)
            gradient = np.stack(
                [np.stack(np.gradient(total[k], 150.0), -1) for k in range(3)], axis=-2
            )
            relative = np.linalg.det(inverse + gradient) / np.linalg.det(inverse)
            if relative.min() > 0.4:
                return fields
            fields = tuple(f.scaled(0.9) for f in fields)

    def to_atlas(self, sample_um: np.ndarray) -> np.ndarray:
        """Map points, shape (n, 3), sample micrometres to atlas micrometres."""
        points = np.asarray(sample_um, float)
        linear = points @ self._inverse_affine[:3, :3].T + self._inverse_affine[:3, 3]
        return linear + np.transpose(sum(f.points(points) for f in self._displacement))

    def to_sample(self, atlas_um: np.ndarray) -> np.ndarray:
        """Map points, shape (n, 3), atlas micrometres to sample micrometres (inverse map)."""
        target = np.asarray(atlas_um, float)
        matrix, offset = self.affine[:3, :3], self.affine[:3, 3]
        points = target @ matrix.T + offset
        for _ in range(200):
            displacement = np.transpose(sum(f.points(points) for f in self._displacement))
            step = (target - displacement) @ matrix.T + offset - points
            points = points + step
            if np.abs(step).max(initial=0) < 1e-3:
                return points
        raise AtlasError(
            "the phantom's deformation cannot be inverted by iteration; lower coarse_um or fine_um"
        )

    def atlas_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Atlas position of a grid of sample points, float32 (3, z, y, x), micrometres."""
        out = np.asarray(sum(f.grid(axes) for f in self._displacement))
        for row in range(3):
            for column, points in enumerate(axes):
                shape = [1, 1, 1]
                shape[column] = -1
                part = self._inverse_affine[row, column] * np.asarray(points, float)
                out[row] += part.reshape(shape).astype(np.float32)
            out[row] += np.float32(self._inverse_affine[row, 3])
        return out

    # -------------------------------------------------------------- appearance
    def _make_images(self, rng: np.random.Generator) -> np.ndarray:
        """Two contrasts of the atlas per channel, between which the sample varies in space."""
        ids, inverse = np.unique(self.atlas.annotation, return_inverse=True)
        t = self.atlas.tissue
        gate = np.clip((t - 0.2) / 0.15, 0, 1)
        gate = gate * gate * (3 - 2 * gate)
        looks = []
        for channel in range(2):
            factor = np.exp(self.settings.region_factor * rng.standard_normal(len(ids)))
            factor[ids == 0] = 1
            factor = factor[inverse].reshape(t.shape).astype(np.float32)
            direct = (t ** (0.9 if channel == 0 else 1.4)) * factor
            inverted = (gate * (1.38 - t) + (1 - gate) * 0.5 * t) * factor
            direct, inverted = (blurred(look, self.atlas.frame) for look in (direct, inverted))
            looks += [direct, inverted] if channel == 0 else [inverted, direct]
        return np.stack(looks).astype(np.float32)

    def _make_damage(self, rng) -> tuple[tuple, tuple]:
        """Centre and radius (um, sample) of the missing patch and of the bright artefact."""
        centre = self.atlas.frame.centre_um
        side = rng.choice([-1, 1])
        missing = centre + 1000 * np.array([2.3 * side, -1.5, rng.uniform(0.2, 1.4)])
        artefact = centre + 1000 * np.array([-2.4 * side, rng.uniform(-0.6, 0.6), -0.8])
        points = self.to_sample(np.stack([missing, artefact]))
        return (points[0], rng.uniform(850, 1000)), (points[1], rng.uniform(350, 450))

    def _make_cells(self, rng: np.random.Generator) -> np.ndarray:
        """Rows z, y, x (voxels), amplitude (relative) of cells that lie in tissue."""
        count = self.settings.cells
        voxels = rng.uniform(0, 1, (8 * count, 3)) * np.array(self.frame.shape)
        points = self.frame.to_um(voxels)
        here = self.labels_at(points) > 0
        here &= ~self.damaged(points)
        voxels = voxels[here][:count]
        amplitude = rng.uniform(0.8, 3.0, len(voxels))
        cells = np.column_stack([voxels, amplitude])
        return cells[np.argsort(cells[:, 0], kind="stable")]

    def _make_counted_cells(self) -> np.ndarray:
        """Rows z, y, x (um), contrast of counted cells, in tissue and apart from each other."""
        s = self.settings
        rng = np.random.default_rng([s.seed, 5])
        points = rng.uniform(0, 1, (12 * s.counted_cells, 3)) * np.array(self.frame.extent_um)
        points -= np.array(self.frame.spacing_um) / 2
        here = ~self.damaged(points)
        # wholly in tissue
        for step in itertools.product((-0.5, 0.5), repeat=3):
            here &= self.labels_at(points + s.counted_cell_um * np.array(step)) > 0
        points = points[here]
        pairs = cKDTree(points).query_pairs(_APART * s.counted_cell_um, output_type="ndarray")
        kept = np.ones(len(points), bool)
        for first, second in pairs[np.lexsort(pairs.T[::-1])].tolist():
            if kept[first]:
                kept[second] = False
        points = points[kept][: s.counted_cells]
        return np.column_stack([points, rng.uniform(*s.counted_contrast, len(points))])

    def labels_at(self, sample_um: np.ndarray) -> np.ndarray:
        """True region ids at sample points (n, 3), uint32."""
        index = np.rint(self.atlas.frame.to_index(self.to_atlas(sample_um))).astype(int)
        return self._annotation_at(index.T)

    def labels_grid(self, axes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """True region ids (uint32) and right-hemisphere mask on a grid of sample points."""
        atlas_um = self.atlas_grid(axes)
        right = atlas_um[0] > self.atlas.frame.centre_um[0]
        spacing = np.array(self.atlas.frame.spacing_um, np.float32)[:, None, None, None]
        return self._annotation_at(np.rint(atlas_um / spacing).astype(np.int32)), right

    def _annotation_at(self, index) -> np.ndarray:
        shape = self.atlas.annotation.shape
        inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, shape)])
        clipped = tuple(np.clip(i, 0, n - 1) for i, n in zip(index, shape))
        return np.where(inside, self.atlas.annotation[clipped], np.uint32(0))

    def bias_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Multiplicative bias field, float32 (2, z, y, x)."""
        return np.exp(self._bias.grid(axes))

    def damage_grid(self, axes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Missing tissue and artefact on a grid, float32 0..1 each (soft edges)."""
        soft = []
        ragged = self._ragged.grid(axes)[0]
        for (centre, radius), width in ((self._missing, 60.0), (self._artefact, 40.0)):
            squares = [(np.asarray(a, np.float32) - c) ** 2 for a, c in zip(axes, centre)]
            distance = np.sqrt(
                squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
            )
            distance += 0.12 * radius * ragged
            soft.append(np.clip((radius - distance) / width + 0.5, 0, 1).astype(np.float32))
        return soft[0], soft[1]

    def damaged(self, sample_um: np.ndarray) -> np.ndarray:
        """Whether points (n, 3) may lie in the missing patch or the artefact (with a margin)."""
        points = np.asarray(sample_um, float)
        out = np.zeros(len(points), bool)
        for centre, radius in (self._missing, self._artefact):
            out |= np.linalg.norm(points - centre, axis=1) < 1.35 * radius
        return out

    def block(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Counts above the dark offset of voxels ``start <= index < stop``, (2, z, y, x) float32.

        The block may reach beyond the frame.
        """
        voxels = [np.arange(a, b) for a, b in zip(start, stop)]
        axes = [v * s for v, s in zip(voxels, self.frame.spacing_um)]
        spacing = np.array(self.atlas.frame.spacing_um, np.float32)[:, None, None, None]
        index = self.atlas_grid(axes) / spacing
        looks = [
            ndimage.map_coordinates(image, index, order=1, mode="constant", output=np.float32)
            for image in self._images
        ]
        mix = 0.5 + 0.5 * np.tanh(1.8 * self._contrast.grid(axes) + 0.6)
        bias = self.bias_grid(axes)
        missing, artefact = self.damage_grid(axes)
        fine, other, blobs = (f.grid(voxels)[0] for f in self._texture)
        textures = (0.9 * fine + 0.4 * blobs, 0.65 * fine + 0.65 * other + 0.35 * blobs)
        cells = self.draw_cells(start, stop) + self._draw_counted_cells(start, stop)
        out = np.empty((2, *missing.shape), np.float32)
        for channel in range(2):
            value = mix[channel] * looks[2 * channel] + (1 - mix[channel]) * looks[2 * channel + 1]
            value *= 1 - missing
            texture = np.clip(1 + self.settings.texture * textures[channel], 0.1, None)
            value *= texture
            if channel == 1:
                value += cells
            value += artefact * 2.6 * texture
            counts = self.settings.tissue_counts[channel]
            out[channel] = (value * counts + _MEDIUM_COUNTS) * bias[channel]
        return out

    def draw_cells(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Gaussian cells, 0.7 planes and 1.1 pixels wide, in units of template intensity."""
        out = np.zeros([b - a for a, b in zip(start, stop)], np.float32)
        reach = np.array([3, 4, 4])
        near = np.all(
            (self._cells[:, :3] > np.array(start) - reach)
            & (self._cells[:, :3] < np.array(stop) + reach),
            axis=1,
        )
        for z, y, x, amplitude in self._cells[near]:
            window, profiles = [], []
            for centre, a, b, r, sd in zip((z, y, x), start, stop, reach, (0.7, 1.1, 1.1)):
                low, high = max(int(centre) - r, a), min(int(centre) + r + 1, b)
                window.append(slice(low - a, max(high, low) - a))
                offset = np.arange(low, max(high, low)) - centre
                profiles.append(np.exp(-0.5 * (offset / sd) ** 2))
            out[tuple(window)] += (
                amplitude
                * profiles[0][:, None, None]
                * profiles[1][None, :, None]
                * profiles[2][None, None, :]
            )
        return out

    def _draw_counted_cells(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Balls whose border is half a voxel soft, in units of template intensity."""
        out = np.zeros([b - a for a, b in zip(start, stop)], np.float32)
        if not len(self.counted_cells):
            return out
        radius = self.settings.counted_cell_um / 2
        spacing = np.array(self.frame.spacing_um)
        soft = float(spacing.min())
        centres = self.counted_cells[:, :3]
        low = np.floor((centres - radius - soft) / spacing).astype(int)
        high = np.ceil((centres + radius + soft) / spacing).astype(int) + 1
        near = np.all((high > np.array(start)) & (low < np.array(stop)), axis=1)
        for n in np.flatnonzero(near):
            a, b = np.maximum(low[n], start), np.minimum(high[n], stop)
            squares = [
                (np.arange(i, j) * s - c) ** 2 for i, j, s, c in zip(a, b, spacing, centres[n])
            ]
            distance = np.sqrt(
                squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
            )
            height = self.counted_cells[n, 3] * self.settings.texture
            ball = np.clip((radius - distance) / soft + 0.5, 0, 1) * height
            out[tuple(slice(i - f, j - f) for i, j, f in zip(a, b, start))] += ball
        return out

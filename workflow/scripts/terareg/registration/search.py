"""Search for rotation, scale and position at coarse resolutions, then for an affine at finer ones.

The criterion of the search is the share of the sample's variance that no function of the atlas
intensity explains (:mod:`terareg.registration.correlation`). It works equally for inverted,
saturated or arbitrary contrast.

What is far from the tissue says that the atlas ends where the sample does. A whole brain is found
by it even where light fades strongly; for one that was cut, another part or orientation of the
atlas fits better than the right one. So there are two searches, with all voxels and with tissue and
its surroundings alone (:data:`NEAR`).

One function for the whole brain is enough to find the pose, but biases it: where contrast follows
regions, or tissue is missing, outline and cut face move to make up for it. The affine that is found
last therefore leaves the least variance to a straight line of the atlas intensity, and of its
tissue fraction, that varies smoothly in space (:mod:`terareg.registration.contrast`). A straight
line, since a bent one can shift the surface of a brain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from terareg.core.frames import all_orientations, orientation_matrix
from terareg.registration import lbfgs
from terareg.registration.contrast import LocalContrast
from terareg.registration.correlation import CorrelationRatio, Seen
from terareg.registration.flow import SamplingGrid
from terareg.registration.images import (
    BRIGHT,
    WorkingImage,
    crop_to_tissue,
    cut_faces,
    resample,
    tissue_fraction,
)
from terareg.registration.landmarks import Landmarks, fit_similarity

EXTENTS = ("whole", "right", "left")
_VOXELS_PER_SIZE = (9, 18)
#: distance from the tissue up to which voxels count in the second search, relative to the size of
#: the atlas: a voxel of the finer resolution, and none of the coarser one
NEAR = 1 / 17.5
# shifts of the first poses, relative to the size of the atlas: the centre of a part is elsewhere
_SHIFTS = (0.15, 0.3)
_DESCENTS = (10, 2)  # poses that are optimised at the two resolutions
# of the affine; its window of contrast (standard deviation) and the margin around the sample's
# tissue, relative to the size of the atlas; and steps at every resolution
_VOXELS_PER_SIZE_OF_AFFINE = (18, 36)
_WINDOW = 0.15
_MARGIN = 0.15
_AFFINE_STEPS = 40
_APART = 0.01  # distance of places, relative to the size of the atlas, that makes another start
_MOST_STRETCH = 1.5  # along any direction, by which the affine may differ from its start
_LOOKED_AT = 6  # orientations that are refined: three pairs of mirror images
_BRIGHTEST = 1.3
# standard deviations of the mean log scale and of its differences, and the cost of one of them
_SCALE_PRIOR = (0.3, 0.15, 0.02)
# residual distance between brains after an affine (share of the brain's size), and the cost of a
# landmark at that distance, in units of unexplained variance
_DEFORMATION = 0.03
_LANDMARK_COST = 0.02


@dataclass(frozen=True)
class Pose:
    """y = position + R O S (x - centre), x in atlas um and y in sample um.

    ``permutation`` is O (orientation codes), ``rotation`` the vector of R (radians, axes z, y, x
    of the sample), ``log_scale`` that of S along the atlas axes.
    """

    permutation: np.ndarray
    rotation: np.ndarray
    log_scale: np.ndarray
    centre: np.ndarray
    position: np.ndarray

    def affine(self) -> np.ndarray:
        """4 x 4 matrix, atlas um to sample um."""
        turn, _ = rotation_matrix(self.rotation)
        matrix = np.eye(4)
        matrix[:3, :3] = turn @ self.permutation @ np.diag(np.exp(self.log_scale))
        matrix[:3, 3] = self.position - matrix[:3, :3] @ self.centre
        return matrix


def presence(image: WorkingImage, extent: str) -> np.ndarray:
    """Part of the atlas that is expected in the sample, float32 (z, y, x), 1 = expected.

    For one hemisphere it falls from 1 to 0 over two voxels at the middle of the tissue.
    """
    shape, frame = image.frame.shape, image.frame
    if extent == "whole":
        return np.ones(shape, np.float32)
    letter = {"right": "R", "left": "L"}[extent]
    axis = next(i for i, c in enumerate(frame.orientation) if c in "RL")
    sign = 1.0 if frame.orientation[axis] == letter else -1.0
    middle = image.tissue_centre_um[axis]
    distance = sign * (frame.axes_um()[axis] - middle) / frame.spacing_um[axis]
    ramp = np.clip(0.5 + distance / 2, 0, 1).astype(np.float32)
    return np.broadcast_to(ramp.reshape([-1 if a == axis else 1 for a in range(3)]), shape).copy()


def saturated(image: WorkingImage) -> np.ndarray:
    """Intensities that a pose is judged by, float32 (z, y, x), at most :data:`_BRIGHTEST`.

    Bright parts are cut off where few voxels of a template or of autofluorescence are: the variance
    within them says little of where a brain lies.
    """
    top = min(_BRIGHTEST, BRIGHT * float(np.median(image.values[image.tissue])))
    return np.clip(image.values, -0.2, top) * np.float32(_BRIGHTEST / top)


class Search:
    """Poses of one atlas in one sample.

    Parameters
    ----------
    atlas, sample : WorkingImage
    scale : tuple of float, optional
        Fixed scale along the atlas axes; searched if None.
    landmarks : Landmarks, optional
        Their distances are added to the criterion; three or more give an additional start.
    near : float, optional
        Distance from the sample's tissue up to which voxels count, relative to the size of the
        atlas; all voxels if None.

    Attributes
    ----------
    spread_um : float
        Expected distance of a landmark from its partner after the best affine.
    """

    def __init__(
        self,
        atlas: WorkingImage,
        sample: WorkingImage,
        scale: tuple[float, float, float] | None,
        landmarks: Landmarks | None = None,
        near: float | None = None,
    ) -> None:
        self.scale, self.landmarks = scale, landmarks
        self.size = atlas.tissue_volume_um3 ** (1 / 3)
        self.spread_um = _DEFORMATION * self.size
        if landmarks is not None:
            self.spread_um = math.hypot(self.spread_um, landmarks.sigma_um)
        self.unit = self.size / 10
        away = math.inf if near is None else near * self.size
        self.levels = [_Level(atlas, sample, self.size / n, away) for n in _VOXELS_PER_SIZE]
        self.images = atlas, sample
        self.sample_centre = sample.tissue_centre_um
        self.sample_size = sample.tissue_volume_um3 ** (1 / 3)
        self.parts = {name: _centre_and_size(atlas, presence(atlas, name)) for name in EXTENTS}

    def pose(
        self,
        permutation: np.ndarray,
        extent: str,
        rotation_deg: np.ndarray,
        shift_um: np.ndarray,
        scale: float = 1.0,
    ) -> Pose:
        """Pose with the centres of the tissue aligned, then rotated and translated."""
        return Pose(
            permutation,
            np.deg2rad(np.asarray(rotation_deg, float)),
            np.log(np.array(self.scale or (scale,) * 3, float)),
            self.parts[extent][0],
            self.sample_centre + np.asarray(shift_um, float),
        )

    def unexplained(self, affine: np.ndarray, extent: str, level: int = -1) -> float:
        """Criterion of an affine (atlas um to sample um), 0 best, about 1 for no relation."""
        inverse = np.linalg.inv(affine)
        return self.levels[level].of(extent).unexplained(inverse[:3, :3], inverse[:3, 3])

    def best(
        self, permutation: np.ndarray, extent: str, rotation_deg: np.ndarray, shift_um: np.ndarray
    ) -> tuple[float, Pose]:
        """Best pose near the given start: many starts are ranked coarsely, the best optimised."""
        starts = self._starts(permutation, extent, rotation_deg, shift_um)
        marked = self.pose_of_landmarks(permutation, extent)
        starts += [] if marked is None else [marked]
        ranked = sorted((self._cost(pose.affine(), extent), i) for i, pose in enumerate(starts))
        coarse = [self.descend(starts[i], extent, 0, 25) for _, i in ranked[: _DESCENTS[0]]]
        coarse.sort(key=lambda item: item[0])
        fine = [self.descend(pose, extent, 1, 30) for _, pose in coarse[: _DESCENTS[1]]]
        return min(fine, key=lambda item: item[0])

    def pose_of_landmarks(self, permutation: np.ndarray, extent: str) -> Pose | None:
        """Pose from the landmarks alone; None if they are too few, or on one line."""
        if self.landmarks is None:
            return None
        found = fit_similarity(self.landmarks, permutation, self.spread_um, self.scale)
        if found is None:
            return None
        centre = self.parts[extent][0]
        rotation = Rotation.from_matrix(found.turn).as_rotvec()
        position = found.matrix() @ centre + found.shift
        return Pose(permutation, rotation, np.log(found.scale), centre, position)

    def _cost(self, affine: np.ndarray, extent: str) -> float:
        value = self.unexplained(affine, extent, 0)
        if self.landmarks is None:
            return value
        linear, offset = torch.tensor(affine[:3, :3]), torch.tensor(affine[:3, 3])
        return value + float(self._landmark_cost(linear, offset))

    def _landmark_cost(self, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Pseudo-Huber cost of the map y = linear @ x + offset: wrong marks pull, but weakly."""
        moved = torch.tensor(self.landmarks.atlas_um) @ linear.T + offset
        squares = (moved - torch.tensor(self.landmarks.sample_um)).square().sum(1)
        return _LANDMARK_COST * ((1 + squares / self.spread_um**2).sqrt() - 1).sum()

    def _landmark_slopes(
        self, linear: np.ndarray, offset: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """The cost, and its derivatives by linear and by the offset."""
        parts = [torch.tensor(part, requires_grad=True) for part in (linear, offset)]
        value = self._landmark_cost(*parts)
        slopes = torch.autograd.grad(value, parts)
        return (float(value.detach()), *(slope.numpy() for slope in slopes))

    def _starts(self, permutation, extent, rotation_deg, shift_um) -> list[Pose]:
        turns = [np.zeros(3)]
        for angle, axis, sign in itertools.product((15.0, 30.0), range(3), (1, -1)):
            turns.append(sign * angle * np.eye(3)[axis])
        turns += [12.0 * np.array(signs) for signs in itertools.product((1, -1), repeat=3)]
        ratio = self.sample_size / self.parts[extent][1]
        scales = (1.0, min(max(ratio, 0.6), 1.6)) if self.scale is None else (1.0,)
        base, shift = np.asarray(rotation_deg, float), np.asarray(shift_um, float)
        turned = [
            self.pose(permutation, extent, base + turn, shift, scale)
            for scale in scales
            for turn in turns
        ]
        moves = itertools.product(_SHIFTS, (1, -1), self.size * np.eye(3))
        return turned + [
            self.pose(permutation, extent, base, shift + share * sign * move)
            for share, sign, move in moves
        ]

    def descend(self, pose: Pose, extent: str, level: int, iterations: int) -> tuple[float, Pose]:
        """Minimise over rotation, scale and position; returns criterion plus prior, and pose."""
        criterion, centre = self.levels[level].of(extent), pose.centre
        wide, narrow, cost = _SCALE_PRIOR

        def moved(x: np.ndarray) -> Pose:
            return replace(
                pose,
                rotation=pose.rotation + x[:3] / 4,
                log_scale=pose.log_scale + (x[3:6] / 4 if self.scale is None else 0),
                position=pose.position + x[6:9] * self.unit,
            )

        def objective(x32):
            at = moved(x32.double().numpy())
            turn, by_turn = rotation_matrix(at.rotation)
            scaled = at.permutation * np.exp(at.log_scale)
            forward = turn @ scaled
            inverse = np.linalg.inv(forward)
            value, by_inverse, by_shift = criterion.slopes(inverse, centre - inverse @ at.position)
            # inverse @ position is a part of the shift
            by_inverse = by_inverse - np.outer(by_shift, at.position)
            by_forward = -inverse.T @ by_inverse @ inverse.T
            by_position = -inverse.T @ by_shift
            if self.landmarks is not None:
                more, by_linear, by_offset = self._landmark_slopes(
                    forward, at.position - forward @ centre
                )
                value += more
                by_forward += by_linear - np.outer(by_offset, centre)
                by_position = by_position + by_offset
            by_log = np.zeros(3)
            if self.scale is None:
                mean = at.log_scale.mean()
                rest = at.log_scale - mean
                value += cost * ((mean / wide) ** 2 + float(rest @ rest) / narrow**2)
                by_log = (by_forward * forward).sum(0)
                by_log += cost * (2 * mean / (3 * wide**2) + 2 * rest / narrow**2)
            by_rotation = [float((by_forward * (one @ scaled)).sum()) for one in by_turn]
            gradient = [np.array(by_rotation) / 4, by_log / 4, by_position * self.unit]
            return value, torch.tensor(np.concatenate(gradient), dtype=torch.float32)

        end = lbfgs.minimise(
            objective, torch.zeros(9), lbfgs.Memory(), iterations=iterations, first_step=0.3
        )
        return end.value, moved(end.x.double().numpy())

    def refine(self, starts: Sequence[np.ndarray], extent: str) -> tuple[float, np.ndarray]:
        """Affine near one of ``starts`` (4 x 4, atlas um to sample um) that explains the most.

        Returns the share of the variance that it leaves, and the affine.

        Contrast may vary in space. With a fixed scale only rotation and position are refined. Which
        start is best shows after refining: one function of intensity prefers a small atlas where
        much of the sample is missing.
        """
        starts = self._distinct(starts)
        for voxels in _VOXELS_PER_SIZE_OF_AFFINE:
            level = _LocalLevel(*self.images, extent, self.size / voxels)
            ends = [self._refined(level, start, extent) for start in starts]
            value, affine = min(ends, key=lambda end: end[0])
            starts = [affine]
        return value, affine

    def _distinct(self, affines: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The affines without those that put the brain where an earlier one does."""
        corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * self.size
        points = np.c_[self.parts["whole"][0] + corners, np.ones(8)]
        found: list[np.ndarray] = []
        for affine in affines:
            apart = [np.abs(points @ (affine - one)[:3].T).max() for one in found]
            if min(apart, default=math.inf) > _APART * self.size:
                found.append(affine)
        return found

    def _refined(
        self, level: _LocalLevel, affine: np.ndarray, extent: str
    ) -> tuple[float, np.ndarray]:
        """Criterion and affine at the minimum near ``affine``."""
        centre, start = torch.tensor(self.parts[extent][0]), torch.tensor(affine)

        def moved(x):
            linear, shift = x[:9].reshape(3, 3) / 4, x[9:] * self.unit
            if self.scale is None:
                change = torch.eye(3, dtype=x.dtype) + linear
            else:
                change = torch.linalg.matrix_exp((linear - linear.T) / 2)
            forward = change @ start[:3, :3]
            offset = start[:3, :3] @ centre + start[:3, 3] + shift - forward @ centre
            return forward, offset

        def objective(x32):
            x = x32.double().requires_grad_(True)
            forward, offset = moved(x)
            inverse = torch.linalg.inv(forward)
            value = level.unexplained(inverse, -inverse @ offset)
            if self.landmarks is not None:
                value = value + self._landmark_cost(forward, offset)
            (gradient,) = torch.autograd.grad(value, x)
            return float(value.detach()), gradient.float()

        end = lbfgs.minimise(
            objective, torch.zeros(12), lbfgs.Memory(),
            iterations=_AFFINE_STEPS, tolerance=1e-6, first_step=0.1,
        )  # fmt: skip
        forward, offset = moved(end.x.double())
        found = np.eye(4)
        found[:3, :3], found[:3, 3] = forward.numpy(), offset.numpy()
        stretch = np.linalg.svd(found[:3, :3] @ np.linalg.inv(affine[:3, :3]), compute_uv=False)
        if not 1 / _MOST_STRETCH < stretch.min() <= stretch.max() < _MOST_STRETCH:
            # where little is seen a small piece of the atlas, much enlarged, would explain it all
            return objective(torch.zeros(12))[0], affine
        return end.value, found

    def rank_orientations(
        self, atlas_code: str, extents: Sequence[str]
    ) -> list[tuple[float, str, str]]:
        """All 48 orientation codes of the sample, best fit first: (unexplained, code, extent).

        Codes of both handednesses are ranked: if the declared code is wrong, its handedness may be
        wrong too. The first few are optimised on the finer level. The others keep their value of
        the coarse level, but no better than the worst of the first few.
        """
        zero, coarse = np.zeros(3), []
        for code in all_orientations():
            permutation = orientation_matrix(atlas_code, code)
            starts = [(self.pose(permutation, extent, zero, zero), extent) for extent in extents]
            found = [(*self.descend(pose, extent, 0, 12), extent) for pose, extent in starts]
            coarse.append((*min(found, key=lambda item: item[0]), code))
        coarse.sort(key=lambda item: (item[0], item[3]))
        fine: dict[str, tuple[float, str, str]] = {}
        for _, pose, extent, code in coarse[:_LOOKED_AT]:
            _, best = self.descend(pose, extent, 1, 15)
            affine = best.affine()
            value = self.unexplained(affine, extent)
            # from a neighbouring code a pose may turn by a right angle: it is that of where it ends
            code = nearest_code(affine, atlas_code, code)
            fine[code] = min(fine.get(code, (value, code, extent)), (value, code, extent))
        worst = max(value for value, _, _ in fine.values())
        rest = [(max(value, worst), code, extent)
                for value, _, extent, code in coarse if code not in fine]  # fmt: skip
        return sorted(fine.values()) + rest


def nearest_code(affine: np.ndarray, atlas_code: str, declared: str) -> str:
    """Code of the sample nearest to the axes of a pose, among codes of the declared handedness.

    The declared code if the pose is mirrored against it, which is reported elsewhere.
    """
    linear = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(linear) * np.linalg.det(orientation_matrix(atlas_code, declared)) < 0:
        return declared
    fits = {code: float((orientation_matrix(atlas_code, code) * linear).sum())
            for code in all_orientations()}  # fmt: skip
    best = max(fits, key=fits.__getitem__)
    return best if fits[best] > fits[declared] + 1e-6 else declared


class _Level:
    """Both images at one coarse voxel size, and the criterion on them."""

    def __init__(
        self, atlas: WorkingImage, sample: WorkingImage, voxel_um: float, away_um: float
    ) -> None:
        atlas, sample = resample(atlas, voxel_um), resample(sample, voxel_um)
        weight = sample.weight
        if sample.tissue.any():  # thin tissue has no voxel of its own
            away = ndimage.distance_transform_edt(~sample.tissue, sample.frame.spacing_um)
            weight = weight * (away <= away_um)
        places = np.stack(np.meshgrid(*sample.frame.axes_um(), indexing="ij"))
        counted = weight > 0
        seen = Seen(places[:, counted], saturated(sample)[counted], weight[counted])
        self._parts, self._cut = (atlas, seen), cut_faces(atlas)
        self._criteria: dict[str, CorrelationRatio] = {}

    def of(self, extent: str) -> CorrelationRatio:
        """The criterion for a part of the atlas."""
        if extent not in self._criteria:
            atlas, seen = self._parts
            volume = np.maximum(saturated(atlas) * presence(atlas, extent), 0)
            self._criteria[extent] = CorrelationRatio(
                volume, atlas.frame, self._cut, seen, _BRIGHTEST
            )
        return self._criteria[extent]


class _LocalLevel:
    """Both images at one voxel size, or theirs if that is larger, and a contrast that varies."""

    def __init__(
        self, atlas: WorkingImage, sample: WorkingImage, extent: str, voxel_um: float
    ) -> None:
        size = atlas.tissue_volume_um3 ** (1 / 3)
        atlas, sample = (
            # whole voxels, whose means do not blur more than they must
            resample(image, [s * max(1, round(voxel_um / s)) for s in image.frame.spacing_um])
            for image in (atlas, sample)
        )
        sample = crop_to_tissue(sample, _MARGIN * size)
        self.unit = size / 10
        self.grid, seen = (
            SamplingGrid(
                frame.shape,
                tuple(s / self.unit for s in frame.spacing_um),
                tuple(o / self.unit for o in frame.origin_um),
            )
            for frame in (atlas.frame, sample.frame)
        )
        self.points = seen.points(torch.device("cpu")).reshape(3, -1).double() * self.unit
        there = presence(atlas, extent)
        values = np.stack([np.maximum(saturated(atlas), 0), tissue_fraction(atlas)])
        self.volumes = torch.tensor(values * there)
        self.target = torch.tensor(saturated(sample))[None]
        self.weight = torch.tensor(sample.weight)
        self.contrast = LocalContrast(seen, (1,), _WINDOW * size / self.unit, torch.device("cpu"))
        mean = (self.weight * self.target).sum() / self.weight.sum()
        self.variance = (self.weight * (self.target - mean) ** 2).sum().clamp_min(1e-9)

    def unexplained(self, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Share of the variance left by the map x_atlas = linear @ y_sample + offset (um)."""
        points = ((linear @ self.points + offset[:, None]) / self.unit).float()
        pulled = self.grid.sample(self.volumes, points).reshape(2, *self.weight.shape)
        image, fraction = pulled[:1], pulled[1]
        coefficients = self.contrast.fit(image, fraction, self.target, self.weight)
        residual = self.target - self.contrast.apply(coefficients, image, fraction)
        return ((self.weight * residual**2).sum(dtype=torch.float64) / self.variance).double()


def rotation_matrix(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation about ``vector`` by its length (radians), and its derivatives, (3, 3, 3).

    Derivatives as in Gallego & Yezzi, J. Math. Imaging Vis. 51, 378 (2015), equation 9.
    """
    about, square = _cross(vector), float(vector @ vector)
    if square < 1e-12:
        return np.eye(3) + about, np.array([_cross(one) for one in np.eye(3)])
    angle = math.sqrt(square)
    turn = np.eye(3) + math.sin(angle) / angle * about
    turn += (1 - math.cos(angle)) / square * about @ about
    away = (about @ (np.eye(3) - turn)).T
    slopes = [(v * about + _cross(one)) @ turn / square for v, one in zip(vector, away)]
    return turn, np.array(slopes)


def _cross(vector: np.ndarray) -> np.ndarray:
    """Matrix of the cross product with a vector."""
    z, y, x = vector
    return np.array([[0, -x, y], [x, 0, -z], [-y, z, 0]])


def _centre_and_size(atlas: WorkingImage, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre of mass (um) and cube root of the volume of the weighted tissue."""
    mass = atlas.tissue * weight
    total = float(mass.sum())
    centre = [
        float(mass.sum(tuple(b for b in range(3) if b != a)) @ axis) / total
        for a, axis in enumerate(atlas.frame.axes_um())
    ]
    return np.array(centre), (total * atlas.frame.voxel_volume_um3) ** (1 / 3)

"""The first affine: orientation codes, centres, and a search that does not trust intensities.

The criterion is the part of the sample's variance that no curve of the atlas intensity explains
(one minus the correlation ratio of Roche 1998, with hat functions so that it can be
differentiated): it is the same for inverted, saturated or arbitrary contrast.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass

import numpy as np
import torch

from terareg.errors import RegistrationError
from terareg.frames import all_orientations, orientation_matrix
from terareg.registration import lbfgs
from terareg.registration.flow import Grid
from terareg.registration.images import Image, WorkingImage, check_overlap, prepare, resample
from terareg.registration.transform import check_affine

logger = logging.getLogger(__name__)

EXTENTS = ("auto", "whole", "left", "right")
_BINS = 8
_BETTER = 0.03


@dataclass(frozen=True)
class PoseSettings:
    """How the first affine is found.

    Attributes
    ----------
    search : bool
        False: orientation codes, centres and the values given below are taken as they are.
    extent : str
        Part of the atlas that the sample shows: "whole", "left", "right" (one hemisphere), or
        "auto", which tries all three.
    scale : tuple of float, optional
        Fixed scale of the atlas along its axes (z, y, x). Estimated if not given.
    rotation_deg : tuple of float
        Start: rotation vector about the sample's axes (z, y, x), degrees.
    translation_um : tuple of float
        Start: shift of the atlas in sample space after the centres were aligned, micrometres.
    affine : 4 x 4 nested tuple, optional
        The user's own first affine, atlas um to sample um; nothing is searched.
    check_orientation : bool
        Also try the other orientations, and warn if one of them fits much better.
    """

    search: bool = True
    extent: str = "auto"
    scale: tuple[float, float, float] | None = None
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    affine: tuple | None = None
    check_orientation: bool = True

    def __post_init__(self) -> None:
        if self.extent not in EXTENTS:
            raise RegistrationError(
                f"extent {self.extent!r} is unknown; choose one of {', '.join(EXTENTS)}"
            )
        if self.scale is not None and not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise RegistrationError(
                f"scale {self.scale} is impossible; give three positive numbers"
            )


def initial_affine(
    atlas: Image, sample: Image, settings: PoseSettings | None = None
) -> tuple[np.ndarray, dict]:
    """Find the affine to start from.

    Parameters
    ----------
    atlas, sample : Image
        Their frames' orientation codes say which way the axes run.
    settings : PoseSettings, optional

    Returns
    -------
    affine : numpy.ndarray, float64, shape (4, 4)
        Atlas um to sample um, axis order z, y, x.
    info : dict
        ``unexplained`` (share of the sample's variance that the pose leaves unexplained, with
        ``unexplained_at_start``), ``extent`` (part of the atlas found in the sample),
        ``orientation`` and ``best_orientation`` (codes of the sample: declared, best fitting),
        ``rotation_deg``, ``scale``, ``warnings`` (list of "name: sentence").

    Raises
    ------
    RegistrationError
        Images that cannot be registered, or the user's affine is singular or misses the sample.
    """
    settings = settings or PoseSettings()
    prepared_atlas, prepared_sample = prepare(atlas), prepare(sample)
    warnings = [*prepared_atlas.warnings, *prepared_sample.warnings]
    search = _Search(prepared_atlas, prepared_sample, settings)
    declared = orientation_matrix(atlas.frame.orientation, sample.frame.orientation)
    extents = ("whole", "right", "left") if settings.extent == "auto" else (settings.extent,)
    if settings.affine is not None:
        affine = check_affine(np.array(settings.affine), "initial affine")
        check_overlap(atlas.frame, sample.frame, affine)
        if np.linalg.det(affine[:3, :3]) * np.linalg.det(declared) < 0:
            warnings.append(
                "mirrored_affine: the given affine and the orientation codes "
                f"{atlas.frame.orientation} and {sample.frame.orientation} disagree about "
                "mirroring; left and right may be exchanged"
            )
        scores = {name: search.score(search.from_affine(affine), name) for name in extents}
        extent = _best_extent(scores)
        found = search.from_affine(affine)
        start = scores[extent]
    else:
        pose0 = search.pose(declared, extents[0], settings.rotation_deg, settings.translation_um)
        start = search.score(pose0, extents[0])
        if settings.search:
            results = {name: search.run(declared, name) for name in extents}
            extent = _best_extent({name: result[0] for name, result in results.items()})
            found = results[extent][1]
        else:
            extent, found = extents[0], pose0
        affine = search.to_affine(found)
    value = search.score(found, extent, fine=True)
    best_code = sample.frame.orientation
    if settings.check_orientation:
        best_code, best_value = search.other_orientations(
            atlas.frame.orientation, sample.frame.orientation, extent
        )
        own_value = search.score(found, extent)
        if best_value > own_value - _BETTER:
            best_code = sample.frame.orientation
        else:
            warnings.append(
                f"orientation: {sample.name} is declared {sample.frame.orientation} but fits the "
                f"atlas much better as {best_code} (unexplained {best_value:.2f} against "
                f"{own_value:.2f}); check input.orientation"
            )
    if value > 0.8:
        warnings.append(
            f"poor_pose: the atlas explains only {1 - value:.0%} of the sample's contrast; look "
            "at the preview, and give rotation and translation if it is wrong"
        )
    info = {
        "unexplained": value,
        "unexplained_at_start": start,
        "extent": extent,
        "orientation": sample.frame.orientation,
        "best_orientation": best_code,
        **_decompose(affine, declared),
        "warnings": warnings,
    }
    logger.info(
        "initial affine: %s atlas, unexplained variance %.3f (start %.3f)", extent, value, start
    )
    return affine, info


def presence(image: WorkingImage, extent: str) -> np.ndarray:
    """Part of the atlas that is expected in the sample, float32 (z, y, x), 1 = there.

    For one hemisphere it falls from 1 to 0 across two voxels about the middle of the tissue.
    """
    shape = image.frame.shape
    if extent == "whole":
        return np.ones(shape, np.float32)
    letter = {"right": "R", "left": "L"}[extent]
    axis = next(i for i, c in enumerate(image.frame.orientation) if c in "RL")
    sign = 1.0 if image.frame.orientation[axis] == letter else -1.0
    middle = image.tissue_centre_um[axis]
    distance = sign * (image.frame.axes_um()[axis] - middle) / image.frame.spacing_um[axis]
    ramp = np.clip(0.5 + distance / 2, 0, 1).astype(np.float32)
    return np.broadcast_to(ramp.reshape([-1 if a == axis else 1 for a in range(3)]), shape).copy()


def _best_extent(scores: dict[str, float]) -> str:
    """A half is chosen only where it explains clearly more than the whole."""
    best = min(scores, key=scores.get)
    if "whole" in scores and scores[best] > scores["whole"] - _BETTER:
        return "whole"
    return best


class _Search:
    """Poses are vectors of 12: rotation vector, log scales, centre (3), and index of O; see pose().

    Lengths are divided by ``length`` so that units do not matter.
    """

    def __init__(self, atlas: WorkingImage, sample: WorkingImage, settings: PoseSettings) -> None:
        self.settings = settings
        self.size = atlas.tissue_volume_um3 ** (1 / 3)
        self.length = self.size / 10
        self.atlas, self.sample = atlas, sample
        self.levels = [_Level(atlas, sample, self.size / n, self.length) for n in (9, 18)]
        self.sample_centre = sample.tissue_centre_um
        self.sample_size = sample.tissue_volume_um3 ** (1 / 3)
        self.centres = {
            name: self._centre(presence(atlas, name)) for name in ("whole", "left", "right")
        }

    def _centre(self, weight: np.ndarray) -> tuple[np.ndarray, float]:
        mass = self.atlas.tissue * weight
        total = float(mass.sum())
        axes = self.atlas.frame.axes_um()
        centre = [
            float((mass.sum(tuple(b for b in range(3) if b != a)) * axes[a]).sum() / total)
            for a in range(3)
        ]
        return np.array(centre), (total * self.atlas.frame.voxel_volume_um3) ** (1 / 3)

    # a pose: (signed permutation, rotation vector, log scale, atlas centre, sample position)
    def pose(self, permutation, extent, rotation_deg=(0, 0, 0), shift_um=(0, 0, 0), scale=None):
        centre, size = self.centres[extent]
        if self.settings.scale is not None:
            logs = np.log(self.settings.scale)
        else:
            logs = np.full(3, math.log(scale) if scale else 0.0)
        return {
            "permutation": permutation,
            "rotation": np.deg2rad(np.array(rotation_deg, float)),
            "log_scale": np.asarray(logs, float),
            "centre": centre,
            "position": self.sample_centre + np.array(shift_um, float),
            "size": size,
        }

    def to_affine(self, pose) -> np.ndarray:
        """Forward matrix of a pose: y = position + R O S (x - centre)."""
        if "affine" in pose:
            return pose["affine"]
        linear = (
            _rotation(pose["rotation"])
            @ pose["permutation"]
            @ np.diag(np.exp(pose["log_scale"]))
        )
        affine = np.eye(4)
        affine[:3, :3] = linear
        affine[:3, 3] = pose["position"] - linear @ pose["centre"]
        return affine

    def from_affine(self, affine: np.ndarray) -> dict:
        return {"affine": affine}

    def score(self, pose, extent: str, fine: bool = True) -> float:
        level = self.levels[-1 if fine else 0]
        with torch.no_grad():
            inverse = torch.tensor(np.linalg.inv(self.to_affine(pose)), dtype=torch.float64)
            return float(level.unexplained(inverse[:3, :3], inverse[:3, 3], extent))

    def run(self, permutation: np.ndarray, extent: str, effort: int = 6) -> tuple[float, dict]:
        """Best pose for one orientation and extent: coarse ranking, then descent."""
        starts = self._starts(permutation, extent)
        ranked = sorted(
            ((self.score(p, extent, fine=False), i) for i, p in enumerate(starts)),
        )
        refined = [self._descend(starts[i], extent, 0, 25) for _, i in ranked[:effort]]
        refined.sort(key=lambda item: item[0])
        return min(
            (self._descend(pose, extent, 1, 30) for _, pose in refined[: max(1, effort // 3)]),
            key=lambda item: item[0],
        )

    def _starts(self, permutation, extent) -> list[dict]:
        base = np.array(self.settings.rotation_deg, float)
        turns = [np.zeros(3)]
        for angle in (15.0, 30.0):
            for axis, sign in itertools.product(range(3), (1, -1)):
                turn = np.zeros(3)
                turn[axis] = sign * angle
                turns.append(turn)
        turns += [np.array(s) * 12.0 for s in itertools.product((1, -1), repeat=3)]
        _, size = self.centres[extent]
        scales = {1.0, round(min(max(self.sample_size / size, 0.6), 1.6), 3)}
        shift = np.array(self.settings.translation_um, float)
        return [
            self.pose(permutation, extent, base + turn, shift, scale)
            for scale in sorted(scales)
            for turn in turns
        ]

    def _descend(self, pose, extent: str, level: int, iterations: int) -> tuple[float, dict]:
        """Minimise over rotation, scale and position by L-BFGS; returns (score, pose)."""
        problem = self.levels[level]
        permutation = torch.tensor(pose["permutation"])
        centre, position = torch.tensor(pose["centre"]), torch.tensor(pose["position"])
        rotation0, log0 = torch.tensor(pose["rotation"]), torch.tensor(pose["log_scale"])
        free_scale = self.settings.scale is None

        def parts(x):
            turn = rotation0 + x[:3] / 4
            logs = log0 + (x[3:6] / 4 if free_scale else 0)
            return turn, logs, position + x[6:9] * self.length

        def objective(x32):
            x = x32.double().requires_grad_(True)
            turn, logs, place = parts(x)
            forward = _exp_so3(turn) @ permutation @ torch.diag(torch.exp(logs))
            inverse = torch.linalg.inv(forward)
            value = problem.unexplained(inverse, centre - inverse @ place, extent)
            spread = logs - logs.mean()
            value = value + 0.02 * ((logs.mean() / 0.3) ** 2 + (spread / 0.15).square().sum())
            (gradient,) = torch.autograd.grad(value, x)
            return float(value.detach()), gradient.float()

        end = lbfgs.minimise(
            objective, torch.zeros(9), lbfgs.Memory(), iterations=iterations, first_step=0.3
        )
        with torch.no_grad():
            turn, logs, place = parts(end.x.double())
        found = dict(pose, rotation=turn.numpy(), log_scale=logs.numpy(), position=place.numpy())
        return end.value, found

    def other_orientations(self, atlas_code: str, sample_code: str, extent: str):
        """Best of the orientations that are not mirrored against the declared one."""
        declared = orientation_matrix(atlas_code, sample_code)
        best = (math.inf, sample_code)
        ranked = []
        for code in all_orientations():
            permutation = orientation_matrix(atlas_code, code)
            if code == sample_code or np.linalg.det(permutation @ declared.T) < 0:
                continue
            pose = self._descend(self.pose(permutation, extent), extent, 0, 12)
            ranked.append((pose[0], code, pose[1]))
        ranked.sort(key=lambda item: item[:2])
        for _, code, pose in ranked[:2]:
            value = self.score(self._descend(pose, extent, 1, 15)[1], extent)
            best = min(best, (value, code))
        return best[1], best[0]


class _Level:
    """Both images at one coarse spacing, and the criterion on them."""

    def __init__(self, atlas, sample, spacing_um: float, length: float) -> None:
        spacing = [max(spacing_um, min(s, 4 * spacing_um)) for s in (spacing_um,) * 3]
        self.atlas = resample(atlas, spacing)
        small = resample(sample, spacing)
        self.length = length
        frame = self.atlas.frame
        self.grid = Grid(
            frame.shape,
            tuple(s / length for s in frame.spacing_um),
            tuple(o / length for o in frame.origin_um),
        )
        axes = [torch.tensor(axis) for axis in small.frame.axes_um()]
        self.points = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1)
        self.target = torch.tensor(np.clip(small.values, -0.2, 1.3)).reshape(-1)
        self.weight = torch.tensor(small.weight).reshape(-1)
        self.volumes = {
            name: torch.tensor(np.clip(self.atlas.values * presence(self.atlas, name), 0, 1.3))[
                None
            ]
            for name in ("whole", "left", "right")
        }
        total = self.weight.sum()
        mean = (self.weight * self.target).sum() / total
        self.variance = (self.weight * (self.target - mean) ** 2).sum()

    def unexplained(self, linear, offset, extent: str) -> torch.Tensor:
        """1 - correlation ratio for the map x_atlas = linear @ y_sample + offset (um)."""
        points = ((linear @ self.points + offset[:, None]) / self.length).float()
        image = self.grid.sample(self.volumes[extent], points)[0]
        bins = image / 1.3 * (_BINS - 1)
        hats = (1 - (bins - torch.arange(_BINS)[:, None]).abs()).clamp_min(0)
        weighted = hats * self.weight
        normal = weighted @ hats.T
        right = weighted @ self.target
        ridge = 1e-3 * normal.diagonal().sum() * torch.eye(_BINS)
        coefficients = torch.linalg.solve(normal + 1e-2 * ridge, right)
        residual = self.target - coefficients @ hats
        return ((self.weight * residual**2).sum() / self.variance).double()


def _exp_so3(w: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros((), dtype=w.dtype)
    generator = torch.stack(
        [
            torch.stack([zero, -w[2], w[1]]),
            torch.stack([w[2], zero, -w[0]]),
            torch.stack([-w[1], w[0], zero]),
        ]
    )
    return torch.linalg.matrix_exp(generator)


def _rotation(w: np.ndarray) -> np.ndarray:
    return _exp_so3(torch.tensor(w, dtype=torch.float64)).numpy()


def _decompose(affine: np.ndarray, permutation: np.ndarray) -> dict:
    """Rotation angle and scales along the atlas axes of an affine, beside the permutation."""
    linear = permutation.T @ affine[:3, :3]
    u, _, vt = np.linalg.svd(linear)
    rotation = u @ vt
    angle = math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(rotation) - 1) / 2))))
    return {
        "rotation_deg": round(angle, 3),
        "scale": [round(float(s), 5) for s in np.linalg.norm(linear, axis=0)],
    }

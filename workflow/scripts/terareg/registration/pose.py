"""The first affine: orientation codes, centres, and a search that does not trust intensities."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import RegistrationError
from terareg.core.frames import all_orientations, orientation_matrix
from terareg.registration.flow import cpu_threads
from terareg.registration.images import Image, check_overlap, prepare, reduced
from terareg.registration.landmarks import Landmarks, fit_similarity
from terareg.registration.search import EXTENTS, Search
from terareg.registration.transform import check_affine

logger = logging.getLogger(__name__)

# difference of unexplained variance from which one explanation is clearly better than another
_BETTER = 0.03
_POOR = 0.8
# a start that the user turned farther than this may well lie nearer to another code
_TURNED_DEG = 30.0


@dataclass(frozen=True)
class PoseSettings:
    """How the first affine is found.

    Attributes
    ----------
    search : bool
        False: orientation codes, centres and the values given below are taken as they are; three
        landmarks or more stand in for centres and values.
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
        Also try the other orientations, and warn if one of them fits much better. Mirrored ones
        are not told apart: a brain is too symmetric for that.
    threads : int
        CPU threads of PyTorch; the result is reproducible bit by bit for the same number.
    """

    search: bool = True
    extent: str = "auto"
    scale: tuple[float, float, float] | None = None
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    affine: tuple | None = None
    check_orientation: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        if self.extent not in ("auto", *EXTENTS):
            raise RegistrationError(
                f"extent {self.extent!r} is unknown; choose one of auto, {', '.join(EXTENTS)}"
            )
        if self.scale is not None and not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise RegistrationError(
                f"scale {self.scale} is impossible; give three positive numbers"
            )


def initial_affine(
    atlas: Image,
    sample: Image,
    settings: PoseSettings | None = None,
    landmarks: Landmarks | None = None,
) -> tuple[np.ndarray, dict]:
    """Find the affine to start from.

    Parameters
    ----------
    atlas, sample : Image
        Their frames' orientation codes say which way the axes run.
    settings : PoseSettings, optional
    landmarks : Landmarks, optional
        Three or more, not on one line, give a start by themselves; any number counts beside the
        images in the search.

    Returns
    -------
    affine : numpy.ndarray, float64, shape (4, 4)
        Atlas um to sample um, axis order z, y, x.
    info : dict
        ``unexplained`` (share of the sample's variance that the pose leaves unexplained, with
        ``unexplained_at_start``), ``extent`` (part of the atlas found in the sample),
        ``orientation`` and ``best_orientation`` (codes of the sample: declared, best fitting),
        ``rotation_deg``, ``scale``, ``warnings`` (list of "name: sentence"); with landmarks
        ``landmark_um`` (distance of each from its partner in the sample, by name).

    Raises
    ------
    RegistrationError
        Images that cannot be registered, or the user's affine is singular or misses the sample.
    """
    settings = settings or PoseSettings()
    with cpu_threads(settings.threads):
        return _initial_affine(atlas, sample, settings, landmarks)


def _initial_affine(
    atlas: Image, sample: Image, settings: PoseSettings, landmarks: Landmarks | None
) -> tuple[np.ndarray, dict]:
    small_atlas, small_sample = prepare(reduced(atlas)), prepare(reduced(sample))
    warnings = [*small_atlas.warnings, *small_sample.warnings]
    search = Search(small_atlas, small_sample, settings.scale, landmarks)
    codes = atlas.frame.orientation, sample.frame.orientation
    declared = orientation_matrix(*codes)
    extents = EXTENTS if settings.extent == "auto" else (settings.extent,)
    if settings.affine is not None:
        affine = check_affine(np.array(settings.affine), "initial affine")
        check_overlap(atlas.frame, sample.frame, affine)
        if np.linalg.det(affine[:3, :3]) * np.linalg.det(declared) < 0:
            warnings.append(
                f"mirrored_affine: the given affine and the orientation codes {codes[0]} and "
                f"{codes[1]} disagree about mirroring; left and right may be exchanged"
            )
        extent = _best_extent({name: search.unexplained(affine, name) for name in extents})
        start = search.unexplained(affine, extent)
    else:
        given = np.array(settings.rotation_deg, float), np.array(settings.translation_um, float)
        pose = search.pose(declared, extents[0], *given)
        affine = (search.pose_of_landmarks(declared, extents[0]) or pose).affine()
        start = search.unexplained(affine, extents[0])
        extent = extents[0]
        if settings.search:
            found = {name: search.best(declared, name, *given) for name in extents}
            extent = _best_extent({name: value for name, (value, _) in found.items()})
            affine = found[extent][1].affine()
    value = search.unexplained(affine, extent)
    best_code = codes[1]
    if settings.check_orientation:
        other, other_value = search.best_other_orientation(*codes, extent)
        nearest = _nearest_code(affine, *codes)
        if other_value < value - _BETTER:
            best_code = other
            warnings.append(
                f"orientation: {sample.name} is declared {codes[1]} but fits the atlas much "
                f"better as {other} (unexplained {other_value:.2f} against {value:.2f}); check "
                "input.orientation"
            )
        elif nearest != codes[1] and np.linalg.norm(settings.rotation_deg) < _TURNED_DEG:
            best_code = nearest
            warnings.append(
                f"orientation: {sample.name} is declared {codes[1]} but the pose is turned so far "
                f"that {nearest} is nearer; check input.orientation"
            )
    if value > _POOR:
        warnings.append(
            f"poor_pose: the atlas explains only {1 - value:.0%} of the sample's contrast; look "
            "at the preview, and give rotation and translation if it is wrong"
        )
    marks = {}
    if landmarks is not None:
        distances, findings = _judge_landmarks(search, declared, affine)
        marks = {"landmark_um": dict(zip(landmarks.names, distances.tolist()))}
        warnings += findings
    info = {
        "unexplained": value,
        "unexplained_at_start": start,
        "extent": extent,
        "orientation": codes[1],
        "best_orientation": best_code,
        **_decompose(affine, declared),
        **marks,
        "warnings": warnings,
    }
    logger.info(
        "initial affine: %s atlas, unexplained variance %.3f (start %.3f)", extent, value, start
    )
    return affine, info


def _judge_landmarks(
    search: Search, declared: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Distances of the landmarks under the pose, um, and warnings about them."""
    landmarks, spread = search.landmarks, search.spread_um
    moved = landmarks.atlas_um @ affine[:3, :3].T + affine[:3, 3]
    distances = np.linalg.norm(moved - landmarks.sample_um, axis=1)
    warnings = landmarks.far(distances, spread)
    fits = [fit_similarity(landmarks, axes, spread, search.scale) for axes in (declared, -declared)]
    if fits[0] is None:
        warnings.append(
            f"few_landmarks: {len(landmarks)} landmarks, or all on one line, do not give a pose; "
            "they count beside the images; mark three or more that span a plane"
        )
        return distances, warnings
    as_declared, mirrored = (float(np.median(fit.distances(landmarks))) for fit in fits)
    if as_declared > 2 * spread and mirrored < 0.5 * as_declared:
        warnings.append(
            f"mirrored_landmarks: the landmarks fit a mirrored brain better ({mirrored:.0f} um "
            f"against {as_declared:.0f} um); check input.orientation and left and right of the "
            "marks"
        )
    return distances, warnings


def _best_extent(scores: dict[str, float]) -> str:
    """A half is chosen only where it explains clearly more than the whole."""
    best = min(scores, key=scores.__getitem__)
    if "whole" in scores and scores[best] > scores["whole"] - _BETTER:
        return "whole"
    return best


def _nearest_code(affine: np.ndarray, atlas_code: str, declared: str) -> str:
    """Code of the sample whose axes a pose comes nearest to, among those of its handedness.

    The declared one where the pose is mirrored against it, which is another finding.
    """
    linear = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(linear) * np.linalg.det(orientation_matrix(atlas_code, declared)) < 0:
        return declared
    fits = {code: float((orientation_matrix(atlas_code, code) * linear).sum())
            for code in all_orientations()}  # fmt: skip
    best = max(fits, key=fits.__getitem__)
    return best if fits[best] > fits[declared] + 1e-6 else declared


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

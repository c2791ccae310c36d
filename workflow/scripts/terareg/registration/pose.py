"""The first affine: orientation codes, centres, and a search that does not trust intensities."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import RegistrationError, few
from terareg.core.frames import Frame, orientation_matrix
from terareg.registration.flow import cpu_threads
from terareg.registration.images import Image, check_overlap, prepare, reduced
from terareg.registration.landmarks import Landmarks, fit_similarity
from terareg.registration.search import EXTENTS, NEAR, Search, nearest_code
from terareg.registration.transform import check_affine

logger = logging.getLogger(__name__)

# one pose is clearly better than another if it leaves so much less of the variance unexplained, or
# so much less of what the other leaves: most of a brain's variance is its outline, which fits many
_BETTER = 0.1
_BETTER_SHARE = 0.25
_BETTER_EXTENT = 0.03
_CLEARLY_HALF = 0.1  # share of what the whole atlas leaves, that a half of it must leave less
_POOR = 0.8
_MARKS_OF_A_SIDE = 4  # landmarks that can tell a brain from its mirror image
# a start that the user rotated by more than this may be nearer to another orientation code
_TURNED_DEG = 30.0
_MIDDLE = 0.03  # of the atlas's width, from its middle plane, where the pose tells no side


@dataclass(frozen=True)
class PoseSettings:
    """How the first affine is found.

    Attributes
    ----------
    search : bool
        False: orientation codes, centres and the values given below are used as they are; three
        landmarks or more replace centres and values.
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
        First affine given by the user, atlas um to sample um; nothing is searched.
    check_orientation : bool
        Also try the other 47 orientations. If one fits much better, register stops and names it
        together with its mirror image, which cannot be told apart from images of a brain.
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
    right_side_um: Sequence[float] | None = None,
) -> tuple[np.ndarray, dict]:
    """Find the affine to start from.

    Parameters
    ----------
    atlas, sample : Image
        The orientation codes of their frames give the directions of the axes.
    settings : PoseSettings, optional
    landmarks : Landmarks, optional
        Three or more, not on one line, give a start by themselves; any number is used together
        with the images in the search.
    right_side_um : three numbers, optional
        A place (z, y, x) of the sample that is known to be in the right half of the brain. It
        moves nothing, but tells the sample from its mirror image.

    Returns
    -------
    affine : numpy.ndarray, float64, shape (4, 4)
        Atlas um to sample um, axis order z, y, x.
    info : dict
        ``unexplained`` (share of the sample's variance that the pose leaves unexplained before its
        last refinement, with ``unexplained_at_start``), ``extent`` (part of the atlas found in the
        sample),
        ``orientation`` (declared code of the sample), ``better_orientations`` (codes with which it
        fits much better, each next to its mirror image, best first; usually none),
        ``left_right`` (evidence that left and right are not exchanged), ``mirrored_by_mark``
        (whether the place on the right side denies it),
        ``rotation_deg``, ``scale``, ``warnings`` (list of "name: sentence"); with landmarks
        ``landmark_um`` (distance of each from its partner in the sample, by name).

    Raises
    ------
    RegistrationError
        If images cannot be registered, or the user's affine is singular or misses the sample.
    """
    settings = settings or PoseSettings()
    with cpu_threads(settings.threads):
        affine, info = _initial_affine(atlas, sample, settings, landmarks)
    mark = {}
    if right_side_um is not None and not info["better_orientations"]:
        mark = _judge_side(atlas.frame, affine, right_side_um, info["orientation"])
        info["warnings"] += mark.pop("warnings")
    return affine, info | {"mirrored_by_mark": False} | mark


def _initial_affine(
    atlas: Image, sample: Image, settings: PoseSettings, landmarks: Landmarks | None
) -> tuple[np.ndarray, dict]:
    small_atlas, small_sample = prepare(reduced(atlas)), prepare(reduced(sample))
    warnings = [*small_atlas.warnings, *small_sample.warnings]
    searches = [
        Search(small_atlas, small_sample, settings.scale, landmarks, near) for near in (None, NEAR)
    ]
    search = searches[0]
    codes = atlas.frame.orientation, sample.frame.orientation
    declared = orientation_matrix(*codes)
    extents = EXTENTS if settings.extent == "auto" else (settings.extent,)
    if settings.affine is not None:
        affine = check_affine(np.array(settings.affine), "initial affine")
        check_overlap(atlas.frame, sample.frame, affine)
        if np.linalg.det(affine[:3, :3]) * np.linalg.det(declared) < 0:
            warnings.append(
                f"mirrored_affine: the given affine and the orientation codes {codes[0]} and "
                f"{codes[1]} disagree about mirroring; left and right may be swapped"
            )
        extent = _best_extent({name: search.unexplained(affine, name) for name in extents})
        start = search.unexplained(affine, extent)
    else:
        given = np.array(settings.rotation_deg, float), np.array(settings.translation_um, float)
        pose = search.pose(declared, extents[0], *given)
        affine = (search.pose_of_landmarks(declared, extents[0]) or pose).affine()
        start = search.unexplained(affine, extents[0])
        extent = extents[0]
    found = [Found(affine, extent, None)] * len(searches)
    value = search.unexplained(affine, extent)
    if settings.affine is None and settings.search:
        found = [_searched(each, declared, extents, given) for each in searches]
        affine, extent, value = better_explained(search, declared, given, found)
    doubt = Doubt()
    if settings.check_orientation:
        turned = bool(np.linalg.norm(settings.rotation_deg) >= _TURNED_DEG)
        judged = []
        for each, one in zip(searches, found):
            # as the searches found them: what is refined would be compared with what is not
            judged.append(_judged(each, one, codes, turned))
            if not judged[-1][0].codes and not judged[-1][1]:
                break  # what is said, all searches have to say
        else:
            doubt = _common([one for one, _ in judged])
            if doubt.codes:
                warnings.append(f"orientation: {doubt.sentence(sample.name, codes[1])}")
            else:
                others = next(others for _, others in judged if others)
                warnings.append(_undecided(others, sample.name, codes[1]))
    if value > _POOR:
        warnings.append(
            f"poor_pose: the atlas explains only {1 - value:.0%} of the contrast of the sample; "
            "look at the preview, and if it is wrong give rotation and translation"
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
        "better_orientations": list(doubt.codes),
        "left_right": _left_right(marks, warnings),
        **_decompose(affine, declared),
        **marks,
        "warnings": warnings,
    }
    logger.info(
        "initial affine: %s atlas, unexplained variance %.3f (start %.3f)", extent, value, start
    )
    return affine, info


@dataclass(frozen=True)
class Found:
    """Best affine of a search and the part of the atlas that it found; the best of the whole."""

    affine: np.ndarray
    extent: str
    whole: np.ndarray | None


def _searched(
    search: Search,
    declared: np.ndarray,
    extents: Sequence[str],
    given: tuple[np.ndarray, np.ndarray],
) -> Found:
    found = {name: search.best(declared, name, *given) for name in extents}
    extent = _best_extent({name: value for name, (value, _) in found.items()})
    affines = {name: pose.affine() for name, (_, pose) in found.items()}
    return Found(affines[extent], extent, affines.get("whole"))


def better_explained(
    search: Search,
    declared: np.ndarray,
    given: tuple[np.ndarray, np.ndarray],
    found: Sequence[Found],
) -> tuple[np.ndarray, str, float]:
    """Affine, refined, from what both searches found, and its extent; what it left before.

    Where contrast may vary it shows whether half of a brain is absent, or dark, or cut off along
    another plane: a half has to leave clearly less than the whole. Of one hemisphere a better
    affine has not made the registration better: it is not refined.
    """
    starts: dict[str, list[np.ndarray]] = {}
    for one in found:
        starts.setdefault(one.extent, []).append(one.affine)
        if one.whole is not None and one.extent != "whole":
            starts.setdefault("whole", []).append(one.whole)
    extent, ends = found[0].extent, {}
    if len(starts) > 1 or extent == "whole":
        for name, affines in starts.items():
            pose = search.pose_of_landmarks(declared, name)
            pose = pose or search.pose(declared, name, *given)
            ends[name] = search.refine([*affines, pose.affine()], name)
        left = {name: value for name, (value, _) in ends.items()}
        if "whole" in left:
            left["whole"] *= 1 - _CLEARLY_HALF
        extent = min(left, key=left.__getitem__)
    value = min(search.unexplained(affine, extent) for affine in starts[extent])
    return (ends[extent][1] if extent == "whole" else starts[extent][0]), extent, value


def _judged(
    search: Search, found: Found, codes: tuple[str, str], turned: bool
) -> tuple[Doubt, list[str]]:
    """What a search says of the declared orientation: doubt, and codes that fit as well."""
    affine, extent = found.affine, found.extent
    value, nearest = search.unexplained(affine, extent), nearest_code(affine, *codes)
    ranked = search.rank_orientations(codes[0], list(dict.fromkeys(("whole", extent))))
    if _fits_better(ranked[0], value, codes[1]):
        lowest = ranked[0][0]
        best = [c for v, c, _ in ranked if not _clearly_less(lowest, v) and c != codes[1]]
        reason = f"unexplained variance {lowest:.2g} against {value:.2g}"
        return _doubt(best, codes[1], reason), []
    if nearest != codes[1] and not turned:
        return _doubt([nearest], codes[1], "the pose found without constraint"), []
    alike = (codes[1], mirrored(codes[1]))
    return Doubt(), [c for v, c, _ in ranked if c not in alike and not _clearly_less(value, v)]


def _common(doubts: Sequence[Doubt]) -> Doubt:
    """Doubt if all doubt: of a part, and of fading light, one of the searches is deceived.

    Codes that all name, or else those of all.
    """
    if not all(doubt.codes for doubt in doubts):
        return Doubt()
    every = list(dict.fromkeys(code for doubt in doubts for code in doubt.codes))
    common = [code for code in every if all(code in doubt.codes for doubt in doubts)]
    return Doubt(tuple(common or every), doubts[0].reason)


def check_confirmed(info: dict, name: str, confirmed: bool) -> None:
    """Raise if the orientation of a pose is in doubt or denied, see :func:`initial_affine`.

    Parameters
    ----------
    info : dict
        Of the pose.
    name : str
        Of the sample.
    confirmed : bool
        Whether the user confirms the declared orientation nevertheless.

    Raises
    ------
    RegistrationError
        Names the codes that fit better, or the mirror image that a place on the right side asks
        for, whatever is confirmed.
    """
    if info.get("mirrored_by_mark"):
        found = next(text for text in info["warnings"] if text.startswith("right_side: "))
        raise RegistrationError(f"sample {name}: {found.removeprefix('right_side: ')}")
    codes = tuple(info.get("better_orientations", ()))
    if codes and not confirmed:
        raise RegistrationError(
            f"{Doubt(codes).sentence(name, info['orientation'])}, and run again, or set "
            "input.orientation_confirmed: true if the preview shows that the orientation is right"
        )


@dataclass(frozen=True)
class Doubt:
    """Codes with which a sample fits better than with the declared one, best first; and why."""

    codes: tuple[str, ...] = ()
    reason: str = ""

    def sentence(self, name: str, declared: str) -> str:
        """Warning and advice for the user."""
        pairs = " or ".join(self.codes)
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"sample {name.removeprefix('sample ')} is declared {declared} but fits the atlas "
            f"much better as {pairs}{reason}; codes that differ only in R and L are mirror "
            "images, which only a mark on one side can tell apart; correct input.orientation, or "
            "atlases.NAME.orientation if that is the wrong one"
        )


def _clearly_less(unexplained: float, other: float) -> bool:
    return unexplained < max(other - _BETTER, (1 - _BETTER_SHARE) * other)


def _fits_better(best: tuple[float, str, str], declared_value: float, declared: str) -> bool:
    """Whether the best of all orientation codes is clearly better than the declared one.

    A mirror image may leave a smaller share by what is asymmetric in a sample (damage, shading).
    """
    value, code, _ = best
    if code in (declared, mirrored(declared)):
        return code != declared and value < declared_value - _BETTER
    return _clearly_less(value, declared_value)


def _undecided(others: list[str], name: str, declared: str) -> str:
    """What to say if other orientations, of which none is the mirror image, fit as well."""
    return (
        f"undecided_orientation: sample {name.removeprefix('sample ')}, declared {declared}, fits "
        f"the atlas about as well in {len(others)} other orientations ({few(others)}), so the "
        "images do not tell which is right; compare the letters in the preview with what you know "
        "of the sample, or mark three landmarks"
    )


def _doubt(codes: list[str], declared: str, reason: str) -> Doubt:
    """Every code with its mirror image, which fits a symmetric brain equally well."""
    pairs = dict.fromkeys(code for best in codes for code in (best, mirrored(best)))
    return Doubt(tuple(code for code in pairs if code != declared), reason)


def mirrored(code: str) -> str:
    """The orientation code with right and left exchanged."""
    return code.translate(str.maketrans("RL", "LR"))


def _left_right(marks: dict, warnings: list[str]) -> str:
    """Evidence that left and right are not exchanged; images of a brain give none."""
    if any(text.startswith("mirrored") for text in warnings):
        return "contradicted, see the warnings"
    if len(marks.get("landmark_um", ())) >= _MARKS_OF_A_SIDE:
        return "confirmed by the landmarks"
    return "as declared by input.orientation; the images cannot tell"


def _judge_side(
    atlas: Frame, affine: np.ndarray, right_side_um: Sequence[float], declared: str
) -> dict:
    """On which side of the atlas the pose puts a place that is known to be on the right."""
    axis = next(k for k, letter in enumerate(atlas.orientation) if letter in "RL")
    sign = 1.0 if atlas.orientation[axis] == "R" else -1.0
    place = np.linalg.solve(affine, [*map(float, right_side_um), 1.0])[:3]
    away = sign * float(place[axis] - atlas.centre_um[axis])
    words = f"{abs(away):.0f} um {'right' if away > 0 else 'left'} of the atlas's middle plane"
    if abs(away) < _MIDDLE * atlas.extent_um[axis]:
        return {
            "warnings": [
                f"right_side: input.right_side_um is only {words}, which the pose does not tell "
                "from the other side; give a place farther from the middle"
            ]
        }
    if away > 0:
        told = f"confirmed by input.right_side_um, {words}"
        return {"left_right": told, "warnings": []}
    text = (
        f"right_side: input.right_side_um is {words}, so the sample is a mirror image of what "
        f"{declared} says; correct input.orientation to {mirrored(declared)}, or the place"
    )
    told = "contradicted, see the warnings"
    return {"left_right": told, "mirrored_by_mark": True, "warnings": [text]}


def _judge_landmarks(
    search: Search, declared: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Distances of the landmarks from their partners under the pose, um, and warnings."""
    landmarks, spread = search.landmarks, search.spread_um
    moved = landmarks.atlas_um @ affine[:3, :3].T + affine[:3, 3]
    distances = np.linalg.norm(moved - landmarks.sample_um, axis=1)
    warnings = landmarks.far(distances, spread)
    fits = [fit_similarity(landmarks, axes, spread, search.scale) for axes in (declared, -declared)]
    if fits[0] is None:
        warnings.append(
            f"few_landmarks: {len(landmarks)} landmarks, or landmarks all on one line, do not "
            "determine a pose, so they are only used together with the images; mark three or more "
            "that are not on one line"
        )
        return distances, warnings
    as_declared, mirrored = (float(np.median(fit.distances(landmarks))) for fit in fits)
    if as_declared > 2 * spread and mirrored < 0.5 * as_declared:
        warnings.append(
            f"mirrored_landmarks: the landmarks fit a mirrored brain better ({mirrored:.0f} um "
            f"against {as_declared:.0f} um); check input.orientation, and left and right of the "
            "landmarks"
        )
    return distances, warnings


def _best_extent(scores: dict[str, float]) -> str:
    """Best extent; a half is chosen only if it explains clearly more than the whole."""
    best = min(scores, key=scores.__getitem__)
    if "whole" in scores and scores[best] > scores["whole"] - _BETTER_EXTENT:
        return "whole"
    return best


def _decompose(affine: np.ndarray, permutation: np.ndarray) -> dict:
    """Rotation angle and scales along the atlas axes of an affine, without the permutation."""
    linear = permutation.T @ affine[:3, :3]
    u, _, vt = np.linalg.svd(linear)
    rotation = u @ vt
    angle = math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(rotation) - 1) / 2))))
    return {
        "rotation_deg": round(angle, 3),
        "scale": [round(float(s), 5) for s in np.linalg.norm(linear, axis=0)],
    }

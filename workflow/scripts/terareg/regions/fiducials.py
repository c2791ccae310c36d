"""Points marked by name in the atlas and in the sample.

Fiducials measure the accuracy of a registration, landmarks take part in it. Both are read, paired
and checked in the same way.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import PointsError
from terareg.core.frames import Frame
from terareg.regions.points import Points, check_inside, point_names, read_points
from terareg.registration.landmarks import Landmarks
from terareg.storage.foreign import short

if TYPE_CHECKING:
    from terareg.registration.transform import Transform

logger = logging.getLogger(__name__)

_SUMMARIES = (
    ("mean", np.mean),
    ("median", np.median),
    ("p95", lambda values: np.percentile(values, 95)),
    ("max", np.max),
)


def score_fiducials(
    atlas_points: Points, sample_points: Points, transform: Transform, *, unpaired: str = "error"
) -> list[dict]:
    """Target registration error of every fiducial.

    Parameters
    ----------
    atlas_points : Points
        In atlas space, with names.
    sample_points : Points
        The same named points in sample space, in any order.
    transform : Transform
        Maps atlas points to sample points; its ``affine``, ``atlas_frame`` and ``sample_frame``
        are used too.
    unpaired : {"error", "warn"}
        What to do with names that occur on one side only; "warn" logs and skips them.

    Returns
    -------
    list of dict
        First the fiducials in the atlas's order, then rows "mean", "median", "p95" and "max".
        Keys: kind ("fiducial" or "summary"), name, error_um (distance in the sample between the
        marked point and the transformed atlas point), error_atlas_um (distance in the atlas
        between the marked point and the sample point carried back), affine_error_um (as error_um,
        with the affine part alone: before the deformation), and the residual in the sample,
        marked minus transformed, residual_z_um, residual_y_um, residual_x_um (None in summaries).

    Raises
    ------
    PointsError
        If a name is empty, duplicated or without partner, no pair is left, or a point lies outside
        its volume.
    """
    if unpaired not in ("error", "warn"):
        raise PointsError(f"fiducials: policy {unpaired!r} is unknown; write error or warn")
    names, in_atlas, in_sample = _paired(atlas_points, sample_points, "fiducial", unpaired)
    check_inside(atlas_points, transform.atlas_frame, "fiducials of the atlas")
    check_inside(sample_points, transform.sample_frame, "fiducials of the sample")
    affine = transform.affine
    residual = in_sample - transform.to_sample(in_atlas)
    errors: dict[str, np.ndarray] = {
        "error_um": _length(residual),
        "error_atlas_um": _length(transform.to_atlas(in_sample) - in_atlas),
        "affine_error_um": _length(in_sample - (in_atlas @ affine[:3, :3].T + affine[:3, 3])),
    }
    rows: list[dict[str, Any]] = [
        {"kind": "fiducial", "name": name}
        | {key: float(values[n]) for key, values in errors.items()}
        | {f"residual_{axis}_um": float(residual[n, a]) for a, axis in enumerate("zyx")}
        for n, name in enumerate(names)
    ]
    rows += [
        {"kind": "summary", "name": name}
        | {key: float(summary(values)) for key, values in errors.items()}
        | dict.fromkeys(("residual_z_um", "residual_y_um", "residual_x_um"))
        for name, summary in _SUMMARIES
    ]
    return rows


def pair_landmarks(
    paths: Mapping[str, str | os.PathLike], frames: Mapping[str, Frame], sigma_um: float
) -> Landmarks:
    """Read and pair landmarks, for the registration.

    Parameters
    ----------
    paths : mapping
        "atlas" and "sample": files, see :func:`terareg.regions.points.read_points`.
    frames : mapping
        "atlas" and "sample": the volumes that the points lie in.
    sigma_um : float
        Standard deviation of a mark along each axis.

    Returns
    -------
    terareg.registration.landmarks.Landmarks
        In the order of the atlas's file.

    Raises
    ------
    PointsError
        As :func:`score_fiducials`.
    """
    points = {}
    for side in ("atlas", "sample"):
        points[side] = read_points(paths[side], frames[side])
        check_inside(points[side], frames[side], f"landmarks {paths[side]} against the {side}")
    names, in_atlas, in_sample = _paired(points["atlas"], points["sample"], "landmark", "error")
    return Landmarks(in_atlas, in_sample, sigma_um, tuple(names))


def check_pairs(
    sample_path: str | os.PathLike,
    atlas_path: str | os.PathLike,
    sample_frame: Frame,
    what: str = "fiducial",
) -> None:
    """Check both files of fiducials or landmarks before anything is registered.

    Parameters
    ----------
    sample_path, atlas_path : path
        See :func:`terareg.regions.points.read_points`.
    sample_frame : Frame
        Volume of the sample; the sample's file may be in its voxels.
    what : str
        Word for one of the points in messages.

    Raises
    ------
    PointsError
        If a file cannot be read, a name is empty, duplicated or without partner, or a point of the
        sample lies outside its volume.
    """
    sample_points = read_points(sample_path, sample_frame)
    _check_partners(point_names(atlas_path), sample_points.names, what, "error")
    check_inside(sample_points, sample_frame, f"{what}s {sample_path} against the sample")


def _paired(
    atlas: Points, sample: Points, what: str, unpaired: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names on both sides, in the atlas's order, and their positions there and in the sample."""
    _check_partners(atlas.names, sample.names, what, unpaired)
    partner = {name: n for n, name in enumerate(sample.names)}
    pairs = [(n, partner[name]) for n, name in enumerate(atlas.names) if name in partner]
    in_atlas, in_sample = (list(numbers) for numbers in zip(*pairs))
    names = [atlas.names[n] for n in in_atlas]
    return names, atlas.position_um[in_atlas], sample.position_um[in_sample]


def _check_partners(atlas: Sequence[str], sample: Sequence[str], what: str, unpaired: str) -> None:
    """Raise unless every name occurs once in the atlas and once in the sample."""
    for names, where in ((atlas, "atlas"), (sample, "sample")):
        unnamed = [n for n, name in enumerate(names, 1) if not name]
        if unnamed:
            raise PointsError(
                f"{what}s of the {where}: number {unnamed[0]} has no name; give every {what} a "
                "name, the same in atlas and sample"
            )
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise PointsError(
                f"{what}s of the {where}: {short(twice[0])} appears twice; give every {what} a "
                "name of its own"
            )
    if not set(atlas) & set(sample):
        raise PointsError(
            f"{what}s: none of the {len(atlas)} names in the atlas (first: {short(atlas[0])}) is "
            f"in the list of the sample (first: {short(sample[0])}); use the same names in both"
        )
    lonely = [f"{name!r} (atlas only)" for name in atlas if name not in set(sample)]
    lonely += [f"{name!r} (sample only)" for name in sample if name not in set(atlas)]
    if not lonely:
        return
    message = (
        f"{what}s: {len(lonely)} without a counterpart: "
        f"{', '.join(lonely[:5])}{', ...' if len(lonely) > 5 else ''}; mark them in both the "
        "atlas and the sample, or remove them"
    )
    if unpaired == "error":
        raise PointsError(message)
    logger.warning("%s", message)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)

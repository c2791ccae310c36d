"""The transform of an atlas that a sample reaches through another one.

The sample is registered to one atlas, and a transform between that and another is known. Their
composition is a transform like that of a registration: whatever is made with one can be made with
the other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terareg.atlas.prepare import Atlas
from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.regions.labels import regions_at
from terareg.registration.known import KnownAtlas, KnownTransform, read_known
from terareg.registration.transform import PointMap, Transform
from terareg.storage.records import read_json

logger = logging.getLogger(__name__)

_PLACES = 60_000  # of a brain that are looked at
# share of both brains that must meet; what the opposite direction may be better by
_LEAST_OVERLAP = 0.5
_BETTER = 0.05
_MOST_SAMPLING = 0.1  # voxels of the atlas
_OPPOSITE = 0.5  # cosine between an axis and its reverse from which it is turned round


@dataclass(frozen=True, eq=False)
class Reached:
    """An atlas of the two between which a transform is known.

    Attributes
    ----------
    name : str
    atlas : Atlas
    template : path, optional
        See :class:`~terareg.registration.known.KnownAtlas`.
    """

    name: str
    atlas: Atlas
    template: str | os.PathLike[str] | None = None

    @property
    def known(self) -> KnownAtlas:
        """The same as the reader of known transforms needs it."""
        places = brain_places(self.atlas)
        return KnownAtlas(self.name, self.atlas.frame, places, self.template)


@dataclass(frozen=True, eq=False)
class Composition:
    """Transform of the reached atlas to the sample, and what was found on the way.

    Attributes
    ----------
    transform : Transform
    summary : dict
        ``through``, ``points_from``, ``files`` (their names), ``known`` (see
        :class:`~terareg.registration.known.KnownTransform`, and ``overlap_percent``, the share of
        both brains that the known transform lays on each other, ``reversed_overlap_percent``, that
        of its inverse taken for it), ``known_registration`` (summary of the known transform's own
        registration, if it is one), ``registered`` (that of the sample's registration), and of the
        composition ``jacobian_min``, ``jacobian_max``, ``inverse_error_um``, ``voxel_um``,
        ``composition_error_um`` (99th percentile, in the sample) and ``warnings``.
    """

    transform: Transform
    summary: dict[str, Any]


def brain_places(atlas: Atlas, most: int = _PLACES) -> np.ndarray:
    """Voxel centres of an atlas's regions, um (n, 3), evenly thinned to about ``most``."""
    share = np.count_nonzero(atlas.index) / most
    step = max(1, int(np.ceil(np.cbrt(share))))
    thin = (slice(None, None, step),) * 3
    index = np.argwhere(atlas.ids[atlas.index[thin]] > 0) * step
    places: np.ndarray = atlas.frame.to_um(index)
    return places


def compose(
    registration: tuple[Transform, Mapping[str, Any]],
    reached: Reached,
    through: Reached,
    settings: Mapping[str, Any],
) -> Composition:
    """Compose a known transform with a registration.

    Parameters
    ----------
    registration : tuple of Transform and mapping
        Of the atlas ``through`` to the sample, and its ``summary.json``.
    reached, through : Reached
    settings : mapping
        ``transform`` (folder, or files in the order in which they act on points) and
        ``points_from``, as in :func:`~terareg.registration.known.read_known`.

    Raises
    ------
    RegistrationError
        Besides those of :func:`~terareg.registration.known.read_known`: if the two brains do not
        lie on each other, or do so better in the opposite direction, or if right and left (front
        and back, top and bottom) are exchanged.
    """
    registered, summary = registration
    pair = reached.known, through.known
    origin, files = settings["points_from"] or reached.name, settings["transform"]
    known = read_known(files, *pair, origin)
    _check_sides(known.transform, (reached.name, through.name))
    there, back = known.transform.to_sample, known.transform.to_atlas
    brains = tuple(zip(pair, (through.atlas, reached.atlas)))
    overlap, reverse = (_overlap(maps, brains) for maps in ((there, back), (back, there)))
    _check_overlap(overlap, reverse, (reached.name, through.name), origin)
    transform = known.transform.then(registered)
    facts = _facts(transform, known, registered, pair[0])
    facts |= {
        "through": through.name,
        "points_from": origin,
        "files": [files] if isinstance(files, str) else [Path(f).name for f in files],
        "known": known.facts
        | {"overlap_percent": 100 * overlap, "reversed_overlap_percent": 100 * reverse},
        "registered": dict(summary),
    }
    if known.facts["kind"] == "registration":
        facts["known_registration"] = read_json(Path(str(files)) / "summary.json")
    logger.info(
        "%s through %s: %.0f %% of both brains meet", reached.name, through.name, 100 * overlap
    )
    return Composition(transform, facts)


def labels_before(
    transforms: tuple[Transform, Transform], initial: np.ndarray, atlas: Atlas, frame: Frame
) -> np.ndarray:
    """Regions of the sample's voxels by the first affine of the registration, uint32 (z, y, x).

    Parameters
    ----------
    transforms : tuple of Transform
        Of the reached atlas, and of the one that it is reached through, to the sample.
    initial : numpy.ndarray, shape (4, 4)
        First affine of the latter, um (z, y, x).
    atlas : Atlas
        The reached one.
    frame : Frame
        Voxels of the sample.
    """
    composed, registered = transforms
    inverse = np.linalg.inv(initial)
    place = np.empty((3, *frame.shape), np.float32)
    z, y, x = frame.axes_um()
    for n, height in enumerate(z):
        points = np.stack(np.meshgrid([height], y, x, indexing="ij")).reshape(3, -1).T
        through = points @ inverse[:3, :3].T + inverse[:3, 3]
        moved = composed.to_atlas(registered.to_sample(through))
        place[:, n] = moved.T.reshape(3, *frame.shape[1:])
    labels: np.ndarray = regions_at(atlas, place)[0]
    return labels


def _check_sides(transform: Transform, names: tuple[str, str]) -> None:
    """Raise if a transform exchanges the ends of an anatomical axis: a brain fits its mirror image.

    ``names`` are those of the reached atlas and of the one that it is reached through.
    """
    own, other = transform.atlas_frame.orientation, transform.sample_frame.orientation
    for ends, words in (("RL", "right"), ("AP", "front"), ("SI", "top")):
        first, second = (
            next(n for n, letter in enumerate(code) if letter in ends) for code in (own, other)
        )
        same = (own[first] == ends[0]) == (other[second] == ends[0])
        along = transform.affine[second, first] * (1 if same else -1)
        length = float(np.linalg.norm(transform.affine[:3, first]))
        if along < -_OPPOSITE * length:
            raise RegistrationError(
                f"atlases.{names[0]}.through: this transform carries the {words} of {names[0]} to "
                f"the other side of {names[1]}; correct atlases.{names[0]}.orientation ({own}) or "
                f"atlases.{names[1]}.orientation ({other}), or give the transform that was made "
                "with these two templates"
            )


def _check_overlap(overlap: float, reverse: float, names: tuple[str, str], origin: str) -> None:
    reached, through = names
    where = f"atlases.{reached}.through"
    if reverse > overlap + _BETTER:
        other = through if origin == reached else reached
        raise RegistrationError(
            f"{where}: with this transform the brains of {reached} and {through} overlap by only "
            f"{100 * overlap:.0f} %, with its inverse by {100 * reverse:.0f} %; set points_from: "
            f"{other}, or list the files in the order in which they act on points"
        )
    if overlap < _LEAST_OVERLAP:
        raise RegistrationError(
            f"{where}: with this transform the brains of {reached} and {through} overlap by only "
            f"{100 * overlap:.0f} %; give the one that was made with these two templates"
        )


def _facts(
    transform: Transform, known: KnownTransform, registered: Transform, reached: KnownAtlas
) -> dict[str, Any]:
    jacobian = transform.jacobian()
    places = reached.brain_um[:: max(1, len(reached.brain_um) // 4000)]
    exact = registered.to_sample(known.transform.to_sample(places))
    error = float(np.percentile(np.linalg.norm(transform.to_sample(places) - exact, axis=1), 99))
    sampled = known.facts.get("sampling_error_um", 0.0)
    warnings = []
    if sampled > _MOST_SAMPLING * min(reached.frame.spacing_um):
        warnings.append(
            f"the known transform changes within less than a node of the grid that holds it; "
            f"positions move by up to {sampled:.3g} um"
        )
    return {
        "jacobian_min": float(jacobian.min()),
        "jacobian_max": float(jacobian.max()),
        "inverse_error_um": transform.inverse_error_um(),
        "voxel_um": min(transform.frame.spacing_um),
        "composition_error_um": error,
        "warnings": warnings,
    }


def _overlap(maps: tuple[PointMap, PointMap], brains: Sequence[tuple[KnownAtlas, Atlas]]) -> float:
    """Mean share of either brain that is mapped into the other, which stands beside it."""
    shares = [_share_inside(move(own.brain_um), other) for move, (own, other) in zip(maps, brains)]
    return float(np.mean(shares))


def _share_inside(points_um: np.ndarray, atlas: Atlas) -> float:
    index = np.rint(atlas.frame.to_index(points_um)).astype(np.int64)
    size = np.array(atlas.frame.shape)
    inside = np.all((index >= 0) & (index < size), axis=1)
    found = atlas.index[tuple(np.clip(index, 0, size - 1).T)]
    return float(np.mean(inside & (atlas.ids[found] > 0)))

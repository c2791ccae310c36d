"""The transform of an atlas that a sample reaches through another one.

The sample is registered to one atlas, and a transform between that and another is known. Their
composition is a transform like that of a registration: whatever is made with one can be made with
the other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terareg.atlas.prepare import Atlas
from terareg.core.errors import RegistrationError
from terareg.registration.known import KnownAtlas, KnownTransform, read_known
from terareg.registration.transform import PointMap, Transform
from terareg.storage.records import read_json

logger = logging.getLogger(__name__)

_PLACES = 60_000  # of a brain that are looked at
# share of both brains that must meet; what the opposite direction may be better by
_LEAST_OVERLAP = 0.5
_BETTER = 0.05
_MOST_SAMPLING = 0.1  # voxels of the atlas


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
    registered: Transform,
    summary: Mapping[str, Any],
    atlases: tuple[KnownAtlas, KnownAtlas],
    brains: tuple[Atlas, Atlas],
    settings: Mapping[str, Any],
) -> Composition:
    """Compose a known transform with a registration.

    Parameters
    ----------
    registered : Transform
        Of the atlas that the sample was registered to.
    summary : mapping
        Facts of that registration.
    atlases, brains : tuple
        The reached atlas and the one that it is reached through.
    settings : mapping
        ``transform`` (folder, or files in the order in which they act on points) and
        ``points_from``, as in :func:`~terareg.registration.known.read_known`.

    Raises
    ------
    RegistrationError
        Besides those of :func:`~terareg.registration.known.read_known`: if the two brains do not
        lie on each other, or do so better in the opposite direction.
    """
    reached, through = atlases
    origin = settings["points_from"] or reached.name
    files = settings["transform"]
    known = read_known(files, reached, through, origin)
    there, back = known.transform.to_sample, known.transform.to_atlas
    overlap = _overlap((there, back), atlases, brains)
    reverse = _overlap((back, there), atlases, brains)
    where = f"atlases.{reached.name}.through"
    if reverse > overlap + _BETTER:
        other = through.name if origin == reached.name else reached.name
        raise RegistrationError(
            f"{where}: this transform lays {100 * overlap:.0f} % of the brains of {reached.name} "
            f"and {through.name} on each other, its inverse {100 * reverse:.0f} %; set "
            f"points_from: {other} (with several files, list them in the opposite order if they "
            "were listed for images)"
        )
    if overlap < _LEAST_OVERLAP:
        raise RegistrationError(
            f"{where}: this transform lays only {100 * overlap:.0f} % of the brains of "
            f"{reached.name} and {through.name} on each other; give the one that was made with "
            "these two templates"
        )
    transform = known.transform.then(registered)
    facts = _facts(transform, known, registered, reached)
    facts |= {
        "through": through.name,
        "points_from": origin,
        "files": _names(files),
        "known": known.facts
        | {"overlap_percent": 100 * overlap, "reversed_overlap_percent": 100 * reverse},
        "registered": dict(summary),
    }
    if known.facts["kind"] == "registration":
        facts["known_registration"] = read_json(Path(str(files)) / "summary.json")
    logger.info(
        "%s reached through %s: %.0f %% of both brains meet", reached.name, through.name,
        100 * overlap,
    )  # fmt: skip
    return Composition(transform, facts)


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


def _overlap(
    maps: tuple[PointMap, PointMap],
    atlases: tuple[KnownAtlas, KnownAtlas],
    brains: tuple[Atlas, Atlas],
) -> float:
    """Mean share of either brain that is mapped into the other."""
    shares = [
        _share_inside(move(own.brain_um), brain)
        for move, own, brain in zip(maps, atlases, reversed(brains))
    ]
    return float(np.mean(shares))


def _share_inside(points_um: np.ndarray, atlas: Atlas) -> float:
    index = np.rint(atlas.frame.to_index(points_um)).astype(np.int64)
    size = np.array(atlas.frame.shape)
    inside = np.all((index >= 0) & (index < size), axis=1)
    found = atlas.index[tuple(np.clip(index, 0, size - 1).T)]
    return float(np.mean(inside & (atlas.ids[found] > 0)))


def _names(files: str | Sequence[str]) -> list[str]:
    return [files] if isinstance(files, str) else [Path(f).name for f in files]

"""How well seams fit where their tiles were placed, measured on the tiles themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from terareg.core.errors import few
from terareg.stitching.filters import common_levels, levels_of, prepare
from terareg.stitching.placement import Link

#: of the correlation at a seam's own best fit, below which it does not fit as placed
SEAM_SHARE = 0.5
#: where seams are looked at, in shares of the planes that both tiles have
PARTS = (0.2, 0.35, 0.5, 0.65, 0.8)
_LEAST = 0.15  # correlation below which a best fit says nothing

Crops = tuple[np.ndarray, np.ndarray]  # the same place in two tiles, (y, x)


@dataclass(frozen=True)
class SeamFit:
    """Correlation of two neighbours by their own best fit, and where they were placed.

    None where the two do not overlap, or show no structure.
    """

    a: str
    b: str
    at_best: float | None
    as_placed: float | None

    @property
    def off(self) -> bool:
        """Whether the tiles would fit at least twice as well elsewhere."""
        if self.at_best is None or self.at_best < _LEAST:
            return False
        return self.as_placed is None or self.as_placed < SEAM_SHARE * self.at_best


def doubtful(links: Iterable[Link]) -> list[Link]:
    """Links of which the width of their peak does not tell that the seam fits as placed."""
    return [k for k in links if k.seam_share is not None and k.seam_share < SEAM_SHARE]


def correlation(crops: Sequence[Crops | None]) -> float | None:
    """Mean correlation of the structure of pairs of crops; None if none of them has any.

    Structure is what the displacements are measured by, see
    :func:`terareg.stitching.filters.prepare`.
    """
    found = []
    for pair in crops:
        if pair is None or min(pair[0].shape) <= 4:
            continue
        planes = [np.asarray(crop)[None] for crop in pair]
        levels = common_levels(map(levels_of, planes), None)
        (a, in_a), (b, in_b) = (prepare(plane.astype(np.float32), levels) for plane in planes)
        if not (in_a and in_b):
            continue
        norm = np.sqrt(np.vdot(a, a) * np.vdot(b, b))
        found.append(float(np.vdot(a, b) / norm))
    return float(np.mean(found)) if found else None


def seams_to_json(fits: Sequence[SeamFit]) -> dict[str, Any]:
    """``seams``: ``a``, ``b``, ``at_best``, ``as_placed`` and ``off`` of each; ``warnings``."""
    return {
        "seams": [asdict(fit) | {"off": fit.off} for fit in fits],
        "warnings": _warnings([fit for fit in fits if fit.off]),
    }


def _warnings(off: Sequence[SeamFit]) -> list[str]:
    """A sentence about the seams that are off."""
    if not off:
        return []
    words = []
    for fit in sorted(off, key=lambda fit: fit.as_placed or 0):
        placed = "nothing" if fit.as_placed is None else f"{fit.as_placed:.2f}"
        words.append(f"{fit.a}-{fit.b} ({fit.at_best:.2f} at best, {placed} as placed)")
    return [
        "seams that correlate less than half as well at the placed positions as at their own best "
        f"fit: {len(off)} ({few(words)})"
    ]

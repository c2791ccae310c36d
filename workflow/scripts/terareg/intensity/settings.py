"""How the flat-field is estimated: its options, and the tiles that are read for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.errors import ConfigError

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition

_METHODS = ("statistics", "image", "none")


@dataclass(frozen=True)
class FlatfieldSettings:
    """How the flat-field of a channel is found.

    Attributes
    ----------
    method : str
        "statistics" (from the tiles), "image" (``image`` is the profile), or "none" (flat).
    tiles : str or int
        "all", or n for every n-th tile of the acquisition, see :func:`sample_tiles`.
    planes : int
        Planes read per tile, evenly spaced; 0 reads all.
    slabs : int
        Depth ranges whose planes are averaged before tiles are compared.
    blocks : int
        Blocks along each axis of a tile in which pixels are averaged; blocks have at least 4
        pixels a side.
    degree : int
        Highest total degree of the polynomial.
    lines : bool
        Whether fixed line patterns along the axes are estimated.
    overlaps : bool
        Whether overlaps of neighbours are used.
    tile_gains : bool, "depth" or "auto"
        Whether the relative brightness of each tile, found in its overlaps, is corrected as well:
        one gain for each tile, or gains that change with the plane; only with method="statistics".
        "auto" corrects what the overlaps show clearly.
    background : float or None
        Dark offset in counts, the same at every pixel; None estimates it, or an additive image.
    image : str or None
        TIFF of a user's own profile, any positive scale, for ``method="image"``.
    """

    method: str = "statistics"
    tiles: str | int = "all"
    planes: int = 64
    slabs: int = 16
    blocks: int = 32
    degree: int = 8
    lines: bool = True
    overlaps: bool = True
    tile_gains: bool | str = "auto"
    background: float | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigError(
                f"flat-field method {self.method!r} is unknown; use one of {', '.join(_METHODS)}"
            )
        if self.tiles != "all" and (not isinstance(self.tiles, int) or self.tiles < 1):
            raise ConfigError(
                f"flat-field tiles {self.tiles!r} is not a choice; write all, or n >= 1 for "
                "every n-th tile"
            )
        for name, low in (("planes", 0), ("slabs", 1), ("blocks", 4), ("degree", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"flat-field {name} {value!r} is below {low}; raise it")
        if self.background is not None and not 0 <= self.background < np.inf:
            raise ConfigError(
                f"flat-field background {self.background} counts is impossible; give 0 or more, "
                "or leave it out to have it estimated"
            )
        if self.tile_gains not in (False, True, "depth", "auto"):
            raise ConfigError(
                f"flat-field tile_gains {self.tile_gains!r} is unknown; set auto, false, true or "
                "depth"
            )
        wanted = self.tile_gains not in (False, "auto")
        if wanted and self.method != "statistics":
            raise ConfigError(
                f"flat-field method {self.method!r} does not estimate tile gains; set tile_gains: "
                "false or method: statistics"
            )
        if wanted and self.tiles not in ("all", 1):
            raise ConfigError(
                f"flat-field tile_gains need every tile, but tiles is {self.tiles}; set "
                "intensity.flatfield.tiles: all or tile_gains: false"
            )
        if (self.method == "image") != (self.image is not None):
            raise ConfigError(
                f"flat-field method {self.method!r} and image {self.image!r} contradict each "
                "other; only method: image uses an image, and it needs the path of a TIFF"
            )


def sample_tiles(acquisition: Acquisition, settings: FlatfieldSettings) -> list[str]:
    """Names of the tiles whose statistics are needed, in the order of the acquisition."""
    step = 1 if settings.tiles == "all" else int(settings.tiles)
    return [tile.name for tile in acquisition.tiles][::step]

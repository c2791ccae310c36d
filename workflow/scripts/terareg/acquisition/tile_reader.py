"""The interface through which stages read tiles, raw or corrected: :class:`TileReader`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from terareg.acquisition.model import Acquisition


class TileReader(Protocol):
    """Tiles of one channel, read box by box, see :class:`terareg.acquisition.tiles.TileSource`."""

    acquisition: Acquisition

    @property
    def planes_at_once(self) -> int:
        """Planes that are best read together."""

    def missing_planes(self, tile: str) -> tuple[int, ...]:
        """Planes of a tile that were not measured."""

    def read(
        self,
        tile: str,
        z0: int,
        z1: int,
        y: slice = slice(None),
        x: slice = slice(None),
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Planes ``z0`` to ``z1`` of a tile, of these rows and columns; shape (z, y, x).

        They may be put into ``out``, an array of their shape and type, but need not be.
        """

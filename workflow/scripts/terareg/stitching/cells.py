"""The cells of the grid, which tiles lie in them, and which links form loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.errors import StitchingError
from terareg.stitching.pairs import PairResult

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition


class CellGrid:
    """All cells of the grid, numbered row by row, and which tiles lie in them."""

    def __init__(self, acquisition: Acquisition) -> None:
        tiles = acquisition.tiles
        if not tiles:
            raise StitchingError(
                "the acquisition has no tiles to place; check the files of the input folder"
            )
        self.rows = max(acquisition.rows, 1 + max(t.row for t in tiles))
        self.columns = max(acquisition.columns, 1 + max(t.column for t in tiles))
        self.cells = self.rows * self.columns
        self.names: dict[int, str] = {}
        for tile in sorted(tiles, key=lambda t: (t.row, t.column)):
            cell = tile.row * self.columns + tile.column
            if cell in self.names:
                raise StitchingError(
                    f"tiles {self.names[cell]} and {tile.name} are both at row {tile.row}, column "
                    f"{tile.column}; remove one of them"
                )
            self.names[cell] = tile.name
        self.index = {name: cell for cell, name in self.names.items()}
        if len(self.index) != len(tiles):
            raise StitchingError(
                "two tiles of the acquisition have the same name; rename one of them"
            )
        self.neighbours = [
            (cell, other, direction)
            for cell in range(self.cells)
            for direction, other in (("EAST", cell + 1), ("SOUTH", cell + self.columns))
            if other < self.cells and (direction == "SOUTH" or other % self.columns)
        ]
        self.nominal = _nominal(acquisition)
        self.tile_shape: tuple[int, int, int] = tuple(int(n) for n in acquisition.tile_shape)

    def links(self, pairs: Sequence[PairResult]) -> np.ndarray:
        """Cells (a, b) of every pair, int (n, 2)."""
        ends, seen = np.zeros((len(pairs), 2), int), set()
        for k, pair in enumerate(pairs):
            for name in (pair.a, pair.b):
                if name not in self.index:
                    raise StitchingError(
                        f"pair {pair.a} - {pair.b}: tile {name} is not in the acquisition; measure "
                        "the displacements again"
                    )
            a, b = self.index[pair.a], self.index[pair.b]
            step = {"EAST": 1, "SOUTH": self.columns}.get(pair.direction)
            if b - a != step or (step == 1 and b % self.columns == 0 and self.columns > 1):
                raise StitchingError(
                    f"pair {pair.a} - {pair.b}: not neighbours in direction {pair.direction}; "
                    "measure the displacements again"
                )
            if (a, b) in seen:
                raise StitchingError(f"pair {pair.a} - {pair.b} is given twice; remove one")
            seen.add((a, b))
            ends[k] = a, b
        return ends


def _nominal(acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Nominal step (z, y, x) per direction: from neighbours, or else from any two tiles."""
    at = {(t.row, t.column): np.array(t.origin_vox, float) for t in acquisition.tiles}
    steps = {}
    for direction, (row, column) in (("EAST", (0, 1)), ("SOUTH", (1, 0))):
        near = [at[r + row, c + column] - at[r, c] for r, c in at if (r + row, c + column) in at]
        if near:
            steps[direction] = np.median(near, axis=0)
            continue
        overlap = getattr(acquisition, "overlap", None) or (0.1, 0.1)
        _, height, width = acquisition.tile_shape
        steps[direction] = np.array(
            [0.0, row * height * (1 - overlap[0]), column * width * (1 - overlap[1])]
        )
    return steps


def corroborated(grid, measured, pairs, kept) -> np.ndarray:
    """Whether each link is a side of a 2 x 2 cell whose other three sides are kept as well."""
    at = {
        (int(a), pair.direction): k
        for k, ((a, _), pair) in enumerate(zip(measured, pairs))
        if kept[k]
    }
    supported = np.zeros(len(pairs), bool)
    for cell, _ in [key for key in at if key[1] == "EAST"]:
        sides = sides_of(grid, cell)
        if all(side in at for side in sides):
            supported[[at[side] for side in sides]] = True
    return supported


def sides_of(grid, cell: int) -> list[tuple[int, str]]:
    """Top, right, bottom and left link of the 2 x 2 cell whose first tile is ``cell``."""
    below = cell + grid.columns
    return [(cell, "EAST"), (cell + 1, "SOUTH"), (below, "EAST"), (cell, "SOUTH")]

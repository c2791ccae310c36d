"""Samples as plans see them: tiles of a usual light-sheet microscope."""

from __future__ import annotations

from terareg.core.extents import Extent, Sample, Size
from terareg.execution.config import check

ATLAS = Extent((528, 320, 456), (25.0, 25.0, 25.0))
SPACING = (5.0, 1.46, 1.46)


def brain(rows=5, columns=6, channels=2, atlas=ATLAS, **over) -> Sample:
    """Tiles of 2048 x 2048 x 2000 voxels that overlap by 15 %."""
    config = {
        "sample": "brain",
        "input": {"path": ".", "orientation": "SAR",
                  "channels": {f"ch{c}": c for c in range(channels)}},
    }  # fmt: skip
    config = check(config | over)
    volume = (2000, *(round(2048 * (0.85 * (n - 1) + 1)) for n in (rows, columns)))
    pairs = rows * (columns - 1) + columns * (rows - 1)
    size = Size(rows * columns, pairs, channels, (2000, 2048, 2048), volume)
    atlases = {} if atlas is None else {"mouse": atlas}
    return Sample(size, config, Extent(volume, SPACING), 0.15, atlases)

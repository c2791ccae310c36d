"""At which resolution a volume is read for a registration."""

from __future__ import annotations

from terareg.core.frames import Frame

_SHARE = 160  # of the atlas's longest side; half the default working voxel


def reading_resolution(atlas: Frame, resolution_um: float | None) -> float:
    """Voxel (um) to read the sample with: the working voxel, or fine enough for its default."""
    if resolution_um is not None:
        return float(resolution_um)
    return max(*atlas.spacing_um, max(atlas.extent_um) / _SHARE)

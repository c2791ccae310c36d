"""Resolution at which a volume is read for a registration."""

from __future__ import annotations

from terareg.core.frames import Frame

_SHARE = 160  # voxels along the longest side of the atlas; about half the default working voxel


def reading_resolution(atlas: Frame, resolution_um: float | None) -> float:
    """Voxel size (um) for reading the sample: the working voxel, or fine enough for its default."""
    if resolution_um is not None:
        return float(resolution_um)
    return max(*atlas.spacing_um, max(atlas.extent_um) / _SHARE)

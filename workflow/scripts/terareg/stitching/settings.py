"""Options of the measurement of displacements."""

from __future__ import annotations

import math
from dataclasses import dataclass

from terareg.core.errors import StitchingError
from terareg.stitching import mip_ncc

ENGINES = ("ncc", "mip_ncc")
#: how a tile may lie, see :func:`terareg.stitching.solver.place`, and models that need points
MODELS = ("translation", "depth", "affine", "elastic", "auto")
MODELS_OF_POINTS = ("affine", "elastic", "auto")


@dataclass(frozen=True)
class DisplacementSettings:
    """Options of :func:`measure_pair`.

    Attributes
    ----------
    engine : str
        "ncc": normalised cross-correlation of band-passed windows, whose agreement is counted;
        "mip_ncc": TeraStitcher's measure, correlation of maximum intensity projections.
    search_um : tuple of float
        Largest deviation from the expected displacement, micrometres (z, y, x).
    widen : float
        A pair with signal whose windows disagree is searched once more over a range this many
        times larger; 1 switches that off.
    windows : int
        Windows per pair whose agreement is counted.
    window_planes : int
        Planes per window.
    binning : int
        Pixels of y and x that the coarse search averages; 0 chooses 1, 2 or 4 by the overlap.
    patches, patch_px : int
        Number of patches of the sub-voxel refinement and their length along the seam, pixels
        (down to half of it at seams that are wider than that).
    tolerance_vox : float
        Largest difference of two windows that agree, voxels (at least one coarse pixel).
    min_reliability : float
        Reliability, 0 to 1, from which a pair has status "ok".
    dark : float or None
        Counts of a pixel without light; None estimates it (0 for corrected tiles).
    subvolume_planes : int
        Largest number of planes of a sub-volume that mip_ncc measures. ncc does not use it; of the
        other options mip_ncc uses only ``search_um``.
    points : bool
        Measure parts of the seams one by one as well, from which warped tiles are told.
    step_east_vox, step_south_vox : tuple of float or None
        Measured stage steps (z, y, x) that replace the acquisition's nominal ones,
        see :func:`estimate_steps`.
    """

    engine: str = "ncc"
    search_um: tuple[float, float, float] = (40.0, 60.0, 60.0)
    widen: float = 2.0
    windows: int = 6
    window_planes: int = 32
    binning: int = 0
    patches: int = 8
    patch_px: int = 192
    tolerance_vox: float = 1.5
    min_reliability: float = 0.99
    dark: float | None = None
    subvolume_planes: int = 200
    points: bool = False
    step_east_vox: tuple[float, float, float] | None = None
    step_south_vox: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise StitchingError(
                f"stitching engine {self.engine!r} is unknown; choose one of {', '.join(ENGINES)}"
            )
        search = self.search_um
        possible = all(map(math.isfinite, search)) and any(search) and min(search) >= 0
        if len(search) != 3 or not possible:
            raise StitchingError(
                f"search_um {list(search)} is not a search range; give three distances "
                "(z, y, x) in micrometres, for example [40, 60, 60]"
            )
        if self.windows < 2 or self.window_planes < 1 or self.patches < 1 or self.widen < 1:
            raise StitchingError(
                f"windows {self.windows}, window_planes {self.window_planes}, patches "
                f"{self.patches}, widen {self.widen}; give at least 2, 1, 1, 1"
            )
        if self.binning < 0 or self.patch_px < 8 or self.tolerance_vox < 0:
            raise StitchingError(
                f"binning {self.binning}, patch_px {self.patch_px}, tolerance_vox "
                f"{self.tolerance_vox}; give at least 0, 8, 0"
            )
        if not 0 <= self.min_reliability <= 1:
            raise StitchingError(
                f"min_reliability {self.min_reliability} is not a probability; give 0 to 1"
            )
        if self.subvolume_planes <= mip_ncc.MIN_OVERLAP:
            raise StitchingError(
                f"subvolume_planes {self.subvolume_planes} leaves no search along z; give more "
                f"than {mip_ncc.MIN_OVERLAP}, for example 200"
            )

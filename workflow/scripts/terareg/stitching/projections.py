"""Displacement of neighbouring tiles as TeraStitcher measures it, see :mod:`.mip_ncc`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from terareg.core.errors import StitchingError
from terareg.stitching import mip_ncc
from terareg.stitching.pairs import SEAM_AXIS, PairResult, WindowResult

_SLAB_PLANES = 16  # planes read at once for projections


def measure_projections(source, acquisition, pair, expected, settings) -> PairResult:
    """Measure a pair (a, b, direction) by projections of sub-volumes of the nominal overlap."""
    name_a, name_b, direction = pair
    shape = tuple(int(n) for n in acquisition.tile_shape)
    # TeraStitcher truncates the nominal displacement
    nominal = [math.trunc(e + math.copysign(1e-6, e)) for e in expected]
    search = tuple(
        math.ceil(s / p - 1e-9) for s, p in zip(settings.search_um, acquisition.spacing_um)
    )
    box_a = [(max(0, d), min(n, n + d)) for d, n in zip(nominal, shape)]
    overlap = tuple(max(0, high - low) for low, high in box_a)
    number = max(1, -(-overlap[0] // settings.subvolume_planes))
    sizes = [overlap[0] // number + (k < overlap[0] % number) for k in range(number)]
    thinnest = (sizes[-1], *overlap[1:])
    if min(mip_ncc.search_ranges(thinnest, search)) < 1:
        raise StitchingError(
            f"{name_a} and {name_b} ({direction}) overlap in sub-volumes of {list(thinnest)} "
            f"voxels (z, y, x) and search_um is {list(settings.search_um)}: mip_ncc keeps "
            f"{mip_ncc.MIN_OVERLAP} voxels in common, so it has nothing to search along one axis; "
            'set stitching.displacement.engine: "ncc", or raise subvolume_planes'
        )
    starts = [box_a[0][0] + sum(sizes[:k]) for k in range(number)]
    windows: list[WindowResult] = []
    size = 0
    for z0, planes in zip(starts, sizes):
        box = [(z0, z0 + planes), *box_a[1:]]
        mips = []
        for name, shift in ((name_a, (0, 0, 0)), (name_b, nominal)):
            own = [(low - d, high - d) for (low, high), d in zip(box, shift)]
            mips.append(mip_ncc.project(_slabs(source, name, own)))
            size += planes * overlap[1] * overlap[2] * np.dtype(acquisition.dtype).itemsize
        axes = tuple(
            replace(axis, displ_vox=axis.displ_vox + d)
            for axis, d in zip(mip_ncc.measure_axes(mips[0], mips[1], search), nominal)
        )
        seam = box[3 - SEAM_AXIS[direction]]
        displ: tuple[float, float, float] = tuple(float(axis.displ_vox) for axis in axes)
        peak = min(axis.peak for axis in axes)
        windows.append(WindowResult(box[0], seam, displ, peak, 0.0, peak > 0, False, axes))
    best = mip_ncc.most_reliable([window.axes for window in windows])
    ok = all(axis.reliability > 0 for axis in best)
    displ = tuple(float(axis.displ_vox) for axis in best) if ok else expected
    judged = tuple(
        replace(w, agrees=ok and all(abs(p - q) <= 1 for p, q in zip(w.displ_vox, displ)))
        for w in windows
    )
    return PairResult(
        name_a, name_b, direction, "ok" if ok else "no_signal", displ, (0.5, 0.5, 0.5),
        min(axis.reliability for axis in best), min(axis.peak for axis in best),
        sum(w.agrees for w in judged), len(judged), expected, search, judged, size, "mip_ncc",
    )  # fmt: skip


def _slabs(source, name, box) -> Iterable[np.ndarray]:
    """Pixels of a box ((z0, z1), (y0, y1), (x0, x1)) of a tile, a few planes at a time."""
    (first, last), y, x = box
    for z in range(first, last, _SLAB_PLANES):
        yield source.read(name, z, min(last, z + _SLAB_PLANES), slice(*y), slice(*x))

"""Displacements of tiles that have two sides, each measured on the side that shows more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.parallel import map_items
from terareg.stitching.channel_sampling import LOOKED_AT
from terareg.stitching.displacement import expected_step, measure_pair
from terareg.stitching.filters import bin_pixels
from terareg.stitching.fine_structure import clearness
from terareg.stitching.pairs import SEAM_AXIS, PairResult, SeamPoint
from terareg.stitching.settings import DisplacementSettings

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition
    from terareg.acquisition.tiles import TileSource
    from terareg.stitching.channel_shift import ChannelShift

Vox = tuple[float, float, float]
_DEPTHS = LOOKED_AT // 2  # of the stack at which an overlap is looked at, two planes at each
_LOOKED_AT_PX = 1024  # most pixels along a side of a plane; larger ones are binned
_CLEARLY = 1.5  # times as clear as the first side, from which the second one is measured


def measure_better_sides(
    sources: Mapping[str, TileSource],
    acquisition: Acquisition,
    pairs: Sequence[tuple[str, str, str]],
    settings: DisplacementSettings,
    axis: int,
    workers: int = 1,
) -> list[PairResult]:
    """Run :func:`~terareg.stitching.displacement.measure_pair` on the better side of each pair.

    Parameters
    ----------
    sources : mapping of str to TileSource
        The first side, which is the reference, and the second.
    acquisition : Acquisition
    pairs : sequence of (a, b, direction)
    settings : DisplacementSettings
    axis : int
        Of the light, 0 to 2 (z, y, x).
    workers : int
        Threads. The result does not depend on it.

    Returns
    -------
    list of PairResult
        In the order of the pairs, with ``side``. A displacement that is not found on the clearer
        side is looked for on the other one.
    """

    def measure(pair: tuple[str, str, str]) -> PairResult:
        found = None
        for side in _order(sources, acquisition, pair, settings, axis):
            result = measure_pair(sources[side], acquisition, *pair, settings)
            result = replace(result, side=side, bytes=result.bytes + (found.bytes if found else 0))
            if found is None or result.status == "ok":
                found = result
            if found.status == "ok":
                break
        assert found is not None
        return found

    return list(map_items(measure, pairs, workers=workers, what="measured pairs"))


def as_on_first_side(
    pairs: Sequence[PairResult], shift: ChannelShift, tile_shape: Sequence[int]
) -> list[PairResult]:
    """Pairs as the first side would show them, of which some were measured on the second.

    Parameters
    ----------
    pairs : sequence of PairResult
        Those with the ``side`` of ``shift`` are changed, if that shift changes within the tile: a
        camera that magnifies more, or is turned, sees tiles displaced by as much more.
    shift : ChannelShift
        Of the second side against the first.
    tile_shape : sequence of int

    Returns
    -------
    list of PairResult
    """
    moved, matrix = shift.applied(tile_shape)
    if matrix is None:
        return list(pairs)
    straight = np.linalg.inv(matrix)

    def turned(vox: Sequence[float], by: Sequence[float] = (0.0, 0.0, 0.0)) -> Vox:
        z, y, x = np.round(straight @ np.array(vox) + np.array(by), 9).tolist()
        return z, y, x

    return [
        replace(
            pair,
            displ_vox=turned(pair.displ_vox),
            windows=tuple(replace(w, displ_vox=turned(w.displ_vox)) for w in pair.windows),
            points=tuple(
                SeamPoint(turned(p.at_vox, moved), turned(p.displ_vox)) for p in pair.points
            ),
        )
        if pair.side == shift.channel and pair.status == "ok"
        else pair
        for pair in pairs
    ]


def _order(sources, acquisition, pair, settings, axis: int) -> list[str]:
    """Sides that have both tiles, the one to be measured first."""
    a, b, direction = pair
    sides = list(sources)
    shown = []
    for side in sides:
        own = {tile.name for tile in sources[side].acquisition.tiles}
        if a in own and b in own:
            shown.append(side)
    if len(shown) < 2:
        return shown or sides[:1]
    step = expected_step(acquisition, a, b, direction, settings)
    clear = [_clear(sources[side], acquisition.tile_shape, (a, b, direction), step, axis)
             for side in shown]  # fmt: skip
    return shown[::-1] if clear[1] > _CLEARLY * clear[0] else shown


def _clear(source, shape, pair, step, axis: int) -> float:
    """How clear the overlap of two tiles is in that of them which shows it less."""
    depth, *size = (int(n) for n in shape)
    thick = min(2, depth)
    across = SEAM_AXIS[pair[2]]
    moved = round(abs(step[across]))
    if moved > size[across - 1] - 8:  # no overlap to look at
        return 0.0
    found = []
    for name, span in (
        (pair[0], (moved, size[across - 1])),
        (pair[1], (0, size[across - 1] - moved)),
    ):
        window = [slice(0, n) for n in size]
        window[across - 1] = slice(*span)
        starts = {int(v) for v in (np.arange(_DEPTHS) + 0.5) / _DEPTHS * (depth - thick + 1)}
        values = []
        for z in sorted(starts):
            if set(range(z, z + thick)) & set(source.missing_planes(name)):
                continue
            planes = source.read(name, z, z + thick, *window)
            edge = max(1, -(-max(size) // _LOOKED_AT_PX))
            values.append(clearness(bin_pixels(planes, (1, edge, edge)), axis))
        found.append(float(np.mean(values)) if values else 0.0)
    return min(found)

"""Flat-field of a microscope from its own tiles: :func:`sum_tiles`, :func:`estimate_flatfield`.

A raw pixel of tile n is ``background + profile(y, x) * content_n(y, x) + noise``: a dark offset, and
the illumination profile that all tiles share.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terareg.errors import IntensityError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlatfieldSettings:
    method: str = "statistics"
    tiles: str | int = "all"
    planes: int = 64
    slabs: int = 16
    blocks: int = 48
    image: str | None = None
    background: float | None = None


def _edges(size, step, blocks):
    """Block edges along one axis of a tile.

    Blocks in the strip that a tile shares with its next neighbour are those of the neighbour's
    opposite strip, moved by the nominal step, so that overlaps compare equal pixels.
    """
    width = max(1, round(size / blocks))
    cuts = [0, size]
    if step is not None and 0 < step < size:
        strip = min(size - step, step)
        inner = np.linspace(0, strip, max(1, round(strip / width)) + 1).round().astype(int)
        cuts = sorted({0, size, *inner.tolist(), *(inner + step).tolist()})
    edges = []
    for a, b in zip(cuts, cuts[1:]):
        n = max(1, round((b - a) / width))
        edges += (a + (b - a) * np.arange(n) // n).tolist()
    return np.array(sorted(set(edges)) + [size], np.int64)


def sum_tiles(source, tiles, settings=FlatfieldSettings()):
    acq = source.acquisition
    nz, ny, nx = acq.tile_shape
    steps = _nominal_steps(acq)
    ey, ex = (_edges(n, s, settings.blocks) for n, s in zip((ny, nx), steps))
    count = min(settings.planes, nz) if settings.planes else nz
    chosen = ((np.arange(count) + 0.5) * nz / count).astype(int)
    slabs = min(settings.slabs, count)
    slab_of = np.arange(count) * slabs // count
    n = len(tiles)
    out = dict(
        tiles=np.array(list(tiles)), steps=np.array([-1 if s is None else s for s in steps], np.int64),
        position=np.array([[acq.tile(t).row, acq.tile(t).column] for t in tiles], np.int64),
        tile_shape=np.array([ny, nx], np.int64), edges_y=ey, edges_x=ex,
        count=np.zeros((n, slabs), np.int64),
        mean=np.zeros((n, slabs, len(ey) - 1, len(ex) - 1), np.float32),
        error=np.zeros((n, slabs, len(ey) - 1, len(ex) - 1), np.float32),
    )
    groups = min(4, slabs); sections = 8
    sx = np.arange(sections) * nx // sections; sy = np.arange(sections) * ny // sections
    out["rows"] = np.zeros((n, groups, sections, ny), np.float32)
    out["columns"] = np.zeros((n, groups, sections, nx), np.float32)
    area = np.outer(np.diff(ey), np.diff(ex)).astype(float)
    for i, t in enumerate(tiles):
        s1 = np.zeros((slabs,) + area.shape); s2 = np.zeros_like(s1)
        rows = np.zeros((groups, sections, ny)); cols = np.zeros((groups, sections, nx)); gc = np.zeros(groups)
        for k, z in enumerate(chosen):
            p = source.read(t, int(z), int(z) + 1)[0].astype(np.float64)
            if p.min() == p.max():
                continue
            s = slab_of[k]; g = s * groups // slabs
            r = np.add.reduceat(p, ey[:-1], axis=0)
            s1[s] += np.add.reduceat(r, ex[:-1], axis=1)
            s2[s] += np.add.reduceat(np.add.reduceat(p * p, ey[:-1], axis=0), ex[:-1], axis=1)
            rows[g] += np.add.reduceat(p, sx, axis=1).T
            cols[g] += np.add.reduceat(p, sy, axis=0)
            gc[g] += 1
            out["count"][i, s] += 1
        c = np.maximum(out["count"][i], 1)[:, None, None] * area
        m = s1 / c
        out["mean"][i] = m
        out["error"][i] = np.sqrt(np.maximum(s2 / c - m * m, 1 / 12) / c)
        wx = np.diff(np.append(sx, nx)); wy = np.diff(np.append(sy, ny))
        out["rows"][i] = rows / (np.maximum(gc, 1)[:, None, None] * wx[None, :, None])
        out["columns"][i] = cols / (np.maximum(gc, 1)[:, None, None] * wy[None, :, None])
    return out


def _nominal_steps(acq):
    steps = []
    for axis, other in ((1, "row"), (2, "column")):
        d = []
        by = {(t.row, t.column): t.origin_vox[axis] for t in acq.tiles}
        for (r, c), o in by.items():
            q = by.get((r + 1, c) if axis == 1 else (r, c + 1))
            if q is not None:
                d.append(q - o)
        steps.append(int(round(float(np.median(d)))) if d else None)
    return steps

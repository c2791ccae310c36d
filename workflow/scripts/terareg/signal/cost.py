"""What the rules of cells need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from typing import Any

from terareg.core.cost import ITK_MB, Load, RuleCost
from terareg.core.extents import Sample
from terareg.registration.cost import errors_estimated, shifts_mb
from terareg.signal.search import read_mvox, three, working_um
from terareg.volumes.cost import block_batches, level_gb

_CELLS_PER_MM3 = 3000.0  # in the box around a brain, of one set; a retry has more memory
_CELL_KB = 0.6
_SEARCH_CPU = 0.3  # seconds of one thread for a million voxels, margins of the boxes included
_HELD_BYTES = 16.0  # for each voxel that is searched at once


def cell_batches(sample: Sample) -> int:
    """Batches of the search for one set of cells."""
    return block_batches(sample)


def _sets(sample: Sample) -> list[dict[str, Any]]:
    return list(sample.option("cells").values())


def _million_cells(sample: Sample) -> float:
    spacing = sample.grid.spacing_um
    cubic_mm = sample.grid.megavoxels * spacing[0] * spacing[1] * spacing[2] / 1e3
    return _CELLS_PER_MM3 * cubic_mm / 1e6 if _sets(sample) else 0.0


# ------------------------------------------------------------------ work
def _find_cells(sample: Sample) -> Load:
    jobs, read, cpu = 0, 0.0, 0.0
    for settings in _sets(sample):
        resolution = working_um(settings)
        jobs += cell_batches(sample)
        read += 2 * level_gb(sample, resolution)
        cpu += _SEARCH_CPU * sample.level(resolution).megavoxels
    return Load(jobs, read, cpu_s=cpu)


def _gather_cells(sample: Sample) -> Load:
    count = len(_sets(sample))
    return Load(count, cpu_s=count * (5 + 20 * _million_cells(sample)))


def _count_cells(sample: Sample) -> Load:
    count = len(_sets(sample)) * len(sample.atlases)
    voxels = sample.largest_atlas.megavoxels
    # with error bars a cell is looked up 24 times more
    each = 20 + (12 if errors_estimated(sample) else 0)
    return Load(count, cpu_s=count * (5 + each * _million_cells(sample) + 0.2 * voxels))


# ------------------------------------------------------------------ memory
def _search(sample: Sample, threads: int) -> float:
    """One box with its margins on each thread."""
    most = 0.0
    for settings in _sets(sample):
        level = sample.level(working_um(settings))
        box = read_mvox(three(settings["diameter_um"]), level.spacing_um)
        most = max(most, min(box, level.megavoxels))
    return ITK_MB + _HELD_BYTES * threads * most


def _table(sample: Sample, threads: int) -> float:
    return ITK_MB + 1000 * _CELL_KB * _million_cells(sample)


def _in_atlas(sample: Sample, threads: int) -> float:
    return _table(sample, threads) + 20 * sample.largest_atlas.megavoxels + shifts_mb(sample)


RULES = {
    "find_cells": RuleCost("cells", _search, _find_cells, heavy=True),
    "gather_cells": RuleCost("cells", _table, _gather_cells),
    "count_cells": RuleCost("cells", _in_atlas, _count_cells),
}

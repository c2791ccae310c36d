"""What comparisons of groups need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from terareg.core.cost import ITK_MB, Load, RuleCost
from terareg.core.extents import Sample

_ROWS = 9000  # of one measure of the Allen atlas: regions, scopes, hemispheres
_ROW_KB = 0.3  # of a value of a sample, as text and number
_COLUMN_KB = 2.0  # of a value of all samples: its names and results
_SLAB_MB = 8.0  # planes that are read at once from each sample's map


def _counted(sample: Sample, key: str) -> float:
    """A count of a comparison; a sample has none."""
    return float(sample.config.get("comparison", {}).get(key, 0))


def _columns(sample: Sample) -> float:
    return _ROWS * _counted(sample, "measures")


def _load(cpu_s: float, per_value_ms: float = 0.0, per_permutation_ms: float = 0.0):
    """Work of a comparison: a value is one of a region in a sample."""

    def load(sample: Sample) -> Load:
        samples = _counted(sample, "samples")
        if not samples:
            return Load(0)
        values = per_value_ms / 1e3 * samples * _columns(sample)
        permuted = per_permutation_ms / 1e3 * _counted(sample, "permutations")
        return Load(1, cpu_s=cpu_s + values + permuted * _columns(sample) / _ROWS)

    return load


def _maps(sample: Sample) -> Load:
    voxels = sample.largest_atlas.megavoxels
    count = _counted(sample, "samples")
    return Load(1, 4e-3 * voxels * count, cpu_s=5 + 0.1 * voxels * count) if count else Load(0)


def _table(sample: Sample, threads: int) -> float:
    values = _ROW_KB * _counted(sample, "samples") + _COLUMN_KB
    return ITK_MB + values * _columns(sample) / 1e3


def _whole_maps(sample: Sample, threads: int) -> float:
    """Four maps, and a few planes of every sample in double precision several times."""
    slabs = 12 * _SLAB_MB * _counted(sample, "samples")
    return ITK_MB + 17 * sample.largest_atlas.megavoxels + slabs


RULES = {
    "gather_cohort": RuleCost("cohort", _table, _load(3.0, 0.02)),
    "compare_regions": RuleCost("cohort", _table, _load(3.0, 0.02, 2.0)),
    "map_cohort": RuleCost("cohort", _whole_maps, _maps),
    "draw_cohort": RuleCost("cohort", _table, _load(10.0, 0.02)),
    "draw_cohort_map": RuleCost("cohort", _whole_maps, _maps),
    "report_cohort": RuleCost("cohort", _table, _load(3.0)),
}

"""What is known of every tool before a job runs (standard library only).

A tool is one entry here, a module of this package with what it does to a block
(:mod:`terareg.derived.tools` lists them), and a line in ``cost.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from terareg.core.errors import ConfigError
from terareg.core.extents import Extent
from terareg.core.levels import Box
from terareg.derived.tables import order_length
from terareg.objects.line_reach import voxels_reach

IMAGE, LABELS = "image", "labels"
#: planes of the source that tools hold at once where they do not need a whole block
SLAB_PLANES = 64
#: voxels of a region of local contrast: two for each bin of its histogram
_LEAST_REGION = 512
#: types in which a volume stores images; all others become float32
STORED_IMAGES = ("uint8", "uint16", "float32")
#: keys that every tool has: where the voxels come from
SOURCE_KEYS = (
    "level", "box_vox", "box_um", "channel", "labels", "spacing_um", "orientation", "fill_missing",
    "within",
)  # fmt: skip
#: keys that every tool has that makes a volume: how it is laid out
OUTPUT_KEYS = (
    "format", "sharded", "codec", "chunk", "block", "levels", "downsampling", "halved",
    "voxel_offset",
)  # fmt: skip


def same_dtype(settings: Mapping[str, Any], kind: str, dtype: str) -> str:
    """Voxels as they are, in a type that volumes have."""
    if kind == LABELS:
        return "uint64" if dtype in ("uint64", "int64") else "uint32"
    return dtype if dtype in STORED_IMAGES else "float32"


def _labels(settings: Mapping[str, Any], kind: str, dtype: str) -> str:
    return "uint32"


def same_grid(settings: Mapping[str, Any], source: Extent) -> Extent:
    """The grid of the source."""
    return source


def _eight_bits(settings: Mapping[str, Any], kind: str, dtype: str) -> str:
    return "uint8"


def _asked_ids(settings: Mapping[str, Any], kind: str, dtype: str) -> str:
    return settings.get("ids") or same_dtype(settings, kind, dtype)


def _larger_voxels(settings: Mapping[str, Any], source: Extent) -> Extent:
    factor = settings.get("factor") or (2, 2, 2)
    shape: Box = tuple(-(-n // f) for n, f in zip(source.shape, factor))
    return Extent(shape, tuple(s * f for s, f in zip(source.spacing_um, factor)))


def resampled_um(
    wanted: float | Sequence[float] | None, spacing_um: Sequence[float]
) -> tuple[float, float, float]:
    """Voxel size (z, y, x) that is asked for; cubes with the longest edge where nothing is."""
    if wanted is None:
        wanted = max(spacing_um)
    if isinstance(wanted, Sequence):
        z, y, x = (float(s) for s in wanted)
        return z, y, x
    return (float(wanted),) * 3


def _other_voxels(settings: Mapping[str, Any], source: Extent) -> Extent:
    wanted = resampled_um(settings.get("resolution_um"), source.spacing_um)
    sizes = zip(source.shape, source.spacing_um, wanted)
    shape: Box = tuple(max(1, math.ceil(n * s / t - 1e-6)) for n, s, t in sizes)
    return Extent(shape, wanted)


def contrast_regions(settings: Mapping[str, Any], spacing_um: Sequence[float]) -> Box | None:
    """Voxels (z, y, x) of a region of local contrast; None where there is none."""
    edge = settings.get("local_um")
    if edge is None:
        return None
    z, y, x = (max(1, round(edge / s)) for s in spacing_um)
    return (z if settings.get("per") == "whole" else 1, y, x)


def check_regions(
    regions: Box | None, local_um: float | None, shape: Box | None = None, block: int = 0
) -> None:
    """Refuse regions of local contrast that are too small, or larger than the blocks of a volume.

    Parameters
    ----------
    regions : tuple of int or None
        See :func:`contrast_regions`.
    local_um : float or None
        Their edge.
    shape : tuple of int, optional
        Voxels of the source.
    block : int
        Edge of a block, if ``shape`` is given.

    Raises
    ------
    ConfigError
    """
    if regions is None:
        return
    size = f"regions of {' x '.join(map(str, regions))} voxels"
    if math.prod(regions) < _LEAST_REGION:
        raise ConfigError(
            f"local_um: {local_um:g} makes {size}, too few for a histogram; give an edge with "
            f"{_LEAST_REGION} voxels or more"
        )
    if shape is not None and any(min(r, n) > block for r, n in zip(regions, shape)):
        raise ConfigError(
            f"local_um: {local_um:g} makes {size}, larger than a block of {block}; give a smaller "
            "edge, a larger block:, or a coarser level:"
        )


def _contrast_halo(settings: Mapping[str, Any], spacing_um: Sequence[float]) -> Box:
    """A voxel depends on the regions whose centres are next to it."""
    z, y, x = contrast_regions(settings, spacing_um) or (0, 0, 0)
    return (3 * z // 2 if z > 1 else 0, 3 * y // 2, 3 * x // 2)


def _thinning_halo(settings: Mapping[str, Any], spacing_um: Sequence[float]) -> Box:
    """What thinning looks at."""
    return voxels_reach(spacing_um)


def no_halo(settings: Mapping[str, Any], spacing_um: Sequence[float]) -> Box:
    """A block depends on its own voxels."""
    return (0, 0, 0)


def _as_many_planes(settings: Mapping[str, Any], source: Extent) -> Extent:
    planes = order_length(settings["order"])
    return Extent((planes or source.shape[0], *source.shape[1:]), source.spacing_um)


@dataclass(frozen=True)
class ToolFacts:
    """What is known of a tool.

    Attributes
    ----------
    keys : tuple of str
        Keys of the section that only this tool (and perhaps a few others) has.
    accepts : tuple of str
        Kinds of sources: "image", "labels" or both.
    makes : str
        Kind of the volume: "same" as the source, "image" or "labels"; "" for a tool that makes no
        volume.
    needs : tuple of str
        Those of its keys without which it cannot work.
    files : tuple of str
        Those of its keys that may be paths of the user's files.
    measures : bool
        Whether the source is looked at block by block first, and what is found is gathered, before
        anything is made (rules measure_derived and gather_derived).
    unless : str
        A key that makes the measuring needless where it is given.
    slabs : bool
        Whether a few planes of the source are held at once instead of all that a block needs.
    product : str
        The last file of the tool, below the folder of the entry.
    dtype, grid : callable
        Type of the voxels that it writes, from its settings, the kind of the source and the
        source's type; and its grid, from its settings and the grid of what it reads.
    work_bytes : float
        Bytes that a job holds for each voxel of a block, besides the source and the result.
    volumes : tuple of str
        Those of its keys that name other volumes of the sample.
    table_keys : tuple of str
        Those of its keys that only its tables of regions follow, so that another value leaves what
        it makes as it is.
    shards : bool
        Whether it writes an object for each label (rules write_objects and finish_objects).
    cpu_s : float
        Seconds of processor time for a gigabyte of voxels of the source, without reading, writing
        and making levels.
    halo : callable
        Voxels (z, y, x) that a block is made of beyond its own, on each side, from the settings and
        the spacing; of a tool that makes no volume, what is looked at for a block.
    halo_cpu_s : float
        Seconds more, for a gigabyte of the source, where there are any.
    """

    keys: tuple[str, ...] = ()
    accepts: tuple[str, ...] = (IMAGE, LABELS)
    makes: str = "same"
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    measures: bool = False
    unless: str = ""
    slabs: bool = False
    product: str = "complete.json"
    dtype: Callable[[Mapping[str, Any], str, str], str] = same_dtype
    grid: Callable[[Mapping[str, Any], Extent], Extent] = same_grid
    work_bytes: float = 0.0
    volumes: tuple[str, ...] = ()
    table_keys: tuple[str, ...] = ()
    shards: bool = False
    cpu_s: float = 1.0
    halo: Callable[[Mapping[str, Any], Sequence[float]], Box] = no_halo
    halo_cpu_s: float = 0.0

    def made_kind(self, source: str) -> str:
        """Kind of the volume that is made of a source of this kind; "" for none."""
        return source if self.makes == "same" else self.makes


#: facts of every tool by its name in ``do:``
TOOLS: dict[str, ToolFacts] = {
    "convert": ToolFacts(cpu_s=0.3),
    "components": ToolFacts(
        ("connectivity", "low", "high", "dust_vox"),
        makes=LABELS,
        measures=True,
        dtype=_labels,
        work_bytes=18.0,
        cpu_s=15.0,
    ),
    "count": ToolFacts(
        ("image", "regions"),
        accepts=(LABELS,),
        makes="",
        measures=True,
        product="counts.tsv",
        work_bytes=4.0,
        volumes=("image", "regions"),
        cpu_s=8.0,
    ),
    "mesh": ToolFacts(
        ("multiresolution", "sharded", "error_nm", "details", "dust_vox", "only"),
        accepts=(LABELS,),
        makes="",
        measures=True,
        product="objects.tsv",
        work_bytes=20.0,
        shards=True,
        cpu_s=600.0,
    ),
    "skeletonize": ToolFacts(
        ("scale", "margin_um", "spur_um", "dust_um", "swc", "sharded"),
        accepts=(LABELS,),
        makes="",
        measures=True,
        product="objects.tsv",
        work_bytes=30.0,
        shards=True,
        cpu_s=60.0,
        halo=_thinning_halo,
    ),
    "tissue": ToolFacts(
        ("resolution_um", "threshold", "least_share"),
        accepts=(IMAGE,),
        makes=LABELS,
        measures=True,
        dtype=_labels,
        work_bytes=4.0,
        cpu_s=1.0,
    ),
    "signal": ToolFacts(
        (
            "threshold",
            "weak",
            "method",
            "background_um",
            "smooth_um",
            "dust_vox",
            "within",
            "exclude",
            "image",
            "length",
            "thickest_um",
        ),
        accepts=(IMAGE,),
        makes=LABELS,
        needs=("threshold",),
        measures=True,
        dtype=_labels,
        work_bytes=40.0,
        volumes=("within", "exclude"),
        table_keys=("image", "length", "thickest_um"),
        cpu_s=60.0,
    ),
    "downsample": ToolFacts(("factor", "downsampling"), slabs=True, grid=_larger_voxels),
    "resample": ToolFacts(("resolution_um",), slabs=True, grid=_other_voxels, cpu_s=15.0),
    "quantize": ToolFacts(
        ("percent", "values", "least_range"),
        accepts=(IMAGE,),
        measures=True,
        unless="values",
        dtype=_eight_bits,
        cpu_s=2.0,
    ),
    "equalize": ToolFacts(
        ("clip_percent", "per", "least_range", "local_um", "contrast_limit"),
        accepts=(IMAGE,),
        measures=True,
        cpu_s=2.0,
        halo=_contrast_halo,
        halo_cpu_s=60.0,
    ),
    "remap": ToolFacts(
        ("table", "missing", "ids"),
        accepts=(LABELS,),
        needs=("table",),
        files=("table",),
        dtype=_asked_ids,
        cpu_s=3.0,
    ),
    "reorder": ToolFacts(
        ("order", "duplicates", "losses"),
        needs=("order",),
        files=("order",),
        slabs=True,
        grid=_as_many_planes,
    ),
}

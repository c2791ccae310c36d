"""The layout of a multi-resolution volume: levels, chunks, shards, blocks and batches.

One *block* is the unit of work: a box of level-0 voxels whose edges are chunk x 2^k, so that it
covers whole shards at each of the finest ``block_levels`` levels. Jobs that write different blocks
therefore never touch the same object. The few levels above are small and are made from the last
block level, see :func:`terareg.volumes.writer.finish_pyramid`.

Nothing here reads or writes an array: the workflow calls it when it plans its jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import HALVED, Box, level_factors
from terareg.volumes.encodings import ENCODINGS, encodable

FORMATS = ("ome-zarr", "precomputed")
CODECS = ("blosc-zstd", "blosc-lz4", "zstd", "gzip", "none")
PRECOMPUTED_ENCODINGS = ("raw", "gzip")
DOWNSAMPLINGS = ("mean", "sparse", "mode", "max", "min", "stride")
KINDS = ("image", "segmentation")
NGFF_VERSIONS = ("0.4", "0.5")
DTYPES = {"image": ("uint8", "uint16", "float32"), "segmentation": ("uint32", "uint64")}
#: settings that only derived volumes have
ADDED = (
    "sharded", "encoding", "downsampling", "halved", "levels", "chunk_shape", "offset_vox", "ngff",
)  # fmt: skip
_EDGES = (4, 8, 16, 32, 64, 128, 256)
_MOST_JPEG_ROWS = 65_535
_FLAT_EDGES = (1, 2, *_EDGES, 512, 1024)


@dataclass(frozen=True)
class VolumeSettings:
    """How a volume is laid out and encoded.

    Attributes
    ----------
    chunk : int
        Edge of a chunk (the unit of reading), voxels, a power of two from 4 to 256.
    block : int
        Edge of a block (the unit of work and of storage), voxels, chunk x 2^k.
    formats : tuple of str
        Any of "ome-zarr" (Zarr 3, sharded; see ``ngff``) and "precomputed" (Neuroglancer, sharded).
    codec : str
        OME-Zarr compression: "blosc-zstd" (level 1, bit shuffle), "blosc-lz4", "zstd" (level 1),
        "gzip" (level 1) or "none".
    precomputed : str
        Encoding of precomputed chunks inside their shard: "raw" (fast) or "gzip" (a third
        smaller, ten times the CPU time). Segmentations are always gzip over
        compressed_segmentation.
    kind : str
        "image" (mean downsampling) or "segmentation" (most frequent label).
    sharded : bool
        Whether chunks lie in shards, or each in an object of its own.
    encoding : str or None
        One of ``ENCODINGS`` for precomputed chunks instead of what ``precomputed`` and ``kind``
        say: "raw", "gzip" (raw, compressed; in shards only), "compressed_segmentation" (compressed
        once more in shards), "jpeg" (quality 90; loses detail), "png" or "jpegxl" (lossless).
    downsampling : str or None
        One of ``DOWNSAMPLINGS``; None is the usual one of the kind.
    halved : str
        Axes halved from level to level, see :func:`terareg.core.levels.level_factors`.
    levels : int or None
        Largest number of levels.
    chunk_shape : tuple of int or None
        Edges (z, y, x) of chunks that are no cubes, powers of two; the longest is ``chunk``.
    offset_vox : tuple of int
        Voxel offset (z, y, x) of precomputed volumes, in voxels of level 0; rounded down at coarser
        levels. OME-Zarr has the place in its translation, see :attr:`VolumePlan.frame`.
    ngff : str
        Version of OME-Zarr, "0.5" or "0.4"; the latter has no shards.
    """

    chunk: int = 64
    block: int = 512
    formats: tuple[str, ...] = ("ome-zarr",)
    codec: str = "blosc-zstd"
    precomputed: str = "raw"
    kind: str = "image"
    sharded: bool = True
    encoding: str | None = None
    downsampling: str | None = None
    halved: str = "finest"
    levels: int | None = None
    chunk_shape: Box | None = None
    offset_vox: Box = (0, 0, 0)
    ngff: str = "0.5"

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(self.formats))
        object.__setattr__(self, "offset_vox", tuple(self.offset_vox))
        if self.chunk_shape is not None:
            object.__setattr__(self, "chunk_shape", tuple(self.chunk_shape))
            self._check_flat()
        elif self.chunk not in _EDGES:
            raise ConfigError(f"chunk {self.chunk} is impossible; use a power of two from 4 to 256")
        ratio = self.block / self.chunk
        if ratio < 1 or not math.log2(ratio).is_integer():
            raise ConfigError(
                f"block {self.block} is not chunk {self.chunk} times a power of two; "
                f"use for example {self.chunk * 8}"
            )
        if not self.formats:
            raise ConfigError("formats is empty; name ome-zarr, precomputed or both")
        for name in self.formats:
            _check("formats", name, FORMATS)
        if len(set(self.formats)) != len(self.formats):
            raise ConfigError(f"formats {list(self.formats)} has one of them twice; name each once")
        _check("codec", self.codec, CODECS)
        _check("precomputed", self.precomputed, PRECOMPUTED_ENCODINGS)
        _check("kind", self.kind, KINDS)
        _check("halved", self.halved, HALVED)
        _check("ngff", self.ngff, NGFF_VERSIONS)
        if self.ngff == "0.4" and self.sharded:
            raise ConfigError("OME-Zarr 0.4 has no shards; set sharded: false")
        if self.encoding is not None:
            _check("encoding", self.encoding, ENCODINGS)
        if self.downsampling is not None:
            _check("downsampling", self.downsampling, DOWNSAMPLINGS)
        if self.kind == "segmentation" and self.downsampling in ("mean", "sparse"):
            raise ConfigError(
                "labels cannot be averaged; downsample them by mode, max, min or stride"
            )
        if "precomputed" in self.formats and not self.sharded and self.gzips_precomputed:
            raise ConfigError(
                "precomputed chunks with gzip need shards, because readers expect unsharded "
                "chunks without compression; set sharded: true or another codec"
            )

    def _check_flat(self) -> None:
        edges = self.chunk_shape or ()
        if len(edges) != 3 or not set(edges) <= set(_FLAT_EDGES) or max(edges) != self.chunk:
            raise ConfigError(
                f"chunk {list(edges)} is impossible; give three powers of two (z, y, x) from 1 to "
                "1024"
            )

    @property
    def edges(self) -> Box:
        """Edges (z, y, x) of a chunk, voxels."""
        return self.chunk_shape or (self.chunk,) * 3

    @property
    def gzips_precomputed(self) -> bool:
        """Whether precomputed chunks of an image are raw and compressed with gzip."""
        if self.encoding is not None:
            return self.encoding == "gzip"
        return self.kind == "image" and self.precomputed == "gzip"

    def to_json(self) -> dict:
        """A JSON-able dictionary of all settings, without those of :data:`ADDED` at default."""
        usual, settings = VolumeSettings(), asdict(self)
        # plans of volumes that do not use them keep the bytes that they had before these were added
        kept = {k: v for k, v in settings.items() if k not in ADDED or v != getattr(usual, k)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


@dataclass(frozen=True)
class Block:
    """A box of level-0 voxels, ``start <= index < stop``, at ``index`` in the grid of blocks."""

    index: Box
    start: Box
    stop: Box

    @property
    def shape(self) -> Box:
        """Voxels along (z, y, x)."""
        return tuple(b - a for a, b in zip(self.start, self.stop))

    @property
    def name(self) -> str:
        """Name of the block's record, "z_y_x"."""
        return "_".join(str(i) for i in self.index)


@dataclass(frozen=True)
class Level:
    """One resolution.

    Attributes
    ----------
    factor : tuple of int
        Level-0 voxels per voxel along (z, y, x).
    frame : Frame
        Grid of this level; sizes are rounded up.
    shard : tuple of int
        Voxels of this level that are written as one unit, which is one OME-Zarr shard.
    """

    factor: Box
    frame: Frame
    shard: Box

    @property
    def shape(self) -> Box:
        """Voxels along (z, y, x)."""
        return self.frame.shape

    def shards(self) -> list[Block]:
        """Boxes of this level that cover it, in z, y, x order."""
        return _boxes(self.shape, self.shard)


@dataclass(frozen=True)
class VolumePlan:
    """Everything that jobs have to agree on before one voxel is written.

    Attributes
    ----------
    name : str
        Shown by viewers.
    frame : Frame
        Grid of level 0.
    dtype : str
        NumPy name of the voxel type.
    chunk, block : tuple of int
        Voxels along (z, y, x); thin volumes get thin chunks.
    levels : tuple of Level
        Finest first.
    block_levels : int
        Number of finest levels that a block writes; at least 1.
    settings : VolumeSettings
    """

    name: str
    frame: Frame
    dtype: str
    chunk: Box
    block: Box
    levels: tuple[Level, ...]
    block_levels: int
    settings: VolumeSettings

    def blocks(self) -> list[Block]:
        """All blocks in z, y, x order."""
        return _boxes(self.frame.shape, self.block)

    def batch(self, index: int, count: int) -> list[Block]:
        """Blocks of batch ``index`` of ``count``: consecutive whole rows.

        The numbers of rows of batches differ by at most one; with more batches than rows, some are
        empty.
        """
        if not 0 <= index < count:
            raise VolumeError(f"batch {index} of {count} does not exist; count batches from 0")
        rows = rows_of(self.blocks(), longest=math.prod(self.frame.shape))
        chosen = rows[index * len(rows) // count : (index + 1) * len(rows) // count]
        return [block for row in chosen for block in row]

    def level_box(self, block: Block, level: int) -> tuple[Box, Box]:
        """Start and stop of a block in voxels of one of the block levels."""
        factor = self.levels[level].factor
        start: Box = tuple(a // f for a, f in zip(block.start, factor))
        stop: Box = tuple(-(-b // f) for b, f in zip(block.stop, factor))
        return start, stop

    def step(self, level: int) -> Box:
        """Voxels of ``level - 1`` per voxel of ``level``, each 1 or 2."""
        fine, coarse = self.levels[level - 1].factor, self.levels[level].factor
        return tuple(c // f for f, c in zip(fine, coarse))

    @property
    def is_segmentation(self) -> bool:
        """Whether voxels are labels."""
        return self.settings.kind == "segmentation"

    @property
    def downsampling(self) -> str:
        """How a level is made from the finer one: usually "mode" for labels, else "mean"."""
        return self.settings.downsampling or ("mode" if self.is_segmentation else "mean")

    @property
    def is_lossy(self) -> bool:
        """Whether voxels that are read back differ from those that were written."""
        return self.settings.encoding == "jpeg"

    def offset_vox(self, level: int) -> Box:
        """Voxel offset (z, y, x) of a level of a precomputed volume."""
        return tuple(o // f for o, f in zip(self.settings.offset_vox, self.levels[level].factor))

    def of_format(self, form: str) -> VolumePlan:
        """The same plan with one of its formats."""
        return replace(self, settings=replace(self.settings, formats=(form,)))

    def finer_box(self, level: int, box: Block) -> tuple[Box, Box]:
        """Start and stop, in voxels of the finer level, of the source of a box of a level."""
        step, finer = self.step(level), self.levels[level - 1].shape
        start: Box = tuple(a * s for a, s in zip(box.start, step))
        stop: Box = tuple(min(b * s, n) for b, s, n in zip(box.stop, step, finer))
        return start, stop

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return {
            "name": self.name,
            "frame": self.frame.to_json(),
            "dtype": self.dtype,
            "settings": self.settings.to_json(),
            "chunk": list(self.chunk),
            "block": list(self.block),
            "block_levels": self.block_levels,
            "levels": [
                {"factor": list(v.factor), "shape": list(v.shape), "shard": list(v.shard)}
                for v in self.levels
            ],
        }

    @classmethod
    def from_json(cls, data: dict) -> VolumePlan:
        """Inverse of :meth:`to_json`.

        The layout follows from frame, type and settings; a file that says otherwise was made by
        another version and raises a :class:`VolumeError`.
        """
        try:
            known = {f.name for f in fields(VolumeSettings)}
            settings = VolumeSettings(**{k: v for k, v in data["settings"].items() if k in known})
            frame = Frame.from_json(data["frame"])
            plan = make_plan(data["name"], frame, data["dtype"], settings)
        except (KeyError, TypeError, AttributeError) as error:
            raise VolumeError(
                f"volume plan cannot be read ({error!r}); remove the volume and run again"
            ) from error
        if plan.to_json() != data:
            raise VolumeError(
                f"volume {plan.name!r} was laid out by another version of terareg; "
                "remove it and run again"
            )
        return plan


def make_plan(name: str, frame: Frame, dtype: str, settings: VolumeSettings) -> VolumePlan:
    """Lay out a volume.

    Its levels are those of :func:`terareg.core.levels.level_factors`.

    Parameters
    ----------
    name : str
        Shown by viewers.
    frame : Frame
        Grid of level 0.
    dtype : str
        "uint8", "uint16" or "float32" for images, "uint32" or "uint64" for segmentations.
    settings : VolumeSettings

    Raises
    ------
    ConfigError
        If the type does not fit the kind of volume or the encoding of its chunks.
    """
    if dtype not in DTYPES[settings.kind]:
        raise ConfigError(
            f"{name}: dtype {dtype} cannot be stored as {settings.kind}; "
            f"use {' or '.join(DTYPES[settings.kind])}"
        )
    fitting = encodable(settings.encoding, dtype)
    if "precomputed" in settings.formats and dtype not in fitting:
        raise ConfigError(
            f"{name}: {settings.encoding} cannot store {dtype}, only {' or '.join(fitting)}; "
            "use another codec"
        )
    if settings.encoding == "jpeg" and settings.edges[0] * settings.edges[1] > _MOST_JPEG_ROWS:
        raise ConfigError(f"{name}: chunk {settings.edges} is too large for jpeg; use 128")
    factors = level_factors(frame.shape, frame.spacing_um, settings.chunk, settings.halved)
    factors = factors[: settings.levels]
    chunk: Box = tuple(min(c, _power_of_two(n)) for c, n in zip(settings.edges, frame.shape))
    depth = int(math.log2(settings.block // settings.chunk))
    last = min(depth, len(factors) - 1)
    # A block need not be larger than the volume, but must cover whole shards at its last level.
    block: Box = tuple(
        max(c * f, min(settings.block, _power_of_two(n)))
        for c, f, n in zip(chunk, factors[last], frame.shape)
    )
    top: Box = tuple(c * 2 ** max(depth - 1, 0) for c in chunk)
    levels = []
    for i, factor in enumerate(factors):
        shard: Box = tuple(b // f for b, f in zip(block, factor)) if i <= last else top
        levels.append(Level(factor, frame.downsampled(factor), shard))
    return VolumePlan(name, frame, dtype, chunk, block, tuple(levels), last + 1, settings)


def rows_of(blocks: Sequence[Block], longest: int) -> list[list[Block]]:
    """Rows along x of blocks in z, y, x order, cut into equal parts of at most ``longest``."""
    parts = []
    for _, found in groupby(blocks, key=lambda b: b.index[:2]):
        row = list(found)
        count = -(-len(row) // longest)
        parts += [row[i * len(row) // count : (i + 1) * len(row) // count] for i in range(count)]
    return parts


def _boxes(shape: Box, edge: Box) -> list[Block]:
    counts = [-(-n // e) for n, e in zip(shape, edge)]
    boxes = []
    for z in range(counts[0]):
        for y in range(counts[1]):
            for x in range(counts[2]):
                start = (z * edge[0], y * edge[1], x * edge[2])
                stop: Box = tuple(min(a + e, n) for a, e, n in zip(start, edge, shape))
                boxes.append(Block((z, y, x), start, stop))
    return boxes


def _power_of_two(n: int) -> int:
    """Smallest power of two that is not below ``n``."""
    return 1 << (n - 1).bit_length()


def _check(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}: {value!r} is unknown; use {', '.join(allowed)}")

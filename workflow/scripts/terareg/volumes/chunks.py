"""Names of the objects that hold the chunks of a volume (standard library only).

A reader that asks for a chunk by a name that its writer did not use is told that there is none, and
takes it for zeros. So the names that exist are checked first.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from terareg.core.errors import VolumeError
from terareg.storage.foreign import short
from terareg.storage.store import Entry, Store, check_key
from terareg.storage.web import is_web

#: suffixes that writers add to the names of compressed chunks
SUFFIXES = (".gz", ".br", ".zstd", ".zst", ".xz", ".bz2")
# what is decoded, as the metadata of Zarr 2, Zarr 3 and precomputed volumes call it
_COMPRESSORS = ("blosc", "bz2", "gzip", "zlib", "zstd")
_CODECS = ("blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd")
_ENCODINGS = ("raw", "jpeg", "png", "compressed_segmentation", "jxl")
_MOST_CHUNK_BYTES = 1 << 32
_MOST_LOOKED_AT = 100_000
# of an axis, in sixths, the middle first; and chunks that are looked for where none can be listed
_PARTS, _MOST_LOOKED_FOR = (3, 1, 5), 27
_REQUESTS = 8  # at once


@dataclass(frozen=True)
class Naming:
    """How the objects that hold chunks are named.

    Attributes
    ----------
    separator : str
        Separator of the numbers in names of Zarr chunks.
    prefix : str
        Prefix of names in Zarr 3, "c" or nothing.
    suffix : str
        Suffix that a writer added to each name.
    """

    separator: str = ""
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class ChunkGrid:
    """Chunks of a level, in the order of the array's own axes.

    Attributes
    ----------
    form : str
        "zarr" or "precomputed".
    folder : str
        Below the volume.
    shape, chunk : tuple of int
        Without the channels of a precomputed volume.
    offset : tuple of int
        Voxel offset of a precomputed volume.
    naming : Naming
        As the metadata say.
    sharding : mapping, optional
        How precomputed chunks lie in shards, as the metadata say.
    channels : int
        Number of channels of a precomputed volume; one chunk holds all of them.
    chunkings : int
        Number of sizes of chunks of a precomputed volume, the first of which is read.
    """

    form: str
    folder: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    naming: Naming = Naming()
    offset: tuple[int, ...] = ()
    sharding: Mapping[str, Any] | None = None
    channels: int = 1
    chunkings: int = 1

    def walk(self, store: Store) -> Iterator[str]:
        """Names of the objects below the level's folder."""
        key = "" if self.folder == "." else self.folder
        cut = len(key) + 1 if key else 0
        return (entry.key[cut:] for entry in store.walk(key))

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk))

    def name(self, index: Sequence[int], naming: Naming | None = None) -> str:
        """Name of the object of a chunk, below :attr:`folder`."""
        naming = naming or self.naming
        if self.form == "zarr":
            parts = [naming.prefix] if naming.prefix else []
            return naming.separator.join(parts + [str(i) for i in index]) + naming.suffix
        ranges = (
            f"{o + i * c}-{o + min((i + 1) * c, n)}"
            for i, c, n, o in zip(index, self.chunk, self.shape, self.offset)
        )
        return "_".join(ranges) + naming.suffix

    def holds(self, name: str) -> bool:
        """Whether a name that has the form of those of chunks is one of the level's."""
        numbers = [int(n) for n in re.findall(r"(?<!\d)-?\d+", name)]
        if self.form == "zarr":
            return all(n < count for n, count in zip(numbers, self.counts, strict=True))
        index = [(a - o) // c for a, o, c in zip(numbers[::2], self.offset, self.chunk)]
        inside = all(0 <= i < count for i, count in zip(index, self.counts))
        return inside and name.startswith(self.name(index, Naming()))

    def number(self, index: Sequence[int]) -> int:
        """Number of a precomputed chunk in shards."""
        z, y, x = ((n - 1).bit_length() for n in reversed(self.counts))
        return morton(tuple(reversed(tuple(index))), (z, y, x))

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Indices of all chunks."""
        return itertools.product(*map(range, self.counts))

    def spread(self) -> list[tuple[int, ...]]:
        """Indices of up to 27 chunks in all parts of the level, the middle one first."""
        places = (dict.fromkeys(n * part // 6 for part in _PARTS) for n in self.counts)
        return list(itertools.islice(itertools.product(*places), _MOST_LOOKED_FOR))

    def object_name(self, index: Sequence[int], naming: Naming) -> str:
        """Name of the object that a chunk lies in, which may be a shard."""
        if not self.sharding:
            return self.name(index, naming)
        from terareg.storage.uint64_shards import Sharding  # needs NumPy

        sharding = Sharding.from_json(self.sharding)
        return sharding.file_name(sharding.place(self.number(index))[0])

    def pattern(self, naming: Naming) -> re.Pattern:
        """Pattern that matches the names of chunks."""
        if self.form == "precomputed":
            if self.sharding:
                return re.compile(r"[0-9a-f]+\.(shard|data|index)")
            return re.compile("_".join([r"-?\d+--?\d+"] * 3) + re.escape(naming.suffix))
        numbers = re.escape(naming.separator).join([r"\d+"] * len(self.shape))
        prefix = re.escape(naming.prefix + naming.separator) if naming.prefix else ""
        return re.compile(prefix + numbers + re.escape(naming.suffix))

    def other_namings(self) -> list[Naming]:
        """Namings that writers use although the metadata say otherwise."""
        if self.form == "precomputed":
            return [] if self.sharding else [Naming(suffix=suffix) for suffix in SUFFIXES]
        separators = [s for s in (".", "/") if s != self.naming.separator]
        return [replace(self.naming, separator=s) for s in separators]


def morton(position: Sequence[int], grid_bits: Sequence[int]) -> int:
    """Compressed Morton code of a chunk at (z, y, x); x has the lowest bits."""
    code = out = 0
    for bit in range(max(grid_bits, default=0)):
        for axis in (2, 1, 0):
            if bit < grid_bits[axis]:
                code |= ((position[axis] >> bit) & 1) << out
                out += 1
    return code


def zarr_grid(folder: str, array: Mapping[str, Any], *, third: bool) -> ChunkGrid:
    """Chunks of an array from its ``zarr.json`` (Zarr 3) or ``.zarray``."""
    shape = _sizes(array["shape"])
    if not third:
        naming = Naming(_separator(array.get("dimension_separator", ".")))
        _check_codecs("filters", array.get("filters") or [], "id", ())
        packed = array.get("compressor")
        _check_codecs("the compressor", [] if packed is None else [packed], "id", _COMPRESSORS)
        chunk = inner = _sizes(array["chunks"])
    else:
        keys = array.get("chunk_key_encoding", {"name": "default"})
        default = keys["name"] == "default"
        separator = keys.get("configuration", {}).get("separator", "/" if default else ".")
        naming = Naming(_separator(separator), "c" if default else "")
        kind = array["chunk_grid"].get("name", "regular")
        if kind != "regular" or array.get("storage_transformers"):
            other = "storage_transformers" if kind == "regular" else f"a grid {short(kind)}"
            raise ValueError(f"its chunks have {other}; write it with a regular grid alone")
        chunk = inner = _sizes(array["chunk_grid"]["configuration"]["chunk_shape"])
        _check_codecs("the codec", array.get("codecs", []), "name", _CODECS)
        for codec in array.get("codecs", []):
            if codec["name"] == "sharding_indexed":
                inner = _sizes(codec["configuration"]["chunk_shape"])
                parts = codec["configuration"].get("codecs", [])
                _check_codecs("the codec", parts, "name", _CODECS)
    _check_chunk(inner, array["data_type" if third else "dtype"], folder)
    if len(chunk) != len(shape):
        raise ValueError(f"chunks of {len(chunk)} axes for an array of {len(shape)}")
    return ChunkGrid("zarr", check_key(folder), shape, chunk, naming)


def precomputed_grid(info: Mapping[str, Any], level: int) -> ChunkGrid:
    """Chunks of a scale of a precomputed volume from its ``info``."""
    scale = info["scales"][level]
    shape, chunk = _sizes(scale["size"]), _sizes(scale["chunk_sizes"][0])
    offset = tuple(int(n) for n in scale.get("voxel_offset") or (0, 0, 0))
    if not len(shape) == len(chunk) == len(offset) == 3:
        raise ValueError(f"scale {level} has not three dimensions")
    channels = int(info.get("num_channels", 1))
    _check_chunk((*chunk, channels), info["data_type"], str(scale["key"]))
    encoding = scale.get("encoding", "raw")
    if encoding not in _ENCODINGS:
        raise ValueError(
            f"its chunks have the encoding {short(encoding)}; write it with one of "
            f"{', '.join(_ENCODINGS)}"
        )
    key = check_key(str(scale["key"]))
    sharding = scale.get("sharding") or None
    sizes = len(scale["chunk_sizes"])
    return ChunkGrid("precomputed", key, shape, chunk, Naming(), offset, sharding, channels, sizes)


def find_naming(store: Store, grid: ChunkGrid) -> Naming | None:
    """How the chunks of a level are really named; None if there is no object that could be one.

    The web lists nothing: there, chunks of :meth:`ChunkGrid.spread` are looked for.
    """
    wanted, others = grid.pattern(grid.naming), grid.other_namings()
    if is_web(store.url):
        middle = grid.object_name(grid.spread()[0], grid.naming)
        if store.exists(f"{grid.folder}/{middle}"):
            return grid.naming
        return next((n for n in (grid.naming, *others) if look_for(store, grid, n)), None)
    patterns = [(naming, grid.pattern(naming)) for naming in others]
    found = None
    for name in grid.walk(store):
        if wanted.fullmatch(name):
            return grid.naming
        found = found or next((naming for naming, p in patterns if p.fullmatch(name)), None)
    return found


def look_for(store: Store, grid: ChunkGrid, naming: Naming) -> list[Entry]:
    """Entries of the objects of :meth:`ChunkGrid.spread` that are there."""
    names = dict.fromkeys(grid.object_name(index, naming) for index in grid.spread())
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = pool.map(store.entry, [f"{grid.folder}/{name}" for name in names])
        return [entry for entry in found if entry is not None]


def count_absent(store: Store, grid: ChunkGrid, fill_missing: bool = False) -> int:
    """Number of chunks of a level that have no object; shards are not looked into.

    Raises
    ------
    VolumeError
        If some are absent and neither the format nor ``fill_missing`` makes them zeros.
    """
    naming = find_naming(store, grid)
    if naming is None or grid.sharding:
        return 0
    pattern = grid.pattern(naming)
    total, there, stray = math.prod(grid.counts), 0, ""
    for name in grid.walk(store):
        if pattern.fullmatch(name):
            if grid.holds(name):
                there += 1
            else:
                stray = min(stray or name, name)
    if there >= total:
        return 0
    # of several sizes of chunks, others may be there as well
    if stray and grid.form == "precomputed" and grid.chunkings == 1:
        raise VolumeError(
            f"{store.address(grid.folder)} has chunks such as {stray}, which is none of the "
            f"{total} that its info states (of which {there} are there); correct size, "
            "voxel_offset or chunk_sizes"
        )
    if grid.form == "precomputed" and not fill_missing:
        names = set(grid.walk(store))
        looked = itertools.islice(grid.indices(), _MOST_LOOKED_AT)
        absent = next((n for i in looked if (n := grid.name(i, naming)) not in names), "unknown")
        raise incomplete(store, grid, there, absent)
    return total - there


def incomplete(store: Store, grid: ChunkGrid, there: int, absent: str) -> VolumeError:
    """What to say of a precomputed volume that lacks chunks; ``absent`` is the first of them."""
    return VolumeError(
        f"{store.address(grid.folder)} has {there} of {math.prod(grid.counts)} chunks (first that "
        f"is absent: {absent}), and a precomputed volume does not say that these are zero; copy "
        "them again, or set fill_missing: true if whoever wrote the volume left out black chunks"
    )


def _sizes(values: Any) -> tuple[int, ...]:
    sizes = tuple(values)
    if not 1 <= len(sizes) <= 16 or not all(
        isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 1 << 40 for n in sizes
    ):
        raise ValueError(f"sizes {short(values)}")
    return sizes


def _check_codecs(what: str, listed: Any, key: str, known: Sequence[str]) -> None:
    """Raise :class:`ValueError` for the first codec of chunks that is not decoded here."""
    for codec in listed:
        name = codec[key] if isinstance(codec, Mapping) else codec
        if name not in known:
            raise ValueError(
                f"its chunks have {what} {short(name)}, which cannot be decoded; write it again"
                + (f" with one of {', '.join(_COMPRESSORS)}" if known else " without filters")
            )


def _separator(value: Any) -> str:
    if value not in (".", "/"):
        raise ValueError(f"separator {short(value)} in names of chunks")
    return value


def _check_chunk(chunk: Sequence[int], dtype: Any, folder: str) -> None:
    digits = re.sub(r"\D", "", str(dtype)) or "1"
    item = int(digits[:3]) if str(dtype)[:1] in "<>|=" else -(-int(digits[:3]) // 8)
    if math.prod(chunk) * item > _MOST_CHUNK_BYTES:
        raise ValueError(
            f"chunks of {' x '.join(map(str, chunk))} voxels in {folder} are too large to be read "
            "at once; write it in smaller chunks"
        )

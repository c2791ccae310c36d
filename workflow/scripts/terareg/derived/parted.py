"""Tools that leave a part of every block in the store, for a later step that joins them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.derived.tool import Measured, Tool
from terareg.objects.components import join_parts
from terareg.objects.id_shards import IdShards
from terareg.objects.joining import Joined
from terareg.objects.labelling import ComponentSettings, extended
from terareg.objects.parts import Parts
from terareg.objects.properties import FOLDER, write_numbers
from terareg.objects.spatial_index import SpatialIndex
from terareg.storage.records import damaged_objects, write_files
from terareg.storage.store import Store
from terareg.volumes.plan import Block

_FOLDER = "parts"
# voxels for each shard of objects, and the most bits of their number
_SHARD_VOXELS = 1 << 27
_MOST_BITS = 6


@dataclass(frozen=True)
class Parted(Tool):
    """A tool whose blocks know of each other by their parts.

    What is measured of a block are its place and the digest of its part, which a later step
    compares when it reads the part.
    """

    @property
    def parts(self) -> Parts:
        """The parts, named after their blocks."""
        place = self.source.place
        if place is None:
            raise VolumeError(
                f"{self.source.name}: its parts need a store; open it as a volume of a store"
            )
        return Parts(place.store, f"{place.key}/{_FOLDER}")

    def part(self, voxels: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        """What a block leaves; ``voxels`` are its :meth:`surroundings`."""
        raise NotImplementedError

    def surroundings(self, block: Block) -> tuple[Box, Box]:
        """Start and stop of what a part is made of: a block and the planes after it."""
        return extended(block, self.source.shape)

    def read(self, block: Block) -> np.ndarray:
        """Voxels of the surroundings of a block."""
        return self.source.read(*self.surroundings(block))

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """Write the part of a block."""
        digest = self.parts.write(block.name, self.part(self.read(block), block))
        return {
            "block": np.array([[*block.index, *block.start, *block.stop]], np.int64),
            "digest": np.frombuffer(bytes.fromhex(digest), np.uint8)[None],
        }

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Blocks of a batch."""
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """All blocks."""
        return self.gather(parts)


def blocks_in(measured: Measured) -> list[Block]:
    """Blocks that were measured, in their order."""
    rows = measured["block"].tolist()
    return [Block(tuple(row[:3]), tuple(row[3:6]), tuple(row[6:])) for row in rows]


def digests_in(measured: Measured) -> dict[str, str]:
    """Digests of the parts by name of the block."""
    digests = (row.tobytes().hex() for row in measured["digest"])
    return {block.name: digest for block, digest in zip(blocks_in(measured), digests)}


class Joining(Parted):
    """A tool whose parts are components of blocks, which are joined and numbered."""

    def joined(
        self, parts: Sequence[Measured], settings: ComponentSettings
    ) -> tuple[Joined, dict[str, np.ndarray]]:
        """Join the components of all blocks; they, and what blocks need to be made."""
        found = self.gather(parts)
        blocks = blocks_in(found)
        joined, numbers = join_parts(self.parts, blocks, digests_in(found), settings)
        digests = b"".join(bytes.fromhex(numbers[block.name]) for block in blocks)
        return joined, {
            "block": found["block"],
            "digest": np.frombuffer(digests, np.uint8).reshape(-1, 16),
            "count": np.array([joined.count]),
            "voxels": np.array([joined.kept_vox]),
        }

    def numbers(self, block: Block, measured: Measured) -> np.ndarray:
        """Final numbers of the components of a block, from what :meth:`joined` returned."""
        row = np.flatnonzero((measured["block"][:, :3] == block.index).all(axis=1))
        if len(row) != 1:
            raise VolumeError(
                f"block {block.name} of {self.source.name} was not measured; delete the folder "
                "'measured' of this entry in results and run again"
            )
        digest = measured["digest"][row[0]].tobytes().hex()
        return self.parts.read(f"numbers/{block.name}", digest)["numbers"]


@dataclass(frozen=True)
class Sharded(Parted):
    """A tool that writes something for every label, in shards that jobs divide among themselves.

    Attributes
    ----------
    sharded : bool
        Whether each shard is one file.
    """

    sharded: bool = True

    #: name of the folder of the objects, below that of the entry
    folder = ""

    @property
    def shards(self) -> IdShards:
        """How labels are spread over shards."""
        voxels = int(np.prod(self.source.shape, dtype=np.int64))
        return IdShards(min(_MOST_BITS, max(0, (voxels // _SHARD_VOXELS).bit_length())))

    @property
    def index(self) -> SpatialIndex | None:
        """Boxes of space in which objects are listed: those of the source.

        None for a region of it, whose boxes are not those that readers look for in the source.
        """
        source = self.source
        if source.shape != source.levels.level_frame(source.level).shape:
            return None
        return SpatialIndex.of(source.frame, source.offset_vox, source.level)

    def write_objects(
        self, measured: Measured, where: tuple[Store, str], shards: Iterable[int]
    ) -> dict:
        """Write the objects of some shards; a summary with ``rows``, ``objects`` and ``dust``."""
        raise NotImplementedError

    def finish_objects(
        self, summaries: Sequence[Mapping], where: tuple[Store, str]
    ) -> tuple[list[dict], dict[str, dict]]:
        """Write the metadata, check what was written, remove what is older.

        Parameters
        ----------
        summaries : sequence of mapping
            Of :meth:`write_objects`, for all shards.
        where : tuple of Store and str
            Folder of the objects.

        Returns
        -------
        list of dict
            Rows of all labels.
        dict of str to dict
            What is known of every object, by key.

        Raises
        ------
        VolumeError
            If an object is missing or not what was written, or if there are none.
        """
        store, key = where
        objects: dict[str, dict] = {}
        for summary in summaries:
            objects |= summary["objects"]
        damaged = damaged_objects(store, objects)
        if damaged:
            raise VolumeError(
                f"{store.address(damaged[0])} is missing or was changed; delete the folder "
                "'objects' of this entry in results and run again"
            )
        rows = sorted((r for s in summaries for r in s["rows"]), key=lambda row: row["label"])
        self.check_rows(rows)
        listed = write_numbers(*where, rows)
        if self.index is not None:
            files = self.index.files(summary["index"] for summary in summaries)
            objects |= write_files(*where, files)
        objects |= listed | self.write_info(where, FOLDER if listed else None)
        for entry in list(store.list(key)):
            if entry.key not in objects:
                store.delete(entry.key)
        return rows, objects

    def check_rows(self, rows: list[dict]) -> None:
        """Raise VolumeError if what was made is not what was asked for."""
        if not rows:
            raise VolumeError(
                f"{self.source.name}: no label is left; check the source and dust_vox"
            )

    def write_info(self, where: tuple[Store, str], properties: str | None) -> dict[str, dict]:
        """Write the metadata of the objects; return what is known of them by key.

        ``properties`` is the folder of their segment properties, if there are any.
        """
        raise NotImplementedError

"""zarr-python over a store of terareg: any OME-Zarr that its readers know, read only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.abc.store import (
    Store as ZarrStore,
)
from zarr.core.buffer import Buffer, BufferPrototype

from terareg.core.errors import VolumeError
from terareg.storage.store import Store
from terareg.volumes.headers import read_metadata
from terareg.volumes.ome_metadata import ome_attributes
from terareg.volumes.plates import is_plate


def open_array(store: Store, level: int) -> zarr.Array:
    """The array of a level of the OME-Zarr image in a folder, a bucket or on the web."""
    name, metadata = read_metadata(store.url, store)
    if is_plate(metadata):
        raise VolumeError(
            f"{store.url} is a plate, which is many arrays; use .numpy() or .dask(), or give an "
            "image of a site"
        )
    image = ome_attributes(metadata)["multiscales"][0]
    path = str(image["datasets"][level]["path"])
    version = 3 if name == "zarr.json" else 2
    return zarr.open_array(ReadOnlyStore(store), path=path, mode="r", zarr_format=version)


class ReadOnlyStore(ZarrStore):
    """A store of terareg as zarr-python wants it."""

    def __init__(self, store: Store) -> None:
        super().__init__(read_only=True)
        self._store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadOnlyStore) and other._store == self._store

    __hash__ = None  # type: ignore[assignment]

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        try:
            data = await asyncio.to_thread(self._get, key, byte_range)
        except (FileNotFoundError, IsADirectoryError):
            return None
        return prototype.buffer.from_bytes(data)

    def _get(self, key: str, wanted: ByteRequest | None) -> bytes:
        if wanted is None:
            return self._store.read(key)
        if isinstance(wanted, RangeByteRequest):
            start, count = wanted.start, wanted.end - wanted.start
        else:
            size = self._store.size(key)
            if size is None:
                raise FileNotFoundError(key)
            if isinstance(wanted, OffsetByteRequest):
                start, count = wanted.offset, size - wanted.offset
            else:
                assert isinstance(wanted, SuffixByteRequest)
                count = min(wanted.suffix, size)
                start = size - count
        return self._store.read_range(key, start, count)[0]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        wanted = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*wanted))

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._store.exists, key)

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    @property
    def supports_listing(self) -> bool:
        return True

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for entry in await asyncio.to_thread(lambda: [*self._store.walk()]):
            yield entry.key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        names: dict[str, Any] = {}
        folder = prefix.rstrip("/")
        async for key in self.list_prefix(f"{folder}/" if folder else ""):
            names.setdefault(key[len(folder) + bool(folder) :].partition("/")[0])
        for name in names:
            yield name

"""What blocks leave for the next job: a few arrays in one object of the store, with checksums."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import xxhash

from terareg.core.errors import StoreError
from terareg.storage.store import Store

# the type stubs of imagecodecs know only bytes, but its functions take arrays
_codecs: Any = imagecodecs
_MAGIC = b"terareg-part-2\n"
_START = len(_MAGIC) + 8
_GUESS = 1 << 15  # bytes that hold the head of most objects
_AGAIN = "delete the folder 'measured' of this entry in results and run again"


@dataclass(frozen=True)
class Parts:
    """Objects of a folder, each with some arrays of any type and shape.

    Attributes
    ----------
    store : Store
    key : str
        The folder.
    """

    store: Store
    key: str

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Write arrays; return a digest of them, which :meth:`read` compares."""
        listed, body = [], []
        for label, array in arrays.items():
            data = _codecs.zstd_encode(np.ascontiguousarray(array), level=1)
            digest = xxhash.xxh3_128_hexdigest(data)
            listed.append([label, array.dtype.str, list(array.shape), len(data), digest])
            body.append(data)
        head = json.dumps(listed).encode()
        size = len(head).to_bytes(8, "little")
        self.store.write(f"{self.key}/{name}", b"".join([_MAGIC, size, head, *body]))
        return xxhash.xxh3_128_hexdigest(head)

    def read(
        self, name: str, digest: str, arrays: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of an object.

        Parameters
        ----------
        name : str
        digest : str
            What :meth:`write` returned.
        arrays : collection of str, optional
            Names of arrays to read, of which those that the object lacks are left out; all, if not
            given.

        Raises
        ------
        StoreError
            If the object is missing, or not what was written.
        """
        key = f"{self.key}/{name}"
        address = self.store.address(key)
        try:
            listed, start, data = self._head(key, digest)
            found = {}
            for label, dtype, shape, size, expected in listed:
                if arrays is None or label in arrays:
                    part = data[start : start + size]
                    if len(part) < size:
                        part = self.store.read_range(key, start, size)[0]
                    if xxhash.xxh3_128_hexdigest(part) != expected:
                        raise StoreError(
                            f"{address} was damaged (the checksum of {label} differs); {_AGAIN}"
                        )
                    found[label] = np.frombuffer(_codecs.zstd_decode(part), dtype).reshape(shape)
                start += size
            return found
        except FileNotFoundError as error:
            raise StoreError(f"{address} is missing; {_AGAIN}") from error
        except EOFError as error:
            raise StoreError(f"{address} is cut off; {_AGAIN}") from error

    def _head(self, key: str, digest: str) -> tuple[list, int, bytes]:
        """List of the arrays of an object, where they begin, and the first bytes of the object."""
        data = self.store.read_range(key, 0, _GUESS)[0]
        size = int.from_bytes(data[len(_MAGIC) : _START], "little")
        if data.startswith(_MAGIC) and len(data) < _START + size:
            data = self.store.read_range(key, 0, _START + size)[0]
        head = data[_START : _START + size]
        if not data.startswith(_MAGIC) or xxhash.xxh3_128_hexdigest(head) != digest:
            raise StoreError(f"{self.store.address(key)} was not written by this run; {_AGAIN}")
        return json.loads(head), _START + size, data

"""What writers of boxes of a level have in common, whatever the format.

A writer is given a box in layers, ``add(first, layer)``, where ``first`` is a layer's first plane
counted from the first of the box. ``close()`` makes what it wrote appear in the store and returns
{key: bytes}; ``discard()`` removes what was not closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from terareg.storage.store import Store


class LayerWriter(Protocol):
    """A writer of a box."""

    def add(self, first: int, layer: np.ndarray) -> None:
        """Write the planes from ``first`` on, (z, y, x)."""

    def close(self) -> dict[str, int]:
        """Make the objects appear; return {key: bytes}."""

    def discard(self) -> None:
        """Remove what was written of objects that did not appear."""


class OwnObjects:
    """Objects of single chunks, each of which appears at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._objects: dict[str, int] = {}

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object."""
        self._store.write(key, data)
        self._objects[key] = len(data)

    def close(self) -> dict[str, int]:
        """Return {key: bytes}."""
        return self._objects

    def discard(self) -> None:
        """Nothing: a chunk is there or not, and a block without its record is written again."""


class Together:
    """Writers that are given the same layers; they begin one by one, or all are discarded."""

    def __init__(self, writers: Iterable[LayerWriter]) -> None:
        self._writers: list[LayerWriter] = []
        try:
            for writer in writers:
                self._writers.append(writer)
        except BaseException:
            self.discard()
            raise

    def add(self, first: int, layer: np.ndarray) -> None:
        """Write the planes from ``first`` on, (z, y, x)."""
        for writer in self._writers:
            writer.add(first, layer)

    def close(self) -> dict[str, int]:
        """Make the objects appear; return {key: bytes}."""
        objects: dict[str, int] = {}
        for writer in self._writers:
            objects |= writer.close()
        return objects

    def discard(self) -> None:
        """Remove what was written of objects that did not appear."""
        for writer in self._writers:
            writer.discard()

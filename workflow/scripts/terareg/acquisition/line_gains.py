"""Brightness of single lines of tiles, as changed by stripe artefacts of the light-sheet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorstore

from terareg.core.errors import IntensityError
from terareg.storage.arrays import array_spec, new_array_spec
from terareg.storage.records import read_json, read_record
from terareg.storage.store import ARRAY_ERRORS, Store, outage

LINES = ("rows", "columns")  # which pixels share a gain: those along x, or along y
SLAB_PLANES = 32  # in a chunk, in a shard, and solved at once
_CACHE_BYTES = 1 << 25  # chunks of the tiles that a job reads at the same time


@dataclass(frozen=True)
class LineGains:
    """Relative brightness of every line of every plane of some tiles, around 1.

    Attributes
    ----------
    lines : str
        "rows": one number for each row of pixels, or "columns".
    bottoms : mapping of str to int
        Plane of the array in which the first plane of each tile lies.
    store : Store
        Of the sample.
    key : str
        Of the array in it: float32 (tiles, planes, lines), tiles in the order of ``bottoms``.
    digest : str
        SHA-256 of its content.
    """

    lines: str
    bottoms: Mapping[str, int]
    store: Store
    key: str
    digest: str

    def of(self, tile: str, z: int) -> np.ndarray:
        """Gains of plane ``z`` of a tile, float32, to broadcast over (y, x): (y, 1) or (1, x)."""
        index, bottom = self._places[tile]
        try:
            gains = self._array[index, bottom + z].read().result()
        except ARRAY_ERRORS as error:
            address = self.store.address(self.key)
            raise outage(address, error) or self._damaged(str(error)) from error
        return gains[:, None] if self.lines == "rows" else gains[None, :]

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        return {tile: (i, bottom) for i, (tile, bottom) in enumerate(self.bottoms.items())}

    @cached_property
    def _array(self) -> tensorstore.TensorStore:
        record = read_record(self.store, f"{self.key}.json")
        if record is None or record.get("sha256") != self.digest:
            raise self._damaged("its record is missing or belongs to another run")
        try:
            return tensorstore.open(array_spec(self.store, self.key, _CACHE_BYTES)).result()
        except ARRAY_ERRORS as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> IntensityError:
        return IntensityError(
            f"the line gains in {self.store.address(self.key)} cannot be read ({why}); run again "
            "with -R estimate_stripes"
        )


def wanted_lines(setting: str, info: Mapping) -> str:
    """Lines that ``intensity.destriping`` selects for a channel: "rows", "columns" or "none".

    With "auto", the statistics of the flat-field, ``info``, decide whether there are stripes.
    """
    return info.get("stripes", "none") if setting == "auto" else setting


def load_line_gains(path: str | os.PathLike, store: Store) -> LineGains | None:
    """The gains that the summary in ``path`` describes; their array is in ``store`` (of a sample).

    None if the summary says that no line needs a gain.
    """
    info = read_json(path)
    if info.get("lines") == "none":
        return None
    try:
        bottoms = {tile["name"]: int(tile["bottom"]) for tile in info["tiles"]}
        return LineGains(info["lines"], bottoms, store, info["key"], info["sha256"])
    except (KeyError, TypeError) as error:
        raise IntensityError(
            f"{path} does not contain line gains ({error} is missing); run estimate_stripes again"
        ) from error


def gains_spec(store: Store, key: str, shape: tuple[int, int, int]) -> dict:
    """Specification of the array to be created, shape (tiles, planes, lines).

    A shard holds a slab of planes of all tiles.
    """
    tiles, planes, lines = shape
    depth = min(SLAB_PLANES, planes)
    names, chunk = ("tile", "z", "line"), (1, depth, lines)
    return new_array_spec(store, key, shape, "float32", names, chunk, (tiles, depth, lines))

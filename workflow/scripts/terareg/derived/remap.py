"""Remap: labels that get other ids, one by one or several together, through a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from terareg.core.errors import ConfigError, VolumeError, few
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import LABELS
from terareg.derived.convert import as_kind
from terareg.derived.tables import read_id_table
from terareg.derived.tool import Measured, Tool
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Remap(Tool):
    """Replaces ids.

    Attributes
    ----------
    table : str
        Path, see :func:`terareg.derived.tables.read_id_table`. Id 0 stays 0 unless the table says
        otherwise.
    missing : str
        What becomes of ids that the table lacks: "error", "keep" or "zero".
    """

    table: str = ""
    missing: str = "error"

    by_planes = True

    def check(self) -> None:
        """Refuse ids that the type of the result cannot hold."""
        most = np.iinfo(self.dtype).max
        for old, new in self._ids.items():
            if new > most:
                raise ConfigError(
                    f"{self.table}: id {old} becomes {new}, too large for {self.dtype}; set ids: "
                    "uint64"
                )

    @cached_property
    def _ids(self) -> dict[int, int]:
        return {0: 0} | read_id_table(self.table)

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the table, ascending, and what they become."""
        old = np.array(sorted(self._ids), np.uint64)
        return old, np.array([self._ids[i] for i in old.tolist()], np.dtype(self.dtype))

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The block with its new ids."""
        labels = self.source.read(block.start, block.stop)
        labels, clipped = as_kind(self.source.name, labels, labels_dtype(labels), LABELS)
        flat = labels.reshape(-1)
        # labels come in runs along x: the table is asked once for each
        first = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        lengths = np.diff(first, append=flat.size)
        result = np.repeat(self._mapped(flat[first], block), lengths)
        return result.reshape(labels.shape), clipped

    def _mapped(self, ids: np.ndarray, block: Block) -> np.ndarray:
        old, new = self._columns
        at = np.minimum(np.searchsorted(old, ids), old.size - 1)
        found = old[at] == ids
        result = new[at]
        if found.all():
            return result
        absent = np.unique(ids[~found])
        if self.missing == "error":
            raise VolumeError(
                f"{self.table} does not list {absent.size} of the ids in block {block.name} of "
                f"{self.source.name} ({few([str(i) for i in absent.tolist()])}); add them, or set "
                "missing: keep or zero"
            )
        if self.missing == "zero":
            result[~found] = 0
            return result
        if absent[-1] > np.iinfo(result.dtype).max:
            raise VolumeError(
                f"{self.source.name} contains id {absent[-1]}, too large for {result.dtype}; set "
                "ids: uint64"
            )
        result[~found] = ids[~found]
        return result


def labels_dtype(labels: np.ndarray) -> str:
    """Unsigned type of 32 or 64 bits that holds the labels."""
    return "uint64" if labels.dtype.itemsize == 8 else "uint32"

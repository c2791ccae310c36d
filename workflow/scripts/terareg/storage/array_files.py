"""Small files of named arrays that one job hands to the next (NumPy's ``.npz``)."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping

import numpy as np

from terareg.core.errors import StoreError
from terareg.storage.store import atomic_file


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, atomically; the same arrays give the same bytes."""
    with atomic_file(path) as stream:
        np.savez_compressed(stream, allow_pickle=False, **{k: arrays[k] for k in sorted(arrays)})


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a file of :func:`write_arrays`; one that cannot be read is a :class:`StoreError`."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete it and run again") from error

"""Tables of cells: of a batch of boxes, of a sample, and in an atlas."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from terareg.core.errors import StoreError
from terareg.core.frames import Frame
from terareg.signal.blobs import BLOB, BlobSettings, join_blobs
from terareg.storage.store import atomic_file, write_atomic

#: one cell of a sample: place in micrometres (z, y, x), what :data:`~terareg.signal.blobs.BLOB`
#: says of it, and its probability by :mod:`terareg.signal.marks`, NaN without marks
CELL = np.dtype(
    [
        ("position_um", "<f8", 3),
        ("contrast", "<f4"),
        ("intensity", "<f4"),
        ("background", "<f4"),
        ("roundness", "<f4"),
        ("saturated", "?"),
        ("probability", "<f4"),
    ]
)
#: features in the tables, and how they are written
FEATURES = {"contrast": ".2f", "intensity": ".1f", "background": ".1f", "roundness": ".3f"}


def save_array(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write a structured array as ``.npy``, atomically; the same bytes for the same array."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())


def load_array(path: str | os.PathLike[str], dtype: np.dtype) -> np.ndarray:
    """Read what :func:`save_array` wrote; anything else is a :class:`StoreError`."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete it and run again") from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise StoreError(
            f"{path} was not written by this version of terareg; delete it and run again"
        )
    return array


def gather(
    batches: Sequence[str | os.PathLike[str]], settings: BlobSettings, frame: Frame
) -> np.ndarray:
    """The cells of a sample from the blobs of all batches.

    Returns
    -------
    numpy.ndarray of :data:`CELL`
        In the order of their voxels (z, y, x).
    """
    parts = [load_array(path, BLOB) for path in batches]
    blobs = join_blobs(np.concatenate([*parts, np.zeros(0, BLOB)]), settings, frame)
    cells = np.zeros(len(blobs), CELL)
    cells["position_um"] = frame.to_um(blobs["centre_vox"])
    for name in CELL.names or ():
        if name not in ("position_um", "probability"):
            cells[name] = blobs[name]
    cells["probability"] = np.nan
    return cells


def summary(cells: np.ndarray, frame: Frame, searched_mm3: float) -> dict[str, Any]:
    """What there is to say of all cells together; figures are None without cells."""
    quartiles = {
        name: np.percentile(cells[name], (25, 50, 75)).tolist() if len(cells) else None
        for name in FEATURES
    }
    return {
        "cells": len(cells),
        "per_mm3": len(cells) / searched_mm3,
        "searched_mm3": searched_mm3,
        "saturated": int(np.count_nonzero(cells["saturated"])),
        "quartiles": quartiles,
        "frame": frame.to_json(),
    }


def write_cells_csv(
    path: str | os.PathLike[str],
    cells: np.ndarray,
    position_um: np.ndarray,
    labels: tuple[Sequence[Any], ...] = (),
) -> None:
    """Write cells as CSV, one line each: z_um, y_um, x_um, features, and labels if given.

    With a filter that was trained by marks, ``probability`` is another column.

    Parameters
    ----------
    path : path
    cells : numpy.ndarray of :data:`CELL`
    position_um : numpy.ndarray, shape (n, 3)
        Places to write, (z, y, x): those of the cells, or the same in an atlas.
    labels : tuple of sequences
        Region id, acronym and hemisphere of every cell, and whether it lies in the atlas.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    form = ",".join(["%.2f"] * 3 + [f"%{form}" for form in FEATURES.values()] + ["%d"])
    more = ["saturated"]
    if np.isfinite(cells["probability"]).any():
        more, form = [*more, "probability"], form + ",%.3f"
    form += "".join(",%s" for _ in labels)
    names = ["z_um", "y_um", "x_um", *FEATURES, *more]
    names += ["region_id", "acronym", "hemisphere"][: len(labels)]
    with atomic_file(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="\n", write_through=True)
        text.write(",".join(names) + "\n")
        columns = [cells[name].tolist() for name in (*FEATURES, *more)]
        lines = zip(*np.asarray(position_um, float).reshape(-1, 3).T.tolist(), *columns, *labels)
        text.writelines(form % line + "\n" for line in lines)
        text.detach()

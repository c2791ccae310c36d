"""What is known of the regions of every sample, as one tidy table.

Of a region and hemisphere that was not imaged in a sample, or too little of it, the sample has no
value: what was not seen is not zero.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terareg.core.errors import CohortError
from terareg.core.table_cells import to_cell
from terareg.storage.store import write_atomic

VOLUME, SHARE = "volume_mm3", "volume_percent"
#: columns that say which value a row has
KEYS = ("measure", "id", "acronym", "name", "scope", "hemisphere")
_COLUMNS = ("sample", "group", *KEYS, "value")
Rows = Sequence[Mapping[str, str]]
_Value = Callable[[Mapping[str, str]], float | None]


@dataclass(frozen=True)
class Measured:
    """Tables of one sample.

    Attributes
    ----------
    regions : sequence of mapping
        Rows of ``regions/{atlas}.tsv`` as text.
    counts : mapping of str to sequence of mapping
        Rows of ``cells/{name}/{atlas}/regions.tsv`` by the name of the cells.
    signals : mapping of str to sequence of mapping
        Rows of ``derived/{name}/regions/{atlas}.tsv`` by the name of the signal.
    """

    regions: Rows
    counts: Mapping[str, Rows]
    signals: Mapping[str, Rows] = field(default_factory=dict)


def values_of(
    measured: Measured, channels: Sequence[str], min_coverage: float
) -> Iterator[dict[str, Any]]:
    """Values of one sample.

    Parameters
    ----------
    measured : Measured
    channels : sequence of str
        Whose mean brightness counts.
    min_coverage : float
        Share of a region that must have been imaged for it to have a value, 0 to 1.

    Yields
    ------
    dict
        :data:`KEYS`, and ``value`` (None where there is none). Measures are ``volume_mm3``,
        ``volume_percent`` (of all regions together), ``CHANNEL_mean``, of cells ``NAME_count`` and
        ``NAME_per_mm3``, of signal ``NAME_percent`` and ``NAME_intensity_per_mm3``.

    Raises
    ------
    CohortError
        If a table lacks a channel.
    """
    regions = measured.regions
    total = sum(
        float(row["volume_mm3"])
        for row in regions
        if (row["scope"], row["hemisphere"]) == ("own", "both")
    )
    for channel in channels:
        if regions and f"{channel}_mean" not in regions[0]:
            there = [c.removesuffix("_mean") for c in regions[0] if c.endswith("_mean")]
            raise CohortError(
                f"the table of regions has no channel {channel!r} (it has {', '.join(there)}); "
                "correct the name, or run the sample with that channel"
            )
    seen = [row for row in regions if _covered(row, min_coverage)]
    yield from _column(VOLUME, regions, seen, lambda row: float(row["volume_mm3"]))
    if total:
        yield from _column(SHARE, regions, seen, lambda row: 100 * float(row["volume_mm3"]) / total)
    for channel in channels:
        key = f"{channel}_mean"
        yield from _column(key, regions, seen, _number_in(key))
    for name, rows in measured.counts.items():
        counted = [row for row in rows if row["id"] != "0"]
        seen = [row for row in counted if _covered(row, min_coverage)]
        yield from _column(f"{name}_count", counted, seen, lambda row: float(row["count"]))
        yield from _column(f"{name}_per_mm3", counted, seen, _number_in("per_mm3"))
    for name, rows in measured.signals.items():
        seen = [row for row in rows if _covered(row, min_coverage)]
        for measure, column in (
            ("percent", "signal_percent"),
            ("intensity_per_mm3", "intensity_per_mm3"),
            ("length_per_mm3", "length_mm_per_mm3"),
        ):
            if not rows or column in rows[0]:
                yield from _column(f"{name}_{measure}", rows, seen, _number_in(column))


def write_values(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with sample, group, :data:`KEYS` and value as CSV, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        value = row["value"]
        cells = [to_cell(str(row[key])) for key in _COLUMNS[:-1]]
        writer.writerow([*cells, "" if value is None else format(value, ".9g")])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())


def read_values(path: str | os.PathLike[str]) -> Iterator[dict[str, str]]:
    """Rows of :func:`write_values` as text, one at a time."""
    with open(path, encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def check_same_atlas(atlases: Mapping[str, Mapping[str, Any]], atlas: str) -> None:
    """Raise if samples were registered to different atlases of one name.

    Parameters
    ----------
    atlases : mapping of str to mapping
        Content of the ``atlas.json`` of every sample.
    atlas : str
        Name.

    Raises
    ------
    CohortError
    """
    first, reference = next(iter(atlases.items()))
    for sample, info in atlases.items():
        if any(info.get(key) != reference.get(key) for key in ("frame", "files")):
            raise CohortError(
                f"atlas {atlas!r} of sample {sample!r} is not that of sample {first!r}: their "
                "grids or regions differ; run both with the same atlas"
            )


def _column(measure: str, rows: Rows, seen: Rows, value: _Value) -> Iterator[dict[str, Any]]:
    there = {id(row) for row in seen}
    for row in rows:
        key = {"measure": measure} | {column: row[column] for column in KEYS[1:]}
        yield key | {"value": value(row) if id(row) in there else None}


def _covered(row: Mapping[str, str], least: float) -> bool:
    """Whether enough of a region was imaged; one that the atlas lacks on a side has no coverage."""
    share = _number(row["coverage"])
    return share is not None and share >= least


def _number_in(column: str) -> _Value:
    return lambda row: _number(row[column])


def _number(text: str) -> float | None:
    return float(text) if text else None

"""The user's tables for tools: ids by ids, and orders of planes (standard library only)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from terareg.core.errors import ConfigError, few
from terareg.storage.foreign import (
    TEXT_BYTES,
    boundary,
    decode_text,
    load_json,
    open_table,
    read_bytes,
    short,
)

_LARGEST = 2**64 - 1
_MOST_BYTES = 1 << 28
_MOST_ROWS = 1 << 25
_HEADS = ("from", "to")


def read_id_table(path: str) -> dict[int, int]:
    """Ids by ids, from a table.

    Parameters
    ----------
    path : str
        JSON ({"12": 3} or [[12, 3]]), or CSV, TSV or Parquet with the columns ``from`` and ``to``
        (of Parquet integers; it needs the package pyarrow, an extra of terareg).

    Raises
    ------
    ConfigError
        If it cannot be read, is empty, holds something that is no id, or says two things of one id.
    """
    with boundary(path, ConfigError, "give JSON, or a table with the columns from and to"):
        data = read_bytes(path, _MOST_BYTES)
        pairs: Iterable[tuple[Any, Any]]
        if path.lower().endswith((".parquet", ".pq")):
            pairs = _parquet_rows(data)
        else:
            pairs = _json_pairs(data) if path.lower().endswith(".json") else _rows(data)
        table: dict[int, int] = {}
        for number, (old, new) in enumerate(pairs, 1):
            source, target = _id(old, number), _id(new, number)
            if table.setdefault(source, target) != target:
                raise ValueError(f"id {source} is mapped to both {table[source]} and {target}")
        if not table:
            raise ValueError("it has no rows")
        return table


def read_order(order: str | Sequence[int]) -> list[int]:
    """Numbers of planes, from a list or from a text file with one number a line."""
    if not isinstance(order, str):
        return [int(n) for n in order]
    with boundary(order, ConfigError, "write one plane number on each line"):
        text = decode_text(read_bytes(order, TEXT_BYTES))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found = [_id(line, number) for number, line in enumerate(lines, 1)]
        if not found:
            raise ValueError("it has no lines")
        return found


def order_length(order: str | Sequence[int]) -> int | None:
    """Number of planes of an order; None if its file cannot be seen from here."""
    if isinstance(order, str) and not Path(order).is_file():
        return None
    return len(read_order(order))


def _json_pairs(data: bytes) -> list[tuple[Any, Any]]:
    found = load_json(data)
    pairs = list(found.items()) if isinstance(found, dict) else found
    if not isinstance(pairs, list) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError(f"{short(found)} is neither {{id: id}} nor a list of pairs")
    return [(old, new) for old, new in pairs]


def _rows(data: bytes) -> Iterator[tuple[Any, Any]]:
    table = open_table(data)
    names = [name.lower() for name in table.columns]
    places = _places(names)
    for line, row in table.rows:
        if len(row) != len(names):
            raise ValueError(f"line {line} has {len(row)} values for {len(names)} columns")
        yield row[places[0]], row[places[1]]


def _places(names: Sequence[str]) -> list[int]:
    """Numbers of the two columns."""
    if not set(_HEADS) <= set(names):
        raise ValueError(f"its columns are {few(map(short, names)) or 'none'}, without from and to")
    return [names.index(head) for head in _HEADS]


def _parquet_rows(data: bytes) -> Iterator[tuple[Any, Any]]:
    try:
        from pyarrow import BufferReader, types
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            "Parquet needs the package pyarrow, which is not installed; install it beside terareg "
            "(pip install pyarrow), or save the table as CSV"
        ) from error
    with ParquetFile(BufferReader(data)) as file:
        fields = list(file.schema_arrow)
        chosen = [fields[at] for at in _places([field.name.lower() for field in fields])]
        for field in chosen:
            if not types.is_integer(field.type):
                raise ValueError(f"column {short(field.name)} contains {field.type}, not integers")
        rows = file.metadata.num_rows
        if rows > _MOST_ROWS:
            raise ValueError(f"it has {rows} rows, more than {_MOST_ROWS}")
        for batch in file.iter_batches(columns=[field.name for field in chosen]):
            found = dict(zip(batch.schema.names, batch.columns))
            yield from zip(*(found[field.name].to_pylist() for field in chosen), strict=True)


def _id(value: Any, number: int) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch("0*[0-9]{1,20}", text) or int(text) > _LARGEST:
        raise ValueError(
            f"row {number} has {short(value)}, which is not a whole number of 0 or more"
        )
    return int(text)

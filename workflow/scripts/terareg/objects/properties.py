"""What is known of objects, as Neuroglancer lists and filters them beside the picture.

Specification: segment_properties.md of https://github.com/google/neuroglancer, folder
src/datasource/precomputed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from terareg.storage.records import to_json, write_files
from terareg.storage.store import Store

#: name of the folder, below that of the objects, whose ``info`` names it
FOLDER = "segment_properties"
#: of more objects the viewer's list is no help, and would have to be loaded whole
MOST = 200_000


def numbers_json(rows: Sequence[Mapping[str, Any]]) -> dict:
    """Inline properties of the objects of a table: every column of numbers but ``label``."""
    columns = [
        name
        for name, value in rows[0].items()
        if name != "label" and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {
            "ids": [str(row["label"]) for row in rows],
            "properties": [
                {
                    "id": name, "type": "number", "data_type": "float32",
                    "values": [float(row[name]) for row in rows],
                }
                for name in columns
            ],
        },
    }  # fmt: skip


def write_numbers(store: Store, key: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict]:
    """Write the properties of the objects in folder ``key``, unless they are too many.

    Returns
    -------
    dict
        What is known of the file by its key; empty if none was written.
    """
    if not 0 < len(rows) <= MOST:
        return {}
    return write_files(store, f"{key}/{FOLDER}", {"info": to_json(numbers_json(rows))})

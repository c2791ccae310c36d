"""Formatting of values, keys and tables for the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from terareg.views.thresholds import finite

_UNITS = {
    "um": "µm", "um3": "µm³", "mm3": "mm³", "vox": "voxel", "percent": "%", "mb": "MB", "s": "s",
    "nm": "nm", "mm": "mm",
}  # fmt: skip


def show(value: Any) -> str:
    """Format a value for readers: four significant digits, thin spaces between thousands."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        if value.is_integer() and abs(value) < 1e15:
            return show(int(value))
        if abs(value) >= 1e4:
            return show(round(value))
        return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(v) for v in value)
    return str(value)


def label(key: str) -> str:
    """Readable form of a key: "error_before_um" becomes "error before (µm)"."""
    words = str(key).split("_")
    unit = _UNITS.get(words[-1]) if len(words) > 1 else None
    return " ".join(words[:-1]) + f" ({unit})" if unit else " ".join(words)


def scalars(data: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a JSON object that fit into a table: scalars and short lists, two levels deep."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("warnings", "problems", "fingerprint", "sha256", "run", "settings", "schema"):
            continue
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if _fits(v)}
            if 0 < len(inner) == len(value) <= 4:
                found |= {f"{key} {k}": v for k, v in inner.items()}
        elif _fits(value):
            found[key] = value
    return {label(k): v for k, v in found.items()}


def _fits(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 4 and all(_fits(v) and not isinstance(v, (list, tuple)) for v in value)
    return isinstance(value, (int, float, str)) and len(str(value)) <= 200


def facts_table(title: str, facts: Mapping[str, Any]) -> dict:
    """Table of two columns, names and values; empty values are left out."""
    rows = [[key, show(value)] for key, value in facts.items() if value not in (None, [], ())]
    return {"title": title, "columns": (), "rows": rows}


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict:
    """Table with headings, its values formatted for readers."""
    return {"title": title, "columns": columns, "rows": [[show(v) for v in r] for r in rows]}


def parse(text: str | None) -> Any:
    """The number that a cell of a file holds, or the text itself."""
    number = finite(text)
    return text if number is None else number


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Linear percentile of a sorted sequence, None if it is empty."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def median_worst(ordered: Sequence[float]) -> list[float] | None:
    """Median and largest of a sorted sequence, None if it is empty."""
    middle = percentile(ordered, 0.5)
    return None if middle is None else [middle, ordered[-1]]


def counted(items: Iterable[str]) -> list[tuple[str, int]]:
    """Each item and how often it occurs, in alphabetical order."""
    items = list(items)
    return [(item, items.count(item)) for item in sorted(set(items))]

"""Formatting of values, keys and tables for the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from terareg.views.thresholds import finite

Word = str | tuple[str, Callable[[Any], Any]]

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
    """Readable form of a column of a table: "error_before_um" becomes "error before (µm)"."""
    words = str(key).split("_")
    unit = _UNITS.get(words[-1]) if len(words) > 1 else None
    return " ".join(words[:-1]) + f" ({unit})" if unit else " ".join(words)


def worded(data: Mapping[str, Any], words: Mapping[str, Word]) -> dict[str, Any]:
    """Facts of a JSON object in words.

    Parameters
    ----------
    data : mapping
    words : mapping
        Dotted path in ``data`` to the words of the fact, or to words and a function of the value.
        What is absent, and what no words are given for, is left out.
    """
    found: dict[str, Any] = {}
    for path, word in words.items():
        value: Any = data
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            continue
        text, formed = (word, None) if isinstance(word, str) else word
        found[text] = value if formed is None else formed(value)
    return found


def size(count: float) -> str:
    """A number of bytes in a suitable unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def percent(share: float) -> float:
    """A share as a percentage."""
    return 100 * float(share)


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

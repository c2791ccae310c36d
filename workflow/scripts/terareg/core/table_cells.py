"""Text in the cells of tables that people open in a spreadsheet (standard library only)."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@")
_QUOTE = "'"


def to_cell(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula.

    A name such as ``=HYPERLINK(...)`` gets an apostrophe in front, which is how spreadsheets mark
    text (OWASP, "CSV injection"); a number stays a number. Control characters, including line
    breaks, become blanks.
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    return _QUOTE + text if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def from_cell(text: str) -> str:
    """The text that :func:`to_cell` was given, except for its control characters."""
    marked = text.startswith(_QUOTE) and text[1:].lstrip().startswith(_FORMULA)
    return text[1:] if marked else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

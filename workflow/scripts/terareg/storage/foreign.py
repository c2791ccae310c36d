"""The one place where foreign bytes enter: text, tables, JSON, and image parsers.

What comes from outside is checked in a fixed order. Only regular files are opened (a pipe never
ends). Their size is compared with a limit before a byte is read, and the memory that a header asks
for with the memory of the machine. Whatever a parser then raises becomes one sentence
(:func:`boundary`). Standard library only.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from terareg.core.errors import TeraregError
from terareg.storage.store import Store, atomic_file, open_regular

#: most bytes of a text that people write or export by hand
TEXT_BYTES = 64 * 2**20
#: most bytes of the metadata of a volume
METADATA_BYTES = 16 * 2**20
#: the most bytes that deflate can expand one byte to
DEFLATE_RATIO = 1032
_WORDS, _SHOWN = 240, 6


@contextmanager
def boundary(name: str, error: type[TeraregError], remedy: str, form: str = "") -> Iterator[None]:
    """Turn whatever a parser of foreign bytes raises into one sentence.

    Damaged bytes can make a parser fail in any way (an index, a recursion, a number beyond a
    machine word), so that a list of its exceptions is never complete. Errors of terareg pass
    through, and so does :class:`MemoryError`, which is about the machine.

    Parameters
    ----------
    name : str
        What is read.
    error : type
        Class to raise.
    remedy : str
        End of the sentence, unless the exception has a remedy of its own (after a semicolon).
    form : str
        The format that it is read as.
    """
    try:
        yield
    except (MemoryError, TeraregError):
        raise
    except Exception as problem:
        what, why = f"{name} cannot be read{form and ' as '}{form}", reason(problem)
        text = f"{what}: {why}" if "; " in why else f"{what} ({why}); {remedy}"
        raise error(text) from problem


def reason(problem: Exception) -> str:
    """What an exception says, on one short line."""
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    if isinstance(problem, UnicodeError):
        return "it is not text of a known encoding"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, KeyError):
        return f"{short(problem.args[0] if problem.args else '')} is missing"
    return shorten(" ".join(str(problem).split()) or type(problem).__name__)


def shorten(text: str, most: int = _WORDS) -> str:
    """A text cut after ``most`` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def short(value: object, most: int = 60) -> str:
    """Short ``repr`` of a foreign value, however large or deep it is.

    Lists of a few plain values are shown, others by their length.
    """
    if isinstance(value, str):
        return repr(shorten(value, most))
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple)) and len(value) <= _SHOWN:
        if not any(isinstance(each, (dict, list, tuple)) for each in value):
            ends = "[]" if isinstance(value, list) else "()"
            return ends[0] + ", ".join(short(each, most) for each in value) + ends[1]
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    return shorten(repr(value), most)


def check_memory(needed: float, name: str, error: type[TeraregError]) -> None:
    """Raise if more bytes are needed at once than this machine has memory."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise error(
            f"{name} asks for {needed / 1e9:.4g} GB of memory at once but this machine has "
            f"{there / 1e9:.4g} GB; give OME-Zarr, which is read in parts, or correct its header"
        )


# ---------------------------------------------------------------------- bytes and text
def read_bytes(path: str | os.PathLike[str], most: int = TEXT_BYTES) -> bytes:
    """Content of a local regular file of at most ``most`` bytes.

    Raises
    ------
    OSError, ValueError
        See :func:`boundary`.
    """
    with open(open_regular(path), "rb") as stream:
        data = stream.read(most + 1)
    return _checked_size(data, most)


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a local regular file; the copy is complete or absent. See :func:`boundary`."""
    with open(open_regular(source), "rb") as read, atomic_file(target) as written:
        shutil.copyfileobj(read, written, 1 << 20)


def read_object(store: Store, key: str, most: int = METADATA_BYTES) -> bytes:
    """The same for an object of a store; :class:`FileNotFoundError` if it is not there."""
    try:
        data, _ = store.read_range(key, 0, most + 1)
    except EOFError:  # S3's answer for an empty object
        return b""
    return _checked_size(data, most)


def _checked_size(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise ValueError(f"it has more than {most / 2**20:.0f} MiB")
    return data


def decode_text(data: bytes) -> str:
    """Decode bytes in UTF-8 or UTF-16, with or without byte-order mark, Windows-1252 or Latin-1.

    Raises
    ------
    ValueError
        If they hold NUL characters, and so are not text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            try:
                text = data.decode("cp1252")
            except UnicodeDecodeError:
                text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError("it is not a text file")
    return text.lstrip("\ufeff")


def load_json(data: bytes) -> Any:
    """Value of JSON in any encoding of :func:`decode_text`; NaN and infinity are refused.

    Raises
    ------
    ValueError, RecursionError
        See :func:`boundary`.
    """
    return json.loads(decode_text(data), parse_constant=_no_number, parse_float=_finite)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shorten(text, 40)} is beyond floating-point numbers")
    return value


# ---------------------------------------------------------------------- tables
@dataclass(frozen=True)
class Table:
    """A table of text, with the delimiter that decides how its numbers are read.

    Attributes
    ----------
    columns : tuple of str
        Of the header, without blanks around them.
    rows : tuple of (int, tuple of str)
        Line in the file, from 1, and cells without blanks around them; empty lines are left out.
    delimiter : str
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    delimiter: str

    def number(self, text: str) -> float:
        """Number in a cell; NaN if it holds none.

        Where cells are not separated by commas, a comma is the decimal sign: spreadsheets separate
        cells by semicolons exactly where the decimal sign is a comma.
        """
        if self.delimiter != "," and "." not in text:
            text = text.replace(",", ".")
        try:
            return float(text) if "_" not in text else math.nan
        except ValueError:
            return math.nan


def parse_table(data: bytes) -> Table:
    """Table separated by tabs, semicolons or commas, the first of these that its header has.

    Line ends, blanks around cells, a first line ``sep=;`` and empty columns at the end, which
    spreadsheets write, are ignored.

    Raises
    ------
    ValueError, csv.Error
        If the text is not a table; see :func:`boundary`.
    """
    text = decode_text(data)
    skipped = 0
    if match := re.match(r"\s*sep=(.)\r?\n", text, re.IGNORECASE):
        text, skipped = text[match.end() :], 1
    header = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", header)
    delimiter = next((d for d in "\t;," if d in bare), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            cells = tuple(cell.strip() for cell in row)
            if any(cells):
                rows.append((reader.line_num + skipped, cells))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num + skipped}: {error}") from error
    if not rows:
        raise ValueError("it is empty")
    (_, columns), rows = rows[0], rows[1:]
    wide = len(columns)
    while wide and not columns[wide - 1] and not any(any(row[wide - 1 : wide]) for _, row in rows):
        wide -= 1
    cut = tuple(
        (line, row[:wide] if not any(row[wide:]) and len(row) > wide else row) for line, row in rows
    )
    return Table(columns[:wide], cut, delimiter)

"""The one place where foreign bytes enter: text, tables, JSON, and image parsers.

What comes from outside is checked in a fixed order. Only regular files are opened (a pipe never
ends). Their size is compared with a limit before a byte is read, and the memory that a header asks
for with the memory of the machine. Whatever a parser then raises becomes one sentence
(:func:`boundary`). Standard library only.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
# of JSON and XML
_MOST_PARTS, _MOST_VALUES, _MOST_TAGS = 4_000_000, 20_000_000, 8_000_000
# of tables: lines and characters of a line that are read; cells that are kept in memory, each line
# counting as two more
_MOST_LINES, _LONGEST_LINE, _MOST_CELLS = 10_000_000, 1 << 22, 6_000_000


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
        return "it is not text in a known encoding"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, KeyError):
        return f"{short(problem.args[0] if problem.args else '')} is missing"
    # tensorstore repeats all that it was asked
    text = re.split(r" \[(?:tensorstore_spec|source locations)=", str(problem))[0]
    return shorten(" ".join(text.split()) or type(problem).__name__)


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
            f"{name} needs {needed / 1e9:.4g} GB of memory at once but this machine has "
            f"{there / 1e9:.4g} GB; convert it to OME-Zarr, which is read in parts, or correct "
            "its header"
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
        raise ValueError(f"it is larger than {most / 2**20:g} MiB")
    return data


def encoding_of(data: bytes) -> str:
    """Encoding of a text: UTF-8 or UTF-16, with or without byte-order mark, Windows-1252, Latin-1.

    Raises
    ------
    ValueError
        If it holds NUL characters, and so is no text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding, is_text = "utf-16", "\0" not in data.decode("utf-16", errors="replace")
    else:
        encoding, is_text = "latin-1", b"\0" not in data
        for each in ("cp1252", "utf-8-sig"):
            with contextlib.suppress(UnicodeDecodeError):
                data.decode(each)
                encoding = each
    if not is_text:
        raise ValueError("it is not a text file")
    return encoding


def decode_text(data: bytes) -> str:
    """Text in any encoding of :func:`encoding_of`."""
    return data.decode(encoding_of(data), errors="replace").lstrip("\ufeff")


def load_json(data: bytes) -> Any:
    """Value of JSON in any encoding of :func:`decode_text`.

    NaN, infinity, and keys with two values are refused.

    Raises
    ------
    ValueError, RecursionError
        See :func:`boundary`.
    """
    _check_count(data, b"[{", _MOST_PARTS, "lists and objects")
    _check_count(data, b",", _MOST_VALUES, "values")
    return json.loads(
        decode_text(data),
        parse_constant=_no_number,
        parse_float=_finite,
        object_pairs_hook=_with_one_value,
    )


def check_xml(data: bytes) -> None:
    """Raise :class:`ValueError` if XML has more elements than any real file of points or tiles."""
    _check_count(data, b"<", _MOST_TAGS, "tags")


def _check_count(data: bytes, signs: bytes, most: int, what: str) -> None:
    """A parser's objects take up to 100 times the bytes of the text: count them before."""
    if sum(data.count(sign) for sign in signs) > most:
        raise ValueError(f"it has more than {most} {what}")


def _with_one_value(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key has two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise ValueError(f"its key {short(key)} has two values; remove one of them")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shorten(text, 40)} is too large for a floating-point number")
    return value


# ---------------------------------------------------------------------- tables
@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    delimiter: str
    signs: set[str] = field(default_factory=set, init=False, compare=False)

    def number(self, text: str) -> float:
        """Number in a cell; NaN if it holds none.

        Where cells are not separated by commas, a comma is the decimal sign: spreadsheets separate
        cells by semicolons exactly where the decimal sign is a comma.

        Raises
        ------
        ValueError
            If other cells have the other decimal sign: one of the two then groups thousands.
        """
        plain, sign = text, "." if "." in text else "," if "," in text else ""
        if self.delimiter != "," and sign == ",":
            plain = text.replace(",", ".")
        try:
            value = float(plain) if "_" not in plain else math.nan
        except ValueError:
            return math.nan
        if sign and self.delimiter != ",":
            self.signs.add(sign)
            if len(self.signs) > 1:
                raise ValueError(
                    f"it has numbers with a point and with a comma (here {shorten(text, 30)}), one "
                    "of which must group thousands; write one decimal sign and no groups"
                )
        return value


@dataclass(frozen=True)
class OpenTable(_Table):
    """A long table of text, whose rows are read once, one by one.

    Attributes
    ----------
    columns : tuple of str
        Of the header, without blanks around them; the last may be empty.
    delimiter : str
    rows : iterator of (int, tuple of str)
        Line in the file, from 1, and cells without blanks around them; empty lines are left out.
    """

    rows: Iterator[tuple[int, tuple[str, ...]]]


@dataclass(frozen=True)
class Table(_Table):
    """A table of text, with the delimiter that decides how its numbers are read.

    Attributes
    ----------
    columns : tuple of str
        Of the header, without blanks around them.
    delimiter : str
    rows : tuple of (int, tuple of str)
        Line in the file, from 1, and cells without blanks around them; empty lines are left out.
    """

    rows: tuple[tuple[int, tuple[str, ...]], ...]


def open_table(data: bytes) -> OpenTable:
    """Table separated by tabs, semicolons or commas, the first of these that its header has.

    Line ends, blanks around cells and a first line ``sep=;`` are ignored.

    Raises
    ------
    ValueError
        If the text is not a table, also while its rows are read; see :func:`boundary`.
    """
    stream = io.TextIOWrapper(io.BytesIO(data), encoding_of(data), "replace", newline="")
    skipped = 1 if re.fullmatch(r"\ufeff?\s*sep=.\r?\n?", stream.readline(), re.IGNORECASE) else 0
    lines = _lines(stream, skipped)
    header = next((line for _, line in zip(range(_MOST_LINES), lines) if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", header)
    delimiter = next((d for d in "\t;," if d in bare), ",")
    reader = csv.reader(_lines(stream, skipped), delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[int, tuple[str, ...]]]:
        try:
            for row in reader:
                if reader.line_num > _MOST_LINES:
                    raise ValueError(f"it has more than {_MOST_LINES} lines")
                cells = tuple(cell.strip() for cell in row)
                if any(cells):
                    yield reader.line_num + skipped, cells
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num + skipped}: {error}") from error

    found = rows()
    first = next(found, None)
    if first is None:
        raise ValueError("it is empty")
    return OpenTable(first[1], delimiter, found)


def _lines(stream: io.TextIOWrapper, skipped: int) -> Iterator[str]:
    """Lines from the beginning, none of them very long."""
    stream.seek(0)
    for number, line in enumerate(stream):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"line {number + 1} has {len(line)} characters")
        if number >= skipped:
            yield line.lstrip("\ufeff") if number == skipped else line


def parse_table(data: bytes) -> Table:
    """:func:`open_table` as a whole, without the empty columns at the end of spreadsheets."""
    table = open_table(data)
    columns, rows = table.columns, []
    cells = 0
    for line, row in table.rows:
        cells += len(row) + 2
        if cells > _MOST_CELLS:
            raise ValueError(f"it has more than {line} lines")
        rows.append((line, row))
    wide = len(columns)
    while wide and not columns[wide - 1] and not any(any(row[wide - 1 : wide]) for _, row in rows):
        wide -= 1
    for number, (line, row) in enumerate(rows):
        if len(row) > wide and not any(row[wide:]):
            rows[number] = line, row[:wide]
    return Table(columns[:wide], table.delimiter, tuple(rows))

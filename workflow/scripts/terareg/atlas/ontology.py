"""Hierarchies of brain regions: :class:`Ontology`, its readers and the form in which it is written.

Standard library only.
"""

from __future__ import annotations

import colorsys
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from terareg.core.errors import AtlasError, few
from terareg.core.table_cells import from_cell, to_cell
from terareg.storage.foreign import (
    boundary,
    decode_text,
    load_json,
    parse_table,
    read_bytes,
    short,
)

Value = TypeVar("Value")

_MAX_ID = 2**32 - 1
_MOST_BYTES = 16 * 2**20
_MOST_REGIONS = 100_000
_MOST_DEPTH = 100  # the Allen Institute's ontology has 11
_COLUMNS = ("id", "acronym", "name", "parent", "colour", "depth", "path")
# names that the Allen Institute, BrainGlobe, ITK-SNAP tables and people use, in order of trust
_ALIASES = {
    "id": ("id", "structure_id", "label", "index", "identifier"),
    "acronym": ("acronym", "abbreviation", "abbrev"),
    "name": ("name", "safe_name", "structure", "region"),
    "parent": ("parent", "parent_id", "parent_structure_id", "parent_identifier"),
    "path": ("structure_id_path", "path"),
    "colour": ("colour", "color", "color_hex_triplet", "rgb_triplet"),
}
# columns that mean the same, where a table has several
_SAME = (("id", "structure_id"), ("parent", "parent_id", "parent_structure_id"))


@dataclass(frozen=True)
class Structure:
    """One region.

    Attributes
    ----------
    id : int
        Value of the region's voxels in the annotation, 1 to 2**32 - 1.
    acronym, name : str
    parent : int or None
        Id of the region that contains this one, None at the top.
    colour : str
        Six hexadecimal digits, RRGGBB.
    """

    id: int
    acronym: str
    name: str
    parent: int | None = None
    colour: str = ""


class Ontology:
    """Regions as a forest, in depth-first order.

    Parameters
    ----------
    structures : iterable of Structure
        In any order; children of one parent, and the top regions, keep the order given here. A
        structure without colour gets one derived from its id.

    Raises
    ------
    AtlasError
        If an id is out of range or occurs twice, a parent is missing, or parents form a circle.
    """

    def __init__(self, structures: Iterable[Structure]) -> None:
        given: dict[int, Structure] = {}
        for item in structures:
            if not 1 <= item.id <= _MAX_ID:
                raise AtlasError(
                    f"ontology: id {short(item.id)} of {short(item.name)} is not between 1 and "
                    f"{_MAX_ID}; "
                    "renumber it in the ontology and the annotation (0 is the background)"
                )
            if item.id in given:
                raise AtlasError(
                    f"ontology: id {item.id} is used twice ({short(given[item.id].name)} and "
                    f"{short(item.name)}); keep one of them"
                )
            colour = item.colour or _default_colour(item.id)
            given[item.id] = Structure(item.id, item.acronym, item.name, item.parent, colour)
        if not given:
            raise AtlasError("ontology: no regions found; give a table with id, acronym and name")

        self._children: dict[int | None, list[int]] = {}
        for item in given.values():
            if item.parent is not None and item.parent not in given:
                raise AtlasError(
                    f"ontology: region {item.id} ({item.acronym}) names parent "
                    f"{short(item.parent)}, which is not in the ontology; add it or leave the "
                    "parent empty"
                )
            self._children.setdefault(item.parent, []).append(item.id)

        self._structures: dict[int, Structure] = {}
        self._depth: dict[int, int] = {}
        stack = list(reversed(self._children.get(None, [])))
        while stack:
            item = given[stack.pop()]
            self._structures[item.id] = item
            self._depth[item.id] = 0 if item.parent is None else self._depth[item.parent] + 1
            stack.extend(reversed(self._children.get(item.id, [])))
        deepest = max(self._depth, key=self._depth.__getitem__, default=0)
        if self._depth.get(deepest, 0) > _MOST_DEPTH:
            raise AtlasError(
                f"ontology: region {deepest} ({given[deepest].acronym}) has "
                f"{self._depth[deepest]} ancestors, more than the {_MOST_DEPTH} allowed; correct "
                "the parents"
            )
        circle = [i for i in given if i not in self._structures]
        if circle:
            raise AtlasError(
                f"ontology: the parents of region {circle[0]} ({given[circle[0]].acronym}) form a "
                "circle; correct its parent"
            )

    def __len__(self) -> int:
        return len(self._structures)

    def __iter__(self) -> Iterator[Structure]:
        """Structures depth first, every parent before its children."""
        return iter(self._structures.values())

    def __contains__(self, region: int) -> bool:
        return region in self._structures

    def __getitem__(self, region: int) -> Structure:
        try:
            return self._structures[region]
        except KeyError:
            raise AtlasError(f"ontology: there is no region with id {region}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ontology) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def ids(self) -> list[int]:
        """All ids, depth first."""
        return list(self._structures)

    def find(self, acronym: str) -> Structure:
        """Return the first structure with this acronym (case-sensitive)."""
        for item in self:
            if item.acronym == acronym:
                return item
        raise AtlasError(f"ontology: there is no region with acronym {acronym!r}")

    def columns(self, region: int) -> dict[str, Any]:
        """What tables say of a region in their first columns: id, acronym, name, parent, depth."""
        structure = self[region]
        return {
            "id": structure.id,
            "acronym": structure.acronym,
            "name": structure.name,
            "parent": structure.parent,
            "depth": self.depth(region),
        }

    def depth(self, region: int) -> int:
        """Steps from the top of the hierarchy, 0 for a top region."""
        self[region]
        return self._depth[region]

    def level(self, depth: int) -> list[int]:
        """Ids at one depth, in order."""
        return [i for i, d in self._depth.items() if d == depth]

    def path(self, region: int) -> list[int]:
        """Ids from the top down to and including the region."""
        return [*reversed(self.ancestors(region)), region]

    def ancestors(self, region: int) -> list[int]:
        """Ids above the region, nearest first."""
        above = []
        parent = self[region].parent
        while parent is not None:
            above.append(parent)
            parent = self._structures[parent].parent
        return above

    def roll_up(self, values: Mapping[int, Value]) -> dict[int, Value]:
        """Add to every region the values of its descendants.

        Parameters
        ----------
        values : mapping of id to anything that adds
            The regions' own values (numbers, arrays). Regions that are not in it have none.

        Returns
        -------
        dict
            For every region that has a value, or a descendant with one, its own value plus
            those of all descendants; in the order of the ontology.

        Raises
        ------
        AtlasError
            If an id is not in the ontology.
        """
        for region in values:
            self[region]
        total: dict[int, Value] = {}
        # children come after their parents, so that in reverse order every child is complete
        for item in reversed(self._structures.values()):
            below = [total[c] for c in self._children.get(item.id, []) if c in total]
            parts = ([values[item.id]] if item.id in values else []) + below
            if parts:
                first, *rest = parts
                for part in rest:
                    first = first + part  # type: ignore[operator]
                total[item.id] = first
        return {i: total[i] for i in self._structures if i in total}

    def with_structures(self, extra: Iterable[Structure]) -> Ontology:
        """Ontology with more structures at its end."""
        return Ontology([*self, *extra])

    def to_tsv(self) -> bytes:
        """Table with columns id, acronym, name, parent, colour, depth and path (a/b/c)."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(_COLUMNS)
        for item in self:
            parent = "" if item.parent is None else item.parent
            path = "/".join(map(str, self.path(item.id)))
            depth = self._depth[item.id]
            acronym, name = to_cell(item.acronym), to_cell(item.name)
            writer.writerow([item.id, acronym, name, parent, item.colour, depth, path])
        return text.getvalue().encode()


def read_ontology(path: str | os.PathLike) -> Ontology:
    """Read an ontology.

    Formats are JSON (the Allen API's ``{"msg": [...]}`` with nested ``children``, a nested or flat
    list, BrainGlobe's ``structures.json``) and tables separated by tab, comma or semicolon with a
    header (the Allen CSV with ``structure_id_path``, BrainGlobe's ``terminology.csv``, or id,
    name and, optionally, acronym, parent and colour). Without any acronyms, names are used for
    them. Rows whose id is 0 or less stand for the
    background and are left out.

    Raises
    ------
    AtlasError
        If the file cannot be read or the hierarchy is not a forest.
    """
    path = Path(path)
    with boundary(f"ontology {path}", AtlasError, "correct atlases.NAME.ontology"):
        data = read_bytes(path, _MOST_BYTES)
        first = decode_text(data).lstrip()[:1]
        rows = _json_rows(data, path) if first in ("{", "[") else _table_rows(data)
        if len(rows) > _MOST_REGIONS:
            raise AtlasError(
                f"ontology {path} has {len(rows)} regions, more than the {_MOST_REGIONS} allowed; "
                "correct atlases.NAME.ontology"
            )
        return Ontology(_structures(_by_voxel_value(rows), path))


def _json_rows(content: bytes, path: Path) -> list[tuple[str, dict[str, Any]]]:
    with boundary(f"ontology {path}", AtlasError, "correct it", "JSON"):
        data = load_json(content)
    if isinstance(data, dict):
        data = data.get("msg", [data])
    if not isinstance(data, list):
        raise AtlasError(
            f"ontology {path} is not a list of regions; give the JSON of the Allen API"
        )
    rows: list[tuple[str, dict[str, Any]]] = []
    stack = [(item, None) for item in reversed(data)]
    while stack:
        item, parent = stack.pop()
        if not isinstance(item, dict):
            raise AtlasError(
                f"ontology {path}: entry {len(rows) + 1} is {short(item)}, not a region; each "
                "needs id, acronym and name"
            )
        row = {str(k).strip().lower(): v for k, v in item.items() if k != "children"}
        if parent is not None:
            row["parent"] = parent
        rows.append((f"entry {len(rows) + 1}", row))
        stack += [(c, item.get("id")) for c in reversed(item.get("children") or [])]
    return rows


def _table_rows(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    table = parse_table(content)
    columns = [name.lower() for name in table.columns]
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice:
        raise ValueError(f"two of its columns are called {twice[:40]!r}; rename one of them")
    return [(f"line {line}", dict(zip(columns, row))) for line, row in table.rows]


def _by_voxel_value(
    rows: list[tuple[str, dict[str, Any]]],
) -> list[tuple[str, dict[str, Any]]]:
    """Rows whose identifiers are the values of voxels.

    A terminology of BrainGlobe may list both, the identifier and the ``annotation_value``; parents
    are identifiers there.
    """
    values = {
        str(row["identifier"]): row["annotation_value"]
        for _, row in rows
        if row.get("identifier") and row.get("annotation_value")
    }
    if not values:
        return rows
    found = []
    for where, row in rows:
        changed = dict(row)
        for key in ("identifier", "parent_identifier"):
            if row.get(key):
                changed[key] = values.get(str(row[key]), row[key])
        found.append((where, changed))
    return found


def _text(value: Any) -> str:
    """A name, put on one line."""
    return " ".join(from_cell(str(value)).split())


def _structures(rows: list[tuple[str, dict[str, Any]]], path: Path) -> list[Structure]:
    structures = []
    named = not any(row.get(a) for _, row in rows for a in _ALIASES["acronym"])
    for where, row in rows:
        values = {
            key: next((row[a] for a in aliases if row.get(a) not in (None, "")), None)
            for key, aliases in _ALIASES.items()
        }
        if named:
            values["acronym"] = values["name"]
        missing = [key for key in ("id", "acronym", "name") if values[key] is None]
        blank = [key for key in missing if any(alias in row for alias in _ALIASES[key])]
        if blank:
            raise AtlasError(
                f"ontology {path}, {where}: {' and '.join(blank)} left blank, beside "
                f"{few(short(v) for v in row.values() if v not in (None, '')) or 'nothing'}; fill "
                "it in, or remove the line if it is not a region"
            )
        if missing:
            raise AtlasError(
                f"ontology {path}, {where}: {' and '.join(missing)} missing; every region needs "
                "columns id and name (acronym, parent and colour if you have them), but it has "
                f"{few(short(column) for column in row) or 'none'}"
            )
        region = _integer(values["id"], f"ontology {path}, {where}: id")
        if region <= 0:
            continue
        for names in _SAME:
            _check_alike(row, names, f"ontology {path}, {where}")
        parent = values["parent"]
        if parent is not None:
            parent = _integer(parent, f"ontology {path}, {where}: parent")
        if values["path"] is not None:
            above = _parent_in_path(values["path"], region, f"ontology {path}, {where}") or 0
            if parent is not None and max(0, parent) != max(0, above):
                raise AtlasError(
                    f"ontology {path}, {where}: region {region} has the parent {parent} but its "
                    f"path {short(values['path'])} names {above}; correct one of them"
                )
            parent = above
        structures.append(
            Structure(
                region,
                _text(values["acronym"]),
                _text(values["name"]),
                None if parent is None or parent <= 0 else parent,
                _colour(values["colour"], f"ontology {path}, {where}"),
            )
        )
    return structures


def _check_alike(row: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Raise if columns that state the same number differ in a row."""
    given = {name: row[name] for name in names if row.get(name) not in (None, "")}
    numbers = {name: _integer(value, f"{where}: {name}") for name, value in given.items()}
    if len(set(numbers.values())) > 1:
        listed = " but ".join(f"{name} is {number}" for name, number in numbers.items())
        raise AtlasError(f"{where}: {listed}; remove all but one of these columns")


def _integer(value: Any, name: str) -> int:
    """Integer of ``997``, ``"997"`` or ``"997.0"`` (a spreadsheet's column with gaps)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value if isinstance(value, (str, float)) else ""
    match = re.fullmatch(r"\s*([+-]?\d{1,20})([.,]0{0,2})?\s*", str(text))
    if match is None:
        raise AtlasError(f"{name} {short(value)} is not an integer; correct it")
    return int(match[1])


def _parent_in_path(value: Any, region: int, name: str) -> int | None:
    parts = value if isinstance(value, list) else [p for p in str(value).split("/") if p.strip()]
    path = [_integer(p, f"{name}: path") for p in parts]
    if not path or path[-1] != region:
        raise AtlasError(f"{name}: path {short(value)} does not end in the region's id {region}")
    return path[-2] if len(path) > 1 else None


def _colour(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)) and len(value) == 3:
        parts = [_integer(v, f"{name}: colour") for v in value]
        if not all(0 <= part <= 255 for part in parts):
            raise AtlasError(f"{name}: colour {short(value)} is not three numbers from 0 to 255")
        return "".join(f"{part:02X}" for part in parts)
    text = str(value).strip().lstrip("#").upper()
    # spreadsheets drop the leading zeros of a colour made of digits only
    text = text.zfill(6) if text.isdigit() else text
    if re.fullmatch(r"[0-9A-F]{6}", text) is None:
        raise AtlasError(f"{name}: colour {short(value)} is not of the form RRGGBB; correct it")
    return text


def _default_colour(region: int) -> str:
    """Colour of a region; multiples of the golden ratio spread the hues over the ids."""
    rgb = colorsys.hsv_to_rgb((region * 0.6180339887498949) % 1.0, 0.6, 0.9)
    return "".join(f"{round(255 * c):02X}" for c in rgb)

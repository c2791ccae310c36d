"""The table of a cohort: samples, their groups and covariates (standard library only)."""

from __future__ import annotations

import difflib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from terareg.core.errors import CohortError, few
from terareg.storage.foreign import boundary, parse_table, read_bytes

SAMPLE, GROUP, RESULTS = "sample", "group", "results"
#: columns of the table of samples, which no covariate may be called
_RESERVED = ("used", "verdict", "reasons")
_LEAST = 2  # samples of a group
_ALIKE = 0.7  # share of letters in common, from which a name may be a slip of another one


@dataclass(frozen=True)
class Member:
    """One sample of a cohort.

    Attributes
    ----------
    sample, group : str
    covariates : dict of str to (float or str)
        Text names a category.
    results : str
        Folder of its results as the table gives it; empty for the folder of the run.
    """

    sample: str
    group: str
    covariates: dict[str, float | str]
    results: str = ""


@dataclass(frozen=True)
class Cohort:
    """The samples of two groups.

    Attributes
    ----------
    members : tuple of Member
        In the order of the table.
    groups : tuple of str
        The reference, and the group that is compared with it.
    covariates : tuple of str
        In the order of the table.
    others : dict of str to int
        Samples of the table that belong to another group and are left out, by group.
    """

    members: tuple[Member, ...]
    groups: tuple[str, str]
    covariates: tuple[str, ...]
    others: dict[str, int] = field(default_factory=dict)

    def without(self, samples: Sequence[str]) -> Cohort:
        """The cohort without some of its samples.

        Raises
        ------
        CohortError
            If fewer than two samples of a group are left.
        """
        left = tuple(m for m in self.members if m.sample not in samples)
        _check_sizes("the cohort without " + few(sorted(samples)), left, self.groups)
        return Cohort(left, self.groups, self.covariates, self.others)


def read_cohort(
    path: str | os.PathLike[str],
    groups: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
) -> Cohort:
    """Read a table with the columns ``sample``, ``group``, covariates, and perhaps ``results``.

    Parameters
    ----------
    path : path
        Cells are separated by tabs, semicolons or commas.
    groups : sequence of str, optional
        The reference and the group that is compared with it; samples of other groups are left out.
        By default the table has two groups, and its first sample belongs to the reference.
    covariates : sequence of str, optional
        Columns; by default all others.

    Raises
    ------
    CohortError
        If a column or a cell is missing, a sample is there twice, or a group has fewer than two
        samples.
    """
    name = os.fspath(path)
    with boundary(name, CohortError, "give a table with the columns sample and group"):
        table = parse_table(read_bytes(path))
    columns = table.columns
    for column in (SAMPLE, GROUP):
        if columns.count(column) != 1:
            raise CohortError(
                f"{name}: the column {column} occurs {columns.count(column)} times (columns: "
                f"{few(list(columns))}); the first line needs sample and group, once each"
            )
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise CohortError(f"{name}: two columns are called {twice[0]!r}; rename one of them")
    others = [c for c in columns if c not in (SAMPLE, GROUP, RESULTS)]
    chosen = others if covariates is None else list(covariates)
    for column in chosen:
        if column not in others:
            raise CohortError(
                f"{name}: covariate {column!r} is not one of its columns "
                f"({few(others) or 'there are no others'}); correct the name"
            )
    for column in set(chosen) & set(_RESERVED):
        raise CohortError(f"{name}: a covariate cannot be called {column!r}; rename the column")
    rows = []
    for line, cells in table.rows:
        if len(cells) != len(columns):
            raise CohortError(
                f"{name}, line {line}: {len(cells)} cells instead of {len(columns)}; write one "
                "for each column"
            )
        row = dict(zip(columns, cells))
        for column in (SAMPLE, GROUP, *chosen):
            if row[column].lower() in ("", "na", "nan"):
                raise CohortError(
                    f"{name}, line {line}: {column} of sample {row[SAMPLE]!r} is missing; fill the "
                    "cell, or leave the sample or the column out"
                )
        rows.append(row)
    names = Counter(row[SAMPLE] for row in rows)
    repeated = [sample for sample, count in names.items() if count > 1]
    if repeated:
        raise CohortError(
            f"{name}: sample {repeated[0]!r} occurs {names[repeated[0]]} times; remove the extra "
            "lines or correct a name"
        )
    compared = _groups(name, [row[GROUP] for row in rows], groups)
    left_out = Counter(row[GROUP] for row in rows if row[GROUP] not in compared)
    rows = [row for row in rows if row[GROUP] in compared]
    with boundary(name, CohortError, "write one decimal sign"):
        kinds = {c: _values(table.number, name, c, rows) for c in chosen}
    members = tuple(
        Member(row[SAMPLE], row[GROUP], {c: kinds[c][n] for c in chosen}, row.get(RESULTS, ""))
        for n, row in enumerate(rows)
    )
    _check_sizes(name, members, compared)
    return Cohort(members, compared, tuple(chosen), dict(left_out))


def sample_rows(
    cohort: Cohort, verdicts: Mapping[str, tuple[str, str]], leave_out: bool
) -> list[dict[str, Any]]:
    """Rows of the table of samples: what each is, and whether its registration can be trusted.

    Parameters
    ----------
    cohort : Cohort
    verdicts : mapping of str to (str, str)
        Of every sample "pass", "warn" or "fail", and the reasons in words.
    leave_out : bool
        Whether samples that failed do not count.

    Returns
    -------
    list of dict
        ``sample``, ``group``, ``used`` ("yes" or "no"), ``verdict``, ``reasons``, and covariates.
    """
    rows = []
    for member in cohort.members:
        verdict, reasons = verdicts[member.sample]
        used = "no" if leave_out and verdict == "fail" else "yes"
        row: dict[str, Any] = {SAMPLE: member.sample, GROUP: member.group, "used": used}
        rows.append(row | {"verdict": verdict, "reasons": reasons} | member.covariates)
    return rows


def used_cohort(cohort: Cohort, rows: Iterable[Mapping[str, str]]) -> Cohort:
    """The samples that count, by a table of :func:`sample_rows`."""
    left_out = [row["sample"] for row in rows if row["used"] == "no"]
    return cohort.without(left_out) if left_out else cohort


def _groups(name: str, found: list[str], groups: Sequence[str] | None) -> tuple[str, str]:
    there = list(dict.fromkeys(found))
    if groups is None:
        if len(there) != 2:
            raise CohortError(
                f"{name}: {len(there)} group{'s'[: len(there) != 1]} ({few(there)}), but two are "
                f"compared; {_misspelt(there)}name two of them under groups, the reference first"
            )
        return there[0], there[1]
    for group in groups:
        if group not in there:
            raise CohortError(
                f"{name}: no sample belongs to group {group!r} (groups: {few(there)}); correct "
                "groups: or the table"
            )
    reference, other = groups
    if reference == other:
        raise CohortError(
            f"{name}: group {other!r} cannot be compared with itself; name two groups"
        )
    return reference, other


def _check_sizes(name: str, members: Sequence[Member], groups: tuple[str, str]) -> None:
    sizes = Counter(member.group for member in members)
    for group in groups:
        if sizes[group] < _LEAST:
            raise CohortError(
                f"{name}: group {group!r} has {sizes[group]} sample{'s'[: sizes[group] != 1]}, "
                f"too few to estimate their variation; give {_LEAST} or more"
            )


def _misspelt(groups: Sequence[str]) -> str:
    """What to say of a name that is nearly another one, or nothing."""
    for n, group in enumerate(groups):
        for other in groups[:n]:
            alike = difflib.SequenceMatcher(None, group.casefold(), other.casefold()).ratio()
            if alike >= _ALIKE:
                return f"correct {group!r} if it means {other!r}, or "
    return ""


def _values(
    number: Callable[[str], float], name: str, column: str, rows: Sequence[Mapping[str, str]]
) -> list[float | str]:
    """Numbers if all cells of a column are numbers, else the names of categories."""
    numbers = [number(row[column]) for row in rows]
    finite = [math.isfinite(value) for value in numbers]
    if all(finite):
        return list(numbers)
    if any(finite):
        # one cell that is no number would make each value a category of its own
        odd, plain = finite.index(False), finite.index(True)
        raise CohortError(
            f"{name}: {column} is {rows[odd][column]!r} of sample {rows[odd][SAMPLE]!r} but "
            f"{rows[plain][column]!r} of sample {rows[plain][SAMPLE]!r}; write a number for every "
            f"sample, or a word for every one if {column} names categories"
        )
    return [row[column] for row in rows]

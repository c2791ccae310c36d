"""Regions of two groups of samples, compared measure by measure.

A family of tests is what a reader looks at together: one measure, of all regions by themselves
(scope "own") or with all below them ("tree"), of the whole ("both") or of its two sides ("sides").
The false discovery rate is held within a family. In a tree, a region that has only one part has the
same values as that part: these are one test, and count once, with one q.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terareg.cohort.model import Design, compare, false_discovery_rate, permuted_p
from terareg.cohort.values import KEYS

LINEAR, PERMUTATION = "linear_model", "permutation"
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Inference:
    """How regions are tested.

    Attributes
    ----------
    test : {"linear_model", "permutation"}
    permutations, seed : int
        Of the second.
    """

    test: str = LINEAR
    permutations: int = 10000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Values:
    """Values of all samples side by side.

    Attributes
    ----------
    keys : list of tuple of str
        :data:`terareg.cohort.values.KEYS` of every column.
    array : numpy.ndarray, float64, shape (samples, columns)
        NaN where a sample has no value.
    """

    keys: list[tuple[str, ...]]
    array: np.ndarray

    def families(self) -> dict[tuple[str, str, str], np.ndarray]:
        """Columns of each family: measure, scope, and "both" or "sides"."""
        found: dict[tuple[str, str, str], list[int]] = {}
        for number, key in enumerate(self.keys):
            named = dict(zip(KEYS, key))
            sides = "sides" if named["hemisphere"] in _SIDES else "both"
            found.setdefault((named["measure"], named["scope"], sides), []).append(number)
        return {family: np.array(columns) for family, columns in found.items()}


def side_by_side(rows: Iterable[Mapping[str, Any]], samples: Sequence[str]) -> Values:
    """Columns of a tidy table.

    Parameters
    ----------
    rows : iterable of mapping
        ``sample``, :data:`terareg.cohort.values.KEYS`, and ``value``: a number, its text, None, or
        an empty text. Rows of other samples are left out.
    samples : sequence of str
        Order of the rows of the array.
    """
    place = {sample: n for n, sample in enumerate(samples)}
    columns: dict[tuple[str, ...], np.ndarray] = {}
    for row in rows:
        if row["sample"] not in place:
            continue
        key = tuple(str(row[name]) for name in KEYS)
        column = columns.setdefault(key, np.full(len(samples), np.nan))
        if row["value"] not in (None, ""):
            column[place[row["sample"]]] = float(row["value"])
    array = np.stack(list(columns.values()), axis=1) if columns else np.empty((len(samples), 0))
    return Values(list(columns), array)


def compare_regions(values: Values, design: Design, settings: Inference) -> list[dict[str, Any]]:
    """Rows of the table of effects, in the order of the columns of ``values``.

    Returns
    -------
    list of dict
        :data:`terareg.cohort.values.KEYS`; ``n_``, ``mean_`` and ``sd_`` of ``reference`` and
        ``compared``; ``difference`` (of the linear model, in the unit of the measure), ``percent``
        of the reference's mean; ``t``, ``df``; ``cohens_d``, ``hedges_g`` with its 95 % interval
        ``g_low`` to ``g_high``; ``p``, ``q`` (false discovery rate), and ``tests`` of the family.
        None where nothing can be tested.
    """
    array = values.array
    effects = compare(design, array)
    p = effects.p
    if settings.test == PERMUTATION:
        p = permuted_p(design, array, settings.permutations, settings.seed)
        p = np.where(np.isfinite(effects.t), p, np.nan)
    q, tests = np.full(p.shape, np.nan), np.zeros(p.shape, int)
    for columns in values.families().values():
        first, same = _distinct(array[:, columns])
        chosen = p[columns][first]
        q[columns] = false_discovery_rate(chosen)[same]
        tests[columns] = np.isfinite(chosen).sum()
    sides = [_summary(array[design.group == side]) for side in (0, 1)]
    rows = []
    for n, key in enumerate(values.keys):
        row: dict[str, Any] = dict(zip(KEYS, key))
        for name, (count, mean, sd) in zip(("reference", "compared"), sides):
            row |= {f"n_{name}": int(count[n]), f"mean_{name}": _plain(mean[n]),
                    f"sd_{name}": _plain(sd[n])}  # fmt: skip
        reference = row["mean_reference"]
        difference = _plain(effects.difference[n])
        relative = None if difference is None or not reference else 100 * difference / reference
        row |= {"difference": difference, "percent": relative}
        for name, column in (
            ("t", effects.t), ("df", effects.df), ("cohens_d", effects.d), ("hedges_g", effects.g),
            ("g_low", effects.low), ("g_high", effects.high), ("p", p), ("q", q),
        ):  # fmt: skip
            row[name] = _plain(column[n])
        rows.append(row | {"tests": int(tests[n])})
    return rows


def _distinct(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First of the columns with equal values, and for each column which of these it equals."""
    first: dict[bytes, int] = {}
    order: list[int] = []
    same: list[int] = []
    for n in range(array.shape[1]):
        text = np.ascontiguousarray(array[:, n]).tobytes()
        if text not in first:
            first[text] = len(order)
            order.append(n)
        same.append(first[text])
    return np.array(order, int), np.array(same, int)


def _summary(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, mean and standard deviation (divisor n - 1) of the values in each column."""
    there = np.isfinite(array)
    count = there.sum(axis=0)
    filled = np.where(there, array, 0.0)
    mean = filled.sum(axis=0) / np.where(count, count, np.nan)
    squares = (np.where(there, array - mean, 0.0) ** 2).sum(axis=0)
    return count, mean, np.sqrt(squares / np.where(count > 1, count - 1, np.nan))


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

"""Two groups compared by a linear model, for many quantities at once.

For each quantity, value = a + b group + covariates + noise, where group is 0 for the reference and
1 for the other one. Reported are b, its t-test, and the standardised difference d = b / s, where s
is the standard deviation of the residuals. Without covariates these are Student's t-test and
Cohen's d. Hedges' g is d without its bias in small samples. Its interval comes from the noncentral
t distribution, which is exact for normal noise (Hedges, J. Educ. Stat. 6:107-128, 1981; Cumming &
Finch, Educ. Psychol. Meas. 61:532-574, 2001).

Permutation p-values follow Freedman & Lane (J. Bus. Econ. Stat. 1:292-298, 1983): residuals of the
model without the group are permuted. Without covariates that is a permutation of the labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from terareg.cohort.table import Cohort
from terareg.core.errors import CohortError

CONFIDENCE = 0.95
_SAME = 1e-9  # relative, of numbers that differ by rounding
_FLAT = 1e-7  # relative, of values that differ by the rounding of tables, which have nine digits
_LEAST = 2  # samples of a group
# samples beyond the coefficients: with one, the difference has no unbiased size (g)
_FREEDOM = 2


@dataclass(frozen=True, eq=False)
class Design:
    """The model's matrix.

    Attributes
    ----------
    group : numpy.ndarray, float64, shape (samples,)
        0 for the reference, 1 for the other group.
    nuisance : numpy.ndarray, float64, shape (samples, k)
        A column of ones, and covariates.
    """

    group: np.ndarray
    nuisance: np.ndarray

    def matrix(self) -> np.ndarray:
        """All columns, the group first, shape (samples, 1 + k)."""
        return np.column_stack([self.group, self.nuisance])

    def of(self, chosen: np.ndarray) -> Design:
        """The model of some samples; covariates that are then constant are left out."""
        nuisance = self.nuisance[chosen]
        kept = np.ptp(nuisance, axis=0) > 0 if len(nuisance) else np.zeros(nuisance.shape[1], bool)
        kept[0] = True
        return Design(self.group[chosen], nuisance[:, kept])

    def testable(self) -> bool:
        """Whether both groups have samples enough, and covariates leave the group's part clear."""
        matrix = self.matrix()
        sizes = np.bincount(self.group.astype(int), minlength=2)
        if sizes.min() < _LEAST or len(matrix) < matrix.shape[1] + _FREEDOM:
            return False
        return int(np.linalg.matrix_rank(matrix)) == matrix.shape[1]


@dataclass(frozen=True, eq=False)
class Effects:
    """What the model says of each quantity; NaN where it cannot be tested. Shape (quantities,).

    Attributes
    ----------
    difference : numpy.ndarray
        b, in the unit of the quantity.
    sd : numpy.ndarray
        s, of the residuals.
    t, df, p : numpy.ndarray
        Two-sided test of b = 0.
    d, g, low, high : numpy.ndarray
        Standardised difference, the same without bias, and the 95 % interval of g.
    """

    difference: np.ndarray
    sd: np.ndarray
    t: np.ndarray
    df: np.ndarray
    p: np.ndarray
    d: np.ndarray
    g: np.ndarray
    low: np.ndarray
    high: np.ndarray


def design_of(cohort: Cohort) -> Design:
    """The model of a cohort.

    Raises
    ------
    CohortError
        If the covariates say the same as the group or as each other, or there are too few samples
        for them.
    """
    members = cohort.members
    group = np.array([float(m.group == cohort.groups[1]) for m in members])
    parts = [np.ones((len(members), 1))]
    for name in cohort.covariates:
        columns = _columns([m.covariates[name] for m in members])
        if not columns.shape[1]:
            raise CohortError(f"covariate {name!r} has the same value in all samples; leave it out")
        before = np.concatenate(parts, axis=1)
        if _rank(np.concatenate([before, columns], axis=1)) < before.shape[1] + columns.shape[1]:
            raise CohortError(
                f"covariate {name!r} is a linear combination of those before it; leave one of "
                "them out"
            )
        parts.append(columns)
        if _rank(np.column_stack([group, *parts])) < 1 + sum(p.shape[1] for p in parts):
            raise CohortError(
                f"covariate {name!r} coincides with the group, so their effects cannot be "
                "separated; leave it out, or add samples in which they differ"
            )
    design = Design(group, np.concatenate(parts, axis=1))
    if not design.testable():
        raise CohortError(
            f"{len(members)} samples are too few for {design.matrix().shape[1]} coefficients "
            f"(group, mean, covariates {', '.join(cohort.covariates)}): {_FREEDOM} more than "
            "coefficients are the least; add samples or leave covariates out"
        )
    return design


def _columns(values: list[float | str]) -> np.ndarray:
    """A number in units of its spread around its mean; a category as a column for each but one."""
    if all(isinstance(value, float) for value in values):
        numbers = np.array(values, float)
        spread = np.ptp(numbers)
        return (
            ((numbers - numbers.mean()) / spread)[:, None] if spread else np.empty((len(values), 0))
        )
    names = sorted(map(str, set(values)))
    return np.array([[float(value == name) for name in names[1:]] for value in values])


def _rank(matrix: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(matrix))


def compare(design: Design, values: np.ndarray) -> Effects:
    """Fit the model to every column.

    Parameters
    ----------
    design : Design
    values : numpy.ndarray, shape (samples, quantities)
        NaN where a sample has no value: it is then left out for this quantity.
    """
    values = np.asarray(values, float)
    found = np.full((9, values.shape[1]), np.nan)
    for chosen, columns in _patterns(values):
        part = design.of(chosen)
        if part.testable():
            found[:, columns] = _fitted(part, values[np.ix_(chosen, columns)])
    return Effects(*found)


def compare_voxels(design: Design, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised difference d, 0 without noise, and standard deviation s of every column.

    Parameters
    ----------
    design : Design
    values : numpy.ndarray, float64, shape (samples, voxels)
        Finite.

    Returns
    -------
    d, s : numpy.ndarray, float64, shape (voxels,)
    """
    difference, sd, _ = _least_squares(design, values)
    noise = np.isfinite(sd)
    d = np.divide(difference, sd, out=np.zeros_like(difference), where=noise)
    return d, np.where(noise, sd, 0.0)


def permuted_p(design: Design, values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Two-sided p-values by permutation, shape (quantities,); NaN where nothing can be tested.

    All divisions of the samples into the two groups are tried where there are no covariates and at
    most ``count`` divisions, and the p-values are then exact. Otherwise ``count`` random
    permutations are, the same for all quantities with the same samples, and p is
    (1 + number with as large a |t|) / (1 + count) (Phipson & Smyth, Stat. Appl. Genet. Mol. Biol.
    9:39, 2010).

    Parameters
    ----------
    design : Design
    values : numpy.ndarray, shape (samples, quantities)
        As in :func:`compare`.
    count, seed : int
    """
    values = np.asarray(values, float)
    found = np.full(values.shape[1], np.nan)
    for chosen, columns in _patterns(values):
        part = design.of(chosen)
        if part.testable():
            found[columns] = _permuted(part, values[np.ix_(chosen, columns)], count, seed)
    return found


def false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg's adjusted p-values (J. R. Stat. Soc. B 57:289-300, 1995).

    NaN are no tests, and stay.
    """
    adjusted = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p[tested], method="bh")
    return adjusted


def _patterns(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples with a value, bool (samples,), and the columns in which just these have one."""
    there = np.isfinite(values)
    patterns, which = np.unique(there, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        yield patterns[:, number], np.flatnonzero(which.reshape(-1) == number)


def _fitted(design: Design, values: np.ndarray) -> np.ndarray:
    """Rows of :class:`Effects` for columns without NaN."""
    difference, sd, unit = _least_squares(design, values)
    df = len(design.group) - 1 - design.nuisance.shape[1]
    d = difference / sd
    t = d / unit
    p = 2 * stats.t.sf(np.abs(t), df)
    tail = (1 - CONFIDENCE) / 2
    bias = _bias(df)
    low, high = (bias * unit * _noncentrality(share, df, t) for share in (1 - tail, tail))
    return np.stack([difference, sd, t, np.where(np.isfinite(t), df, np.nan), p,
                     d, bias * d, low, high])  # fmt: skip


def _least_squares(design: Design, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """b and s of every column, and the standard error of b in units of s.

    s is NaN where the model explains the values but for rounding: no noise is left to compare with.
    """
    matrix = design.matrix()
    inverse = np.linalg.inv(matrix.T @ matrix)
    coefficients = inverse @ matrix.T @ values
    residuals = values - matrix @ coefficients
    sd = np.sqrt((residuals**2).sum(axis=0) / (matrix.shape[0] - matrix.shape[1]))
    sd[sd <= _FLAT * np.abs(values).max(axis=0)] = np.nan
    return coefficients[0], sd, math.sqrt(inverse[0, 0])


def _bias(df: int) -> float:
    """Hedges' factor J(df), eq. 6e of Hedges 1981; it has no value for df below 2."""
    return math.exp(math.lgamma(df / 2) - math.log(df / 2) / 2 - math.lgamma((df - 1) / 2))


def _noncentrality(share: float, df: int, t: np.ndarray) -> np.ndarray:
    """Noncentrality with which t lies at this quantile."""
    found = np.full(t.shape, np.nan)
    tested = np.isfinite(t)
    found[tested] = special.nctdtrinc(df, share, t[tested])
    return found


def _permuted(design: Design, values: np.ndarray, count: int, seed: int) -> np.ndarray:
    matrix, nuisance = design.matrix(), design.nuisance
    residuals = values - nuisance @ np.linalg.lstsq(nuisance, values, rcond=None)[0]
    size = np.abs(values).max(axis=0)
    noise = np.sqrt((residuals**2).sum(axis=0))
    flat = noise <= _FLAT * size
    residuals = np.where(flat, 0.0, residuals) / np.where(flat, 1.0, noise)
    # t^2 grows with the share of the residuals that the group explains, which is cheaper
    q = np.linalg.qr(nuisance)[0]
    part = design.group - q @ (q.T @ design.group)
    part /= np.linalg.norm(part)
    basis = np.column_stack([part, q])

    def explained(order: np.ndarray) -> np.ndarray:
        products = basis.T @ residuals[order]
        left = 1 - (products[1:] ** 2).sum(axis=0)
        return products[0] ** 2 / np.maximum(left, np.finfo(float).tiny)

    observed = explained(np.arange(len(matrix))) * (1 - _SAME)
    orders, exact = _orders(design, count, seed)
    hits, tried = np.zeros(values.shape[1]), 0
    for order in orders:
        hits += explained(order) >= observed
        tried += 1
    p = hits / tried if exact else (1 + hits) / (1 + tried)
    return np.where(flat, np.nan, p)


def _orders(design: Design, count: int, seed: int) -> tuple[Iterator[np.ndarray], bool]:
    """Permutations of the samples, and whether they are all divisions into two groups."""
    n, second = len(design.group), np.flatnonzero(design.group)
    if design.nuisance.shape[1] == 1 and math.comb(n, len(second)) <= count:
        return _divisions(design.group, second), True
    rng = np.random.default_rng(seed)
    return (rng.permutation(n) for _ in range(count)), False


def _divisions(group: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    first = np.flatnonzero(group == 0)
    for chosen in itertools.combinations(range(len(group)), len(second)):
        order = np.empty(len(group), int)
        order[second] = chosen
        order[first] = np.setdiff1d(np.arange(len(group)), chosen)
        yield order

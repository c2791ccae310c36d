"""The linear model against scipy and closed forms; permutations by their false positives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from terareg.cohort.model import (
    Design,
    compare,
    design_of,
    false_discovery_rate,
    permuted_p,
)
from terareg.cohort.table import Cohort, Member
from terareg.core.errors import CohortError


def cohort(*rows, names=()):
    members = [
        Member(f"s{n}", group, dict(zip(names, values))) for n, (group, *values) in enumerate(rows)
    ]
    return Cohort(tuple(members), ("control", "drug"), tuple(names))


def two_groups(first, second):
    group = np.repeat([0.0, 1.0], [first, second])
    return Design(group, np.ones((first + second, 1)))


def test_without_covariates_it_is_students_t_test():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, (11, 40))
    found = compare(two_groups(5, 6), values)
    expected = stats.ttest_ind(values[5:], values[:5])
    assert np.allclose(found.t, expected.statistic)
    assert np.allclose(found.p, expected.pvalue)
    pooled = np.sqrt((4 * values[:5].var(0, ddof=1) + 5 * values[5:].var(0, ddof=1)) / 9)
    assert np.allclose(found.d, (values[5:].mean(0) - values[:5].mean(0)) / pooled)
    # the bias of d with 9 degrees of freedom is 1 - 3 / (4 * 9 - 1) but for a thousandth
    assert np.allclose(found.g / found.d, 1 - 3 / 35, atol=1e-3)


def test_the_group_beside_covariates_is_what_is_left_of_both_after_them():
    """Frisch, Waugh and Lovell: the slope of residuals on residuals, with fewer degrees."""
    rng = np.random.default_rng(2)
    group = rng.permutation(np.repeat([0.0, 1.0], [9, 8]))
    age, batch = rng.normal(size=17), rng.integers(0, 3, 17)
    nuisance = np.column_stack([np.ones(17), age, batch == 1, batch == 2]).astype(float)
    values = rng.normal(size=(17, 25)) + 3 * age[:, None]
    found = compare(Design(group, nuisance), values)

    def left(y):
        return y - nuisance @ np.linalg.lstsq(nuisance, y, rcond=None)[0]

    for n in range(25):
        line = stats.linregress(left(group), left(values[:, n]))
        stderr = line.stderr * math.sqrt(15 / 12)
        assert found.difference[n] == pytest.approx(line.slope)
        assert found.t[n] == pytest.approx(line.slope / stderr)
        assert found.p[n] == pytest.approx(2 * stats.t.sf(abs(found.t[n]), 12))
    assert set(found.df) == {12}


def test_the_interval_is_that_of_the_noncentral_t_distribution():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(12, 20)) + np.repeat([0, 1], 6)[:, None] * np.linspace(-3, 4, 20)
    found = compare(two_groups(6, 6), values)
    unit = math.sqrt(1 / 6 + 1 / 6)
    for n, share, end in itertools.product(range(20), (0.975, 0.025), ("low", "high")):
        if (end == "low") != (share == 0.975):
            continue

        def beyond(nc, n=n, share=share):
            return special.nctdtr(10, nc, found.t[n]) - share

        far = 4 + abs(found.t[n]) / 1.5
        limit = optimize.brentq(beyond, found.t[n] - far, found.t[n] + far)
        limit *= unit * found.g[n] / found.d[n]
        assert getattr(found, end)[n] == pytest.approx(limit, abs=1e-5)


def test_the_interval_holds_the_truth_in_95_of_100():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(10, 4000)) + np.repeat([0, 0.8], 5)[:, None]
    found = compare(two_groups(5, 5), values)
    bias = found.g / found.d
    inside = (found.low / bias <= 0.8) & (0.8 <= found.high / bias)
    assert inside.mean() == pytest.approx(0.95, abs=0.012)
    assert found.g.mean() == pytest.approx(0.8, abs=0.04)
    assert found.d.mean() > 0.84


def test_a_sample_without_a_value_is_left_out_of_that_quantity():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(9, 4))
    values[2, 1] = np.nan
    values[5:, 2] = np.nan  # a whole group
    values[:, 3] = 7.0  # no noise
    found = compare(two_groups(5, 4), values)
    rest = stats.ttest_ind(values[5:, 1], np.delete(values[:5, 1], 2))
    assert found.p[1] == pytest.approx(rest.pvalue) and found.df[1] == 6
    assert np.isnan(found.p[2:]).all()
    assert np.isnan(permuted_p(two_groups(5, 4), values, 50, 0)[2:]).all()


def test_all_divisions_of_few_samples_are_tried():
    values = np.array([[1.0], [2.0], [4.0], [8.0], [16.0], [31.0]])
    found = permuted_p(two_groups(3, 3), values, 1000, 0)
    expected = stats.permutation_test(
        (values[3:, 0], values[:3, 0]), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf
    ).pvalue
    assert found[0] == pytest.approx(expected) == pytest.approx(0.1)


def test_permutations_with_a_covariate_agree_with_the_t_test_of_normal_noise():
    rng = np.random.default_rng(6)
    group, age = np.repeat([0.0, 1.0], 12), rng.normal(size=24)
    values = rng.normal(size=(24, 30)) + 2 * age[:, None] + 0.5 * group[:, None]
    design = Design(group, np.column_stack([np.ones(24), age]))
    found, exact = permuted_p(design, values, 4000, 0), compare(design, values).p
    assert np.abs(found - exact).max() < 0.03
    assert np.array_equal(found, permuted_p(design, values, 4000, 0))


@pytest.mark.parametrize("test", ["linear model", "permutation"])
def test_one_in_twenty_is_found_where_there_is_nothing(test):
    """Noise that is far from normal for the permutations, and a covariate that explains much."""
    rng = np.random.default_rng(7)
    group, age = np.tile([0.0, 1.0], 8), np.linspace(-1, 1, 16)
    design = Design(group, np.column_stack([np.ones(16), age]))
    noise = (
        rng.normal(size=(16, 3000)) if test == "linear model" else rng.exponential(size=(16, 3000))
    )
    values = noise + 4 * age[:, None]
    p = compare(design, values).p if test == "linear model" else permuted_p(design, values, 400, 1)
    # three standard errors of 3000 tests that share their samples' order
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.04)


@pytest.mark.slow
def test_false_discoveries_are_held_down():
    """Closed form: q is the least of p m / rank over this and larger p."""
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005, 1.0])
    q = false_discovery_rate(p)
    assert np.allclose(q[[0, 2, 3, 4, 5]], [0.025, 0.05, 0.05, 0.025, 1.0])
    assert np.isnan(q[1]) and np.isnan(false_discovery_rate(np.array([np.nan]))).all()
    rng, false = np.random.default_rng(8), []
    for _ in range(300):
        values = rng.normal(size=(12, 60))
        values[6:, :10] += 2.5
        found = false_discovery_rate(compare(two_groups(6, 6), values).p) <= 0.1
        false.append(found[10:].sum() / max(1, found.sum()))
    # 0.1 times the share of true nulls
    assert np.mean(false) == pytest.approx(0.1 * 50 / 60, abs=0.025)


def test_covariates_that_cannot_be_told_apart_are_named():
    rows = [("control", 1.0, "a"), ("control", 2.0, "a"), ("drug", 3.0, "b"), ("drug", 5.0, "b"),
            ("drug", 4.0, "b")]  # fmt: skip
    with pytest.raises(CohortError, match="covariate 'batch' coincides with the group"):
        design_of(cohort(*rows, names=("age", "batch")))
    ages = [("control", 1.0, 10.0), ("control", 2.0, 20.0), ("drug", 4.0, 40.0),
            ("drug", 1.5, 15.0), ("drug", 2.0, 20.0)]  # fmt: skip
    with pytest.raises(
        CohortError, match=("covariate 'days' is a linear combination of those before it")
    ):
        design_of(cohort(*ages, names=("weeks", "days")))
    with pytest.raises(CohortError, match="covariate 'age' has the same value"):
        design_of(cohort(*[(g, 3.0) for g in ("control", "control", "drug", "drug")],
                         names=("age",)))  # fmt: skip
    few = [("control", 1.0, "a"), ("control", 2.0, "b"), ("drug", 2.5, "b"), ("drug", 5.0, "a")]
    with pytest.raises(CohortError, match="4 samples are too few for 4 coefficients"):
        design_of(cohort(*few, names=("age", "sex")))
    with pytest.raises(CohortError, match="4 samples are too few for 3 coefficients"):
        design_of(cohort(*few, names=("age",)))
    # the smallest cohort that is compared has a value of everything
    pairs = design_of(cohort(*[row[:1] for row in few], names=()))
    found = compare(pairs, np.array([[1.0], [2.0], [4.0], [5.5]]))
    assert np.isfinite([found.p, found.g, found.low, found.high]).all() and found.df == 2


def test_categories_and_numbers_become_columns():
    rows = [("control", 1.0, "m"), ("control", 2.0, "f"), ("drug", 2.5, "m"), ("drug", 5.0, "f"),
            ("drug", 2.0, "f"), ("control", 2.0, "m")]  # fmt: skip
    design = design_of(cohort(*rows, names=("age", "sex")))
    assert design.group.tolist() == [0, 0, 1, 1, 1, 0]
    assert design.nuisance.shape == (6, 3)
    assert np.ptp(design.nuisance[:, 1]) == pytest.approx(1)
    assert design.nuisance[:, 2].tolist() == [1, 0, 1, 0, 0, 1]

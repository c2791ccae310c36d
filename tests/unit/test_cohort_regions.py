"""Regions of two groups: the difference that is there is found, in families of tests."""

from __future__ import annotations

import numpy as np
import pytest
from cohort_truth import write_cohort
from scipy import stats

from terareg.cohort.model import Design
from terareg.cohort.regions import Inference, compare_regions, side_by_side
from terareg.cohort.values import Measured, values_of
from terareg.storage.records import read_table


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    samples = write_cohort(folder)
    rows = []
    for sample, _ in samples:
        tables = folder / sample
        counts = {"cfos": read_table(tables / "cells/cfos/ccf/regions.tsv")}
        found = values_of(Measured(read_table(tables / "regions/ccf.tsv"), counts), ["signal"], 0.9)
        rows += [{"sample": sample} | row for row in found]
    values = side_by_side(rows, [name for name, _ in samples])
    group = np.array([float(group == "drug") for _, group in samples])
    return values, Design(group, np.ones((len(samples), 1)))


def row_of(rows, measure, acronym, scope="own", hemisphere="both"):
    key = (measure, acronym, scope, hemisphere)
    names = ("measure", "acronym", "scope", "hemisphere")
    (found,) = [row for row in rows if tuple(row[n] for n in names) == key]
    return found


def test_the_difference_that_is_there_is_found(cohort):
    values, design = cohort
    rows = compare_regions(values, design, Inference())
    found = row_of(rows, "volume_mm3", "A")
    assert found["q"] < 0.001 and found["percent"] == pytest.approx(25, abs=5)
    column = values.array[:, [k[2:] for k in values.keys].index(("A", "region A", "own", "both"))]
    expected = stats.ttest_ind(column[design.group == 1], column[design.group == 0])
    assert found["t"] == pytest.approx(expected.statistic)
    assert found["g_low"] < found["hedges_g"] < found["cohens_d"] < found["g_high"] * 1.1
    assert (found["n_reference"], found["n_compared"], found["df"]) == (5, 5, 8)
    assert row_of(rows, "cfos_per_mm3", "B1")["q"] < 0.001
    assert row_of(rows, "signal_mean", "A")["q"] > 0.05
    nothing = row_of(rows, "volume_mm3", "TOP")  # of which there are no voxels but its parts'
    assert nothing["p"] is None and nothing["q"] is None and nothing["n_reference"] == 0


def test_a_region_with_one_part_is_not_tested_twice(cohort):
    """Of TOP, A, B and B1 three have values of their own with all their parts: B is B1."""
    rows = compare_regions(*cohort, Inference())
    assert row_of(rows, "volume_mm3", "B", "tree")["tests"] == 3
    assert row_of(rows, "volume_mm3", "B", "tree", "left")["tests"] == 6
    assert row_of(rows, "volume_mm3", "B1")["tests"] == 2
    same = [row_of(rows, "volume_mm3", name, "tree")["q"] for name in ("B", "B1")]
    assert same[0] == same[1]
    family = [row_of(rows, "volume_mm3", name, "tree") for name in ("TOP", "A", "B")]
    p = np.array([row["p"] for row in family])
    q = stats.false_discovery_control(p)
    assert [row["q"] for row in family] == pytest.approx(q)


def test_permutations_find_the_same_and_repeat(cohort):
    settings = Inference("permutation", 500, 3)
    rows = compare_regions(*cohort, settings)
    # 252 divisions of ten samples, of which the true one and its mirror are the most extreme
    assert row_of(rows, "volume_mm3", "A")["p"] == pytest.approx(2 / 252)
    assert rows == compare_regions(*cohort, settings)


def test_a_sample_without_a_value_counts_where_it_has_one(cohort):
    values, design = cohort
    array = values.array.copy()
    array[0, values.keys.index(("volume_mm3", "2", "A", "region A", "own", "both"))] = np.nan
    rows = compare_regions(type(values)(values.keys, array), design, Inference())
    assert row_of(rows, "volume_mm3", "A")["n_reference"] == 4
    assert row_of(rows, "volume_mm3", "A", "own", "left")["n_reference"] == 5

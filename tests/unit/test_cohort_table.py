"""The table of a cohort: what it says, and one sentence for each thing that it cannot say."""

from __future__ import annotations

import re

import pytest

from terareg.cohort.table import read_cohort, sample_rows, used_cohort
from terareg.core.errors import CohortError

GOOD = "sample\tgroup\tage\tsex\na\tctrl\t9\tf\nb\tctrl\t8.5\tm\nc\tdrug\t9\tm\nd\tdrug\t10\tf\n"


def read(tmp_path, text, *arguments):
    path = tmp_path / "cohort.tsv"
    path.write_text(text)
    return read_cohort(path, *arguments)


def test_numbers_categories_and_groups(tmp_path):
    found = read(tmp_path, GOOD)
    assert found.groups == ("ctrl", "drug") and found.covariates == ("age", "sex")
    assert found.members[1].covariates == {"age": 8.5, "sex": "m"}
    assert [m.group for m in found.members] == ["ctrl", "ctrl", "drug", "drug"]
    other = read(
        tmp_path, GOOD.replace("\t", ";").replace("8.5", "8,5"), ("drug", "ctrl"), ("age",)
    )
    assert other.groups == ("drug", "ctrl") and other.members[1].covariates == {"age": 8.5}


def test_samples_of_other_groups_are_left_out(tmp_path):
    text = GOOD + "e\tsham\t9\tf\n"
    found = read(tmp_path, text, ("ctrl", "drug"))
    assert [m.sample for m in found.members] == list("abcd") and found.others == {"sham": 1}
    assert found.without([]).others == {"sham": 1} and read(tmp_path, GOOD).others == {}
    with pytest.raises(CohortError, match=r"3 groups \(ctrl, drug, sham\), but two are compared"):
        read(tmp_path, text)


def test_the_folder_of_results_is_no_covariate(tmp_path):
    found = read(tmp_path, "sample,group,results\na,x,far/a\nb,x,\nc,y,\nd,y,\n")
    assert found.covariates == ()
    assert [m.results for m in found.members] == ["far/a", "", "", ""]


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        ("sample\tage\na\t1\n", (), "the column group occurs 0 times (columns: sample, age)"),
        (GOOD.replace("sex", "age"), (), "two columns are called 'age'; rename one of them"),
        (GOOD.replace("8.5", ""), (), "line 3: age of sample 'b' is missing; fill the cell"),
        (GOOD.replace("8.5", "NA"), (), "line 3: age of sample 'b' is missing"),
        (GOOD.replace("b\tctrl", "a\tctrl"), (), "sample 'a' occurs 2 times; remove"),
        (GOOD.replace("b\tctrl", "b\tdrug"), (), "group 'ctrl' has 1 sample, too few"),
        (GOOD, (("ctrl", "sham"),), "no sample belongs to group 'sham' (groups: ctrl"),
        (GOOD, (("drug", "drug"),), "group 'drug' cannot be compared with itself"),
        (GOOD, (None, ("weight",)), "covariate 'weight' is not one of its columns (age, sex)"),
        (GOOD.replace("b\tctrl\t8.5", "b\tctrl"), (), "line 3: 3 cells instead of 4"),
        (GOOD.replace("sex", "used"), (), "a covariate cannot be called 'used'"),
        (GOOD.replace("b\tctrl", "b\tCtrl"), (),
         "3 groups (ctrl, Ctrl, drug), but two are compared; correct 'Ctrl' if it means 'ctrl', or "
         "name two of them under groups"),
        (GOOD + "e\tdurg\t9\tf\n", (), "correct 'durg' if it means 'drug', or"),
        (GOOD.replace("drug", "ctrl"), (), "1 group (ctrl), but two are compared; name two"),
        (GOOD.replace("8.5", "8.5 weeks"), (),
         "age is '8.5 weeks' of sample 'b' but '9' of sample 'a'; write a number for every sample, "
         "or a word for every one"),
        ("", (), "it is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence(tmp_path, text, arguments, sentence):
    with pytest.raises(CohortError, match=re.escape(sentence)) as error:
        read(tmp_path, text, *arguments)
    assert "cohort.tsv" in str(error.value) and "\n" not in str(error.value)


def test_failed_samples_are_named_and_left_out_only_if_asked(tmp_path):
    cohort = read(tmp_path, GOOD + "e\tdrug\t7\tm\n")
    verdicts = {m.sample: ("pass", "") for m in cohort.members} | {"d": ("fail", "it folds")}
    kept = sample_rows(cohort, verdicts, False)
    assert {row["used"] for row in kept} == {"yes"} and kept[3]["reasons"] == "it folds"
    assert used_cohort(cohort, kept) is cohort
    left = used_cohort(cohort, sample_rows(cohort, verdicts, True))
    assert [m.sample for m in left.members] == ["a", "b", "c", "e"]
    verdicts["c"] = ("fail", "")
    with pytest.raises(
        CohortError, match="the cohort without c, d: group 'drug' has 1 sample, too"
    ):
        used_cohort(cohort, sample_rows(cohort, verdicts, True))

"""A filter of cells by marks: it learns what tells cells from others, and says if nothing does."""

from __future__ import annotations

import numpy as np
import pytest

from terareg.core.errors import PointsError
from terareg.core.frames import Frame
from terareg.signal.cells import CELL
from terareg.signal.marks import LEAST_PROBABILITY, probabilities, read_marks

FRAME = Frame((100, 100, 100), (5.0, 5.0, 5.0))
REACH_UM = 8.0


def blobs(number=600, told_apart=True, seed=0):
    """Blobs on a lattice, a third of which are cells: rounder, and of middle contrast."""
    rng = np.random.default_rng(seed)
    cells = np.zeros(number, CELL)
    truth = rng.random(number) < 1 / 3
    kind = truth if told_apart else rng.random(number) < 0.5
    cells["position_um"] = 20.0 * np.argwhere(np.ones((9, 9, 9)))[:number] + rng.normal(
        0, 1, (number, 3)
    )
    # others are fainter or much brighter, so that no plane tells them apart
    other = np.where(rng.random(number) < 0.5, 4, 40)
    cells["contrast"] = np.where(kind, 13, other) * rng.lognormal(0, 0.25, number)
    cells["background"] = 500 * rng.lognormal(0, 0.2, number)
    cells["intensity"] = cells["background"] + 20 * cells["contrast"]
    cells["roundness"] = np.clip(np.where(kind, 0.6, 0.5) + rng.normal(0, 0.1, number), 0, 1)
    return cells, truth


def marked(cells, truth, number=120, seed=1):
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(cells))[:number]
    return cells["position_um"][chosen] + rng.normal(0, 1, (number, 3)), truth[chosen]


def test_blobs_that_were_not_marked_are_told_apart(caplog):
    cells, truth = blobs()
    found, facts = probabilities(cells, marked(cells, truth), REACH_UM, "marks")
    kept = found >= LEAST_PROBABILITY
    assert np.mean(kept == truth) > 0.93
    assert truth[kept].mean() > 0.9 > 0.5 > facts["unfiltered"]
    # what is said of it is about what it is worth
    assert facts["accuracy"] == pytest.approx(np.mean(kept == truth), abs=0.06)
    assert facts["recall"] == pytest.approx(kept[truth].mean(), abs=0.12)
    assert facts["marks"] == facts["cells"] + facts["others"] == 120
    assert facts["without_blob"] == 0 and not caplog.records
    again, _ = probabilities(cells, marked(cells, truth), REACH_UM, "marks")
    assert again.tobytes() == found.tobytes()


def test_features_that_say_nothing_are_a_warning(caplog):
    cells, truth = blobs(told_apart=False)
    _, facts = probabilities(cells, marked(cells, truth), REACH_UM, "marks m.csv")
    assert facts["accuracy"] < 0.75
    (record,) = caplog.records
    assert "marks m.csv: the filter is right about" in record.message


def test_marks_beside_blobs_are_counted_and_too_few_are_an_error():
    cells, truth = blobs()
    position_um, answers = marked(cells, truth)
    position_um[:50] += 10.0  # between the points of the lattice
    _, facts = probabilities(cells, (position_um, answers), REACH_UM, "marks")
    assert facts["without_blob"] == 50 and facts["cells"] + facts["others"] == 70
    few = position_um[50:65], answers[50:65]
    with pytest.raises(
        PointsError, match=r"marks m: \d of the marked cells and \d+ of the other marks"
    ):
        probabilities(cells, few, REACH_UM, "marks m")
    with pytest.raises(PointsError, match="0 of the marked cells and 0 of the other marks"):
        probabilities(cells[:0], few, REACH_UM, "marks")


def test_two_marks_of_one_blob_that_differ():
    cells, truth = blobs()
    position_um, answers = marked(cells, truth)
    twice = np.vstack([position_um, position_um[3]]), np.append(answers, ~answers[3])
    with pytest.raises(PointsError, match="mark 121 contradicts another mark on the same blob"):
        probabilities(cells, twice, REACH_UM, "marks")
    same = np.vstack([position_um, position_um[3]]), np.append(answers, answers[3])
    assert probabilities(cells, same, REACH_UM, "marks")[1]["marks"] == 121


@pytest.mark.parametrize(
    ("yes", "no"), [("yes", "no"), ("1", "0"), ("TRUE", "False"), (" y ", "n")]
)
def test_marks_are_read_with_their_answers(tmp_path, yes, no):
    path = tmp_path / "marks.csv"
    path.write_text(f"z_um,y_um,x_um,Cell\n10,20,30,{yes}\n40,50,60,{no}\n")
    position_um, is_cell = read_marks(path, FRAME)
    assert position_um.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert is_cell.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "z_um,y_um,x_um\n1,2,3\n",
            "0 of its columns are called cell or is_cell, where one",
        ),
        ("z_um,y_um,x_um,cell,is_cell\n1,2,3,1,1\n", "2 of its columns are called"),
        ("z_um,y_um,x_um,cell\n1,2,3,yes\n1,2,4,maybe\n", "mark 2 has 'maybe' in that column"),
        ("z_um,y_um,x_um,cell\n1,2,3,\n", "mark 1 has '' in that column"),
        ("z_um,y_um,cell\n1,2,1\n", "x"),
    ],
)
def test_marks_without_answers_are_one_sentence(tmp_path, text, words):
    path = tmp_path / "marks.csv"
    path.write_text(text)
    with pytest.raises(PointsError, match=words):
        read_marks(path, FRAME)

"""A filter of cells that the user trains: places that were marked as cells or as none.

Which blobs are cells is learned from the features of those that were marked, by logistic regression
on the features and their products (scikit-learn), and judged by cross-validation: by marks that it
was not trained with.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from terareg.core.errors import PointsError
from terareg.core.frames import Frame
from terareg.regions.points import read_points
from terareg.storage.foreign import short

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

logger = logging.getLogger(__name__)

#: blobs below it are left out
LEAST_PROBABILITY = 0.5
_COLUMNS = ("cell", "is_cell")
_YES, _NO = ("1", "yes", "y", "true"), ("0", "no", "n", "false")
_LEAST = 10  # marks of each kind
_FOLDS = 5
_SEED = 0


def read_marks(path: str | os.PathLike[str], frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Read places that were marked.

    Parameters
    ----------
    path : path
        A table of points (:mod:`terareg.regions.point_files`) with a column ``cell`` or ``is_cell``
        that holds yes or no (1 or 0, true or false).
    frame : Frame
        Of the fused volume, level 0.

    Returns
    -------
    position_um : numpy.ndarray of float64, shape (n, 3)
        (z, y, x).
    is_cell : numpy.ndarray of bool, shape (n,)

    Raises
    ------
    PointsError
        If the file cannot be read, or a mark is neither yes nor no.
    """
    points = read_points(path, frame)
    columns = [values for name, values in points.further.items() if name.lower() in _COLUMNS]
    if len(columns) != 1:
        raise PointsError(
            f"marks {path}: {len(columns)} of its columns are called cell or is_cell, where one "
            "is needed; give one, with yes or no for every mark"
        )
    answers = [value.strip().lower() for value in columns[0]]
    for number, (given, answer) in enumerate(zip(columns[0], answers), 1):
        if answer not in _YES + _NO:
            raise PointsError(
                f"marks {path}: mark {number} has {short(given)} in that column; write yes or no"
            )
    return points.position_um, np.array([answer in _YES for answer in answers])


def probabilities(
    cells: np.ndarray,
    marks: tuple[np.ndarray, np.ndarray],
    reach_um: float,
    name: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Probability of every blob to be a cell.

    Parameters
    ----------
    cells : numpy.ndarray of :data:`terareg.signal.cells.CELL`
    marks : tuple of numpy.ndarray
        See :func:`read_marks`.
    reach_um : float
        A mark is of the nearest blob that is at most so far away.
    name : str
        Of the marks, for messages.

    Returns
    -------
    probability : numpy.ndarray of float32, shape (n,)
    facts : dict
        ``marks``, how many are ``cells`` and ``others``, ``without_blob``; of cross-validation on
        marks that lie on a blob ``accuracy``, ``precision`` and ``recall``; ``unfiltered``, the
        precision without a filter.

    Raises
    ------
    PointsError
        If fewer than 10 cells or 10 others lie on a blob, or two marks of one blob differ.
    """
    position_um, is_cell = marks
    found = np.full(len(position_um), -1)
    if len(cells):
        far, nearest = cKDTree(cells["position_um"]).query(position_um)
        found = np.where(far <= reach_um, nearest, -1)
    answers: dict[int, bool] = {}
    for number, (blob, answer) in enumerate(zip(found.tolist(), is_cell.tolist()), 1):
        if blob >= 0 and answers.setdefault(blob, answer) != answer:
            raise PointsError(
                f"{name}: mark {number} contradicts another mark on the same blob; remove one of "
                "the two"
            )
    chosen = np.array(sorted(answers), int)
    truth = np.array([answers[blob] for blob in chosen.tolist()], bool)
    cell_count, other_count = int(truth.sum()), int((~truth).sum())
    if min(cell_count, other_count) < _LEAST:
        raise PointsError(
            f"{name}: {cell_count} of the marked cells and {other_count} of the other marks are "
            f"on a blob that was found, but {_LEAST} of each are needed; mark more, or lower "
            "threshold"
        )
    features = _features(cells)
    held_back = _held_back(features[chosen], truth)
    model = _model().fit(features[chosen], truth)
    facts = {
        "marks": len(is_cell),
        "cells": cell_count,
        "others": other_count,
        "without_blob": int((found < 0).sum()),
        "accuracy": float(np.mean(held_back == truth)),
        "precision": float(truth[held_back].mean()) if held_back.any() else 0.0,
        "recall": float(held_back[truth].mean()),
        "unfiltered": float(truth.mean()),
    }
    if facts["accuracy"] <= max(facts["unfiltered"], 1 - facts["unfiltered"]):
        logger.warning(
            "%s: the filter is right about %.0f %% of the marks held back from its training, no "
            "better than one answer for all blobs; check the marks, or do without them",
            name, 100 * facts["accuracy"],
        )  # fmt: skip
    return model.predict_proba(features)[:, 1].astype(np.float32), facts


def marks_name(path: str | os.PathLike[str]) -> str:
    """What messages call marks."""
    return f"marks {Path(path)}"


def _features(cells: np.ndarray) -> np.ndarray:
    """What is learned from, shape (n, 4): ratios count, not differences."""
    positive = [np.log(np.maximum(cells[n], 1e-3)) for n in ("contrast", "intensity", "background")]
    return np.column_stack([*positive, cells["roundness"]]).astype(float)


def _model() -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    products = PolynomialFeatures(2, include_bias=False)
    return make_pipeline(
        StandardScaler(), products, StandardScaler(), LogisticRegression(max_iter=1000)
    )


def _held_back(features: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What the filter says of marks that it was not trained with."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    return np.asarray(cross_val_predict(_model(), features, truth, cv=folds), bool)

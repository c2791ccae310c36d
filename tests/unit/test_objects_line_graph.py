"""Lines as graphs: neighbours, walks from ends, smoothing and lengths."""

import numpy as np
import pytest

from terareg.objects.line_graph import beside, smoothed, step_lengths, walk

# a line of five vertices that ends at a branching of two more
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [3, 5]])


def test_neighbours_and_walks():
    degree, near = beside(EDGES, 7)
    assert degree.tolist() == [1, 2, 2, 3, 1, 1, 0]
    assert near[1].tolist() == [0, 2] and near[6].tolist() == [-1, -1]
    path = walk(degree, near, np.array([0, 4]), 5)
    assert path[:, 0].tolist() == [0, 1, 2, 3, 3, 3] and path[:, 1].tolist() == [4, 3, 3, 3, 3, 3]


def test_a_staircase_becomes_as_long_as_its_line():
    x = np.arange(60)
    places = np.stack([np.zeros(60), x // 3, x], 1).astype(float)
    edges = np.stack([x[:-1], x[1:]], 1)
    spacing_um = np.array([1.0, 3.0, 1.0])
    true_um = np.linalg.norm((places[-1] - places[0]) * spacing_um)
    smooth = smoothed(places, edges)
    assert step_lengths(places, edges, spacing_um).sum() > 1.15 * true_um
    assert step_lengths(smooth, edges, spacing_um).sum() == pytest.approx(true_um, rel=0.02)
    assert np.array_equal(smooth[[0, -1]], places[[0, -1]]), "ends stay"

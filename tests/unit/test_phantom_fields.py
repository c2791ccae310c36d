"""Smooth random fields: on grids as at points, of known mean and variance."""

import numpy as np
import pytest

from terareg.phantom.fields import SplineField


# ------------------------------------------------------------------ fields
@pytest.mark.parametrize("periodic", [False, True])
def test_field_on_a_grid_equals_the_field_at_its_points(periodic):
    rng = np.random.default_rng(0)
    nodes = rng.standard_normal((2, 7, 8, 9)).astype(np.float32)
    field = SplineField(nodes, (2.0, 3.0, 1.5), (-2.0, -3.0, -1.5), periodic)
    axes = [np.linspace(-3, 25, 6), np.linspace(0, 30, 5), np.linspace(1, 20, 7)]
    grid = field.grid(axes)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    assert np.allclose(grid.reshape(2, -1), field.points(points), atol=1e-5)


def test_random_field_has_mean_zero_and_variance_one():
    field = SplineField.random(np.random.default_rng(1), (60, 60, 60), (2.0, 2.0, 2.0))
    values = field.grid([np.arange(60.0)] * 3)
    assert abs(values.mean()) < 0.05
    assert values.var() == pytest.approx(1, abs=0.06)


def test_random_field_bounds_its_memory():
    field = SplineField.random(np.random.default_rng(1), (1e6, 10, 10), (1.0, 1.0, 1.0))
    assert field.nodes.shape == (1, 256, 15, 15)
    assert field.periodic

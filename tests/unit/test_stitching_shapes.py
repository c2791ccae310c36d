"""Shapes of tiles in words and as matrices."""

import numpy as np
import pytest

from terareg.stitching.shapes import matrix_of, shape_warnings, shape_words

SIZE = (101, 201, 201)


def test_words_name_degrees_per_cent_and_pixels():
    angle = np.deg2rad(0.8)
    turned = np.zeros((3, 3))
    turned[1:, 1:] = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned[1:, 1:] = (turned[1:, 1:] * 0.99 - np.eye(2)) * 200
    assert shape_words(turned, SIZE) == "0.80 degrees clockwise, 1.01 % larger"
    turned[1, 0], turned[0, 2] = 4, -3
    words = shape_words(turned, SIZE)
    assert words.endswith("larger, y +4.0 px over the stack, z -3.0 px over its width")
    stretched = np.diag([0.0, 4.0, 0.0])
    assert shape_words(stretched, SIZE).endswith("0.99 % smaller, stretched by 1.00 %")


def test_only_what_matters_is_told_and_the_worst_first():
    small, lean, large = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    small[1, 1], lean[1, 0], large[1, 2] = 0.5, 9, 7
    assert shape_warnings({"A": small, "B": lean}, 9, SIZE) == []
    shapes = {"A": small, "C": 0.5 * large, "D": large}
    (text,) = shape_warnings(shapes, 9, SIZE)
    assert text.startswith("2 of 9 tiles are rotated, scaled or sheared: D (1.00 degrees clockwise")
    assert ", C (0.50 degrees" in text


def test_matrix_leads_from_places_to_indices():
    rng = np.random.default_rng(1)
    shape = rng.uniform(-5, 5, (3, 3))
    index = rng.uniform(-50, 50, (20, 3))
    place = index + (index / (np.array(SIZE) - 1)) @ shape.T
    assert place @ matrix_of(shape, SIZE).T == pytest.approx(index)
    assert np.array_equal(matrix_of(np.zeros((3, 3)), (1, 5, 5)), np.eye(3))

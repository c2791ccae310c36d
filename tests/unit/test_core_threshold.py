"""Background and tissue are told apart, whatever a few bright parts and the noise do."""

from __future__ import annotations

import numpy as np
import pytest

from terareg.core.threshold import tissue_threshold, white_level, zeros_are_empty


def contrast(tissue=0.2, bright=0.0, factor=1.0, noise=0.02, size=100_000):
    """Contrasts of background, of tissue of brightness 1, and of a brighter part of it."""
    rng = np.random.default_rng(0)
    values = np.zeros(size)
    values[: int(tissue * size)] = rng.uniform(0.7, 1.3, int(tissue * size))
    values[: int(bright * size)] *= factor
    return np.abs(values + noise * rng.standard_normal(size))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize(
    "bright, factor", [(0, 1), (0.05, 3), (0.05, 20), (0.05, 40), (0.002, 300)]
)
def test_the_threshold_lies_between_background_and_dim_tissue(bright, factor, noise):
    values = contrast(bright=bright, factor=factor, noise=noise)
    wrong = (values > tissue_threshold(values)) != (np.arange(values.size) < 0.2 * values.size)
    assert wrong.mean() < 0.001


@pytest.mark.parametrize("tissue", [0.03, 0.1, 0.3])
def test_noise_around_a_little_tissue_is_no_tissue(tissue):
    values = contrast(tissue=tissue, noise=0.1)
    found = values > tissue_threshold(values)
    assert tissue * 0.95 < found.mean() < tissue * 1.2


def test_shape_does_not_matter_and_images_without_contrast_have_a_threshold():
    values = contrast(size=8000)
    assert tissue_threshold(values.reshape(20, 20, 20)) == tissue_threshold(values)
    for constant in (0.0, 3.0):
        assert not (np.full(5, constant) > tissue_threshold(np.full(5, constant)) + 1e-9).any()


def test_white_leaves_tissue_visible_beside_bright_parts_and_else_what_it_is():
    ordinary = contrast()
    assert white_level(ordinary, 0.0, 1.3) == 1.3
    stained = contrast(bright=0.05, factor=20.0)
    assert 2 < white_level(stained, 0.0, 26.0) < 4
    quantiles = np.percentile(stained + 100, np.linspace(0, 100, 4001))
    assert 102 < white_level(quantiles, 100.0, 126.0) < 104
    assert white_level(np.full(9, 5.0), 5.0, 6.0) == 6.0


@pytest.mark.parametrize(
    ("lowest", "low", "empty"),
    [
        (184, 198, True),  # a camera's offset
        (1, 1, False),  # counts of a background that was subtracted
        (1, 13, False),
        (20, 80, False),  # dim tissue in a mask
        (1000, 1000, False),  # a mask alone
        (-30, -5, False),
    ],
)
def test_zeros_far_below_all_else_are_places_without_an_image(lowest, low, empty):
    assert zeros_are_empty(lowest, low) == empty

"""Seams measured where their tiles were placed: right ones, wrong ones, and noise."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from terareg.stitching.seam_fits import SeamFit, correlation, doubtful, seams_to_json

RNG = np.random.default_rng(7)


def texture(shape=(60, 200), noise=0.0, seed=1):
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
    image = 1000 * np.exp(image / image.std()) + 100
    return image + noise * RNG.standard_normal(shape)


def test_the_same_place_correlates_and_another_does_not():
    image = texture()
    shifted = np.roll(image, (0, 14), (0, 1))
    assert correlation([(image, image)]) == pytest.approx(1)
    assert abs(correlation([(image, shifted)])) < 0.15
    brighter = 1.6 * (image - 100) + 100
    assert correlation([(image, brighter)]) > 0.95, "a tile may be brighter"
    noisy = [(texture(noise=3000), texture(noise=3000)) for _ in range(3)]
    assert 0.3 < correlation(noisy) < 0.9


def test_what_shows_nothing_says_nothing():
    dark = [100 + RNG.standard_normal((60, 200)) for _ in range(2)]
    thin = texture((3, 200))
    assert correlation([tuple(dark), None, (thin, thin)]) is None
    assert correlation([tuple(dark), (texture(), texture())]) == pytest.approx(1)


def test_a_seam_is_off_if_it_would_fit_twice_as_well_elsewhere():
    fits = [
        SeamFit("A", "B", at_best=0.9, as_placed=0.95),
        SeamFit("B", "C", at_best=0.9, as_placed=0.2),
        SeamFit("C", "D", at_best=0.9, as_placed=None),
        SeamFit("D", "E", at_best=0.1, as_placed=0.0),  # noise has such a peak
        SeamFit("E", "F", at_best=None, as_placed=None),
    ]
    told = seams_to_json(fits)
    assert [fit["off"] for fit in told["seams"]] == [False, True, True, False, False]
    assert told["seams"][1] == {
        "a": "B", "b": "C", "at_best": 0.9, "as_placed": 0.2, "off": True,
    }  # fmt: skip
    (text,) = told["warnings"]
    assert text.endswith(
        "fit: 2 (C-D (0.90 at best, nothing as placed), B-C (0.90 at best, 0.20 as placed))"
    )
    assert seams_to_json(fits[:1])["warnings"] == []


def test_only_seams_that_their_peak_leaves_in_doubt_are_looked_at():
    shares = (1.0, 0.51, 0.49, 0.0, None)
    links = [SimpleNamespace(seam_share=share) for share in shares]
    assert [k.seam_share for k in doubtful(links)] == [0.49, 0.0]

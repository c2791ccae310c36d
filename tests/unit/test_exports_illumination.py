"""Light of a plate's sites: found from all of them, taken out, and not where it cannot be told."""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.exports.illumination import EvenedSites, Illumination, measure_illumination
from terareg.volumes.images import OpenedImage


def light(height: int, width: int) -> np.ndarray:
    """Bright in the middle, a third of that in the corners."""
    y, x = (np.linspace(-1, 1, n) for n in (height, width))
    return 1 - (y[:, None] ** 2 + x**2) / 3


def plate(images: np.ndarray, across: int, step: tuple[int, int]):
    """Sites (n, z, y, x) side by side, ``step`` apart; those that come first lie on top."""
    count, depth, height, width = images.shape
    corners = [(n // across * step[0], n % across * step[1]) for n in range(count)]
    sites = [(y, x, y + height, x + width) for y, x in corners]
    shape = (depth, max(s[2] for s in sites) + 3, max(s[3] for s in sites) + 2)
    volume = np.zeros(shape, images.dtype)
    for (top, left, bottom, right), image in reversed(list(zip(sites, images))):
        volume[:, top:bottom, left:right] = image
    return OpenedImage("p", [Frame(shape, (2.0, 1.0, 1.0), orientation="SAR")], [volume]), sites


def cells(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Grey values of things that lie elsewhere in every image."""
    noise = np.random.default_rng(seed).standard_normal((count, *shape))
    return 10 ** (2.8 + 0.5 * ndimage.gaussian_filter(noise, (0, 0, 2, 2)) / 0.14 * 0.3)


def test_a_known_light_is_taken_out():
    true = cells(240, (1, 64, 80))
    seen = np.round(true * light(64, 80)).astype(np.uint16)
    source, sites = plate(seen, 16, (64, 80))
    found = measure_illumination(source, sites, workers=2)
    evened = EvenedSites(source, sites, found).read(0)
    assert found.images == 240 and found.after < found.before / 5

    # the mean of what all sites show, in the two halves of a site that have most and least light
    def unevenness(values):
        means = np.array([values[0, a:c, b:d] for a, b, c, d in sites]).mean(axis=0)
        smooth = ndimage.gaussian_filter(means, 5)
        return smooth.std() / smooth.mean()

    assert unevenness(evened) < unevenness(source.read(0)) / 10
    # and images are those that were there, up to one factor
    ratio = np.array([evened[0, a:c, b:d] for a, b, c, d in sites]) / true[:, 0]
    assert np.percentile(ratio, 95) / np.percentile(ratio, 5) < 1.25
    plain = seen[:, 0] / true[:, 0]
    assert np.percentile(plain, 95) / np.percentile(plain, 5) > 1.7


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(8, 14), size=st.tuples(*[st.integers(6, 40)] * 2), depth=st.integers(1, 3),
    overlap=st.tuples(*[st.integers(0, 5)] * 2), dtype=st.sampled_from(["uint8", "uint16"]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_definition_for_any_sites_and_boxes(count, size, depth, overlap, dtype, seed):
    random = np.random.default_rng(seed)
    shading = 2 + 20 * light(*size)
    images = random.poisson(shading, (count, depth, *size)).astype(dtype)
    source, sites = plate(images, 3, (size[0] - overlap[0], size[1] - overlap[1]))
    whole = source.read(0)
    # plain: pixel by pixel, of what the first of the sites has
    owner = np.full(whole.shape[1:], -1)
    for number in reversed(range(count)):
        top, left, bottom, right = sites[number]
        owner[top:bottom, left:right] = number
    logs = np.full((count, depth, *size), np.nan)
    for number, (top, left, bottom, right) in enumerate(sites):
        own = owner[top:bottom, left:right] == number
        part = np.log10(np.maximum(whole[:, top:bottom, left:right].astype(float), 1))
        logs[number] = np.where(own, part, np.nan)
    smooth = [ndimage.gaussian_filter(f(logs, axis=(0, 1)), 5, mode="nearest")
              for f in (np.nanmean, np.nanstd)]  # fmt: skip
    mean, spread = smooth
    wanted = whole.copy()
    for y, x in np.argwhere(owner >= 0):
        top, left = sites[owner[y, x]][:2]
        at = y - top, x - left
        for z in range(depth):
            if whole[z, y, x]:
                log = (np.log10(whole[z, y, x]) - mean[at]) / spread[at] * spread.mean()
                value = 10 ** (log + mean.mean())
                wanted[z, y, x] = np.clip(np.rint(value), 0, np.iinfo(dtype).max)
    try:
        found = measure_illumination(source, sites)
    except VolumeError as error:
        assert "would become less even" in str(error)
        return
    assert found.images == count * depth
    evened = EvenedSites(source, sites, found)
    # float32 of the statistics may turn a half the other way
    assert np.abs(evened.read(0).astype(int) - wanted).max() <= 1
    start = [random.integers(0, n) for n in whole.shape]
    stop = [random.integers(a, n) + 1 for a, n in zip(start, whole.shape)]
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    np.testing.assert_array_equal(evened.read(0, start, stop), evened.read(0)[box])


def test_threads_and_rows_at_once_change_nothing(monkeypatch):
    images = np.round(cells(12, (2, 50, 30)) * light(50, 30)).astype(np.uint16)
    source, sites = plate(images, 4, (50, 30))
    one = measure_illumination(source, sites)
    monkeypatch.setattr("terareg.exports.illumination._ROWS", 7)
    other = measure_illumination(source, sites, workers=3)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.spread, other.spread)
    assert one.facts() == other.facts()


def test_what_half_of_the_sites_says_must_hold_for_the_other(caplog):
    # one image stands at the same place in half of the sites, another one in the others
    halves = cells(2, (1, 40, 40), seed=3)
    images = np.round(np.tile(halves, (5, 1, 1, 1))).astype(np.uint16)
    source, sites = plate(images, 5, (40, 40))
    with pytest.raises(VolumeError, match=r"10 sites of p do not share .* set illumination: none"):
        measure_illumination(source, sites)
    # what shares its light is taken; where most of what is uneven is what they show, that is told
    for strength, told in ((0.6, True), (1, False)):
        shading = light(40, 40) ** strength
        images = np.round(cells(16, (1, 40, 40)) * shading).astype(np.uint16)
        source, sites = plate(images, 4, (40, 40))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            measure_illumination(source, sites)
        assert ("16 images tell little of the illumination" in caplog.text) == told


def test_an_empty_channel_stays_as_it_is():
    source, sites = plate(np.full((9, 1, 20, 20), 7, np.uint8), 3, (20, 20))
    found = measure_illumination(source, sites)
    np.testing.assert_array_equal(EvenedSites(source, sites, found).read(0), source.read(0))
    assert found.before == 0 and found.after == 0


def test_zero_stays_zero_and_bright_pixels_do_not_wrap():
    mean = np.array([[1.0, 3.0]], np.float32)
    found = Illumination(mean, np.ones_like(mean), 100, 1.0, 0.1)
    source, sites = plate(np.array([[[[65000, 0]]]], np.uint16), 1, (1, 2))
    assert EvenedSites(source, sites, found).read(0)[0, 0, :2].tolist() == [65535, 0]


def test_what_cannot_be_told_is_one_sentence():
    images = np.ones((9, 1, 8, 8), np.uint16)
    source, sites = plate(images, 3, (8, 8))
    with pytest.raises(VolumeError, match="p has 7 sites, too few to tell the light"):
        measure_illumination(source, sites[:7])
    with pytest.raises(VolumeError, match=r"sites of different sizes \(\(8, 7\) and \(8, 8\)"):
        measure_illumination(source, [*sites[:8], (16, 16, 24, 23)])
    floats, sites = plate(images.astype(np.float32), 3, (8, 8))
    with pytest.raises(VolumeError, match="of type float32; log_statistics are of 8 or 16 bits"):
        measure_illumination(floats, sites)


def test_memory_follows_a_site_and_not_the_plate():
    peaks = []
    for across in (3, 12):
        images = np.round(cells(3 * across, (1, 256, 256))).astype(np.uint16)
        source, sites = plate(images * 0 + images[:1], across, (256, 256))
        tracemalloc.start()
        measure_illumination(source, sites)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] and peaks[0] < 110 * 256 * 256 + 2e7

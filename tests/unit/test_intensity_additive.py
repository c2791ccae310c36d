"""Additive image: found from tiles without tissue where the overlaps agree better with it."""

from functools import cache

import numpy as np
import pytest
from intensity_truth import Scene, TruthSource, profile_error

from terareg.acquisition.tile_correction import Flatfield, load_flatfield, smooth_image
from terareg.core.errors import IntensityError
from terareg.intensity.additive import find_floor
from terareg.intensity.blocks import BlockData
from terareg.intensity.flatfield import estimate_flatfield, save_flatfield
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.sums import merge_sums, sum_tiles

MOSAIC = {"rows": 4, "columns": 5, "empty": (), "overlap": 0.2, "tissue": 1500.0}


@cache
def scene(**changes):
    source = TruthSource(Scene(**{**MOSAIC, "seed": 1, **changes}))
    return source, sum_tiles(source, source.names, None, source.origins)


def estimate(settings=None, **changes):
    source, sums = scene(**changes)
    return source, *estimate_flatfield([sums], settings)


def floor_of(**changes):
    return find_floor(BlockData.of(merge_sums([scene(**changes)[1]])))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("medium", [0.0, 30.0])
def test_stray_light_becomes_an_additive_image(seed, medium):
    source, flatfield, info = estimate(seed=seed, glow=200.0, medium=medium)
    assert info["background_from"] == "tiles without tissue"
    assert info["background_model"].startswith("an additive image")
    assert profile_error(flatfield.profile, source.profile) < 3
    assert info["seam_percent"]["after"] < 1 < info["seam_percent"]["before"]
    # a multiple of the profile is the medium's light, which nothing tells from the rest
    rest = flatfield.dark() - source.additive
    design = np.stack([np.ones(rest.size), source.profile.ravel()], axis=1)
    left = rest.ravel() - design @ np.linalg.lstsq(design, rest.ravel(), rcond=None)[0]
    assert np.sqrt(np.mean(left**2)) < 4 < 30 < source.additive.std()


@pytest.mark.slow
def test_a_constant_leaves_steps_where_there_is_stray_light():
    _, _, with_image = estimate(glow=200.0)
    _, flatfield, constant = estimate(FlatfieldSettings(background=150.0), glow=200.0)
    assert flatfield.additive is None and flatfield.background == 150
    assert constant["background_model"] == "the given constant"
    assert constant["seam_percent"]["after"] > 2 * with_image["seam_percent"]["after"]
    assert constant["step_percent"]["additive image"] > 1


@pytest.mark.parametrize("medium", [0.0, 30.0])
def test_without_stray_light_the_offset_stays_a_number(medium):
    source, flatfield, info = estimate(medium=medium)
    assert flatfield.additive is None and "additive" not in info
    assert flatfield.background == pytest.approx(source.scene.dark, abs=2)
    assert "a constant, which explains the tiles without tissue" in info["background_model"]


@pytest.mark.slow
def test_noise_of_empty_places_is_not_cut_off():
    source, flatfield, _ = estimate(glow=200.0, medium=0.0)
    corner = source.data[source.names[0]]
    clipped = sum((flatfield.correct(plane)[1].low for plane in corner), 0)
    assert clipped < 0.01 * corner.size


def test_level_without_tissue_is_that_of_the_empty_tiles():
    source, _ = scene(glow=200.0, medium=0.0)
    floor = floor_of(glow=200.0, medium=0.0)
    edges = np.linspace(0, 80, floor.level.shape[0] + 1).astype(int)
    truth = np.add.reduceat(np.add.reduceat(source.additive, edges[:-1], 0), edges[:-1], 1)
    truth /= np.outer(np.diff(edges), np.diff(edges))
    assert np.sqrt(np.mean((floor.level - truth) ** 2)) < 2
    assert floor.noise == pytest.approx(3, abs=1)
    assert 0.1 < floor.share < 0.9 and floor.tiles >= 3


def test_tissue_everywhere_has_no_level():
    source, sums = scene()
    full = {
        **sums,
        "mean": sums["mean"] + 400 * np.arange(20, dtype=np.float32)[:, None, None, None],
    }
    assert find_floor(BlockData.of(merge_sums([full]))) is None
    few = sum_tiles(source, source.names[:5], None, source.origins)
    assert find_floor(BlockData.of(merge_sums([few]))) is None
    _, info = estimate_flatfield([few])
    assert "too few tiles without tissue" in info["background_model"]


@pytest.mark.slow
def test_an_additive_image_above_the_signal_is_said():
    _, flatfield, info = estimate(glow=4000.0)
    assert flatfield.additive is not None
    assert any("the additive image varies by" in text for text in info["warnings"])


@pytest.mark.slow
def test_it_is_stored_on_its_blocks_and_comes_back(tmp_path):
    _, flatfield, info = estimate(glow=200.0, drift=0.0)
    assert info["tile_gains"] is False and not info["warnings"]
    files = tmp_path / "f.tif", tmp_path / "f.json"
    save_flatfield(*files, flatfield, info)
    loaded = load_flatfield(*files)
    assert np.array_equal(loaded.additive, flatfield.additive)
    assert loaded.state == flatfield.state
    assert loaded.state != Flatfield(flatfield.profile, flatfield.background).state
    assert abs(float(flatfield.additive.mean())) < 0.02 * np.ptp(flatfield.additive)


@pytest.mark.slow
def test_parts_of_a_plane_are_corrected_as_in_the_whole():
    source, flatfield, _ = estimate(glow=200.0)
    plane = source.data[source.names[7]][3]
    whole, _ = flatfield.correct(plane)
    wanted = (plane - flatfield.background - flatfield.additive) / flatfield.profile
    assert np.abs(whole - np.clip(wanted, 0, None)).max() < 0.51
    y, x = slice(11, 47), slice(30, 71)
    assert np.array_equal(flatfield.correct(plane[y, x], y, x)[0], whole[y, x])


def test_smooth_image_goes_through_its_values():
    places = np.array([1.0, 4.0, 9.0, 12.0])
    values = np.add.outer(places**2, 3 * places)
    image = smooth_image(values, places, places, (14, 14))
    at = places.astype(int)
    np.testing.assert_allclose(image[np.ix_(at, at)], values, rtol=1e-6)
    line = smooth_image([[5.0, 9.0]], [3.0], [0.0, 4.0], (2, 5))
    np.testing.assert_allclose(line, [[5, 6, 7, 8, 9]] * 2)


def test_an_image_that_does_not_fit():
    with pytest.raises(IntensityError, match=r"additive image of shape \(3, 4\) does not fit"):
        Flatfield(np.ones((4, 4)), 0.0, additive=np.zeros((3, 4)))

"""Brightness that falls from tile to tile is told from a profile that slopes."""

import re

import numpy as np
import pytest
from intensity_truth import Scene, TruthSource, profile_error

from terareg.intensity.blocks import BlockData
from terareg.intensity.flatfield import estimate_flatfield
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.shading import fit_shading
from terareg.intensity.slope import Slope, find_slope, with_slope
from terareg.intensity.sums import merge_sums, sum_tiles

GRID = {"rows": 5, "columns": 6, "empty": (), "drift": 0.0, "pixels": 96}


def estimate(settings=None, **changes):
    source = TruthSource(Scene(**GRID | changes))
    sums = sum_tiles(source, source.names, settings, source.origins)
    flatfield, info = estimate_flatfield([sums], settings)
    return source, flatfield, info


@pytest.mark.parametrize("seed", [0, 1])
def test_tiles_that_get_darker_row_by_row_do_not_slope_the_profile(seed):
    source, flatfield, info = estimate(seed=seed, bleaching=0.03)
    assert profile_error(flatfield.profile, source.profile) < 2
    assert info["tile_gains"] in (True, "depth") and info["seam_percent"]["after"] < 1
    (text,) = [text for text in info["warnings"] if "bleaching" in text]
    assert "% along y more" in text and "from row to row" in text
    # found relative to each other, over all tiles
    found = np.log([info["gains"][name] for name in source.names])
    true = np.log([source.gains[t.row, t.column] for t in source.acquisition.tiles])
    rows = np.array([tile.row for tile in source.acquisition.tiles])
    falls = [np.polyfit(rows, values, 1)[0] for values in (found, true)]
    assert falls[0] == pytest.approx(falls[1], rel=0.25)


def test_without_gains_the_slope_stays_in_the_profile_and_is_told():
    settings = FlatfieldSettings(tile_gains=False)
    source, flatfield, info = estimate(settings, bleaching=0.03)
    assert profile_error(flatfield.profile, source.profile) > 4
    assert info["seam_percent"]["after"] < 1, "seams alone say nothing"
    assert any("it is left in the profile" in text for text in info["warnings"])


@pytest.mark.parametrize("changes", [{}, {"drift": 0.1}, {"stripes": 0.05}])
def test_tiles_that_do_not_fade_are_not_said_to(changes):
    _, _, info = estimate(seed=2, **changes)
    assert not any("bleaching" in text for text in info["warnings"])


def test_light_that_is_absorbed_along_its_way_is_not_taken_for_fading():
    """All tissue gets darker along x, within the tiles as well, and the overlaps agree."""
    source = TruthSource(Scene(**GRID | {"seed": 1}))
    for name in source.names:
        _, _, x = source.origins[name]
        left = 0.75 ** ((x + np.arange(GRID["pixels"])) / GRID["pixels"])
        signal = (source.data[name] - source.scene.dark) * left
        source.data[name] = np.rint(np.clip(source.scene.dark + signal, 0, None)).astype(np.uint16)
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names, None, source.origins)])
    assert profile_error(flatfield.profile, source.profile) < 2
    assert not any("bleaching" in text for text in info["warnings"])


def test_how_much_fading_would_not_be_told_from_shading_is_said():
    """What is told is more than that; few tiles tell nothing, and one row of them cannot fade."""
    _, _, info = estimate(seed=0, bleaching=0.03)
    told = next(text for text in info["warnings"] if "bleaching" in text)
    per_row = abs(float(re.search(r"\(([-+][\d.]+) % from row", told)[1]))
    assert 0 < info["hidden_fading"]["rows"] < per_row
    few = TruthSource(Scene(rows=1, columns=4, empty=(), pixels=64, planes=4))
    _, info = estimate_flatfield([sum_tiles(few, few.names, None, few.origins)])
    assert info["hidden_fading"] == {"columns": "any"}


def test_a_slope_and_the_gains_that_make_up_for_it_change_no_overlap():
    source = TruthSource(Scene(rows=3, columns=3, empty=(), pixels=64, planes=4, jitter=3))
    stats = merge_sums([sum_tiles(source, source.names, None, source.origins)])
    shading = fit_shading(BlockData.of(stats), stats, 4)
    problem, fit = shading.problem, shading.fit
    assert not find_slope(problem, fit).found and shading.slope is None
    positions = stats["places"][:, 3:].astype(float)
    changed, per_pixel = with_slope(problem, fit, Slope((0.3, -0.2), (0.1, 0.1)), positions)
    assert per_pixel == pytest.approx((0.3 / 64, -0.2 / 64))
    for index in range(len(problem.data.overlaps)):
        before, after = (problem.ratio(f, index) for f in (fit, changed))
        assert np.abs(before - after).max() < 1e-9
    profiles = [problem.basis.pixels(f.coefficients) for f in (fit, changed)]
    rise = np.diff(profiles, axis=0)[0]
    assert rise[-1, 0] - rise[0, 0] == pytest.approx(0.3 * 63 / 64)
    assert rise[0, -1] - rise[0, 0] == pytest.approx(-0.2 * 63 / 64)

"""The shift of a channel is found where there is one, and none where there is nothing to find."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from terareg.core.errors import StitchingError
from terareg.stitching import channel_shift
from terareg.stitching.channel_patches import find_places
from terareg.stitching.channel_shift import (
    ChannelShift,
    given_shift,
    load_shift,
    measure_channel_shift,
    save_shift,
    tell_differing_tiles,
)
from terareg.stitching.trends import robust_fit

SHAPE = (28, 108, 108)
NAMES = ("ch0", "ch1")
SEARCH_UM = (6.0, 12.0, 12.0)
SHIFT = (1.5, -2.0, 3.0)


class Tiles:
    """Tiles of one channel, as arrays in memory."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.acquisition = SimpleNamespace(
            tiles=[SimpleNamespace(name=name) for name in arrays],
            tile_shape=next(iter(arrays.values())).shape,
            spacing_um=(2.0, 2.0, 2.0),
        )

    def missing_planes(self, tile):
        return ()

    def read(self, tile, z0, z1, y=slice(None), x=slice(None), out=None):
        return self.arrays[tile][z0:z1, y, x]


@cache
def structure(seed):
    """Spline of a periodic texture of about 60 counts."""
    noise = np.random.default_rng(seed).standard_normal((40, 300, 300), dtype=np.float32)
    texture = sum(f / f.std() for f in (ndimage.gaussian_filter(noise, s, mode="wrap")
                                        for s in (1.5, 6)))  # fmt: skip
    return ndimage.spline_filter(40 * texture, order=3, mode="grid-wrap")


def seen(seed, origin, matrix=None):
    """A tile that shows the texture at origin + matrix (index - middle) + middle."""
    matrix = np.eye(3) if matrix is None else matrix
    middle = (np.array(SHAPE) - 1) / 2
    offset = np.asarray(origin, float) + middle - matrix @ middle
    return ndimage.affine_transform(
        structure(seed), matrix, offset, SHAPE, order=3, prefilter=False, mode="grid-wrap"
    )


def channels(shift, matrix=None, common=1.0, own=0.5, tiles=2, fixed=0.0):
    """Two channels of some tiles: the second shows part of the first, shifted, and its own."""
    rng = np.random.default_rng(3)
    dust = fixed * ndimage.gaussian_filter(rng.standard_normal(SHAPE[1:]), 1.0)
    first, second = {}, {}
    for k in range(tiles):
        origin = np.array([0, 10.0, 60.0 * k])
        moved = origin + shift
        a = 300 + seen(1, origin)
        b = 300 + common * seen(1, moved, matrix) + own * seen(2, moved, matrix)
        for target, image in ((first, a), (second, b)):
            noisy = 100 + (image * (1 + dust)) + rng.normal(0, 10, SHAPE)
            target[f"T{k}"] = np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)
    return Tiles(first), Tiles(second)


def measured(*arguments, **options):
    return measure_channel_shift(*channels(*arguments, **options), NAMES, SEARCH_UM)


@pytest.mark.slow
def test_shift_is_found_although_half_of_the_structure_differs():
    found = measured(SHIFT, common=0.7, own=0.7)
    assert found.state == "measured" and not found.bends and not found.warnings
    assert np.abs(np.subtract(found.shift_vox, SHIFT)).max() < 0.1
    assert np.all(np.abs(np.subtract(found.shift_vox, SHIFT)) < 5 * np.array(found.sigma_vox))
    moved, matrix = found.applied(SHAPE)
    assert matrix is None
    assert moved[1:] == (-2.0, 3.0) and moved[0] == found.shift_vox[0]


@pytest.mark.slow
def test_channels_that_coincide_are_not_touched_and_dust_in_both_does_not_pull():
    found = measured((0, 0, 0), own=0.3)
    assert found.applied(SHAPE) == ((0.0, 0.0, 0.0), None)
    dusty = measured(SHIFT, own=0.3, fixed=0.4, tiles=4)
    assert np.abs(np.subtract(dusty.shift_vox, SHIFT)).max() < 0.1


def test_a_fraction_within_its_error_is_no_reason_to_interpolate():
    shift = ChannelShift("b", "a", "measured", shift_vox=(0.3, 1.06, -2.3),
                         sigma_vox=(0.2, 0.04, 0.02))  # fmt: skip
    assert shift.applied(SHAPE) == ((0.0, 1.0, -2.3), None)


@pytest.mark.slow
def test_what_is_bright_in_one_channel_may_be_dark_in_the_other():
    found = measured(SHIFT, common=-0.8, own=0.3)
    assert found.inverted
    assert np.abs(np.subtract(found.shift_vox, SHIFT)).max() < 0.1


@pytest.mark.slow
def test_magnification_and_rotation_are_told_and_applied():
    matrix = np.eye(3) + np.array([[0, 0, 0], [0, 0.012, -0.006], [0, 0.006, 0.012]])
    found = measured(SHIFT, matrix=matrix, own=0.3)
    assert found.bends
    assert np.abs(np.array(found.gradient) - (matrix - np.eye(3))).max() < 2e-3
    moved, back = found.applied(SHAPE)
    middle = (np.array(SHAPE) - 1) / 2
    for place in (middle, np.array([4.0, 10, 95]), np.array([20.0, 100, 5])):
        # where the channel's tile shows what the alignment channel shows at this place
        true = middle + np.linalg.solve(matrix, place - middle - SHIFT)
        assert np.abs(back @ (place - moved) - true).max() < 0.12


@pytest.mark.slow
def test_raw_tiles_do_as_well_as_corrected_ones():
    """Shading is smooth, and the lines of the camera are the same at all places."""
    first, second = channels(SHIFT, own=0.3, tiles=4)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[1:]), indexing="ij")
    lines = 1 + 0.04 * np.random.default_rng(5).standard_normal((SHAPE[1], 1))
    shading = (1 - 0.3 * (x**2 + y**2)) * (1 + 0.2 * x) * lines
    for tiles in (first, second):
        for name, image in tiles.arrays.items():
            tiles.arrays[name] = np.rint(100 + (image - 100.0) * shading).astype(np.uint16)
    found = measure_channel_shift(first, second, NAMES, SEARCH_UM)
    assert found.state == "measured" and not found.bends
    assert np.abs(np.subtract(found.shift_vox, SHIFT)).max() < 0.1


@pytest.mark.slow
def test_patches_that_a_larger_magnification_moves_apart_are_told_by_their_trend():
    """The corners of the field differ by 3 voxels, more than patches that agree may."""
    matrix = np.diag([1.0, 0.96, 0.96])
    found = measured(SHIFT, matrix=matrix, own=0.3, tiles=4)
    assert found.agree == found.of
    assert np.abs(np.array(found.gradient) - (np.eye(3) - np.linalg.inv(matrix))).max() < 2e-3
    middle = np.linalg.solve(matrix, SHIFT)  # in the channel's own pixels
    assert np.abs(np.subtract(found.shift_vox, middle)).max() < 0.12


@pytest.mark.slow
def test_without_common_structure_nothing_is_shifted_and_the_report_is_told():
    found = measured(SHIFT, common=0.0, own=1.0)
    assert found.state == "not measured"
    assert found.applied(SHAPE) == ((0.0, 0.0, 0.0), None)
    assert "shares too little structure with ch0 within 12, 24, 24 um" in found.reason
    (text,) = found.warnings
    assert "fused at the position of ch0" in text and "stitching.channel_shift_um" in text
    assert "enlarge stitching.channel_search_um" in text
    sources = channels(SHIFT, common=0.0, own=1.0)
    (text,) = measure_channel_shift(*sources, NAMES, (6.0, 60.0, 60.0)).warnings
    assert "no more than a quarter of the tile is searched" in text and "enlarge" not in text


@pytest.mark.slow
def test_a_shift_beyond_the_search_is_looked_for_once_more_and_then_not_applied():
    first, second = channels((1.0, 9.0, -8.0), own=0.3)
    found = measure_channel_shift(first, second, NAMES, SEARCH_UM)
    assert np.abs(np.subtract(found.shift_vox, (1.0, 9.0, -8.0))).max() < 0.1
    found = measure_channel_shift(first, second, NAMES, (6.0, 3.0, 3.0))  # 4 voxels at least
    assert found.state == "not measured" and found.shift_vox == (0.0, 0.0, 0.0)


def test_channels_without_any_structure_have_no_place():
    first, second = channels(SHIFT, tiles=1)
    second.arrays = {name: np.full(SHAPE, 100, np.uint16) for name in second.arrays}
    assert find_places(first, second) == []
    found = measure_channel_shift(first, second, NAMES, SEARCH_UM)
    assert found.reason == "no plane shows structure in both ch0 and ch1"


@pytest.mark.slow
def test_one_tile_and_a_tile_that_moved_between_the_channels():
    assert np.abs(np.subtract(measured(SHIFT, tiles=1, own=0.3).shift_vox, SHIFT)).max() < 0.1
    first, second = channels(SHIFT, own=0.3, tiles=4)
    second.arrays["T2"] = np.roll(second.arrays["T2"], 1, axis=2)
    found = measure_channel_shift(first, second, NAMES, SEARCH_UM)
    assert np.abs(np.subtract(found.shift_vox, SHIFT)).max() < 0.2
    (text,) = found.warnings
    assert (
        "not the same in all tiles: T2 (" in text and "the stage moved between the channels" in text
    )


def patches_of(counts, residuals):
    """Patches of tiles T0, T1, ... as far as what differs between tiles asks for them."""
    names = [f"T{k}" for k, count in enumerate(counts) for _ in range(count)]
    return [SimpleNamespace(place=SimpleNamespace(tile=name)) for name in names], residuals


def test_tiles_whose_patches_scatter_are_not_said_to_have_moved():
    """Errors of patches have heavy tails: of tiles with three patches two are often wrong."""
    rng = np.random.default_rng(0)
    counts, told, missed = (5, 3, 3, 9, 8, 8, 8, 2, 8, 4), 0, 0
    names = ChannelShift("ch1", "ch0", "measured")
    for _ in range(200):
        scattered = np.clip(0.3 * rng.standard_t(2, (sum(counts), 3)), -1.5, 1.5)
        told += bool(tell_differing_tiles(*patches_of(counts, scattered), names))
        scattered[11:20, 2] += 1.2  # T3
        missed += "T3" not in str(tell_differing_tiles(*patches_of(counts, scattered), names))
    assert told <= 4 and missed <= 4


def test_a_fit_of_all_patches_that_is_less_sure_than_their_mean_is_not_taken(monkeypatch):
    fit, away = channel_shift.fit, np.array([0.3, -0.3, 0.3])

    def unsure(cuts, shift, axes):
        found = fit(cuts, shift, axes)
        return (found[0] + away, found[1] + 0.3) if len(cuts) > 1 else found

    monkeypatch.setattr(channel_shift, "fit", unsure)
    found = measured(SHIFT, own=0.3)
    assert np.abs(np.subtract(found.shift_vox, SHIFT)).max() < 0.1 > max(found.sigma_vox)


@pytest.mark.slow
def test_a_tile_that_one_of_the_channels_lacks_is_not_compared():
    first, second = channels(SHIFT, own=0.3, tiles=3)
    del second.arrays["T1"]
    found = measure_channel_shift(first, Tiles(second.arrays), NAMES, SEARCH_UM)
    assert np.abs(np.subtract(found.shift_vox, SHIFT)).max() < 0.1
    assert {patch.tile for patch in found.patches} == {"T0", "T2"}


def test_the_file_of_a_shift_comes_back(tmp_path):
    given = given_shift(NAMES, (5.0, -1.0, 0.0), (2.0, 0.5, 0.5))
    assert given.shift_vox == (2.5, -2.0, 0.0) and given.applied(SHAPE)[0] == (2.5, -2.0, 0.0)
    for shift in (given, measured(SHIFT, tiles=1)):
        save_shift(tmp_path / "s.json", shift)
        assert load_shift(tmp_path / "s.json") == shift
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(StitchingError, match=r"is not a channel shift .*measure_channel_shift"):
        load_shift(tmp_path / "s.json")


def test_robust_fit_ignores_a_third_of_outliers_and_knows_its_error():
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(60), np.linspace(-1, 1, 60)])
    errors = []
    for _ in range(40):
        values = design @ [[1.0, 2.0], [3.0, -1.0]] + rng.normal(0, 0.1, (60, 2))
        wrong = rng.choice(60, 20, replace=False)
        values[wrong] += rng.uniform(-20, 20, (20, 2))
        trend = robust_fit(design, values)
        errors.append((trend.coefficients - [[1.0, 2.0], [3.0, -1.0]]) / trend.sigma)
        assert (trend.weights[wrong] == 0).sum() >= 17
        assert np.abs(trend.at(design) - design @ trend.coefficients).max() == 0
    assert 0.6 < np.std(errors) < 1.7

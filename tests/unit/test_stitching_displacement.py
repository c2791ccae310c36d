"""Displacements of neighbouring tiles with known truth, on arrays in memory."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from seams import SMALL, Memory, camera, cut, grid, measure, pair_of, texture

from terareg.core.errors import StitchingError
from terareg.stitching import displacement
from terareg.stitching.depth_search import find_depth
from terareg.stitching.displacement import measure_batch, measure_pair
from terareg.stitching.pairs import load_pairs, neighbours, save_pairs
from terareg.stitching.refinement import cuts_of
from terareg.stitching.settings import DisplacementSettings
from terareg.stitching.strips import Strips


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["EAST", "SOUTH"])
@pytest.mark.parametrize("true", [(0, 0, 0), (2.0, -3.0, 4.0), (-1.35, 2.6, -3.45)])
def test_recovers_subvoxel_shift_with_independent_noise(direction, true):
    images, names, expected = pair_of(np.array(true), direction)
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    result = measure(tiles, names, direction)
    assert result.status == "ok"
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.1
    assert result.reliability > 0.99
    assert result.agree == result.of


@pytest.mark.slow
def test_links_have_no_bias_that_grows_with_the_shift():
    """Fractional shifts up to 9 pixels, noise as strong as the structure, single planes."""
    rng = np.random.default_rng(0)
    true, errors = [], []
    for k in range(24):
        shift = np.array([0, *rng.uniform(-9, 9, 2)])
        canvas = texture((1, 170, 290), k + 1)
        first = np.array([0.0, 20, 20])
        tiles = {
            "0,0": camera(cut(canvas, first, (1, 128, 128)), 2 * k, noise=80),
            "0,1": camera(cut(canvas, first + [0, 0, 90] + shift, (1, 128, 128)), 2 * k + 1, 80),
        }
        settings = replace(SMALL, search_um=(0.0, 26.0, 26.0))
        result = measure(tiles, ("0,0", "0,1"), "EAST", settings, 90.0, (1, 128, 128))
        assert result.status == "ok"
        true.append(shift[1:])
        errors.append(np.subtract(result.displ_vox, [0, 0, 90] + shift)[1:])
    true, errors = np.array(true), np.array(errors)
    spread = errors.std(axis=0) / np.sqrt(len(true))
    assert np.all(spread < 0.04)
    assert np.all(np.abs(errors.mean(axis=0)) < 4 * spread)
    for axis in range(2):
        slope = np.polyfit(true[:, axis], errors[:, axis], 1)[0]
        assert abs(slope) < 4 * spread[axis] / true[:, axis].std() < 0.03


@pytest.mark.slow
def test_patches_of_a_wide_seam_are_shorter(monkeypatch):
    true = np.array([1.3, -2.6, 0.4])
    images, names, expected = pair_of(true, shape=(20, 96, 224), step=100.0)
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    lengths = []

    def watched(patches, *rest):
        lengths.extend(patch.pixels[0].shape[1] for patch in patches)
        return cuts_of(patches, *rest)

    monkeypatch.setattr(displacement, "cuts_of", watched)
    settings = replace(SMALL, patch_px=48)
    result = measure(tiles, names, "EAST", settings, step=100.0)
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.1
    assert set(lengths) == {24}, "half of patch_px where the seam is wider than twice that"


@pytest.mark.parametrize("planes", [15, 20, 25, -20, -25])
def test_tiles_said_to_share_few_planes_or_none_have_no_link_or_the_true_one(planes):
    images, names, _ = pair_of(np.zeros(3), shape=(20, 96, 96))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    acquisition = grid(tiles, (20, 96, 96), (72.0, 72.0))
    acquisition.tiles[1].origin_vox = (float(planes), 0.0, 72.0)
    result = measure_pair(Memory(tiles), acquisition, *names, "EAST", SMALL)
    assert result.status != "ok" or np.abs(np.subtract(result.displ_vox, [0, 0, 72])).max() < 0.1


def test_sigma_is_of_the_size_of_the_error():
    images, names, expected = pair_of(np.array([1.0, 2.0, -2.0]))
    tiles = {n: camera(i, k, noise=120) for k, (n, i) in enumerate(images.items())}
    result = measure(tiles, names, "EAST")
    error = np.abs(np.array(result.displ_vox) - expected)
    assert result.status == "ok"
    assert np.all(error < 5 * np.array(result.sigma_vox) + 0.05)


@pytest.mark.parametrize("direction", ["EAST", "SOUTH"])
def test_patterns_fixed_in_the_tile_do_not_win(direction):
    """D44: stripes and shading pull towards the nominal shift unless they are removed."""
    true = np.array([1.0, 4.0, -5.0] if direction == "EAST" else [1.0, -5.0, 4.0])
    images, names, expected = pair_of(true, direction)
    shape = (48, 96, 96)
    y, x = np.mgrid[: shape[1], : shape[2]] / 95 - 0.5
    shading = 1 - 0.8 * (y**2 + x**2)
    rng = np.random.default_rng(7)
    stripes = 1 + 0.3 * ndimage.gaussian_filter1d(rng.standard_normal(96), 1.5)
    fixed = shading * stripes[:, None] * stripes[None, ::-1]
    tiles = {n: camera(100 + 0.5 * i * fixed, k) for k, (n, i) in enumerate(images.items())}
    result = measure(tiles, names, direction)
    assert result.status == "ok"
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.2


@pytest.mark.parametrize("constant", [False, True])
def test_empty_pair_has_no_signal(constant):
    tiles = {
        n: camera(np.full((48, 96, 96), 100.0), k, 0 if constant else 5)
        for k, n in enumerate(("0,0", "0,1"))
    }
    result = measure(tiles, ("0,0", "0,1"), "EAST")
    assert result.status == "no_signal"
    assert result.displ_vox == (0.0, 0.0, 72.0)
    assert result.reliability < 0.99


@pytest.mark.slow
def test_tiles_without_common_content_give_no_link():
    """The null test of the reliability: unrelated pairs must not agree by chance."""
    links = 0
    for seed in range(25):
        tiles = {
            n: camera(texture((32, 64, 64), 100 + 2 * seed + k, fine=1.0), seed)
            for k, n in enumerate(("0,0", "0,1"))
        }
        settings = replace(SMALL, widen=1.0, windows=4)
        result = measure(tiles, ("0,0", "0,1"), "EAST", settings, step=48.0)
        links += result.status == "ok"
    assert links == 0


def test_wider_search_finds_what_lies_outside_the_first():
    images, names, expected = pair_of(np.array([0.0, 11.0, -4.0]))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    narrow = replace(SMALL, widen=1.0, windows=6)
    assert measure(tiles, names, "EAST", narrow).status == "beyond_search"
    result = measure(tiles, names, "EAST", replace(SMALL, widen=2.0))
    assert result.status == "ok"
    assert result.search_vox == (12, 16, 16)
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.1


@pytest.mark.parametrize("true", [(0.0, 3.0, -3.0), (2.0, -3.4, 3.0)])
def test_coarse_voxels_are_searched_by_some_voxels_whatever_the_micrometres(true):
    """Downsampled tiles, tried first: 60 um are one voxel and a half, stages err by three."""
    images, names, expected = pair_of(np.array(true))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    acquisition = grid(tiles, (48, 96, 96), (72.0, 72.0))
    acquisition.spacing_um = (40.0, 40.0, 40.0)
    settings = replace(SMALL, search_um=(40.0, 60.0, 60.0))
    result = measure_pair(Memory(tiles), acquisition, *names, "EAST", settings)
    assert result.status == "ok"
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.1


def test_a_search_that_is_too_small_says_so():
    images, names, _ = pair_of(np.array([0.0, 9.0, -5.0]), fine=3.0)
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    small = replace(SMALL, widen=1.0, windows=6, search_um=(4.0, 2.0, 2.0))
    result = measure(tiles, names, "EAST", small)
    assert result.status == "beyond_search"
    assert result.displ_vox == result.expected_vox


@pytest.mark.slow
@pytest.mark.parametrize("planes", [24, -34])
def test_the_search_goes_on_along_z_where_tiles_lie_many_planes_apart(planes):
    shape, true = (72, 72, 72), np.array([planes, 1.3, -2.4])
    canvas = texture((160, 100, 170), 4)
    first = np.array([44.0, 12, 12])
    tiles = {
        "0,0": camera(cut(canvas, first, shape), 1),
        "0,1": camera(cut(canvas, first + [0, 0, 54] + true, shape), 2),
    }
    acquisition, source = grid(tiles, shape, (54.0, 54.0)), Memory(tiles)
    settings = replace(SMALL, windows=5, window_planes=12)
    result = measure_pair(source, acquisition, "0,0", "0,1", "EAST", settings)
    assert result.status == "ok" and result.bytes == sum(source.asked)
    assert np.abs(np.subtract(result.displ_vox, true + [0, 0, 54])).max() < 0.15
    narrow = measure_pair(source, acquisition, "0,0", "0,1", "EAST", replace(settings, widen=1))
    assert narrow.status == "disagree"


@pytest.mark.slow
def test_tiles_without_common_content_give_no_link_at_any_depth():
    links = 0
    for seed in range(6):
        tiles = {
            n: camera(texture((40, 64, 64), 100 + 2 * seed + k), seed)
            for k, n in enumerate(("0,0", "0,1"))
        }
        links += measure(tiles, ("0,0", "0,1"), "EAST", SMALL, step=48.0).status == "ok"
    assert links == 0
    flat = {n: camera(np.full((40, 64, 64), 100.0), 0, 0) for n in ("0,0", "0,1")}
    strips = Strips(Memory(flat), (40, 64, 64), ("0,0", "0,1"), "EAST", (0, 0, 48), (4, 8, 8))
    assert find_depth(strips, np.array([1, 1, 1]), None) is None


def test_single_plane_votes_along_the_seam():
    canvas = texture((1, 300, 300), 3)
    tiles = {
        "0,0": camera(canvas[:, 20:276, 0:150], 1),
        "0,1": camera(canvas[:, 23:279, 116:266], 2),
    }
    result = measure(tiles, ("0,0", "0,1"), "EAST", step=120.0, shape=(1, 256, 150))
    assert result.status == "ok"
    assert result.search_vox[0] == 0
    assert np.abs(np.array(result.displ_vox) - [0, 3, 116]).max() < 0.1
    assert result.of >= 4


def test_tiny_overlap():
    images, names, expected = pair_of(np.array([0.0, 1.0, -1.0]), step=86.0)
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    result = measure(tiles, names, "EAST", step=86.0)
    assert result.status == "ok"
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.2


@pytest.mark.parametrize("shape", [(17, 83, 97), (5, 105, 71), (3, 120, 90), (33, 61, 66)])
def test_odd_shapes(shape):
    canvas = texture(tuple(n + 60 for n in shape), 5)
    step = shape[2] - 24
    tiles = {
        "0,0": camera(cut(canvas, (8, 8, 8), shape), 1),
        "0,1": camera(cut(canvas, (8 + (shape[0] > 3), 6, 9 + step), shape), 2),
    }
    result = measure(tiles, ("0,0", "0,1"), "EAST", step=float(step), shape=shape)
    error = np.abs(np.array(result.displ_vox) - [int(shape[0] > 3), -2, step + 1])
    assert result.status == "ok"
    assert error[1:].max() < 0.15
    assert error[0] < (0.5 if shape[0] < 8 else 0.15)  # in five planes z is a guess


@pytest.mark.slow
def test_binned_search_agrees_with_unbinned():
    images, names, expected = pair_of(np.array([1.0, 5.0, -3.0]), shape=(32, 160, 160), step=100.0)
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    for binning in (1, 2, 4):
        settings = replace(SMALL, binning=binning)
        result = measure(tiles, names, "EAST", settings, step=100.0)
        assert np.abs(np.array(result.displ_vox) - expected).max() < 0.1, binning


def leaning_pair(lean, shape=(60, 72, 72), step=54.0):
    """Two tiles, of which the second leans by ``lean`` (z, y, x) from its first plane to its last;
    in its middle it lies at the nominal place."""
    size = np.array(shape) + [24, 40, 90]
    canvas = ndimage.spline_filter(texture(tuple(size), 6), order=3, mode="grid-wrap")
    matrix = np.eye(3)
    matrix[:, 0] += np.array(lean) / (shape[0] - 1)
    first = np.array([10.0, 18.0, 14.0])
    start = first + [0, 0, step] - np.array(lean) / 2
    second = ndimage.affine_transform(
        canvas, matrix, start, shape, order=3, prefilter=False, mode="grid-wrap"
    )
    return {
        "0,0": camera(ndimage.affine_transform(canvas, np.eye(3), first, shape, order=3,
                                               prefilter=False, mode="grid-wrap"), 1),
        "0,1": camera(second, 2),
    }  # fmt: skip


@pytest.mark.parametrize("lean", [(0.0, 0.0, 0.0), (0.0, 6.0, -1.0), (0.0, -13.0, 4.0)])
def test_a_tile_that_leans_is_measured_over_all_its_depth(lean):
    """Windows far from the displacement on which the others agree hold the trend."""
    settings = replace(SMALL, windows=5, window_planes=12, search_um=(16.0, 20.0, 16.0))
    tiles = leaning_pair(lean)
    result = measure(tiles, ("0,0", "0,1"), "EAST", settings, step=54.0, shape=(60, 72, 72))
    assert result.status == "ok" and result.agree == 5
    error = np.abs(np.subtract(result.lean_vox, lean))
    assert np.all(error < 3 * np.array(result.lean_sigma_vox)) and error.max() < 0.6
    assert max(result.lean_sigma_vox) < 0.4
    assert np.abs(np.subtract(result.displ_vox, [0, 0, 54])).max() < 0.25
    assert any(abs(v) > 4 * s for v, s in zip(result.lean_vox, result.lean_sigma_vox)) == any(lean)


def turned_pair(degrees, shape=(40, 384, 72), step=48.0):
    """Two tiles, of which the second is turned by ``degrees`` about its middle."""
    canvas = texture((shape[0] + 8, shape[1] + 40, 2 * shape[2] + 40), 3)
    angle, middle = np.deg2rad(degrees), (np.array(shape) - 1) / 2
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    first = np.array([4.0, 20.0, 10.0])
    offset = first + [0, 0, step] + middle - turn @ middle
    b = ndimage.affine_transform(canvas, turn, offset, shape, order=3)
    a = cut(canvas, first, shape)

    # where the second shows a place of the first: displacement of any index of the first
    def displ(at):
        place = np.asarray(at) + first
        return np.asarray(at) - np.linalg.solve(turn, (place - offset).T).T

    return {"0,0": camera(a, 1), "0,1": camera(b, 2)}, displ


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0.4, 3.0])
def test_a_tile_turned_so_much_that_no_windows_agree_is_measured_along_the_seam(degrees):
    """By 3 degrees the displacement changes by 20 pixels over the seam."""
    tiles, displ = turned_pair(degrees)
    assert not measure(tiles, ("0,0", "0,1"), "EAST", step=48.0).points
    result = measure(tiles, ("0,0", "0,1"), "EAST", replace(SMALL, points=True), step=48.0)
    assert result.status == "ok" and len(result.points) >= 8
    at = np.array([p.at_vox for p in result.points])
    assert np.ptp(at[:, 1]) > 200
    away = np.linalg.norm(displ(at) - [p.displ_vox for p in result.points], axis=1)
    assert np.median(away) < 0.3
    assert result.fall_vox[1] > 1


def test_reads_only_windows_and_counts_bytes():
    images, names, _ = pair_of(np.zeros(3), shape=(160, 64, 64), step=48.0)
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    acquisition = grid(tiles, (160, 64, 64), (48.0, 48.0))
    source = Memory(tiles)
    settings = replace(SMALL, windows=3, window_planes=16)
    result = measure_pair(source, acquisition, *names, "EAST", settings)
    assert result.status == "ok"
    assert result.bytes == sum(source.asked)
    assert result.bytes < 0.35 * sum(t.nbytes for t in tiles.values())


def test_windows_avoid_planes_without_signal():
    images, names, expected = pair_of(np.array([0.0, 1.0, 2.0]), shape=(160, 64, 64), step=48.0)
    for image in images.values():
        image[:80] = 100.0
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    settings = replace(SMALL, windows=3)
    result = measure(tiles, names, "EAST", settings, step=48.0)
    assert result.status == "ok"
    assert min(w.z[0] for w in result.windows) > 60
    assert np.abs(np.array(result.displ_vox) - expected).max() < 0.1


@pytest.mark.slow
def test_equal_results_whatever_the_workers(tmp_path):
    images, _, _ = pair_of(np.array([1.0, 2.0, 3.0]))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    tiles |= {"1,0": tiles["0,1"], "1,1": tiles["0,0"]}
    acquisition = grid(tiles, (48, 96, 96), (72.0, 72.0), 2, 2)
    pairs = neighbours(acquisition)
    assert pairs == [
        ("0,0", "0,1", "EAST"), ("0,0", "1,0", "SOUTH"),
        ("0,1", "1,1", "SOUTH"), ("1,0", "1,1", "EAST"),
    ]  # fmt: skip
    for workers in (1, 3):
        found = measure_batch(Memory(tiles), acquisition, pairs, SMALL, workers)
        save_pairs(tmp_path / f"{workers}.json", found)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "3.json").read_bytes()
    assert load_pairs([tmp_path / "1.json"]) == found
    assert load_pairs(tmp_path / "1.json") == found


def test_errors_name_the_object_and_the_remedy():
    tiles = {"0,0": np.zeros((8, 32, 32), np.uint16), "0,1": np.zeros((8, 32, 32), np.uint16)}
    acquisition = grid(tiles, (8, 32, 32), (60.0, 60.0))
    with pytest.raises(StitchingError, match=r"0,0 and 0,1 \(EAST\) do not overlap.*input.overlap"):
        measure_pair(Memory(tiles), acquisition, "0,0", "0,1", "EAST", SMALL)
    with pytest.raises(StitchingError, match="direction 'UP' is not one of EAST, SOUTH"):
        measure_pair(Memory(tiles), acquisition, "0,0", "0,1", "UP", SMALL)
    with pytest.raises(StitchingError, match="engine 'magic' is unknown; choose one of ncc"):
        DisplacementSettings(engine="magic")
    with pytest.raises(StitchingError, match=r"search_um .* is not a search range"):
        DisplacementSettings(search_um=(0.0, 0.0, 0.0))
    twice = SimpleNamespace(tiles=acquisition.tiles + acquisition.tiles[:1])
    with pytest.raises(StitchingError, match="both at row 0, column 0; remove one"):
        neighbours(twice)

"""TeraStitcher's measure: known shifts, its attributes, and pictures without anything to see."""

import json
import math
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from seams import Memory, camera, cut, grid, texture

from terareg.core.errors import StitchingError
from terareg.stitching import mip_ncc
from terareg.stitching.displacement import measure_pair
from terareg.stitching.pairs import PairResult, load_pairs, save_pairs
from terareg.stitching.placement import PlacementSettings
from terareg.stitching.settings import DisplacementSettings
from terareg.stitching.solver import place
from terareg.stitching.terastitcher import exchange, reading, stages, writing

# 8, 10, 10 voxels at 4, 2, 2 um
SETTINGS = DisplacementSettings("mip_ncc", search_um=(32.0, 20.0, 20.0), subvolume_planes=60)
SHAPE = (120, 128, 128)
STEP = 80.0


canvas_of = cache(texture)


def measured(true, direction="EAST", noise=6.0, shape=SHAPE, settings=SETTINGS, seed=1):
    """A pair whose tiles are displaced by whole voxels from the nominal step, and the truth."""
    size = np.array(shape)
    size[2 if direction == "EAST" else 1] *= 2
    canvas = canvas_of(tuple(int(n) for n in size + 24), seed, 2.0)
    nominal = np.array([0, 0, STEP] if direction == "EAST" else [0, STEP, 0])
    names = ("0,0", "0,1") if direction == "EAST" else ("0,0", "1,0")
    first = np.array([10.0, 10.0, 10.0])
    origins = (first, first + nominal + true)
    tiles = {
        n: camera(cut(canvas, o, shape), k, noise) for k, (n, o) in enumerate(zip(names, origins))
    }
    return run(tiles, names, direction, settings), nominal + true


def run(tiles, names, direction="EAST", settings=SETTINGS, step=STEP):
    rows, columns = (1, 2) if direction == "EAST" else (2, 1)
    shape = next(iter(tiles.values())).shape
    acquisition = grid(tiles, shape, (step, step), rows, columns)
    acquisition.dtype = "uint16"
    return measure_pair(Memory(tiles), acquisition, *names, direction, settings)


# ---------------------------------------------------------------- displacements
@pytest.mark.slow
@pytest.mark.parametrize("direction", ["EAST", "SOUTH"])
@pytest.mark.parametrize("true", [(0, 0, 0), (2, -3, 4), (-5, 8, -7)])
def test_known_shifts_are_recovered_to_the_voxel(direction, true):
    result, expected = measured(np.array(true), direction)
    assert result.status == "ok" and result.engine == "mip_ncc"
    assert result.displ_vox == tuple(expected)
    assert (result.agree, result.of) == (2, 2)
    assert result.reliability > 0.7


@pytest.mark.slow
def test_a_fraction_of_a_voxel_is_rounded():
    result, expected = measured(np.array([1.3, -2.4, 3.4]))
    assert np.abs(np.array(result.displ_vox) - expected).max() <= 0.7
    assert result.displ_vox == tuple(np.rint(result.displ_vox))


def test_a_peak_outside_the_search_is_reached_by_moving_the_window():
    """TeraStitcher's window follows the flank of a peak that lies just outside the range."""
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.standard_normal((90, 90)), 6)
    a, b = image[10:70, 10:70], image[10:70, 15:75]  # b begins five pixels further
    place, peak, _ = mip_ncc.find_peak(a, b, [3, 3], [3, 3], 4)
    assert place == (0, 5) and peak > 0.999


def test_a_peak_is_followed_no_further_than_twice_the_search():
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.standard_normal((90, 90)), 6)
    a, b = image[10:70, 10:70], image[10:70, 17:77]
    assert mip_ncc.find_peak(a, b, [3, 3], [3, 3], 4)[1] == 0


def test_a_peak_next_to_where_nothing_overlaps_is_no_peak():
    image = ndimage.gaussian_filter(np.random.default_rng(4).standard_normal((80, 80)), 3)
    a, b = image[:40, :40], image[:40, 26:66]
    assert mip_ncc.find_peak(a, b, [15, 15], [15, 15], 16)[1] == 0


@pytest.mark.slow
def test_a_nominal_step_with_fraction_is_truncated_and_planes_may_be_offset():
    canvas = texture((160, 160, 290), 2, fine=2.0)
    names = ("0,0", "0,1")
    origins = ((4, 10, 10), (4 + 20 + 3, 10 - 6 + 1, 10 + 80 - 2))
    tiles = {
        n: camera(cut(canvas, np.array(o), SHAPE), k)
        for k, (n, o) in enumerate(zip(names, origins))
    }
    acquisition = grid(tiles, SHAPE, (STEP, STEP))
    acquisition.dtype = "uint16"
    acquisition.tiles[1].origin_vox = (20.4, -6.9, 80.99)
    result = measure_pair(Memory(tiles), acquisition, *names, "EAST", SETTINGS)
    assert result.displ_vox == (23.0, -5.0, 78.0)
    assert [w.z for w in result.windows] == [(20, 70), (70, 120)]


# ---------------------------------------------------------------- attributes
@pytest.mark.slow
def test_sub_volumes_are_equal_and_the_first_ones_deeper():
    result, _ = measured(np.zeros(3), settings=replace(SETTINGS, subvolume_planes=50))
    assert [w.z for w in result.windows] == [(0, 40), (40, 80), (80, 120)]
    shape = (121, 128, 128)
    result, _ = measured(np.zeros(3), shape=shape, settings=replace(SETTINGS, subvolume_planes=50))
    assert [w.z for w in result.windows] == [(0, 41), (41, 81), (81, 121)]


def test_attributes_follow_the_search_and_the_overlap():
    result, _ = measured(np.array([1, 2, 3]))
    z, y, x = result.windows[0].axes
    # the overlap is 60 x 128 x 48 voxels; the range is 8, 10, 10 and leaves 25 of them
    assert (z.delay, y.delay, x.delay) == (8, 10, 10)
    assert (z.width_range, y.width_range, x.width_range) == (8, 10, 10)
    assert {axis.inf_width for axis in (z, y, x)} == {11}
    for axis in (z, y, x):
        assert 1 < axis.width < 11 and 0.5 < axis.peak <= 1
        assert axis.reliability == pytest.approx(
            np.sqrt(((1 - axis.width / 11) ** 2 + axis.peak**2) / 2), abs=1e-6
        )
    assert result.reliability == min(
        max(w.axes[k].reliability for w in result.windows) for k in range(3)
    )


def test_search_leaves_25_voxels_of_the_overlap():
    assert mip_ncc.search_ranges((60, 200, 39), (20, 60, 60)) == (20, 60, 14)
    assert mip_ncc.search_ranges((10, 25, 26), (5, 5, 5)) == (0, 0, 1)


STEEP = (0.9, 0.7, 0.5, 0.4, 0.2)


@pytest.mark.parametrize(
    ("profile", "width"),
    [
        ([0.2, 0.5, 0.7, 0.9, 1.0, 0.9, 0.7, 0.5, 0.2], 2),  # both sides at once
        ([0.2, 0.5, 0.7, 0.9, 1.0, 0.95, 0.9, 0.85, 0.7], 4),  # the later side counts
        ([0.1, 0.2, 0.3, 0.4, 1.0, 0.4, 0.3, 0.2, 0.1], 30),  # a spike
        ([*STEEP[::-1], 1.0, 0.99, 0.97, 0.95, 0.93, 0.9], 10),  # continued: 0.1 in 5, 0.2 in 10
        ([*STEEP[::-1], 1.0, 0.99, 0.97, 0.95, 0.93, 0.89], 9),  # 9.09, rounded down
        ([*STEEP[::-1], 1.0, 0.999, 0.998, 0.997, 0.996, 0.99], 29),  # never more than this
        ([*STEEP[::-1], 0.3, 1.0, 0.99, 0.97, 0.95, 0.93, 0.9, 0.95], 10),  # falls, then rises
        ([*STEEP[::-1], 1.0, 0.95, 0.97, 0.95, 0.93, 0.9], 10),  # unsteady near the peak
        ([*STEEP[::-1], 1.0, 0.99, 0.97, 0.95, 0.93, 0.94], 30),  # does not fall far enough
        ([0.2, 0.5, 0.7, 0.9, 1.0, 0.99, 0.97, 0.95, 0.9], 30),  # nor here
        ([0.5, 0.9, 1.0, 0.9, 0.5], 30),  # too short a range
        ([1.0], 30),  # nothing was searched
    ],
)
def test_half_width_at_80_percent(profile, width):
    assert mip_ncc.half_width(np.array(profile), 1.0, 30) == width


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(4, 0.6, 5), (1, 0.3, 5)], (3, 0.5, 5)),  # they agree: weighted by their peaks
        ([(4, 0.6, 5), (3, 0.3, 9)], (4, 0.5, 9)),  # and the larger width
        ([(4, 0.6, 5), (-1, 0.5, 3)], (-1, 0.5, 3)),  # they do not: the sharper one
        ([(4, 0.09, 5), (1, 0.3, 5)], (1, 0.3, 5)),  # too low a peak
        ([(4, 0.9, 30), (1, 0.3, 5)], (1, 0.3, 5)),  # no width
        ([(4, 0.05, 5), (1, 0.3, 30)], (0, 0.0, 30)),
    ],
)
def test_two_pictures_of_an_axis_are_combined(found, expected):
    axis = mip_ncc.combined_measure(found, 29, 30, 60)
    assert (axis.displ_vox, axis.peak, axis.width) == expected
    assert axis.reliability == pytest.approx(
        mip_ncc.reliability(axis.peak, axis.width, 30), abs=1e-6
    )


def test_map_equals_pearson_of_what_overlaps():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 5000, (2, 30, 41)).astype(np.uint16)
    ncc = mip_ncc.ncc_map(a, b, (4, 40))
    for s, t in ((0, 0), (4, -3), (-4, 7), (2, 33), (-1, -20)):
        part_a = a[max(0, s) : 30 + min(0, s), max(0, t) : 41 + min(0, t)]
        part_b = b[max(0, -s) : 30 - max(0, s), max(0, -t) : 41 - max(0, t)]
        expected = np.corrcoef(part_a.ravel(), part_b.ravel())[0, 1]
        assert ncc[4 + s, 40 + t] == pytest.approx(expected, abs=1e-8)
    assert np.all(ncc[:, :7] == 0) and np.all(ncc[:, -7:] == 0)  # fewer than 8 columns


def test_slabs_make_the_projections_of_the_whole():
    volume = np.random.default_rng(6).integers(0, 9999, (37, 20, 24)).astype(np.uint16)
    parts = mip_ncc.project(volume[k : k + 16] for k in range(0, 37, 16))
    for axis, part in enumerate(parts):
        np.testing.assert_array_equal(part, volume.max(axis))


# ---------------------------------------------------------------- nothing to see
@pytest.mark.parametrize("value", [0, 100, 65535])
def test_flat_tiles_give_no_signal_and_the_nominal_step(value):
    tiles = {n: np.full(SHAPE, value, np.uint16) for n in ("0,0", "0,1")}
    result = run(tiles, ("0,0", "0,1"))
    assert result.status == "no_signal"
    assert result.displ_vox == (0.0, 0.0, STEP)
    assert (result.reliability, result.peak, result.agree) == (0.0, 0.0, 0)
    for axis, nominal in zip(result.windows[0].axes, (0, 0, STEP)):
        assert (axis.displ_vox, axis.reliability, axis.peak) == (nominal, 0.0, 0.0)
        assert axis.width == axis.inf_width


def test_one_flat_tile_gives_no_signal():
    tiles = {"0,0": np.full(SHAPE, 100, np.uint16), "0,1": camera(texture(SHAPE, 4), 4)}
    assert run(tiles, ("0,0", "0,1")).status == "no_signal"


def test_noise_without_common_content_is_not_reliable():
    rng = np.random.default_rng(8)
    for _ in range(3):
        tiles = {n: rng.poisson(100, SHAPE).astype(np.uint16) for n in ("0,0", "0,1")}
        assert run(tiles, ("0,0", "0,1")).reliability < 0.3


def test_too_small_an_overlap_is_an_error_that_says_what_to_do():
    tiles = {n: np.full(SHAPE, 100, np.uint16) for n in ("0,0", "0,1")}
    message = r"0,0 and 0,1 \(EAST\) overlap in sub-volumes of \[60, 128, 25\] .*engine: .ncc."
    with pytest.raises(StitchingError, match=message):
        run(tiles, ("0,0", "0,1"), step=103.0)
    with pytest.raises(StitchingError, match=r"\[60, 128, 0\]"):
        run(tiles, ("0,0", "0,1"), step=140.0)
    with pytest.raises(StitchingError, match=r"\[24, 128, 48\] .* raise subvolume_planes"):
        run(tiles, ("0,0", "0,1"), settings=replace(SETTINGS, subvolume_planes=29))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"engine": "mip"}, "ncc, mip_ncc"), ({"subvolume_planes": 25}, "more than 25")],
)
def test_settings_are_checked(change, words):
    with pytest.raises(StitchingError, match=words):
        replace(SETTINGS, **change)


# ---------------------------------------------------------------- downstream
def test_results_come_back_from_their_file(tmp_path):
    result, _ = measured(np.array([1, 2, 3]))
    save_pairs(tmp_path / "p.json", [result])
    assert load_pairs(tmp_path / "p.json") == [result]
    assert PairResult.from_json(json.loads(json.dumps(asdict(result)))) == result


def test_xml_holds_the_measure_and_is_thresholded_axis_by_axis(tmp_path):
    from test_stitching_terastitcher import acquisition_of

    acquisition = acquisition_of(1, 2, planes=120)
    names = [t.name for t in acquisition.tiles]
    result, _ = measured(np.array([1, 2, 3]))
    first, second = result.windows
    z, y, x = first.axes
    # as if the second sub-volume saw nothing, and the first saw x badly
    first = replace(first, axes=(z, y, replace(x, reliability=0.4)))
    none = replace(x, displ_vox=0, reliability=0.0, peak=0.0, width=11)
    second = replace(second, axes=(none, none, none))
    result = replace(result, a=names[0], b=names[1], windows=(first, second))
    xml = stages.with_displacements(stages.from_acquisition(acquisition, "ch0"), [result])
    writing.write_xml(tmp_path / "x.xml", xml)
    found = reading.read_xml(tmp_path / "x.xml").stack(0, 0).displacements["EAST"]
    assert len(found) == 2
    for axis, mine, default in zip(found[0].axes, (y, x, z), (0, 85, 0)):
        assert (axis.displ, axis.default, axis.peak) == (mine.displ_vox, default, mine.peak)
        assert (axis.width, axis.width_range, axis.inf_width, axis.delay) == (
            mine.width, mine.width_range, mine.inf_width, mine.delay,
        )  # fmt: skip
        # TeraStitcher computes the reliability anew; it must find the same one
        narrow = 1 - axis.width / axis.inf_width
        anew = math.sqrt((narrow**2 + axis.peak**2) / 2)
        assert anew == pytest.approx(mine.reliability, abs=1e-6)
    (kept,) = stages.threshold(xml, 0.5).stack(0, 0).displacements["EAST"]
    assert [a.displ for a in kept.axes] == [y.displ_vox, 85, z.displ_vox]
    assert kept.h.reliability == 0 and kept.v.reliability == y.reliability
    (pair,) = exchange.to_pairs(stages.threshold(xml, 0.3), acquisition)
    assert pair.status == "ok" and pair.displ_vox == result.displ_vox
    (pair,) = exchange.to_pairs(stages.threshold(xml, 0.5), acquisition)
    assert pair.status == "no_signal"


def test_placement_takes_the_threshold_for_terastitchers_measure():
    from test_stitching_terastitcher import acquisition_of

    acquisition = acquisition_of(1, 2, planes=120)
    result, _ = measured(np.array([1, 2, 3]))
    result = replace(result, a="LOC000", b="LOC001", reliability=0.5)
    assert place(acquisition, [result]).links[0].state == "kept"
    (link,) = place(acquisition, [result], PlacementSettings(min_reliability_xml=0.6)).links
    assert (link.state, link.reason) == ("unused", "reliability 0.500 below 0.6")

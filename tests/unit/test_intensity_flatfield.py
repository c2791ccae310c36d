"""Flat-field: a known profile and dark offset are recovered, whatever the batches."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from intensity_truth import Scene, TruthSource, profile_error

from terareg.acquisition.tile_correction import Flatfield, Gain, load_flatfield
from terareg.core.errors import ConfigError, IntensityError
from terareg.intensity.blocks import BlockData, seam_percent
from terareg.intensity.flatfield import estimate_flatfield, read_profile, save_flatfield
from terareg.intensity.settings import FlatfieldSettings, sample_tiles
from terareg.intensity.sums import BlockLayout, load_sums, merge_sums, save_sums, sum_tiles


@pytest.fixture(scope="module")
def brain():
    return TruthSource(Scene())


@pytest.fixture(scope="module")
def sums(brain):
    return sum_tiles(brain, brain.names)


@pytest.fixture(scope="module")
def estimate(sums):
    return estimate_flatfield([sums])


def scene_estimate(settings=None, **scene):
    source = TruthSource(Scene(**scene))
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names, settings)], settings)
    return profile_error(flatfield.profile, source.profile), flatfield.background, info


def test_profile_and_dark_offset_of_a_brain(brain, sums, estimate):
    flatfield, info = estimate
    assert flatfield.profile.dtype == np.float32
    assert flatfield.profile.mean(dtype=float) == pytest.approx(1, abs=1e-5)
    error = profile_error(flatfield.profile, brain.profile)
    assert error < 2.0
    # D11: the background is the camera's, not the mean of the darkest tile
    assert flatfield.background == pytest.approx(brain.scene.dark, abs=2)
    assert info["background_from"] == "overlaps"
    assert info["seam_percent"]["after"] < 0.6 * info["seam_percent"]["before"]
    mean_tile = np.mean([planes.mean(0) for planes in brain.data.values()], 0) - brain.scene.dark
    assert profile_error(mean_tile, brain.profile) > 5 * error


def test_a_step_is_judged_beyond_the_noise_of_a_weak_signal():
    scene = Scene(seed=3, tissue=60.0, medium=5.0, drift=0.0, jitter=0, empty=())
    source = TruthSource(scene)
    stats = merge_sums([sum_tiles(source, source.names, None, source.origins)])
    data = BlockData.of(stats)
    found = estimate_flatfield([stats])[1]["seam_percent"]
    assert found["after"] > 1.5 and found["beyond"] < 0.5, found
    assert found["noise"] == pytest.approx(found["after"], rel=0.1)
    # what is wrong with a profile shows all the same
    y, x = np.meshgrid(*[np.linspace(-1, 1, scene.pixels)] * 2, indexing="ij")
    for wrong in (1 + 0.05 * (x + y), 1 - 0.15 * (x**2 + y**2)):
        step = seam_percent(data, scene.dark, source.profile * wrong)
        assert step["beyond"] > 1 and step["noise"] == pytest.approx(found["noise"], rel=0.1)


def test_a_blank_tile_says_nothing_of_profile_and_gains():
    source = TruthSource(Scene(seed=4, rows=4, columns=5, empty=(), drift=0.0))
    dark = np.random.default_rng(0).normal(150, 3, source.data["LOC007"].shape)
    source.data["LOC007"] = np.rint(dark).astype(np.uint16)
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names, None, source.origins)])
    assert profile_error(flatfield.profile, source.profile) < 0.7
    assert info["tile_gains"] is False
    (text,) = [text for text in info["warnings"] if "show nothing" in text]
    assert text.startswith("1 of 20 tiles show nothing where their neighbours show tissue (LOC007)")


def test_a_third_of_the_tiles_may_be_empty():
    error, background, info = scene_estimate(
        seed=1, rows=4, columns=5, empty=(), pixels=64, overlap=0.2, tissue=1500.0
    )
    assert error < 3
    assert background == pytest.approx(150, abs=2)
    assert info["tissue_fraction"] < 0.7


def test_tissue_in_the_middle_of_a_tile_alone_is_seen():
    """What no overlap shows; the tile beside it is empty."""
    acquisition = TruthSource(Scene(seed=2, rows=1, columns=3, pixels=64, planes=8, empty=()))
    middle = acquisition.data["LOC001"]
    for name in ("LOC001", "LOC002"):
        acquisition.data[name] = np.full_like(middle, 150)
        acquisition.data[name] += np.random.default_rng(1).integers(0, 9, middle.shape, np.uint16)
    acquisition.data["LOC001"][:, 20:44, 20:44] += 1500
    _, info = estimate_flatfield([sum_tiles(acquisition, acquisition.names)])
    shares = info["tissue_by_tile"]
    assert shares["LOC000"] > 0.2 and 0.05 < shares["LOC001"] < 0.4 and shares["LOC002"] == 0


def test_brightness_that_drifts_from_tile_to_tile():
    error, _, info = scene_estimate(seed=2, drift=0.15)
    assert error < 3
    gains = np.array(list(info["gains"].values()))
    truth = np.array(list(TruthSource(Scene(seed=2, drift=0.15)).gains.values()))
    assert np.corrcoef(gains, truth)[0, 1] > 0.95


@pytest.mark.slow
def test_fixed_lines_are_part_of_the_profile():
    with_lines, _, info = scene_estimate(seed=3, fixed_lines=0.04)
    without, _, _ = scene_estimate(FlatfieldSettings(lines=False), seed=3, fixed_lines=0.04)
    assert with_lines < 2.5 < without
    assert info["line_percent"]["rows"] > 2
    assert info["line_percent"]["columns"] < 0.5


@pytest.mark.slow
def test_stripes_of_single_tiles_are_not_part_of_the_profile():
    source = TruthSource(Scene(seed=4, stripes=0.05))
    sums = sum_tiles(source, source.names, None, source.origins)
    flatfield, info = estimate_flatfield([sums])
    assert profile_error(flatfield.profile, source.profile) < 2.5
    assert flatfield.background == pytest.approx(150, abs=3)
    assert info["background_error"] < 3, "stripes are accounted for, and do not make it unsure"
    assert info["line_percent"]["rows"] < 1


@pytest.mark.slow
def test_dark_offset_where_everything_outside_the_brain_is_empty():
    _, background, _ = scene_estimate(seed=5, medium=0.0)
    assert background == pytest.approx(150, abs=2)


def test_an_offset_that_overlaps_hardly_tell_is_told_with_what_it_does_to_brightness():
    """Tissue of one brightness fits any offset, with a profile that goes with it."""
    source = TruthSource(Scene(seed=6, rows=2, columns=3, empty=(), drift=0.0))
    rng = np.random.default_rng(0)
    for tile in source.acquisition.tiles:
        signal = 200 * source.profile * (1 + 0.01 * rng.standard_normal(source.profile.shape))
        planes = 240 + rng.poisson(signal, source.data[tile.name].shape)
        source.data[tile.name] = planes.astype(np.uint16)
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names, None, source.origins)])
    assert abs(flatfield.background - 240) < 3 * info["background_error"]
    (text,) = [text for text in info["warnings"] if "dark offset no better than" in text]
    assert f"{flatfield.background:.0f} +- {info['background_error']:.0f} counts" in text
    assert "set intensity.flatfield.background" in text
    _, given = estimate_flatfield(
        [sum_tiles(source, source.names, None, source.origins)], FlatfieldSettings(background=240)
    )
    assert not given["warnings"]


def test_tiles_that_are_misplaced_make_the_offset_as_unsure_as_it_is():
    source = TruthSource(Scene(seed=7, vignetting=0.1, drift=0.0, medium=100.0))
    rng = np.random.default_rng(1)
    origins = {name: (z, y + rng.normal(0, 2), x + rng.normal(0, 2))
               for name, (z, y, x) in source.origins.items()}  # fmt: skip
    sure, unsure = (
        estimate_flatfield([sum_tiles(source, source.names, None, places)])[1]
        for places in (source.origins, origins)
    )
    assert abs(sure["background"] - 150) < 3 * sure["background_error"]
    assert abs(unsure["background"] - 150) < 3 * unsure["background_error"]
    assert unsure["background_error"] > 2 * sure["background_error"]


def test_given_dark_offset_is_used(sums):
    flatfield, info = estimate_flatfield([sums], FlatfieldSettings(background=140.0))
    assert flatfield.background == 140
    assert info["background_from"] == "given"


def test_without_overlaps_the_darkest_blocks_are_the_documented_fallback(brain, sums):
    flatfield, info = estimate_flatfield([sums], FlatfieldSettings(overlaps=False))
    assert info["background_from"] == "darkest blocks"
    assert info["seam_percent"] is None
    assert (
        "set intensity.flatfield.background if the dark offset of the camera is known"
        in info["warnings"][0]
    )
    assert brain.scene.dark < flatfield.background < brain.scene.dark + brain.scene.medium


def test_a_single_tile_gives_an_estimate():
    source = TruthSource(Scene(rows=1, columns=1, empty=(), planes=4, pixels=48))
    flatfield, info = estimate_flatfield([sum_tiles(source, source.names)])
    assert flatfield.profile.shape == (48, 48)
    assert info["warnings"]


def test_tissue_beyond_the_limit_of_the_camera_is_told_with_its_share():
    source = TruthSource(Scene(rows=2, columns=2, empty=(), planes=6, pixels=64))
    top = np.percentile(np.concatenate([p.ravel() for p in source.data.values()]), 98)
    for name, planes in source.data.items():  # of 12 bits, exposed too long
        source.data[name] = np.minimum(planes * (4095 / top), 4095).astype(planes.dtype)
    whole = np.mean([np.mean(planes == 4095) for planes in source.data.values()])
    _, info = estimate_flatfield([sum_tiles(source, source.names)])
    assert info["saturated_at"] == 4095
    assert info["saturated_percent"] == pytest.approx(100 * whole, rel=1e-3)
    (text,) = [text for text in info["warnings"] if "saturated" in text]
    assert "saturated at 4095 counts, the limit of 12 bits" in text


def test_tissue_within_the_limit_of_the_camera_is_not_called_saturated(estimate):
    _, info = estimate
    assert info["saturated_at"] is None and info["saturated_percent"] == 0
    assert not any("saturated" in text for text in info["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1,) * 10, (3, 7), (9, 1), (2, 3, 5)])
def test_batches_do_not_matter_to_the_last_bit(brain, sums, estimate, sizes):
    names = brain.names
    starts = np.cumsum((0, *sizes))
    batches = [names[a:b] for a, b in itertools.pairwise(starts)]
    parts = [sum_tiles(brain, batch) for batch in reversed(batches)]
    merged, whole = merge_sums(parts), merge_sums([sums])
    assert all(np.array_equal(merged[key], whole[key]) for key in whole)
    if len(sizes) == 3:
        flatfield, info = estimate_flatfield(parts)
        assert flatfield.profile.tobytes() == estimate[0].profile.tobytes()
        assert info == estimate[1]


@pytest.mark.slow
def test_sampled_planes_and_tiles_agree_with_all(brain, estimate):
    # row B2: every n-th plane
    some = FlatfieldSettings(planes=4, slabs=4)
    brain.bytes_read = 0
    flatfield, info = estimate_flatfield([sum_tiles(brain, brain.names, some)], some)
    assert brain.bytes_read == 10 * 4 * 80 * 80 * 2
    assert info["planes"] == 40
    assert profile_error(flatfield.profile, estimate[0].profile) < 1
    assert sample_tiles(brain.acquisition, replace(some, tiles=3)) == brain.names[::3]
    assert sample_tiles(brain.acquisition, some) == brain.names


@pytest.mark.slow
def test_planes_that_were_filled_in_do_not_count(brain):
    source = TruthSource(brain.scene)
    first = source.names[0]
    source.data[first][:3] = 0
    sums = sum_tiles(source, source.names)
    assert sums["planes"][0].sum() == brain.scene.planes - 3
    flatfield, _ = estimate_flatfield([sums])
    assert profile_error(flatfield.profile, brain.profile) < 2


@pytest.mark.parametrize("shape", [(48, 80), (61, 47)])
def test_tiles_need_not_be_square(shape):
    source = TruthSource(Scene(pixels=96, planes=6, seed=6))
    height, width = shape
    source.data = {name: planes[:, :height, :width] for name, planes in source.data.items()}
    source.acquisition.tile_shape = (6, *shape)
    sums = sum_tiles(source, source.names)
    assert sums["edges_y"][-1] == height and sums["edges_x"][-1] == width
    assert estimate_flatfield([sums], FlatfieldSettings(degree=3))[0].profile.shape == shape


@pytest.mark.parametrize("size", [33, 64, 97, 192])
@pytest.mark.parametrize("overlap", [0.05, 0.15, 0.4, 0.6])
@pytest.mark.parametrize("aside", [0, 3, -5])
def test_blocks_of_overlaps_hold_the_same_pixels(size, overlap, aside):
    step = round(size * (1 - overlap))
    places = np.array([[0, 0, 0, 0, 0], [0, 1, 2, aside, step], [1, 0, -1, step, aside]])
    layout = BlockLayout(places, (size, size), 16)
    for side, other in (("east", 1), ("south", 2)):
        ((first, second, edges),) = layout.pairs(side)
        assert (first, second) == (0, other)
        shift = places[other, 3:] - places[0, 3:]
        for axis in (0, 1):
            in_first, in_second = edges[0][axis], edges[1][axis]
            assert np.array_equal(in_first - in_second, np.full(len(in_first), shift[axis]))
            assert np.all(np.diff(in_first) > 0)
            for inside in (in_first, in_second):
                assert 0 <= inside[0] and inside[-1] <= size
            assert in_first[-1] - in_first[0] == size - abs(shift[axis])


def test_tiles_that_hardly_overlap_have_no_blocks():
    places = np.array([[0, 0, 0, 0, 0], [0, 1, 0, 0, 63], [0, 2, 0, 0, 200]])
    assert BlockLayout(places, (64, 64), 16).pairs("east") == []


@pytest.mark.slow
def test_true_positions_make_a_better_profile_than_the_stage_s():
    """Overlaps that are compared where they lie hold the same tissue."""
    source = TruthSource(Scene(seed=8, jitter=6))
    errors, dark, seams = {}, {}, {}
    gains = FlatfieldSettings(tile_gains=True)
    for name, origins in (("stage", None), ("true", source.origins)):
        sums = sum_tiles(source, source.names, None, origins)
        flatfield, info = estimate_flatfield([sums], gains)
        errors[name] = profile_error(flatfield.profile, source.profile)
        dark[name] = abs(flatfield.background - source.scene.dark)
        seams[name] = info["seam_percent"]["after"]
    assert errors["true"] < 1 < 2 < errors["stage"]
    assert dark["true"] < 2 < 10 < dark["stage"]
    assert seams["true"] < 0.7 < 5 < seams["stage"]
    left = estimate_flatfield([sums])[1]["seam_percent"]["after"]
    assert left > 2 * seams["true"], "gains that are not corrected are seams"


def test_planes_of_one_height_are_compared_where_tiles_lie_at_different_heights():
    source = TruthSource(Scene(seed=9, planes=12))
    origins = {name: (i % 5, *yx[1:]) for i, (name, yx) in enumerate(source.origins.items())}
    for name, (z, _, _) in origins.items():
        source.data[name] = source.data[name][z : z + 8]  # what a tile of 8 planes at z holds
    source.acquisition.tile_shape = (8, *source.acquisition.tile_shape[1:])
    sums = sum_tiles(source, source.names, None, origins)
    flatfield, info = estimate_flatfield([sums], FlatfieldSettings(tile_gains=True))
    assert info["seam_percent"]["after"] < 0.7
    assert flatfield.background == pytest.approx(150, abs=2)


def test_gains_of_tiles_are_corrected_where_that_is_asked_for(tmp_path):
    source = TruthSource(Scene(seed=2, drift=0.15))
    spread = {}
    for wanted in (False, True):
        settings = FlatfieldSettings(tile_gains=wanted)
        sums = sum_tiles(source, source.names, settings, source.origins)
        files = tmp_path / "flat.tif", tmp_path / "flat.json"
        save_flatfield(*files, *estimate_flatfield([sums], settings))
        flatfield = load_flatfield(*files)
        left = [
            np.mean(flatfield.correct(source.blank(name), place=(name, 0))[0] / source.scene.tissue)
            for name in source.names
        ]
        spread[wanted] = np.std(left) / np.mean(left)
    assert spread[False] > 0.1
    assert spread[True] < 0.02


@pytest.mark.slow
def test_gains_that_change_with_depth_are_corrected_where_that_is_asked_for(tmp_path):
    source = TruthSource(Scene(seed=2, drift=0.1, fade=0.4))
    last = source.scene.planes - 1
    spread = {}
    for wanted in (True, "depth"):
        settings = FlatfieldSettings(tile_gains=wanted)
        sums = sum_tiles(source, source.names, settings, source.origins)
        files = tmp_path / "flat.tif", tmp_path / "flat.json"
        save_flatfield(*files, *estimate_flatfield([sums], settings))
        flatfield = load_flatfield(*files)
        left = np.array([
            [
                np.mean(flatfield.correct(source.blank(name, z), place=(name, z))[0])
                for name in source.names
            ]
            for z in (0, last // 2, last)
        ])  # fmt: skip
        spread[wanted] = np.max(left.std(1) / left.mean(1))
    assert spread[True] > 0.08
    assert spread["depth"] < 0.03


def test_gain_is_linear_between_planes_and_constant_beyond():
    gain = Gain((2.0, 6.0), (1.0, 2.0))
    assert [gain.at(z) for z in (0, 2, 3, 6, 9)] == [1, 1, 1.25, 2, 2]
    with pytest.raises(IntensityError, match=r"gain 0\.0 of tile LOC001 is impossible"):
        Flatfield(np.ones((4, 4)), 0.0, {"LOC001": Gain((0.0,), (0.0,))})


def test_files_are_deterministic_and_come_back(tmp_path, sums, estimate):
    save_sums(tmp_path / "a.npz", sums)
    save_sums(tmp_path / "b.npz", dict(reversed(sums.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_sums(tmp_path / "a.npz")
    assert all(np.array_equal(loaded[key], sums[key]) for key in sums)
    for folder in ("x", "y"):
        save_flatfield(tmp_path / folder / "f.tif", tmp_path / folder / "f.json", *estimate)
    for name in ("f.tif", "f.json"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
    flatfield = load_flatfield(tmp_path / "x" / "f.tif", tmp_path / "x" / "f.json")
    assert flatfield.profile.tobytes() == estimate[0].profile.tobytes()
    assert flatfield.background == estimate[0].background


def test_users_image_becomes_the_profile(tmp_path, brain, sums):
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, (brain.profile * 700).astype(np.float32))
    settings = FlatfieldSettings(method="image", image=str(path))
    flatfield, info = estimate_flatfield([sums], settings)
    assert profile_error(flatfield.profile, brain.profile) < 1e-3
    assert info["background_from"] == "darkest blocks"
    assert info["seam_percent"]["after"] < info["seam_percent"]["before"]


def test_no_flat_field(sums):
    flatfield, info = estimate_flatfield([sums], FlatfieldSettings(method="none"))
    assert np.all(flatfield.profile == 1) and flatfield.background == 0
    assert info["background_from"] == "none"


def test_users_image_that_does_not_fit(tmp_path):
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, np.ones((8, 9), np.float32))
    with pytest.raises(IntensityError, match=r"has shape \(8, 9\) but the tiles have \(9, 8\)"):
        read_profile(path, (9, 8))
    tifffile.imwrite(path, np.zeros((9, 8), np.float32))
    with pytest.raises(IntensityError, match="zero, negative or not finite"):
        read_profile(path, (9, 8))
    path.write_bytes(b"no image")
    with pytest.raises(IntensityError, match="cannot be read"):
        read_profile(path, (9, 8))


def test_no_tile_with_signal():
    source = TruthSource(Scene(tissue=0.0, medium=0.0, planes=4, pixels=48))
    with pytest.raises(IntensityError, match="none of 10 tiles has signal above the background"):
        estimate_flatfield([sum_tiles(source, source.names)])
    source.data = {name: np.zeros_like(planes) for name, planes in source.data.items()}
    with pytest.raises(IntensityError, match="every plane is constant"):
        estimate_flatfield([sum_tiles(source, source.names)])


def test_background_above_the_signal(sums):
    with pytest.raises(IntensityError, match=r"lower intensity\.flatfield\.background"):
        estimate_flatfield([sums], FlatfieldSettings(background=60000.0))


def test_statistics_that_do_not_fit_together(brain, sums):
    with pytest.raises(IntensityError, match="no tile statistics were given"):
        estimate_flatfield([])
    with pytest.raises(IntensityError, match="tile LOC001 occurs twice"):
        estimate_flatfield([sums, sum_tiles(brain, ["LOC001"])])
    other = sum_tiles(brain, ["LOC001"], FlatfieldSettings(blocks=8))
    with pytest.raises(IntensityError, match="come from different acquisitions or settings"):
        estimate_flatfield([sums, other])
    broken = {**sums, "mean": np.full_like(sums["mean"], np.nan)}
    with pytest.raises(IntensityError, match="tile LOC001: its statistics contain values"):
        estimate_flatfield([broken])


def test_statistics_file_that_is_damaged(tmp_path, sums):
    path = tmp_path / "sums.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(IntensityError, match=r"sums\.npz: tile statistics cannot be read"):
        load_sums(path)
    save_sums(path, {key: sums[key] for key in sums if key != "mean"})
    with pytest.raises(IntensityError, match="mean is missing"):
        load_sums(path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "basic"}, "method 'basic' is unknown"),
        ({"tiles": 0}, "tiles 0 is not a choice"),
        ({"planes": -1}, "planes -1 is below 0"),
        ({"degree": 0}, "degree 0 is below 1"),
        ({"background": -3.0}, "background -3.0 counts is impossible"),
        ({"background": float("nan")}, "is impossible"),
        ({"method": "image"}, "needs the path of a TIFF"),
        ({"image": "flat.tif"}, "contradict each other"),
        ({"method": "none", "tile_gains": True}, "'none' does not estimate tile gains; set tile_"),
        ({"tile_gains": True, "tiles": 2}, "tile_gains need every tile, but tiles is 2"),
        ({"tile_gains": "slab"}, "tile_gains 'slab' is unknown; set auto, false, true or depth"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        FlatfieldSettings(**settings)

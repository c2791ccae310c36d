"""Pictures: deterministic, small, any shape; letters, bars and positions are right."""

import io

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from terareg.core.frames import Frame, orientation_matrix
from terareg.views import thresholds, worst
from terareg.views.figures import (
    brain,
    canvas,
    intensity,
    regions,
    registration,
    sides,
    stitching,
    volume,
)
from terareg.volumes.share_maps import packed

RNG = np.random.default_rng(0)
SHAPE = (9, 17, 12)
FRAME = Frame(SHAPE, (50.0, 20.0, 30.0), (0, 0, 0), "AIR")
BRAIN = RNG.integers(0, 900, SHAPE).astype(np.float32)
LABELS = RNG.integers(0, 3, SHAPE).astype(np.uint32) * 614454277 % 4294967291
LABELS = LABELS.astype(np.uint32)

FIELD = np.random.default_rng(0).standard_normal((2, 17, 17)).tolist()
SIDES = {
    "channel": "signal", "sides": ["left", "right"], "ends": ["-x", "+x"], "weights": "content",
    "own_percent": [60.0, 40.0],
    "picture": {
        "shape": [3, 8], "axes": "yx", "step_vox": [16.0, 16.0],
        "brightness": [packed(np.full(24, 200)), packed(np.arange(24))],
        "structure": [packed(np.arange(24)), packed(np.arange(24)[::-1])],
        "share": packed(np.tile(np.linspace(250, 0, 8), 3)),
    },
}  # fmt: skip
PLACEMENT = {
    "tiles": {
        "LOC000": {"origin_vox": [0, 0, 0]},
        "LOC001": {"origin_vox": [1, 2, 90.5]},
        "LOC002": {"origin_vox": [0, 88, 1]},
    },
    "links": [
        {"a": "LOC000", "b": "LOC001", "state": "kept", "residual_vox": [0.1, 0.2, 0]},
        {"a": "LOC000", "b": "LOC002", "state": "rejected", "residual_vox": [4, 0, 9]},
    ],
}


def seams(height=11, width=40):
    first = RNG.normal(100, 9, (height, width))
    return [
        {"title": "LOC000 - LOC001", "before": (first, first[::-1]), "after": (first, first + 1)},
        {"title": "LOC000 - LOC002", "before": (first.T, first.T), "after": (first.T, first.T)},
    ]


DRAWINGS = {
    "flatfield": lambda: intensity.flatfield_map(
        np.linspace(0.5, 1.5, 20 * 33).reshape(20, 33),
        {"method": "statistics", "tiles": 3},
        channel="ch$0_1",
    ),
    "stripes": lambda: intensity.stripes_map(
        BRAIN[0], BRAIN[0] * 0.9, RNG.normal(1, 0.1, (7, BRAIN.shape[1])), place=("T", 3), rows=True
    ),
    "stripes of columns": lambda: intensity.stripes_map(
        BRAIN[0], BRAIN[0], np.ones((700, BRAIN.shape[2])), place=("T", 600), rows=False
    ),
    "tile_means": lambda: intensity.tile_means(BRAIN[0], BRAIN[1], channel="ch0"),
    "placement": lambda: stitching.placement_map(
        PLACEMENT, (10, 100, 120), (5, 1, 1), dict.fromkeys(PLACEMENT["tiles"], (0, 0, 0))
    ),
    "fields": lambda: stitching.placement_map(
        {
            **PLACEMENT,
            "tiles": {n: {**t, "field_vox": FIELD} for n, t in PLACEMENT["tiles"].items()},
        },
        (10, 100, 120),
        (5, 1, 1),
    ),
    "too many fields": lambda: stitching.placement_map(
        {
            "tiles": {
                f"T{n}": {"origin_vox": (0, 0, 120 * n), "field_vox": FIELD} for n in range(151)
            },
            "links": [],
        },
        (10, 100, 120),
        (5, 1, 1),
    ),
    "seams": lambda: stitching.seam_pairs(seams()),
    "sides": lambda: sides.sides_map(SIDES, (4, 2, 2)),
    "loops": lambda: stitching.loop_closure(
        [
            {"row": 0, "column": 2, "closure_vox": [0, 0.1, 0.3], "kept": True},
            {"row": 1, "column": 0, "closure_vox": [0, 70, 0.3], "kept": False},
        ]
    ),
    "planes": lambda: volume.mid_planes(BRAIN, FRAME, title="Fused"),
    "bias": lambda: volume.bias_field(
        BRAIN, np.exp(BRAIN / 2000), FRAME, {"resolution_um": 50}, channel="ch0"
    ),
    "preview": lambda: registration.preview_alignment(
        BRAIN, FRAME, BRAIN, LABELS, FRAME, np.eye(4)
    ),
    "overlay": lambda: registration.registration_overlay(BRAIN, FRAME, LABELS, LABELS),
    "prediction": lambda: registration.prediction({"a": (BRAIN, BRAIN * 0.9)}, FRAME),
    "predictions": lambda: registration.prediction(
        dict.fromkeys(("a", "b"), (BRAIN, BRAIN * 0.9)), FRAME
    ),
    "posteriors": lambda: registration.posterior_maps(
        {"match": BRAIN / 900, "missing": 1 - BRAIN / 900},
        FRAME,
        BRAIN,
        thresholds.judge([("registration.missing_percent", "atlas", 12.0)]),
    ),
    "quality": lambda: registration.quality_map(
        [
            {
                "id": int(LABELS.max()),
                "hemisphere": "left",
                "fit_percent": 9.0,
                "volume_ratio": 0.5,
                "missing_percent": 50.0,
                "artefact_percent": None,
            }
        ],
        LABELS,
        np.ones(SHAPE, np.uint8),
        FRAME,
    ),
    "energy": lambda: registration.energy_curve(
        [{"level": 0, "voxel_um": "200.123456", "total": "3.5", "match": "3"}] * 4
        + [{"level": 1, "voxel_um": "100", "total": "2", "match": "1"}]
    ),
    "error bars": lambda: registration.error_bars(BRAIN / 10, LABELS, BRAIN, FRAME),
    "error bars of nothing": lambda: registration.error_bars(BRAIN, 0 * LABELS, BRAIN, FRAME),
    "jacobian": lambda: registration.jacobian_map(BRAIN / 450 - 0.1, FRAME),
    "histogram": lambda: registration.jacobian_histogram(BRAIN / 450 - 0.1, BRAIN > 100),
    "regions": lambda: regions.region_bars(
        [
            {"acronym": "CP", "hemisphere": h, "scope": s, "volume_mm3": v}
            for h, s, v in (("left", "own", "2.5"), ("right", "own", 3), ("both", "tree", 99))
        ]
    ),
    "fiducials": lambda: regions.fiducial_errors(
        [
            {"kind": "fiducial", "name": "a", "error_um": "12", "affine_error_um": "80"},
            {"kind": "summary", "name": "mean", "error_um": "12", "affine_error_um": "80"},
        ],
        voxel_um=50,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_every_picture_is_a_small_png_without_metadata(name):
    data = DRAWINGS[name]()
    assert len(data) < 400_000
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG" and picture.info == {}
    assert 500 <= picture.width <= 1000 and 200 <= picture.height <= 2000


PLANE = Frame((1, 170, 240), (50.0, 20.0, 20.0), (0, 0, 0), "AIR")
PHOTO = np.full((170, 240), 300.0)
TWO = np.zeros((170, 240), np.uint32)
TWO[50:100, 60:120], TWO[50:100, 120:200] = 614454277, 5


def pixels(data):
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "JPEG" and "exif" not in picture.info
    return np.asarray(picture.convert("RGB")).astype(int)


def test_borders_lie_between_the_voxels_of_two_regions_at_full_resolution():
    drawn = pixels(brain.borders(PHOTO, TWO, PLANE, (0, 600)))
    # small planes are enlarged by whole numbers, so that lines stay thin
    assert drawn.shape == (340, 480, 3)
    row = drawn[150]
    orange = np.flatnonzero(row[:, 0] - row[:, 2] > 40)
    for border in (60, 120, 200):
        assert np.abs(orange / 2 - border).min() <= 1
    assert not ((orange / 2 > 65) & (orange / 2 < 115)).any()
    assert brain.borders(PHOTO, TWO, PLANE, (0, 600)) == brain.borders(PHOTO, TWO, PLANE, (0, 600))


def test_a_zoom_shows_its_region_in_another_colour():
    row = {"acronym": "A", "hemisphere": "left", "reason": "missing", "missing_percent": "47"}
    window = brain.Zoom(worst.zoom_title(1, row), PHOTO, TWO, PLANE, 614454277)
    drawn = pixels(brain.zooms([window], (0, 600)))
    assert ((drawn[..., 2] > 200) & (drawn[..., 0] < 90) & (drawn[..., 1] > 150)).sum() > 100
    other = pixels(brain.zooms([brain.Zoom("t", PHOTO, TWO, PLANE, 0)], (0, 600)))
    assert not ((other[..., 2] > 200) & (other[..., 0] < 90) & (other[..., 1] > 150)).any()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"reason": "missing", "missing_percent": "47.4"}, "47\u00a0% missing"),
        ({"reason": "fit", "fit_percent": "9.9"}, "differs from the prediction by 10\u00a0%"),
        ({"reason": "volume", "volume_ratio_low": "0.25", "volume_ratio_high": "2"},
         "shrunk to 0.25 of its volume in one place"),
        ({"reason": "volume", "volume_ratio_low": "0.9", "volume_ratio_high": "3.4"},
         "stretched to 3.4 times its volume in one place"),
    ],
)  # fmt: skip
def test_why_a_region_is_listed(row, words):
    assert worst.reason_text(row) == words


@pytest.mark.parametrize(
    ("name", "acronym", "told"),
    [
        ("Caudoputamen", "CP", "Caudoputamen (CP), left"),
        ("Cerebellum left", "C28", "Cerebellum left (C28)"),
        ("Left hippocampus", "HL", "Left hippocampus (HL)"),
        ("Cleft", "Cleft", "Cleft, left"),
    ],
)
def test_a_side_that_is_in_the_name_is_not_told_twice(name, acronym, told):
    row = {"name": name, "acronym": acronym, "hemisphere": "left", "score": "2",
           "reason": "missing", "missing_percent": "47.4"}  # fmt: skip
    assert worst.sentence(row)["name"] == told


def test_the_window_of_a_region_follows_its_size_and_fits_into_the_volume():
    row = {"z_um": "1", "y_um": "2", "x_um": "3", "volume_mm3": "0.008"}
    frame = Frame((100, 100, 100), (20, 20, 20), (0, 0, 0), "AIR")
    place, half = worst.zoom_um(row, frame)
    assert place == [1, 2, 3] and half == pytest.approx(300)
    assert worst.zoom_um(row | {"volume_mm3": "1e-6"}, frame)[1] == 240
    assert worst.zoom_um(row | {"volume_mm3": "900"}, frame)[1] == 1000


@pytest.mark.parametrize("name", ["fiducials", "loops", "planes"])
def test_equal_input_gives_equal_bytes_whatever_the_users_matplotlib_settings(name):
    first = DRAWINGS[name]()
    with matplotlib.rc_context({"font.size": 30, "image.cmap": "jet", "axes.grid": True}):
        assert DRAWINGS[name]() == first


@settings(max_examples=4, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.floats(0.5, 80)] * 3))
def test_planes_of_any_shape_and_anisotropy_are_drawn(shape, spacing):
    frame = Frame(shape, spacing)
    picture = Image.open(io.BytesIO(volume.mid_planes(np.zeros(shape), frame, title="t")))
    assert picture.height <= 2000


def test_letters_name_the_direction_in_which_the_picture_grows():
    figure = canvas.new_figure(3, 3, "")
    axes = canvas.axes_grid(figure, 1, 1)[0, 0]
    canvas.show_plane(axes, BRAIN[4], FRAME, 0)
    place = {t.get_text(): t.get_position() for t in axes.texts}
    # FRAME is AIR: in the plane across z, rows go to I and columns to R
    assert place["I"][1] < 0.5 < place["S"][1]
    assert place["L"][0] < 0.5 < place["R"][0]


def test_passes_are_numbered_in_their_order_whatever_their_levels():
    rows = [{"level": n, "voxel_um": v, "total": 3, "match": 3} for n, v in
            ((0, 271.25714), (1, 135.62857), (9, 67.814285))]  # fmt: skip
    figure = registration.energy_curve.__wrapped__(rows)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["pass 1 (271 µm)", "pass 2 (136 µm)", "pass 3 (67.8 µm)"]


def test_a_scale_bar_is_one_black_bar_on_paper_and_on_dark_tissue():
    for background in ("white", "black"):
        figure, axes = canvas.filled_figure((300, 300), 3)
        axes.set_facecolor(background)
        canvas.scale_bar(axes, 1000.0, 1000.0, 500.0)
        figure.canvas.draw()
        column = np.asarray(figure.canvas.buffer_rgba())[..., 0][250:, 120]
        edges = np.flatnonzero(np.diff((column < 128).astype(int)))
        outside = 0 if background == "white" else 2  # the dark around the white strip
        assert len(edges) == 2 + outside


def test_scale_bar_has_the_length_it_says_also_on_a_finer_picture():
    figure = canvas.new_figure(3, 3, "")
    axes = canvas.axes_grid(figure, 1, 1)[0, 0]
    canvas.show_plane(axes, np.zeros((170, 120, 3), np.uint8), FRAME, 0)
    assert axes.get_xlim() == (0, 12 * 30) and axes.get_ylim() == (17 * 20, 0)
    bar = axes.lines[0].get_xdata()
    assert bar[1] - bar[0] == 100
    assert "100 µm" in [t.get_text() for t in axes.texts]


@given(st.floats(1e-3, 1e6))
def test_round_length_is_one_two_or_five_times_a_power_of_ten(length):
    found = canvas.round_length(length)
    assert found <= length * (1 + 1e-6) < found * 2.6
    assert f"{found:.0e}"[0] in "125"


def test_preview_puts_the_atlas_where_the_affine_says():
    atlas_frame = Frame((12, 10, 14), (100,) * 3, (0, 0, 0), "RIP")
    annotation = RNG.integers(0, 4_000_000_000, atlas_frame.shape).astype(np.uint32)
    sample_frame = Frame((14, 10, 12), (100,) * 3, (0, 0, 0), "AIR")
    affine = np.eye(4)
    affine[:3, :3] = orientation_matrix("RIP", "AIR")
    affine[:3, 3] = sample_frame.centre_um - affine[:3, :3] @ atlas_frame.centre_um
    expected = annotation.transpose(2, 1, 0)[::-1]
    for axis in range(3):
        points = registration.plane_points(sample_frame, axis)
        where = registration.to_index(points, affine, atlas_frame)
        labels = registration.nearest_labels(annotation, where)
        factor = labels.shape[0] // canvas.plane(expected, axis).shape[0]
        middle = labels[factor // 2 :: factor, factor // 2 :: factor]
        assert np.array_equal(middle, canvas.plane(expected, axis))


def test_labels_outside_the_atlas_are_zero():
    index = np.array([[[-0.6, 0.4]], [[0, 0]], [[0, 0]]])
    assert registration.nearest_labels(np.full((2, 2, 2), 7), index).tolist() == [[0, 7]]


def test_shrink_averages_what_is_there():
    image = np.arange(7 * 5, dtype=float).reshape(7, 5)
    small, factor = canvas.shrink(image, 3)
    assert factor == 3 and small.shape == (3, 2)
    assert small[0, 0] == image[:3, :3].mean() and small[2, 1] == image[6:, 3:].mean()


def test_window_of_constant_empty_and_nan_images_is_never_empty():
    for image in (np.zeros(5), np.full(3, np.nan), np.array([]), np.array([1.0, np.nan, 9])):
        low, high = canvas.window(image)
        assert high > low


def test_the_window_is_that_of_what_was_imaged():
    image = RNG.normal(200, 8, 50_000)
    image[:10_000] = RNG.gamma(8, 250, 10_000) + 200
    cornered = np.concatenate([image, np.zeros(3_000)])
    assert canvas.window(cornered) == canvas.window(image)
    assert canvas.window(np.repeat([0.0, 1000.0], 500)) == (0, 1000), "a mask has two values"


def test_composite_is_grey_where_both_agree():
    image = RNG.normal(0, 1, (6, 6))
    picture = canvas.composite(image, image, (-1, 1))
    assert np.ptp(picture, axis=2).max() == 0
    assert np.ptp(canvas.composite(image, -image, (-1, 1)), axis=2).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: stitching.seam_pairs([]),
        lambda: brain.zooms([], (0, 1)),
        lambda: stitching.loop_closure([]),
        lambda: sides.sides_map(SIDES | {"picture": {}}, (4, 2, 2)),
        lambda: registration.energy_curve([]),
        lambda: regions.region_bars([{"acronym": "CP", "hemisphere": "left", "volume_mm3": "0"}]),
        lambda: regions.fiducial_errors([{"name": "a", "error_um": ""}]),
        lambda: stitching.placement_map({**PLACEMENT, "links": []}, (9, 9, 9), (1, 1, 1)),
    ],
)
def test_a_picture_of_nothing_says_so_instead_of_failing(draw):
    assert Image.open(io.BytesIO(draw())).width > 500


def test_a_region_of_one_side_has_no_difference_of_sides():
    rows = [
        {"acronym": name, "scope": "own", "hemisphere": side, "volume_mm3": volume}
        for name, volumes in (("both", (10, 8)), ("one", (0.5, 30)))
        for side, volume in zip(("left", "right"), volumes)
    ]
    drawn = regions.region_bars.__wrapped__(rows)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts == ["-22 %"]


def test_rows_of_the_preview_are_as_high_as_their_planes():
    """A long flat brain would leave as much paper as picture."""
    long_flat = Frame((40, 60, 130), (100.0, 100.0, 100.0), orientation="ILA")
    volume = np.random.default_rng(0).random(long_flat.shape)
    figure = registration.preview_alignment.__wrapped__(
        volume, long_flat, volume, (volume > 0.5).astype(np.uint32), long_flat, np.eye(4)
    )
    figure.canvas.draw()
    coronal, sagittal, horizontal = (axes.get_position().height for axes in figure.axes[::3])
    assert sagittal < coronal < horizontal

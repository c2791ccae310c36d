"""Pictures stand as in an atlas whatever the order of the array's axes: all 48 of them."""

import io

import numpy as np
import pytest
from PIL import Image

from terareg.core.frames import Frame, all_orientations
from terareg.core.orientation import opposite
from terareg.views.customary import SHOWN, turned, view_across, views
from terareg.views.figures import brain, canvas, registration, volume

# how an atlas page shows a plane: what stands at its top, and at its right
PAGES = {"coronal": "SR", "sagittal": "SP", "horizontal": "AR"}
SIZE = {"R": 7, "P": 9, "I": 5}
STEP = {"R": 20.0, "P": 30.0, "I": 50.0}
HIGH = {"R": 1, "P": 20, "I": 400}


def stored(code):
    """A brain stored in an order of axes: every voxel says how far right, posterior, inferior."""
    values, shape, spacing = 0, [], []
    for axis, letter in enumerate(code):
        along = letter if letter in SIZE else opposite(letter)
        ramp = np.arange(SIZE[along]) if letter in SIZE else np.arange(SIZE[along])[::-1]
        values = values + HIGH[along] * ramp.reshape([-1 if a == axis else 1 for a in range(3)])
        shape.append(SIZE[along])
        spacing.append(STEP[along])
    return values.astype(float), Frame(tuple(shape), tuple(spacing), (3.0, 5.0, 8.0), code)


def towards(picture, edge):
    """Change of the values of a picture towards its top, or towards its right."""
    return picture[0, 0] - picture[1, 0] if edge == "top" else picture[0, 1] - picture[0, 0]


@pytest.mark.parametrize("code", all_orientations())
def test_the_letters_at_top_and_right_are_those_of_an_atlas_page_and_the_voxels_agree(code):
    values, frame = stored(code)
    assert [view.name for view in views(code)] == list(PAGES)
    for view in views(code):
        figure = canvas.new_figure(3, 3, "")
        axes = canvas.axes_grid(figure, 1, 1)[0, 0]
        drawn = canvas.show_plane(axes, canvas.plane(values, view.axis), frame, view.axis)
        place = {t.get_text(): t.get_position() for t in axes.texts}
        for letter, edge in zip(PAGES[view.name], ("top", "right")):
            (x, y), other = place[letter], place[opposite(letter)]
            assert (y > other[1]) if edge == "top" else (x > other[0])
            step = towards(drawn.get_array(), edge)
            assert step == (HIGH[letter] if letter in HIGH else -HIGH[opposite(letter)])
        down, right = (opposite(PAGES[view.name][0]), PAGES[view.name][1])
        assert drawn.get_array().shape == (SIZE[down], SIZE[right])
        assert axes.get_xlim() == (0, SIZE[right] * STEP[right])
        assert axes.get_ylim() == (SIZE[down] * STEP[down], 0)
        assert view_across(code, view.axis) == view


@pytest.mark.parametrize("code", all_orientations())
def test_a_turned_volume_is_the_same_brain_at_the_same_places(code):
    values, frame = stored(code)
    array, own = turned(values, frame)
    wanted, _ = stored(SHOWN)
    assert own.orientation == SHOWN and np.array_equal(array, wanted)
    assert own.shape == array.shape and np.shares_memory(array, values)
    assert own.spacing_um == (STEP["I"], STEP["P"], STEP["R"])
    # a coarser grid of the same space lies at the same places after both are turned
    part = frame.cropped((1, 2, 1), (4, 5, 4))
    _, own_part = turned(values[1:4, 2:5, 1:4], part)
    start = np.rint(own.to_index(np.array(own_part.origin_um))).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, own_part.shape))
    assert sorted(array[box].ravel()) == sorted(values[1:4, 2:5, 1:4].ravel())


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def whole_pictures(code):
    """Pictures of one brain, stored in an order of axes."""
    values, frame = stored(code)
    labels = (values > np.median(values)).astype(np.uint32)
    coronal = views(code)[0]
    plane = Frame(
        tuple(1 if a == coronal.axis else n for a, n in enumerate(frame.shape)),
        frame.spacing_um, (0, 0, 0), code,
    )  # fmt: skip
    shares = {"match": values / values.max()}
    return {
        "posteriors": pixels(registration.posterior_maps(shares, frame)),
        "jacobian": pixels(registration.jacobian_map(0.5 + values / values.max(), frame)),
        "bias": pixels(volume.bias_field(values, 1 + values / 9e3, frame, channel="c")),
        "borders": pixels(
            brain.borders(
                canvas.plane(values, coronal.axis),
                canvas.plane(labels, coronal.axis),
                plane,
                (0, values.max()),
            )
        ),
    }


def test_whole_pictures_are_the_same_in_whatever_order_the_brain_is_stored():
    wanted = whole_pictures(SHOWN)
    for code in ("SAR", "LIA", "PSL"):
        for name, picture in whole_pictures(code).items():
            assert picture.shape == wanted[name].shape
            if name == "borders":
                # a border is drawn on one side of where two labels meet, and JPEG loses a little
                assert np.abs(picture - wanted[name]).mean() < 12
            else:
                assert np.array_equal(picture, wanted[name]), (code, name)

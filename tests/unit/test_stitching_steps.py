"""Steps between tiles, measured where the metadata may be wrong."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from seams import SMALL, Memory, camera, cut, grid, pair_of, texture

from terareg.core.errors import StitchingError
from terareg.stitching.displacement import measure_pair
from terareg.stitching.steps import Steps, estimate_steps


@pytest.mark.slow
def test_true_step_is_found_when_the_metadata_are_wrong():
    """Issue 98 of TeraStitcher: the stated overlap puts the true step outside the search range."""
    shape, step = (20, 128, 128), 92
    canvas = texture((26, 2 * step + 160, 2 * step + 160), 11)
    rng = np.random.default_rng(4)
    tiles = {}
    for r in range(2):
        for c in range(3):
            jitter = rng.integers(-1, 2, 3)
            origin = np.array([3, 10 + r * step, 6 + 2 * c + c * step * 0.7]) + jitter
            tiles[f"{r},{c}"] = camera(cut(canvas, np.rint(origin), shape), r * 3 + c)
    acquisition = grid(tiles, shape, (118.0, 118.0), 2, 3)
    settings = replace(SMALL, search_um=(8.0, 16.0, 16.0))
    steps = estimate_steps(Memory(tiles), acquisition, settings)
    assert steps.used == {"EAST": True, "SOUTH": True}
    assert np.abs(np.array(steps.measured_vox["SOUTH"]) - [0, step, 0]).max() < 3
    assert np.abs(np.array(steps.measured_vox["EAST"]) - [0, 0, 2 + 0.7 * step]).max() < 3
    assert any("the metadata say" in text for text in steps.warnings)
    changed = steps.apply(settings)
    assert changed.step_south_vox == steps.measured_vox["SOUTH"]
    result = measure_pair(Memory(tiles), acquisition, "0,0", "1,0", "SOUTH", changed)
    assert result.status == "ok"
    assert Steps.from_json(steps.to_json()) == steps


STEP = 72
OF_IMAGES = {
    "as it is": lambda r, c, last: (r, c),
    "mirrored": lambda r, c, last: (r, last - c),
    "upside down": lambda r, c, last: (last - r, c),
    "transposed": lambda r, c, last: (c, r),
}


def laid_out(name: str, number: int):
    """Tiles of a square grid whose cells are others than they are in the images."""
    shape = (20, 96, 96)
    canvas = texture((26, number * STEP + 60, number * STEP + 60), 11)
    tiles = {}
    for r in range(number):
        for c in range(number):
            down, right = OF_IMAGES[name](r, c, number - 1)
            origin = (3, 5 + down * STEP, 5 + right * STEP)
            tiles[f"{r},{c}"] = camera(cut(canvas, origin, shape), r * 3 + c)
    return tiles, grid(tiles, shape, (STEP, STEP), number, number)


CONTRADICTIONS = [
    ("mirrored", "next column of the layout should be right in the images but is left"),
    ("upside down", "next row of the layout should be below in the images but is above"),
    ("transposed", "next column of the layout should be right in the images but is below"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text"), CONTRADICTIONS)
def test_a_layout_that_contradicts_the_images_is_an_error(name, text):
    tiles, acquisition = laid_out(name, 3)
    with pytest.raises(StitchingError, match=re.escape(text)) as error:
        estimate_steps(Memory(tiles), acquisition, SMALL)
    assert ("input.first_level" in str(error.value)) is (name == "transposed")


@pytest.mark.parametrize(("name", "text"), [*CONTRADICTIONS, ("as it is", None)])
def test_two_pairs_that_contradict_their_layout_are_told(name, text):
    """They may agree by chance, so that they do not stop the run."""
    tiles, acquisition = laid_out(name, 2)
    steps = estimate_steps(Memory(tiles), acquisition, SMALL)
    assert not any(steps.used.values())
    assert Steps.from_json(json.loads(json.dumps(steps.to_json()))) == steps
    if text is None:
        assert steps.warnings == steps.contradicted == ()
    else:
        assert steps.contradicted[0] == ("SOUTH" if name == "upside down" else "EAST")
        assert text in steps.warnings[0] and steps.warnings[0].startswith("only 2 pairs tell")


def test_tiles_are_read_once_for_the_steps_and_windows_share_planes():
    images, names, _ = pair_of(np.array([1.0, 2.0, -2.0]))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    acquisition = grid(tiles, (48, 96, 96), (72.0, 72.0))
    source = Memory(tiles)
    steps = estimate_steps(source, acquisition, SMALL)
    assert steps.bytes == sum(source.asked) == 2 * 8 * 96 * 96 * 2
    source = Memory(tiles)
    result = measure_pair(source, acquisition, *names, "EAST", SMALL)
    # strips as wide as the overlap and the search range, over the whole depth, once
    assert result.bytes == sum(source.asked) <= 2 * 48 * 96 * (96 - 72 + 8) * 2


def test_right_metadata_are_left_alone():
    images, _, _ = pair_of(np.array([0.0, 1.0, 1.0]))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    acquisition = grid(tiles, (48, 96, 96), (72.0, 72.0))
    steps = estimate_steps(Memory(tiles), acquisition, SMALL)
    assert steps.used == {"EAST": False, "SOUTH": False}
    assert steps.apply(SMALL) == SMALL

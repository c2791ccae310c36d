"""Displacements of tiles with two sides come from the side that shows the overlap better."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from seams import SMALL, Memory, camera, grid, pair_of

from terareg.stitching.better_side import as_on_first_side, measure_better_sides
from terareg.stitching.channel_shift import ChannelShift, own_origins, save_shift
from terareg.stitching.fine_structure import clearness

TRUE = np.array([1.4, -2.3, 3.6])


class Side(Memory):
    """A side of a channel: a source that knows its tiles and planes without pixels."""

    def __init__(self, tiles, names, missing=()):
        super().__init__(tiles)
        self.acquisition = grid({n: tiles[n] for n in tiles}, next(iter(tiles.values())).shape,
                                (72.0, 72.0))  # fmt: skip
        self.missing = missing

    def missing_planes(self, tile):
        return self.missing


def sides(blurred=0, sigma=5.0, dim=0.25, drop=()):
    """Two sides of a pair, of which the one numbered ``blurred`` is scattered at its seam."""
    images, names, expected = pair_of(TRUE)
    found = {}
    for number, side in enumerate(("left", "right")):
        tiles = {}
        for k, (name, image) in enumerate(images.items()):
            if number == blurred:
                image = dim * ndimage.gaussian_filter(image, (1.5, sigma, sigma))
            if (side, name) not in drop:
                tiles[name] = camera(image, 10 * number + k)
        found[side] = Side(tiles, names)
    shape = next(iter(images.values())).shape
    acquisition = grid(images, shape, (72.0, 72.0))
    return found, acquisition, [(*names, "EAST")], expected


@pytest.mark.slow
@pytest.mark.parametrize("blurred, better", [(0, "right"), (1, "left")])
def test_a_seam_is_measured_on_the_side_that_is_not_blurred_there(blurred, better):
    found, acquisition, pairs, expected = sides(blurred)
    (result,) = measure_better_sides(found, acquisition, pairs, SMALL, axis=2)
    assert (result.status, result.side) == ("ok", better)
    error = np.abs(np.subtract(result.displ_vox, expected)).max()
    assert error < 0.1
    if better == "right":
        alone = {"left": found["left"]}
        (first,) = measure_better_sides(alone, acquisition, pairs, SMALL, axis=2)
        worse = np.abs(np.subtract(first.displ_vox, expected)).max()
        assert first.status != "ok" or worse > 2 * error, "the blurred side is no match"


@pytest.mark.slow
def test_where_both_sides_are_alike_the_first_is_measured_and_workers_change_nothing():
    found, acquisition, pairs, _ = sides(blurred=None)
    results = [
        measure_better_sides(found, acquisition, pairs * 2, SMALL, axis=2, workers=workers)
        for workers in (1, 2)
    ]
    assert {r.side for r in results[0]} == {"left"}
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_displacement_that_the_clearer_side_does_not_show_is_looked_for_on_the_other():
    found, acquisition, pairs, expected = sides(blurred=None)
    # sharp and bright, but of different tissue: files of another tile
    other = pair_of(TRUE, seed=8)[0]
    found["left"].tiles["0,0"] = camera(2 * other["0,0"], 1)
    found["left"].tiles["0,1"] = camera(2 * found["right"].tiles["0,1"], 2)
    (result,) = measure_better_sides(found, acquisition, pairs, SMALL, axis=2)
    assert (result.status, result.side) == ("ok", "right")
    assert np.abs(np.subtract(result.displ_vox, expected)).max() < 0.1
    (alone,) = measure_better_sides({"left": found["left"]}, acquisition, pairs, SMALL, axis=2)
    assert alone.status != "ok" and result.bytes > alone.bytes


@pytest.mark.slow
def test_a_tile_that_has_one_side_is_compared_on_that():
    found, acquisition, pairs, _ = sides(blurred=0, drop={("right", "0,1")})
    settings = replace(SMALL, search_um=(8.0, 8.0, 8.0))
    (result,) = measure_better_sides(found, acquisition, pairs, settings, axis=2)
    assert result.side == "left"


@pytest.mark.slow
def test_a_camera_that_magnifies_more_gives_the_same_displacement(tmp_path):
    """Its tiles lie further apart in its own pixels; what is measured on the first side stays."""
    larger = 1.03
    images, names, expected = pair_of(TRUE)
    shape = next(iter(images.values())).shape
    middle = (np.array(shape) - 1) / 2
    matrix = np.diag([1.0, larger, larger])
    offset = np.array([0.0, 1.5, -2.5])
    tiles = {
        name: camera(
            # index of the second camera = matrix @ (index of the first - middle) + middle + offset
            ndimage.affine_transform(
                image, np.linalg.inv(matrix), middle - np.linalg.solve(matrix, middle + offset)
            ),
            k,
        )
        for k, (name, image) in enumerate(images.items())
    }
    acquisition = grid(images, shape, (72.0, 72.0))
    settings = replace(SMALL, points=True)
    pairs = [(*names, "EAST")]
    (seen,) = measure_better_sides({"right": Side(tiles, names)}, acquisition, pairs, settings, 2)
    assert seen.status == "ok" and seen.points
    assert np.abs(np.subtract(seen.displ_vox, expected)).max() > 1
    # as measured between channels: shift = -offset and grows with the place as the index shrinks
    gradient = tuple(map(tuple, np.eye(3) - matrix))
    shift = ChannelShift("right", "left", "measured", shift_vox=tuple(-offset), gradient=gradient)
    first, other = as_on_first_side([seen, replace(seen, side="left")], shift, shape)
    assert np.abs(np.subtract(first.displ_vox, expected)).max() < 0.15
    moved = [np.subtract(point.displ_vox, expected) for point in first.points]
    assert np.abs(np.median(moved, axis=0)).max() < 0.15
    places = np.subtract([p.at_vox for p in first.points], [p.at_vox for p in seen.points])
    there = np.array([p.at_vox for p in first.points]) - middle
    assert np.abs(places + there @ (matrix - np.eye(3)) + offset).max() < 1e-6
    assert other.displ_vox == seen.displ_vox
    # and back: where the second camera sees the tiles, in whose pixels its flat-field is estimated
    path = tmp_path / "right.json"
    save_shift(path, shift)
    tiles = {"a": (0.0, 0.0, 0.0), "b": first.displ_vox}
    there = own_origins(tiles, {"other_shift": path}, shape)
    assert np.subtract(there["b"], there["a"]) == pytest.approx(seen.displ_vox, abs=1e-5)
    assert own_origins({"b": expected}, {"shift": None}, shape) == {"b": pytest.approx(expected)}
    # where the first camera is itself larger than that of the alignment channel by as much
    twice = own_origins(tiles, {"shift": path, "other_shift": path}, shape)
    assert np.subtract(twice["b"], twice["a"]) == pytest.approx(matrix @ seen.displ_vox, abs=1e-5)
    plain = replace(shift, gradient=((0.0, 0.0, 0.0),) * 3)
    assert as_on_first_side([seen], plain, shape) == [seen]


def test_clearness_falls_with_blur_dimness_and_noise_but_not_with_stripes_along_the_light():
    rng = np.random.default_rng(0)
    structure = ndimage.gaussian_filter(rng.standard_normal((2, 128, 128)), (4, 1.5, 1.5))
    image = 1000 + 200 * structure / structure.std()

    def seen(image, noise=20.0):
        return clearness(image + rng.normal(0, noise, image.shape), axis=2)

    plain = seen(image)
    assert seen(ndimage.gaussian_filter(image, (0, 3, 3))) < plain / 5
    assert seen(0.3 * image) < plain / 5
    assert seen(image, 60.0) < plain / 5
    stripes = 1 + 0.3 * rng.standard_normal((1, 128, 1))
    blurred = ndimage.gaussian_filter(image, (0, 4, 4))
    assert seen(blurred * stripes) < 2 * seen(blurred) + 0.05
    assert seen(np.full((2, 64, 64), 500.0)) < 0.02 and clearness(np.zeros((2, 8, 8)), 0) == 0

"""Maps of the shares of two sides, from the power of what they show."""

import numpy as np
import pytest

from terareg.stitching.side_shares import (
    Area,
    Place,
    powers_of,
    share_maps,
    side_picture,
    structure,
)
from terareg.volumes.share_maps import WHOLE, unpacked
from terareg.volumes.sides import Light

EDGE = 16.0
LIGHT = Light(2, 0, blend=0.2)


def place(fine, noise=1.0, means=(100.0, 100.0), blocks=(4, 8), origin=(0.0, 0.0, 0.0)):
    """Blocks of a tile in one depth; ``fine`` has the power of both sides, (2, columns)."""
    rows, columns = blocks
    y, x = np.indices(blocks).reshape(2, -1) * EDGE + EDGE / 2 - 0.5
    fine = np.repeat(np.asarray(fine, float)[:, None], rows, axis=1).reshape(2, -1)
    along = (x + 0.5) / (columns * EDGE)
    return Place(
        "T", origin, np.array([np.full(x.size, 3.5), y, x]), np.array([along, along]),
        np.repeat(np.array(means)[:, None], x.size, axis=1), fine, np.full((2, x.size), noise),
        256, (EDGE, EDGE),
    )  # fmt: skip


def area(blocks=(4, 8), planes=8):
    size = (float(planes), blocks[0] * EDGE, blocks[1] * EDGE)
    shape = tuple(int(n) for n in size)
    return Area((0.0, 0.0, 0.0), size, shape, {"T": (3,)})


def shares(fine, gain=1.0, **more):
    powers = powers_of([place(fine, **more)], "volume", area())
    return share_maps(powers, gain, LIGHT)[""].values[0, 2] / WHOLE


def test_the_side_with_more_power_counts_wherever_it_is():
    left = np.array([50.0, 50, 50, 50, 1, 1, 1, 1])
    assert shares([left, left[::-1]])[[0, 1, 6, 7]].tolist() == [1, 1, 0, 0]
    assert shares([left[::-1], left])[[0, 1, 6, 7]].tolist() == [0, 0, 1, 1]
    assert np.allclose(shares([left * 0 + 30] * 2), 0.5, atol=0.01), "alike: both count"


def test_power_is_compared_as_bright_as_sides_are_fused():
    even = np.full(8, 40.0)
    assert np.allclose(shares([even, even / 9], gain=3.0), 0.5, atol=0.01)
    assert (shares([even, even / 9]) == 1).all()


@pytest.mark.parametrize("fine", [0.0, 0.05])
def test_power_within_its_noise_leaves_it_to_the_distance(fine):
    found = shares([np.full(8, fine), np.zeros(8)], noise=400.0)
    assert found[0] > 0.95 and found[-1] < 0.05


def test_structure_is_counted_in_errors_of_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, np.sqrt(6 / 256) / 2, (2, 8))
    assert max(map(abs, structure([place(noise)]))) < 5
    one, other = structure([place([np.full(8, 3.0), noise[0]])])
    assert one > 20 > 5 > other and structure([]) == (0.0, 0.0)


def test_maps_of_large_volumes_have_coarser_cells():
    wide = Area((0.0, 0.0, 0.0), (8.0, 4e4, 4e4), (8, 64, 128), {"T": (3,)})
    powers = powers_of([place(np.ones((2, 8)))], "volume", wide)[""]
    assert powers.power[0].size <= 260_000 and powers.step_vox[1] == 5 * EDGE
    assert powers_of([], "volume", wide) == {} and side_picture([], [], LIGHT, wide, 1.0) == {}


def test_the_picture_shows_both_sides_and_the_shares_of_a_plane_along_the_light():
    fine = [np.arange(1.0, 9.0), np.arange(8.0, 0.0, -1.0)]
    looked_at, share = place(fine, means=(100.0, 50.0)), np.tile(np.linspace(1, 0, 8), 4)
    # the same tile twice is no brighter
    shown = side_picture([looked_at, looked_at], [share, share], LIGHT, area(), 1.0)
    assert shown == side_picture([looked_at], [share], LIGHT, area(), 1.0)
    assert (shown["shape"], shown["axes"], shown["step_vox"]) == ([4, 8], "yx", [EDGE, EDGE])
    shares = unpacked(shown["share"], shown["shape"]) / WHOLE
    assert shares[2, 0] > 0.9 and shares[2, -1] < 0.1
    bright = [unpacked(text, shown["shape"])[2, 4] for text in shown["brightness"]]
    assert bright[0] == pytest.approx(2 * bright[1], abs=2)
    even = side_picture([looked_at], [share], LIGHT, area(), 2.0)["brightness"]
    assert even[0] == even[1], "the second side is shown as bright as it is fused"
    first, second = (unpacked(text, shown["shape"])[2].astype(int) for text in shown["structure"])
    assert first[1] < first[-2] and second[1] > second[-2]

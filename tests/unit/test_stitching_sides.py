"""Sides of a channel are compared: their brightness, and of what each shows its half well."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from terareg.core.errors import StitchingError
from terareg.stitching.channel_shift import ChannelShift, channel_poses
from terareg.stitching.placement import PlacedTile, Placement
from terareg.stitching.sides import SideMatch, load_match, match_sides, save_match
from terareg.volumes.share_maps import ShareMap
from terareg.volumes.sides import Light

SHAPE, STEP = (6, 96, 96), 80
ENDS = {"left": "-x", "right": "+x"}
AUTO = {"across": "auto", "blend": 0.1, "weights": "distance"}


class Tiles:
    """Tiles of one side, as arrays in memory."""

    def __init__(self, arrays, origins, missing=()):
        self.arrays, self.missing = arrays, missing
        tiles = [SimpleNamespace(name=n, origin_vox=origins[n]) for n in arrays]
        self.acquisition = SimpleNamespace(
            tiles=tiles,
            tile_shape=SHAPE,
            spacing_um=(4.0, 2.0, 2.0),
            tile=lambda name: next(t for t in tiles if t.name == name),
        )

    def missing_planes(self, tile):
        return self.missing

    def read(self, tile, z0, z1, y=slice(None), x=slice(None), out=None):
        assert 0 <= z0 < z1 <= SHAPE[0] and 0 <= x.start < x.stop <= SHAPE[2]
        return self.arrays[tile][z0:z1, y, x]


def sides(*, of="volume", gain=1.0, by=(0, 0, 0), columns=3, seed=0, exchanged=False, dim=0.3):
    """Two sides whose far half, of the volume or of each tile, is blurred and a bit darker."""
    rng = np.random.default_rng(seed)
    width = STEP * (columns - 1) + SHAPE[2]
    noise = rng.standard_normal((SHAPE[0] + 8, SHAPE[1] + 16, width + 16))
    texture = ndimage.gaussian_filter(noise, 1.2)
    truth = 2000 + 500 * texture / texture.std()
    sources = []
    for number in range(2):
        shift = np.array(by) * number
        moved = np.roll(truth, shift, axis=(0, 1, 2))
        blurred = ndimage.gaussian_filter(moved, (0, 3, 3))
        arrays, origins = {}, {}
        for column in range(columns):
            place = np.arange(SHAPE[2]) + (STEP * column if of == "volume" else 0)
            t = place / ((width if of == "volume" else SHAPE[2]) - 1)
            far = np.clip(2 * (t if (number == 0) != exchanged else 1 - t) - 1, 0, 1)
            mix = np.clip(3 * far, 0, 1)
            inner = np.s_[4:-4, 8:-8, 8 + STEP * column : 8 + STEP * column + SHAPE[2]]
            seen = ((1 - mix) * moved[inner] + mix * blurred[inner]) * (1 - dim * far)
            seen = seen * (gain if number else 1) + rng.normal(0, 20, SHAPE)
            name = f"T{column}"
            arrays[name] = np.clip(np.rint(seen), 0, 65535).astype(np.uint16)
            origins[name] = (0.0, 0.0, float(STEP * column))
        sources.append(Tiles(arrays, origins))
    return sources


def shift_of(*vox):
    return ChannelShift("right", "left", "measured", shift_vox=tuple(map(float, vox)))


@pytest.mark.parametrize("of", ["volume", "tile"])
def test_gain_and_halves_are_found(of):
    found = match_sides(sides(of=of, gain=0.6), None, ("signal", ENDS), AUTO)
    assert found.across == of and found.sides == ("left", "right")
    assert found.gain == pytest.approx(1 / 0.6, rel=0.01)
    assert found.left_percent < 1.5 and found.sharper > 1.5
    assert found.light(0.2) == Light(2, 0, of, 0.2)
    assert not found.warnings


def test_the_second_side_is_read_where_its_shift_puts_it():
    shifted = sides(by=(1, -3, 4), gain=0.8, dim=0.0)
    found = match_sides(shifted, shift_of(-1, 3, -4), ("signal", ENDS), AUTO, workers=2)
    assert found.gain == pytest.approx(1.25, rel=0.01) and found.places >= 3
    assert found == match_sides(shifted, shift_of(-1, 3, -4), ("signal", ENDS), AUTO)


def test_brightness_is_compared_where_the_sides_meet():
    """Where a side is moved by many pixels the blocks lie elsewhere in its tiles."""
    for by in (0, -12):
        found = match_sides(
            sides(by=(0, by, 0), dim=0.9), shift_of(0, -by, 0), ("signal", ENDS), AUTO
        )
        assert found.gain == pytest.approx(1, abs=0.015)


def test_exchanged_ends_and_unequal_lights_are_told():
    found = match_sides(sides(exchanged=True, gain=0.3), None, ("signal", ENDS), AUTO)
    assert found.sharper < 1
    exchanged, unequal = found.warnings
    assert "left shows less fine structure than right at -x" in exchanged
    assert "swap the ends in input.sides.signal" in exchanged
    assert "left is 3.3" in unequal and "times as bright as right" in unequal


def test_a_choice_of_the_user_is_kept():
    found = match_sides(sides(), None, ("signal", ENDS), AUTO | {"across": "tile"})
    assert found.across == "tile"


def test_where_the_sides_share_no_tissue_nothing_is_changed_and_the_report_is_told():
    dark = sides()
    dark[1].arrays = {name: np.zeros(SHAPE, np.uint16) for name in dark[1].arrays}
    found = match_sides(dark, None, ("signal", ENDS), AUTO)
    assert found.gain == 1.0 and found.left_percent is None and found.sharper is None
    (text,) = found.warnings
    assert "right shows no fine structure above its noise in channel signal" in text
    moved = list(dark[0].arrays)
    dark = sides()
    for place, of_side in zip((0, 2), dark):
        empty = [name for name in moved if name != f"T{place}"]
        of_side.arrays |= {name: np.zeros(SHAPE, np.uint16) for name in empty}
    found = match_sides(dark, None, ("signal", ENDS), AUTO)
    assert found.gain == 1.0 and found.left_percent is None
    assert any("no bright tissue in common where they meet" in text for text in found.warnings)


def test_a_tile_that_lacks_a_side_is_not_compared():
    one, other = sides()
    del other.arrays["T1"]
    other.acquisition.tiles = [t for t in other.acquisition.tiles if t.name != "T1"]
    found = match_sides([one, other], None, ("signal", ENDS), AUTO | {"across": "tile"})
    assert 0 < found.places < 9


def test_planes_that_are_missing_are_not_compared():
    some = sides()
    some[1].missing = tuple(range(SHAPE[0]))
    assert match_sides(some, None, ("signal", ENDS), AUTO).places == 0


def test_two_cameras_meet_within_the_stack():
    ends = {"front": "-z", "back": "+z"}
    rng = np.random.default_rng(1)
    texture = ndimage.gaussian_filter(rng.standard_normal((24, 96, 96)), (1, 1.2, 1.2))
    truth = 2000 + 500 * texture / texture.std()
    blurred = ndimage.gaussian_filter(truth, (0, 3, 3))
    deep = np.clip(np.linspace(-1, 1, 24) * 3, 0, 1)[:, None, None]
    stacks = [truth * (1 - m) + blurred * m for m in (deep, deep[::-1])]
    sources = []
    for stack in stacks:
        source = Tiles({"T0": np.rint(stack).astype(np.uint16)}, {"T0": (0.0, 0.0, 0.0)})
        source.acquisition.tile_shape = (24, 96, 96)
        source.read = lambda tile, z0, z1, y, x, own=source: own.arrays[tile][z0:z1, y, x]
        sources.append(source)
    found = match_sides(sources, None, ("signal", ends), AUTO)
    assert found.gain == pytest.approx(1, rel=0.01) and found.sharper > 1.5
    assert found.light(0.1).axis == 0


def test_the_file_of_a_match_comes_back(tmp_path):
    match = SideMatch("signal", ("a", "b"), ("+y", "-y"), "tile", 1.5, 0.1, 2.0, 3, 1.2, ("x",))
    save_match(tmp_path / "m.json", match)
    assert load_match(tmp_path / "m.json") == match and match.light(0.1).low == 1
    shown = ShareMap(
        (1.0, 2.0, 3.5), (4.0, 5.0, 6.0), np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    )
    save_match(tmp_path / "m.json", replace(match, maps={"": shown}))
    assert load_match(tmp_path / "m.json").light(0.1).maps == {"": shown}
    (tmp_path / "m.json").write_text("[]")
    with pytest.raises(StitchingError, match=r"a match of sides .*match_sides"):
        load_match(tmp_path / "m.json")


# ---------------------------------------------------------------- weights by content
CONTENT = AUTO | {"weights": "content"}


def share(found, tile, places):
    """Shares of the first side at places (n, 3) of a tile of the row."""
    places = np.array(places, float) + (0, 0, 0 if tile in found.maps else STEP * int(tile[1]))
    shown = found.maps.get(tile) or found.maps[""]
    return [float(shown.plane(z, np.array([y]), np.array([x]))[0, 0]) for z, y, x in places]


@pytest.mark.parametrize("of", ["volume", "tile"])
def test_by_content_each_side_counts_in_its_half(of):
    found = match_sides(sides(of=of, gain=0.6), None, ("signal", ENDS), CONTENT)
    assert found.across == of and not found.warnings
    assert found.gain == pytest.approx(1 / 0.6, rel=0.01) and found.left_percent < 2.5
    assert np.allclose(found.own_percent, 50, atol=5)
    near, far = ("T0", "T2") if of == "volume" else ("T1", "T1")
    assert share(found, near, [(2, 48, 20)])[0] > 0.95
    assert share(found, far, [(2, 48, 76)])[0] < 0.05
    assert found == match_sides(sides(of=of, gain=0.6), None, ("signal", ENDS), CONTENT, 2)


def test_behind_a_dense_part_the_other_side_counts_although_it_is_farther_from_its_light():
    """Light from the left is scattered in the upper half of the first tile."""
    behind = sides(dim=0.1)
    for number, source in enumerate(behind):
        for name, array in source.arrays.items():
            if number == 0 and name != "T0":
                sharp = array[:, :48].astype(float)
                array[:, :48] = np.rint(0.6 * ndimage.gaussian_filter(sharp, (0, 6, 6)))
    found = match_sides(behind, None, ("signal", ENDS), CONTENT)
    assert share(found, "T0", [(2, 20, 20), (2, 76, 20)]) == [1.0, 1.0]
    upper, lower = share(found, "T1", [(2, 12, 46), (2, 84, 46)])
    assert upper < 0.1 and lower > 0.5
    assert found.own_percent[1] > 53
    plain = match_sides(behind, None, ("signal", ENDS), AUTO)
    assert plain.maps == {} and plain.own_percent == pytest.approx((50, 50), abs=5)


def test_without_structure_the_distance_decides_and_the_report_is_told():
    rng = np.random.default_rng(4)
    noise = sides()
    for source in noise:
        source.arrays = {n: rng.poisson(400, SHAPE).astype(np.uint16) for n in source.arrays}
    found = match_sides(noise, None, ("signal", ENDS), CONTENT | {"across": "volume"})
    assert share(found, "T0", [(2, 48, 20)])[0] > 0.85
    assert share(found, "T2", [(2, 48, 76)])[0] < 0.15
    (text,) = found.warnings
    assert "neither left nor right shows fine structure above its noise" in text


def test_a_side_that_is_dark_counts_nowhere_and_is_not_brightened():
    rng = np.random.default_rng(4)
    dark = sides()
    dark[1].arrays = {n: rng.poisson(5, SHAPE).astype(np.uint16) for n in dark[1].arrays}
    found = match_sides(dark, None, ("signal", ENDS), CONTENT)
    assert found.gain == 1.0 and found.own_percent[0] > 97
    (text,) = found.warnings
    assert "right shows no fine structure above its noise" in text


def test_a_side_out_of_focus_is_told():
    soft = sides()
    for name, array in soft[1].arrays.items():
        soft[1].arrays[name] = np.rint(
            ndimage.gaussian_filter(array.astype(float), (0, 2.5, 2.5))
        ).astype(np.uint16)
    found = match_sides(soft, None, ("signal", ENDS), CONTENT)
    assert found.own_percent[1] < 40
    ends = {"left": "-x", "right": "+x"}
    sharp = sides(dim=0.0)
    for name, array in soft[1].arrays.items():
        array[...] = np.rint(ndimage.gaussian_filter(
            sharp[0].arrays[name].astype(float), (0, 4, 4)
        ))  # fmt: skip
    sharp[1].arrays = soft[1].arrays
    clear = sides(dim=0.0, seed=0)[0]
    found = match_sides([clear, sharp[1]], None, ("signal", ends), CONTENT)
    assert found.own_percent[1] < 5
    assert any("right gives only" in text and "in focus" in text for text in found.warnings)


def test_stripes_along_the_light_do_not_count_as_structure():
    striped = sides(dim=0.0)
    rng = np.random.default_rng(9)
    gains = 1 + 0.3 * rng.standard_normal((1, SHAPE[1], 1))
    far = striped[0].arrays["T2"]
    far[...] = np.clip(np.rint(far * gains), 0, 65535)
    found = match_sides(striped, None, ("signal", ENDS), CONTENT | {"across": "volume"})
    assert share(found, "T2", [(2, 48, 60)])[0] < 0.1


# ---------------------------------------------------------------- places of sides
@pytest.mark.parametrize("columns", [np.zeros((3, 3)), np.arange(9.0).reshape(3, 3) - 4])
def test_a_side_lies_where_its_shift_against_the_first_puts_it(columns):
    """Shifts of a channel and of its second side, both with magnification, one after the other.

    Of a tile that is only moved, and of one that leans, is turned and larger.
    """
    gradients = [((0, 0, 0), (0, 0.01, -0.004), (0, 0.002, 0.008)),
                 ((0, 0, 0), (0, -0.006, 0.003), (0, 0.001, 0.004))]  # fmt: skip
    shifts = [
        ChannelShift("b", "a", "measured", shift_vox=vox, gradient=gradient)
        for vox, gradient in zip(((1.5, -2.0, 3.0), (0.5, 4.0, -1.25)), gradients)
    ]
    tile = PlacedTile(0, 0, (5.0, 6.0, 7.0), (5, 6, 7), "linked", 1, *map(tuple, columns))
    placement = Placement({"T": tile})
    shape, origins = (28, 108, 108), {"T": (5.0, 6.0, 7.0)}
    middle = (np.array(shape) - 1) / 2
    matrix = placement.matrices(shape).get("T", np.eye(3))
    assert np.allclose(
        np.linalg.inv(matrix) - np.eye(3), columns.T / (np.array(shape) - 1), atol=1e-12
    )
    for chain in (shifts[:1], shifts):
        places, matrices = channel_poses(origins, placement, chain, shape)
        deeper = np.array([sum(shift.shift_vox[0] for shift in chain), 0, 0])
        for index in ([9.0, 40.0, 70.0], [20.0, 100.0, 20.0]):
            aligned = np.array(index)
            for shift in reversed(chain):
                moved, bent = shift.applied(shape)
                aligned = np.linalg.solve(bent, aligned) + moved
            # a plane is taken at one moment: the tile leans by what it does in that plane
            voxel = np.linalg.solve(matrix, aligned - deeper - middle) + middle + deeper
            voxel += origins["T"]
            np.testing.assert_allclose(matrices["T"] @ (voxel - np.array(places["T"])), index,
                                       atol=1e-5)  # fmt: skip
    if columns.any():
        return
    plain = [ChannelShift("b", "a", "given", shift_vox=v) for v in ((1.5, -2, 3), (0.5, 4, -1))]
    assert channel_poses(origins, placement, plain, shape)[0] == {"T": (7.0, 8.0, 9.0)}
    assert channel_poses(origins, placement, [], shape)[0] == {"T": (5.0, 6.0, 7.0)}

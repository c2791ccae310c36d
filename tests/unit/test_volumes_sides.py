"""Two sides of a channel: each shows its own half, without a seam, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_volumes_fusion import fuse_blocks, grid, placed

from terareg.volumes.fusion import FusionSettings, RowFusion, fused_frame, fused_origins
from terareg.volumes.plan import VolumeSettings, make_plan, rows_of
from terareg.volumes.share_maps import WHOLE, ShareMap
from terareg.volumes.sides import Light, Side

COSINE = FusionSettings()


def two(first, second, origins, *, by=(0.0, 0.0, 0.0), gain=1.0):
    """Sides of one channel: the second lies ``by`` voxels elsewhere, and shows what it has."""
    _, offset = fused_frame(first.acquisition, origins, COSINE)
    places = fused_origins(origins, offset, COSINE)
    moved = {
        n: tuple(a + b for a, b in zip(o, by)) for n, o in places.items() if n in second.arrays
    }
    return [Side(first, places), Side(second, moved, gain=gain)]


def fuse(sides, origins, light, edges=(16, 512), longest=99):
    frame, _ = fused_frame(sides[0].source.acquisition, origins, COSINE)
    whole = all(v % 1 == 0 for side in sides for o in side.origins.values() for v in o)
    options = FusionSettings(subpixel=not whole)
    plan = make_plan("v", frame, "uint16", VolumeSettings(*edges))
    out = np.full(frame.shape, 123, "uint16")
    for row in rows_of(plan.blocks(), longest):
        fuse_blocks(RowFusion(sides, plan, row, options, light), row, plan, out)
    return out


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([0, 1, 2]), st.sampled_from([0, 1]), st.sampled_from(["volume", "tile"]),
    st.sampled_from([(0.0, 0.0, 0.0), (1.0, -1.0, 2.0), (0.25, -0.5, 1.5)]),
    st.sampled_from([(4, 4), (8, 16), (4, 16)]), st.integers(1, 3), st.booleans(),
)  # fmt: skip
def test_blocks_equal_the_whole(axis, low, across, by, edges, longest, lacks):
    first, second = (grid(2, 3, (11, 17, 19), seed=seed) for seed in (1, 2))
    if lacks:
        del second.arrays["T01"]
    origins = placed(first, (13, 14), jitter=1)
    sides = two(first, second, origins, by=by, gain=0.8)
    light = Light(axis, low, across, blend=0.3)
    whole = fuse(sides, origins, light)
    np.testing.assert_array_equal(fuse(sides, origins, light, edges, longest), whole)


def shown_by(seed, shape=(3, 5, 6), step=(5.0, 7.0, 8.0), start=(1.5, 2.0, 3.25)):
    """A map of shares that are whole in parts."""
    values = np.random.default_rng(seed).integers(-200, 450, shape).clip(0, WHOLE)
    return ShareMap(start, step, values.astype(np.uint8))


def nominal(source, step=(0, 0, 0), first=0.0):
    """Give the tiles of a grid their positions at the stage."""
    for tile in source.acquisition.tiles:
        tile.origin_vox = (first, float(step[1] * tile.row), float(step[2] * tile.column))


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([0, 2]), st.booleans(),
    st.sampled_from([(0.0, 0.0, 0.0), (1.0, -1.0, 2.0), (0.25, -0.5, 1.5)]),
    st.sampled_from([(4, 4), (8, 16), (4, 16)]), st.integers(1, 3), st.booleans(),
)  # fmt: skip
def test_blocks_equal_the_whole_where_sides_count_by_content(
    axis, by_tile, by, edges, longest, lacks
):
    first, second = (grid(2, 3, (11, 17, 19), seed=seed) for seed in (1, 2))
    for source in (first, second):
        nominal(source, (0, 13, 14))
    if lacks:
        del second.arrays["T01"]
    origins = placed(first, (13, 14), jitter=1)
    sides = two(first, second, origins, by=by, gain=0.8)
    maps = {name: shown_by(k) for k, name in enumerate(sorted(origins))}
    light = Light(axis, 0, blend=0.3, maps=maps if by_tile else {"": shown_by(9)})
    whole = fuse(sides, origins, light)
    np.testing.assert_array_equal(fuse(sides, origins, light, edges, longest), whole)


def test_a_map_weighs_the_sides_and_what_counts_nowhere_is_not_read():
    first, second = (grid(1, 1, (6, 40, 50), seed=seed) for seed in (1, 2))
    for source in (first, second):
        nominal(source, first=7.0)
    origins = {"T00": (7, 0, 0)}
    values = np.zeros((1, 2, 6), np.uint8)
    values[0, :, 0], values[0, 0, 1], values[0, 1, 1] = WHOLE, WHOLE, 100
    shown = ShareMap((9.0, 9.5, 4.5), (6.0, 20.0, 8.0), values)
    fused = fuse(two(first, second, origins), origins, Light(2, 0, maps={"": shown}))
    y = np.clip((np.arange(40) - 9.5) / 20, 0, 1)[:, None]
    x = np.clip((np.arange(50) - 4.5) / 8, 0, 5)[None]
    share = np.where(x < 1, 1 - x * (y * 0.6), (1 - 0.6 * y) * np.clip(2 - x, 0, 1))
    expected = first.arrays["T00"] * share + second.arrays["T00"] * (1 - share)
    assert np.abs(fused - expected).max() < 1.1
    np.testing.assert_array_equal(fused[:, :, :5], first.arrays["T00"][:, :, :5])
    np.testing.assert_array_equal(fused[:, :, 21:], second.arrays["T00"][:, :, 21:])
    assert first.voxels == 6 * 40 * 21, "only columns before the third point of the map"


@pytest.mark.parametrize("value, number", [(WHOLE, 0), (0, 1)])
def test_a_side_that_counts_nowhere_is_not_read(value, number):
    sources = [grid(1, 1, (6, 8, 9), seed=seed) for seed in (1, 2)]
    shown = ShareMap((0.0, 0.0, 0.0), (3.0, 4.0, 3.0), np.full((2, 2, 3), value, np.uint8))
    origins = {"T00": (0, 0, 0)}
    for source in sources:
        nominal(source)
    fused = fuse(two(*sources, origins), origins, Light(2, 0, maps={"": shown}))
    np.testing.assert_array_equal(fused, sources[number].arrays["T00"])
    assert sources[1 - number].voxels == 0


@pytest.mark.parametrize("low", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_half_is_copied_from_its_side_and_the_other_is_not_even_read(axis, low):
    first, second = (grid(1, 1, (40, 40, 40), seed=seed) for seed in (1, 2))
    origins = placed(first, (0, 0))
    fused = fuse(two(first, second, origins), origins, Light(axis, low, blend=0.2))
    values = [np.moveaxis(source.arrays["T00"], axis, 0) for source in (first, second)]
    fused = np.moveaxis(fused, axis, 0)
    np.testing.assert_array_equal(fused[:16], values[low][:16])
    np.testing.assert_array_equal(fused[24:], values[1 - low][24:])
    # half a cosine between them
    weight = (1 + np.cos(np.pi * np.clip((np.arange(40) / 39 - 0.4) / 0.2, 0, 1))) / 2
    low_side, high_side = (
        np.moveaxis(v, 0, -1).astype(float) for v in (values[low], values[1 - low])
    )
    expected = np.moveaxis(low_side * weight + high_side * (1 - weight), -1, 0)
    assert np.abs(fused - expected).max() <= 0.51
    assert first.voxels + second.voxels <= 1.21 * 40**3


@pytest.mark.parametrize("across", ["volume", "tile"])
def test_a_side_of_half_the_brightness_leaves_no_seam(across):
    first, second = (grid(2, 3, (6, 25, 27)) for _ in range(2))
    for source, value in ((first, 3000), (second, 1500)):
        for array in source.arrays.values():
            array[...] = value
    origins = placed(first, (19, 20), jitter=2)
    fused = fuse(two(first, second, origins, gain=2.0), origins, Light(2, 1, across))
    covered = np.zeros(fused.shape, bool)
    start = np.min(list(origins.values()), axis=0)
    for origin in origins.values():
        covered[tuple(slice(o - a, o - a + n) for o, a, n in zip(origin, start, (6, 25, 27)))] = (
            True
        )
    assert (fused[covered] == 3000).all() and not fused[~covered].any()


def test_a_tile_that_has_one_side_is_taken_from_it_and_blended_with_its_neighbours():
    first, second = (grid(1, 3, (4, 12, 30)) for _ in range(2))
    for source, value in ((first, 1000), (second, 3000)):
        for array in source.arrays.values():
            array[...] = value
    del second.arrays["T02"]
    origins = placed(first, (12, 20))
    fused = fuse(two(first, second, origins), origins, Light(2, 0, blend=0.1))[2, 6].astype(int)
    assert (fused[:32] == 1000).all(), "the first side's half"
    assert (fused[50:] == 1000).all(), "the tile without the second side"
    assert fused.max() > 2900, "the second side's half, as far as it is there"
    # the tile without it fades in over its overlap, 40 to 50
    ramp = (1 + np.cos(np.arange(10) * np.pi / 9)) / 2
    assert np.abs(fused[40:50] - (3000 * ramp + 1000 * (1 - ramp))).max() <= 1


def test_a_plane_that_the_better_side_lacks_comes_from_the_other():
    first, second = grid(1, 1, (6, 8, 20), blank={"T00": (2,)}), grid(1, 1, (6, 8, 20), seed=5)
    first.arrays["T00"][2] = 0
    origins = {"T00": (0, 0, 0)}
    fused = fuse(two(first, second, origins), origins, Light(2, 0))
    np.testing.assert_array_equal(fused[2], second.arrays["T00"][2])
    np.testing.assert_array_equal(fused[3, :, :8], first.arrays["T00"][3, :, :8])


def halves(depth=8, size=(64, 160), blur=2.5, dim=0.6, by=(0.0, 0.0, 0.0), seed=3):
    """Truth, and a tile of each side whose far half is blurred and dimmed along x."""
    rng = np.random.default_rng(seed)
    shape = (depth, *size)
    noise = rng.standard_normal((depth + 16, size[0] + 32, size[1] + 32))
    texture = ndimage.gaussian_filter(noise, 1.5)
    truth = 2000 + 400 * texture / texture.std()
    inner = np.s_[8 : 8 + depth, 16 : 16 + size[0], 16 : 16 + size[1]]
    place = np.linspace(0, 1, size[1])
    sides = []
    for low in (True, False):
        image = truth if low else ndimage.shift(truth, [-v for v in by], order=3, mode="nearest")
        sigma = ndimage.gaussian_filter(image, (0, blur, blur))
        far = np.clip((place if low else 1 - place) * 2 - 1, 0, 1)
        mix = np.clip(3 * far, 0, 1)
        seen = (1 - mix) * image[inner] + mix * sigma[inner]
        sides.append(np.rint(seen * (1 - dim * far)).astype(np.uint16))
    return truth[inner].reshape(shape), sides


def test_blurred_and_dimmed_far_halves_leave_the_near_ones_and_no_step():
    truth, images = halves()
    sources = [grid(1, 1, truth.shape) for _ in range(2)]
    for source, image in zip(sources, images):
        source.arrays["T00"] = image
    origins = {"T00": (0, 0, 0)}
    fused = fuse(two(*sources, origins), origins, Light(2, 0, blend=0.1), edges=(8, 32))
    assert np.abs(fused[..., :70] - truth[..., :70]).max() <= 0.5
    assert np.abs(fused[..., 90:] - truth[..., 90:]).max() <= 0.5
    ratio = (fused / truth).mean(axis=(0, 1))
    assert np.abs(ratio - 1).max() < 0.01
    # where one side alone would stand, it does not show the truth
    assert np.abs(images[0][..., 120:] - truth[..., 120:]).mean() > 300


def test_sides_without_a_light_are_a_mistake_of_the_caller():
    source = grid(1, 1, (4, 8, 8))
    sides = two(source, source, {"T00": (0, 0, 0)})
    with pytest.raises(ValueError, match="2 sides do not match the light None"):
        fuse(sides, {"T00": (0, 0, 0)}, None)

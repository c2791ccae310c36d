"""Fusion: blocks equal the whole, lone tiles are copied, overlaps follow the formula."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from terareg.core.errors import ConfigError, StitchingError
from terareg.core.frames import Frame
from terareg.volumes.fusion import (
    FusionSettings,
    RowFusion,
    fused_frame,
    fused_origins,
)
from terareg.volumes.growths import Growth
from terareg.volumes.plan import VolumeSettings, make_plan, rows_of
from terareg.volumes.sides import Side
from terareg.volumes.tile_boxes import affine_box, resample

COSINE = FusionSettings()


@dataclass
class Memory:
    """A TileSource in memory that counts what is read."""

    arrays: dict
    acquisition: SimpleNamespace
    blank: dict
    planes_at_once: int = 3
    voxels: int = 0
    reads: list = field(default_factory=list)

    def read(self, tile, z0, z1, y=slice(None), x=slice(None), out=None):
        planes, rows, columns = self.acquisition.tile_shape
        for part, n in ((slice(z0, z1), planes), (y, rows), (x, columns)):
            assert part == slice(None) or 0 <= part.start < part.stop <= n
        data = self.arrays[tile][z0:z1, y, x]
        self.voxels += data.size
        self.reads.append((tile, z0, y.start))
        if out is None:
            return data
        out[...] = data
        return out

    def missing_planes(self, tile):
        return self.blank.get(tile, ())


def grid(rows, columns, shape, dtype="uint16", holes=(), blank=None, seed=0):
    """A source of random tiles T{row}{column}."""
    rng = np.random.default_rng(seed)
    tiles = [
        SimpleNamespace(name=f"T{r}{c}", row=r, column=c)
        for r in range(rows) for c in range(columns) if (r, c) not in holes
    ]  # fmt: skip
    acquisition = SimpleNamespace(
        tiles=tuple(tiles), tile_shape=shape, dtype=dtype, spacing_um=(5.0, 0.6, 0.6),
        orientation="SAR", missing_planes="blank" if blank else "error",
    )  # fmt: skip
    high = np.iinfo(dtype).max + 1
    arrays = {t.name: rng.integers(0, high, shape).astype(dtype) for t in tiles}
    return Memory(arrays, acquisition, blank or {})


def placed(source, step, jitter=0, seed=1):
    rng = np.random.default_rng(seed)
    return {
        t.name: tuple(
            np.array([0, t.row * step[0], t.column * step[1]])
            + rng.integers(-jitter, jitter + 1, 3)
        )
        for t in source.acquisition.tiles
    }


def fuse(source, origins, options=COSINE, edges=(16, 512), dtype="uint16", longest=99):
    """The whole volume, from blocks of one size."""
    frame, offset = fused_frame(source.acquisition, origins, options)
    relative = fused_origins(origins, offset, options)
    plan = make_plan("v", frame, dtype, VolumeSettings(*edges))
    out = np.full(frame.shape, 123, dtype)
    for row in rows_of(plan.blocks(), longest):
        fuse_blocks(RowFusion([Side(source, relative)], plan, row, options), row, plan, out)
    return out, offset


def fuse_blocks(fusion, blocks, plan, out):
    """Blocks of a row into the volume ``out``, layer by layer as the writer does it."""
    for first in range(blocks[0].start[0], blocks[0].stop[0], plan.chunk[0]):
        last = min(first + plan.chunk[0], blocks[0].stop[0])
        fill = fusion(first, last)
        for block in blocks:
            (y, x) = (slice(a, b) for a, b in zip(block.start[1:], block.stop[1:]))
            # contiguous, and full of what was there before
            layer = np.full((last - first, y.stop - y.start, x.stop - x.start), 123, plan.dtype)
            clipped = fill(block, layer)
            assert (clipped.low, clipped.high) == (0, 0)
            out[first:last, y, x] = layer


def terastitcher(n):
    """Weight of the first of two tiles over n shared pixels (notes/stitching.md 2, -6)."""
    angle = np.arange(n) * np.pi / (n - 1)
    return (np.cos(angle) + 1) / 2


# ---------------------------------------------------------------- whole against blocks
@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3), st.integers(1, 3), st.tuples(*[st.integers(9, 23)] * 3),
    st.integers(0, 4), st.integers(0, 99), st.sampled_from([(4, 4), (8, 16), (4, 16)]),
    st.integers(1, 3), st.booleans(), st.sampled_from(["union", "intersection"]),
)  # fmt: skip
def test_blocks_equal_the_whole(
    rows, columns, shape, jitter, seed, edges, longest, subpixel, z_extent
):
    source = grid(rows, columns, shape, seed=seed)
    origins = placed(source, (shape[1] - 4, shape[2] - 5), jitter, seed)
    if subpixel:
        shift = np.random.default_rng(seed).uniform(-0.5, 0.5, (len(origins), 3))
        origins = {n: tuple(o + s) for (n, o), s in zip(origins.items(), shift)}
    options = FusionSettings(subpixel=subpixel, z_extent=z_extent)
    # tiles that share no plane have no volume
    depths = [origin[0] for origin in origins.values()]
    assume(z_extent == "union" or np.ptp(depths) <= shape[0] - 2)
    whole, _ = fuse(source, origins, options)
    parts, _ = fuse(source, origins, options, edges, longest=longest)
    np.testing.assert_array_equal(parts, whole)


def test_lone_tiles_are_copied_bit_for_bit_and_gaps_are_zero():
    source = grid(3, 3, (7, 30, 31), holes=[(0, 0), (1, 1)])
    origins = placed(source, (26, 25), jitter=2)
    fused, offset = fuse(source, origins)
    count, single = np.zeros(fused.shape, int), np.zeros(fused.shape, np.uint16)
    for name, array in source.arrays.items():
        start = [a - o for a, o in zip(origins[name], offset)]
        where = tuple(slice(a, a + n) for a, n in zip(start, array.shape))
        count[where] += 1
        single[where] = array
    assert (count == 1).mean() > 0.3 and (count == 0).any() and (count > 2).any()
    np.testing.assert_array_equal(fused[count == 1], single[count == 1])
    assert not fused[count == 0].any()


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("n", [2, 3, 11])
def test_two_tiles_blend_as_terastitcher(axis, n):
    source = grid(*((2, 1) if axis == 1 else (1, 2)), (5, 20, 20))
    a, b = source.arrays.values()
    origins = placed(source, (20 - n, 20 - n))
    fused, _ = fuse(source, origins)
    a, b, fused = (np.moveaxis(v, axis, -1).astype(float) for v in (a, b, fused))
    weight = terastitcher(n)
    expected = a[..., -n:] * weight + b[..., :n] * (1 - weight)
    assert np.abs(fused[..., 20 - n : 20] - expected).max() <= 0.51
    np.testing.assert_array_equal(fused[..., : 20 - n], a[..., :-n])
    np.testing.assert_array_equal(fused[..., 20:], b[..., n:])


def test_corners_are_the_product_of_both_ramps():
    source = grid(2, 2, (3, 16, 16))
    fused, _ = fuse(source, placed(source, (10, 9)))
    wy, wx = terastitcher(6), terastitcher(7)
    expected = np.zeros((3, 6, 7))
    for (r, c), array in zip(np.ndindex(2, 2), source.arrays.values()):
        part = array[:, -6:] if r == 0 else array[:, :6]
        part = part[..., -7:] if c == 0 else part[..., :7]
        expected += part * np.outer(1 - wy if r else wy, 1 - wx if c else wx)
    assert np.abs(fused[:, 10:16, 9:16] - expected).max() <= 0.51


def test_a_constant_stays_constant():
    """Weights add up to one everywhere, also at jittered corners and beside holes."""
    source = grid(3, 4, (9, 25, 27), holes=[(1, 1), (2, 3)])
    for array in source.arrays.values():
        array[...] = 65535
    fused, offset = fuse(source, placed(source, (19, 20), jitter=3), edges=(8, 16))
    covered = np.zeros(fused.shape, bool)
    for name, origin in placed(source, (19, 20), jitter=3).items():
        start = [a - o for a, o in zip(origin, offset)]
        covered[tuple(slice(a, a + n) for a, n in zip(start, source.arrays[name].shape))] = True
    assert (fused[covered] == 65535).all() and not fused[~covered].any()


def test_zero_is_a_value_and_not_a_mask():
    source = grid(1, 2, (3, 8, 12))
    first, second = source.arrays.values()
    first[...] = 0
    second[...] = 1000
    fused, _ = fuse(source, placed(source, (8, 7)))
    np.testing.assert_allclose(fused[0, 0, 7:12], 1000 * (1 - terastitcher(5)), atol=0.5)


def test_diagonal_neighbours_alone_have_no_seam():
    """Two tiles that share only a corner are blended there, not averaged half and half."""
    source = grid(2, 2, (2, 20, 20), holes=[(0, 1), (1, 0)])
    for value, array in zip((1000, 3000), source.arrays.values()):
        array[...] = value
    fused, _ = fuse(source, placed(source, (12, 12)))
    corner = fused[0, 12:20, 12:20].astype(int)
    assert corner[0, 0] <= 1001 and corner[-1, -1] >= 2999
    assert np.abs(np.diff(np.diagonal(corner))).max() < 900


def test_z_extents():
    source = grid(1, 2, (10, 8, 12))
    origins = {"T00": (0, 0, 0), "T01": (4, 0, 7)}
    union, offset = fuse(source, origins)
    assert union.shape[0] == 14 and offset == (0, 0, 0)
    np.testing.assert_array_equal(union[:4, :, :12], source.arrays["T00"][:4])
    np.testing.assert_array_equal(union[10:, :, 7:], source.arrays["T01"][6:])
    both, offset = fuse(source, origins, FusionSettings(z_extent="intersection"))
    assert both.shape[0] == 6 and offset == (4, 0, 0)
    np.testing.assert_array_equal(both, union[4:10])
    origins["T01"] = (10, 0, 7)
    with pytest.raises(StitchingError, match=r"no plane that all tiles have \(tile T01 starts at"):
        fuse(source, origins, FusionSettings(z_extent="intersection"))


def test_blank_planes_are_left_to_the_other_tile():
    source = grid(1, 2, (6, 8, 12), blank={"T00": (2, 5)})
    source.arrays["T00"][[2, 5]] = 0
    fused, _ = fuse(source, {"T00": (0, 0, 0), "T01": (1, 0, 7)}, edges=(4, 4))
    np.testing.assert_array_equal(fused[2, :, 7:], source.arrays["T01"][1])
    np.testing.assert_array_equal(fused[5, :, 7:], source.arrays["T01"][4])
    assert not fused[2, :, :7].any() and fused[3, :, :7].all()


# ---------------------------------------------------------------- subpixel
@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.floats(-3, 3)] * 3))
def test_subpixel_moves_a_linear_ramp_exactly(shift):
    source = grid(1, 1, (9, 11, 13))
    z, y, x = np.meshgrid(*map(np.arange, (9, 11, 13)), indexing="ij")
    source.arrays["T00"] = (1000 + 400 * z + 200 * y + 300 * x).astype(np.uint16)
    fused, offset = fuse(source, {"T00": shift}, FusionSettings(subpixel=True), edges=(4, 8))
    index = np.meshgrid(*(np.arange(n) + o - s for n, o, s in zip(fused.shape, offset, shift)),
                        indexing="ij")  # fmt: skip
    expected = 1000 + 400 * index[0] + 200 * index[1] + 300 * index[2]
    assert np.abs(fused - expected).max() <= 0.51


def test_subpixel_at_whole_voxels_is_bit_exact():
    source = grid(2, 2, (5, 14, 15))
    origins = placed(source, (10, 10), jitter=1)
    whole, _ = fuse(source, origins)
    nearly = {n: tuple(np.array(o) + 1e-8) for n, o in origins.items()}
    for shifted in (origins, nearly):
        np.testing.assert_array_equal(
            fuse(source, shifted, FusionSettings(subpixel=True))[0], whole
        )


# ---------------------------------------------------------------- reading and limits
def test_a_block_reads_only_what_lies_in_it():
    source = grid(3, 3, (16, 40, 40))
    origins = placed(source, (34, 34))
    options = FusionSettings()
    frame, offset = fused_frame(source.acquisition, origins, options)
    plan = make_plan("v", frame, "uint16", VolumeSettings(8, 16))
    out = np.empty(frame.shape, "uint16")
    for block in plan.blocks():
        source.voxels = 0
        relative = fused_origins(origins, offset, options)
        fuse_blocks(RowFusion([Side(source, relative)], plan, [block], options), [block], plan, out)
        assert source.voxels <= 4 * np.prod(block.shape)
    source.voxels = 0
    source.reads.clear()
    fuse(source, origins, edges=(8, 16))
    assert source.voxels == 9 * 16 * 40 * 40, "every voxel of every tile exactly once"
    assert len(set(source.reads)) == len(source.reads), "rows of tiles are read whole, once"


@pytest.mark.parametrize("step", [20, 15], ids=["side by side", "blocks end in overlaps"])
def test_a_tile_is_read_into_the_buffers_of_the_one_before_it(step):
    source = grid(1, 6, (12, 20, 20))
    origins = placed(source, (0, step))
    frame, _ = fused_frame(source.acquisition, origins, COSINE)
    plan = make_plan("v", frame, "uint16", VolumeSettings(16, 16))
    row = rows_of(plan.blocks(), 99)[0]
    fusion = RowFusion([Side(source, origins)], plan, row, COSINE)
    fuse_blocks(fusion, row, plan, np.empty(frame.shape, "uint16"))
    runs = 12 // source.planes_at_once
    held = sum(map(len, fusion._buffers.values()))
    # a block of 16 voxels may end in the next tile, of which one run is held besides
    assert held == runs + 1, f"{held} buffers for tiles of {runs} runs of planes"


def test_blocks_that_threads_fill_at_once_are_those_of_one_thread():
    source = grid(1, 9, (12, 20, 20))
    origins = placed(source, (0, 15))
    whole = fuse(source, origins, edges=(16, 16))[0]
    frame, _ = fused_frame(source.acquisition, origins, COSINE)
    plan = make_plan("v", frame, "uint16", VolumeSettings(16, 16))
    row = rows_of(plan.blocks(), 99)[0]
    out = np.zeros_like(whole)

    def write(block):
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        layer = np.empty(block.shape, "uint16")
        fill(block, layer)
        out[box] = layer

    for _ in range(20):
        fill = RowFusion([Side(source, origins)], plan, row, COSINE)(0, frame.shape[0])
        out[...] = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, row))
        rows = slice(0, row[0].stop[1])
        np.testing.assert_array_equal(out[:, rows], whole[:, rows])


def test_frame_covers_all_tiles_and_starts_at_zero():
    source = grid(2, 2, (5, 14, 15))
    frame, offset = fused_frame(
        source.acquisition, {"T00": (0.4, -3.6, 0), "T11": (-2, 9, 11.5)}, FusionSettings()
    )
    assert offset == (-2, -4, 0)
    assert frame == Frame((7, 27, 27), (5.0, 0.6, 0.6), (0.0, 0.0, 0.0), "SAR")


def test_bad_settings_and_placements():
    with pytest.raises(ConfigError, match="blending: 'sine' is unknown; use cosine or none"):
        FusionSettings(blending="sine")
    with pytest.raises(ConfigError, match="z_extent: 'all' is unknown"):
        FusionSettings(z_extent="all")
    with pytest.raises(StitchingError, match="placement has no tile"):
        fused_frame(grid(1, 1, (3, 3, 3)).acquisition, {}, FusionSettings())


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_plain_mean_and_types(dtype):
    source = grid(1, 2, (3, 8, 12), dtype)
    fused, _ = fuse(source, placed(source, (8, 7)), FusionSettings(blending="none"), dtype=dtype)
    a, b = (v.astype(float) for v in source.arrays.values())
    assert fused.dtype == dtype
    np.testing.assert_array_equal(fused[..., 7:12], np.rint((a[..., 7:] + b[..., :5]) / 2))


# ---------------------------------------------------------------- shifted and deformed tiles
def fuse_moved(source, origins, by, matrix, edges=(16, 512), longest=99):
    """The volume in the frame of the unmoved tiles, of tiles that are moved or deformed."""
    frame, offset = fused_frame(source.acquisition, origins, COSINE)
    relative = {
        name: tuple(o + s for o, s in zip(origin, by))
        for name, origin in fused_origins(origins, offset, COSINE).items()
    }
    options = FusionSettings(subpixel=any(s % 1 for s in by))
    matrices = {} if matrix is None else dict.fromkeys(relative, matrix)
    plan = make_plan("v", frame, "uint16", VolumeSettings(*edges))
    out = np.full(frame.shape, 123, "uint16")
    for row in rows_of(plan.blocks(), longest):
        fuse_blocks(
            RowFusion([Side(source, relative, matrices)], plan, row, options), row, plan, out
        )
    return out


def shown(source, origins, value, by, matrix):
    """Fill the tiles with what they show of ``value`` at origin + by and matrix."""
    index = np.stack(np.meshgrid(*map(np.arange, source.acquisition.tile_shape), indexing="ij"), -1)
    for name, origin in origins.items():
        place = index @ np.linalg.inv(matrix).T + np.array(origin) + by
        source.arrays[name] = np.rint(value(*np.moveaxis(place, -1, 0))).astype("uint16")


@pytest.mark.parametrize("longest", [1, 99])
@pytest.mark.parametrize(
    ("by", "lean"), [((1.0, -2.0, 3.0), None), ((1.5, -2.25, 0.5), None), ((0.5, 1.0, -1.5), 0.05)]
)
def test_shifted_and_leaning_tiles_show_every_place_where_it_is(by, lean, longest):
    """A linear function of the place survives interpolation, whatever the blocks."""
    source = grid(2, 2, (12, 30, 31))
    origins = placed(source, (24, 25), jitter=1)
    matrix = np.eye(3)
    if lean:
        matrix[1, 0], matrix[2, 1], matrix[1, 1] = lean, -0.01, 1.01

    def value(z, y, x):
        return 1000 + 40.0 * z + 7.0 * y + 3.0 * x

    shown(source, origins, value, by, matrix)
    fused = fuse_moved(source, origins, by, matrix if lean else None, (4, 8), longest)
    _, offset = fused_frame(source.acquisition, origins, COSINE)
    places = np.meshgrid(*(np.arange(n) + a for n, a in zip(fused.shape, offset)), indexing="ij")
    there = fused > 0
    assert there.mean() > 0.6
    assert np.abs(fused[there] - value(*places)[there]).max() <= 1.01


@pytest.mark.parametrize("longest", [1, 99])
def test_tiles_whose_planes_grow_show_every_place_where_it_is(longest):
    source = grid(2, 2, (12, 30, 31))
    origins = placed(source, (24, 25), jitter=1)
    frame, offset = fused_frame(source.acquisition, origins, COSINE)
    relative = fused_origins(origins, offset, COSINE)
    middle = (np.array([12, 30, 31]) - 1) / 2
    growths = {name: Growth(tuple(np.add(o, middle)), 0.01) for name, o in relative.items()}

    def value(z, y, x):
        return 1000 + 40.0 * z + 7.0 * y + 3.0 * x

    index = np.stack(np.meshgrid(*map(np.arange, (12, 30, 31)), indexing="ij"), -1)
    for name, origin in relative.items():
        places = growths[name].done(index.reshape(-1, 3) + np.array(origin))
        assert np.allclose(growths[name].undone(places), index.reshape(-1, 3) + np.array(origin))
        source.arrays[name] = np.rint(value(*places.T)).astype("uint16").reshape(12, 30, 31)
    plan = make_plan("v", frame, "uint16", VolumeSettings(4, 8))
    out = np.zeros(frame.shape, "uint16")
    side = Side(source, relative, dict.fromkeys(relative, np.eye(3)), growths)
    for row in rows_of(plan.blocks(), longest):
        fuse_blocks(RowFusion([side], plan, row, COSINE), row, plan, out)
    there = out > 0
    assert there.mean() > 0.6
    expected = value(*np.meshgrid(*map(np.arange, out.shape), indexing="ij"))
    assert np.abs(out[there] - expected[there]).max() <= 1.01


def test_planes_that_only_move_are_interpolated_as_any_other_tile():
    """Two ways to the same voxels: the fast one, and that of matrices in general."""
    source = grid(1, 1, (9, 20, 24))
    matrix = np.eye(3)
    matrix[1:, 0] = 0.37, -0.21
    pose = (0.3, -1.2, 2.45), matrix, None
    start, stop = affine_box("T00", *pose[:2], (9, 20, 24))
    ranges = list(zip(start, stop))
    fast = resample(source, "T00", pose, ranges)
    general = matrix.copy()
    general[0, 1] = 1e-14  # no longer what the fast way takes
    slow = resample(source, "T00", (pose[0], general, None), ranges)
    assert np.abs(fast - slow).max() < 0.05
    part = [(low + 1, high - 2) for low, high in ranges]
    inner = tuple(slice(1, high - low - 2) for low, high in ranges)
    np.testing.assert_allclose(resample(source, "T00", pose, part), fast[inner], atol=0.05)


def test_a_shift_of_whole_voxels_copies_voxels():
    source = grid(1, 1, (5, 9, 11))
    fused = fuse_moved(source, {"T00": (0, 0, 0)}, (1.0, -2.0, 3.0), None)
    np.testing.assert_array_equal(fused[1:, :-2, 3:], source.arrays["T00"][:-1, 2:, :-3])
    assert not fused[0].any() and not fused[:, -2:].any() and not fused[:, :, :3].any()


def test_nothing_sticks_out_of_the_box_of_a_leaning_tile_and_too_much_is_an_error():
    matrix = np.eye(3)
    matrix[1, 0] = 0.5
    start, stop = affine_box("T00", (0.0, 0.0, 0.0), matrix, (11, 20, 20))
    assert (start, stop) == ((0, 0, 0), (11, 15, 20))
    matrix[1, 0] = 3.0
    message = r"tile T00 .*that it fills no box of the volume.*set stitch"
    with pytest.raises(StitchingError, match=message):
        affine_box("T00", (0.0, 0.0, 0.0), matrix, (11, 20, 20))

"""Local contrast: of any box what SciPy makes of the whole array, and near to scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
from derived_helpers import entry_of, make_source, run_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from skimage.exposure import equalize_adapthist

from terareg.core.errors import ConfigError
from terareg.derived.clahe import BINS, Axis, LocalContrast, limited
from terareg.derived.tools import make_tool
from terareg.derived.view import open_view
from terareg.storage.store import Store


def scene(shape, seed=0, dtype="uint16"):
    """Smooth structure whose contrast falls off to one side, with noise."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    wave = np.sin(y / 7 + z / 3) * np.cos(x / 5) * (20 + 200 * x / shape[2])
    values = 400 + wave + 100 * y / shape[1] + rng.normal(0, 10, shape)
    return values.clip(0).astype(dtype)


def raised(counts, limit):
    """A histogram cut at a limit, what is cut spread over the bins below it, again and again."""
    shares = counts / counts.sum()
    for _ in range(20_000):
        cut = np.minimum(shares, limit)
        more = 1 - cut.sum()
        below = cut < limit
        if more < 1e-13 or not below.any():
            return cut
        cut[below] += more / below.sum()
        shares = cut
    return shares


def whole(array, edges, limit, low, high):
    """An array equalised at once: histograms by NumPy, interpolation by SciPy, float64."""
    # in which bin a value on its edge lies is a matter of the arithmetic
    bins = (array.astype(np.float32) - np.float32(low)) * np.float32(BINS / (high - low))
    bins = np.clip(bins, 0, BINS).astype(float)
    counts = [max(1, round(n / e)) for n, e in zip(array.shape, edges)]
    ends = [np.arange(c + 1) * n // c for c, n in zip(counts, array.shape)]
    sums = np.zeros([*counts, BINS + 1])
    for index in np.ndindex(*counts):
        box = tuple(slice(e[i], e[i + 1]) for e, i in zip(ends, index))
        found = np.histogram(bins[box], BINS, (0, BINS))[0]
        sums[index][1:] = np.cumsum(raised(found, limit))
    centres = [(e[1:] + e[:-1] - 1) / 2 for e in ends]
    places = np.meshgrid(*map(np.arange, array.shape), indexing="ij")
    points = [np.clip(p, c[0], c[-1]) for p, c in zip(places, centres)]
    kept = [axis for axis, c in enumerate(centres) if len(c) > 1]
    grid = [centres[axis] for axis in kept] + [np.arange(BINS + 1)]
    sums = sums.reshape([counts[axis] for axis in kept] + [BINS + 1])
    return RegularGridInterpolator(grid, sums)(
        np.stack([points[axis] for axis in kept] + [bins], axis=-1)
    )


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=4, max_size=12).filter(any),
    limit=st.sampled_from([0.05, 0.15, 0.3, 0.5, 1.0]),
)
def test_a_histogram_is_cut_as_by_repetition(counts, limit):
    found = limited(np.array([counts]), limit)[0]
    assert found.sum() == pytest.approx(1)
    assert found.max() <= max(limit, 1 / len(counts)) + 1e-12
    np.testing.assert_allclose(
        found, raised(np.array(counts), max(limit, 1 / len(counts))), atol=1e-6
    )


def test_an_empty_histogram_has_equal_bins():
    np.testing.assert_array_equal(limited(np.zeros((1, 8), np.int64), 0.5), np.full((1, 8), 1 / 8))


def test_regions_fill_an_axis_and_weights_are_of_their_centres():
    axis = Axis.of(50, 20)
    assert axis.edges.tolist() == [0, 25, 50], "two of 25, not two of 20 and one of 10"
    before, after, weight = axis.between(0, 50)
    assert (before[12], after[12], weight[12]) == (0, 0, 0), "the centre of the first"
    assert (before[37], after[37], weight[37]) == (1, 1, 0)
    assert (before[22], after[22]) == (0, 1) and weight[22] == pytest.approx(10 / 25)
    assert axis.around(40, 45) == (25, 50) and axis.around(20, 21) == (0, 50)
    every = Axis.of(7, 1)
    assert every.around(3, 5) == (3, 5), "regions of one plane know nothing of others"


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 6), st.integers(20, 50), st.integers(20, 50)),
    edges=st.tuples(st.sampled_from([1, 2, 3]), st.integers(8, 30), st.integers(8, 30)),
    limit=st.sampled_from([0.01, 0.04, 1.0]),
    data=st.data(),
)
def test_any_box_is_the_part_of_the_whole(shape, edges, limit, data):
    array = scene(shape)
    low, high = 330.0, 700.0
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape))
    contrast = LocalContrast(tuple(Axis.of(n, e) for n, e in zip(shape, edges)), limit)
    first, last = contrast.around(start, stop)
    voxels = array[tuple(slice(a, b) for a, b in zip(first, last))]
    found = np.stack(list(contrast.planes(voxels, start, stop, lambda plane: (low, high))))
    part = tuple(slice(a, b) for a, b in zip(start, stop))
    np.testing.assert_allclose(found, whole(array, edges, limit, low, high)[part], atol=1e-5)
    at_once = list(contrast.planes(array, (0, 0, 0), shape, lambda plane: (low, high)))
    np.testing.assert_array_equal(found, np.stack(at_once)[part], "also the last bit")


@pytest.mark.slow
@pytest.mark.parametrize(("per", "dtype"), [("whole", "uint16"), ("slice", "float32")])
def test_volumes_in_any_blocks_have_the_same_bytes(tmp_path, per, dtype):
    array = scene((5, 40, 45), dtype=dtype)
    array[1] = 7
    found = []
    for edge in (16, 64):
        store = Store(str(tmp_path / str(edge)))
        make_source(store, array)
        entry = entry_of("equalize", local_um=24, per=per, block=edge, levels=1, clip_percent=100)
        found.append(run_entry(store, entry, order=np.random.default_rng(0)).read(0))
    np.testing.assert_array_equal(*found)
    if per == "slice":
        ends = array[3].min(), array[3].max()
        low, high = (np.float32(e).view(np.uint32) & 0xFFFF0000 for e in ends)
        low, high = (np.uint32(e).view(np.float32) for e in (low, high))
        wanted = whole(array[3:4], (1, 24, 24), 0.01, low, high)
        np.testing.assert_allclose(found[0][3:4], wanted, atol=1e-5)
        assert (found[0][1] == 0).all(), "an empty plane stays dark"
    else:
        wanted = whole(array, (12, 24, 24), 0.01, array.min(), array.max())
        np.testing.assert_allclose(found[0], wanted * 65535, atol=2)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.01, 0.03])
def test_a_plane_is_nearly_what_scikit_image_makes_of_it(limit):
    """Its bins are wider, its weights half a voxel aside, and its result is stretched again."""
    array = scene((1, 256, 320))
    low, high = float(array.min()), float(array.max())
    contrast = LocalContrast((Axis.of(1, 1), Axis.of(256, 64), Axis.of(320, 64)), limit)
    (found,) = contrast.planes(array, (0, 0, 0), array.shape, lambda plane: (low, high))
    found = (found - found.min()) / (found.max() - found.min())
    wanted = equalize_adapthist(array[0], kernel_size=64, clip_limit=limit)
    assert np.abs(found - wanted).mean() < 0.01 and np.abs(found - wanted).max() < 0.05
    plain = (array[0] - low) / (high - low)
    assert np.abs(plain - wanted).mean() > 0.04, "which a linear stretch is not"


def test_a_mirrored_plane_is_equalised_as_its_mirror():
    array = scene((1, 96, 120))
    contrast = LocalContrast((Axis.of(1, 1), Axis.of(96, 32), Axis.of(120, 40)), 0.02)

    def made(plane):
        (found,) = contrast.planes(plane, (0, 0, 0), plane.shape, lambda _: (300.0, 700.0))
        return found

    np.testing.assert_allclose(made(array[:, ::-1, ::-1])[::-1, ::-1], made(array), atol=1e-5)


def test_weak_contrast_becomes_strong_everywhere():
    array = scene((1, 128, 256))
    contrast = LocalContrast((Axis.of(1, 1), Axis.of(128, 64), Axis.of(256, 64)), 1.0)
    (found,) = contrast.planes(array, (0, 0, 0), array.shape, lambda plane: (0.0, 1000.0))
    before = array[0, :, :64].std() / array[0, :, 192:].std()
    after = found[:, :64].std() / found[:, 192:].std()
    assert before < 0.4 and after > 0.7


def test_not_a_number_counts_nowhere_and_is_dark():
    array = scene((1, 64, 64), dtype="float32")
    array[0, :8, :8] = np.nan
    contrast = LocalContrast((Axis.of(1, 1), Axis.of(64, 64), Axis.of(64, 64)), 1.0)
    (found,) = contrast.planes(array, (0, 0, 0), array.shape, lambda plane: (300.0, 700.0))
    assert (found[:8, :8] == 0).all() and np.isfinite(found).all()
    middle = np.median(found[np.isfinite(array[0])])
    assert middle == pytest.approx(0.5, abs=0.01), "half of the numbers are darker"


def test_regions_with_few_voxels_are_refused(tmp_path):
    store = Store(str(tmp_path))
    make_source(store, scene((4, 40, 40)))
    entry = entry_of("equalize", local_um=20)
    with pytest.raises(
        ConfigError,
        match=r"derived\.made: local_um: 20 makes regions of 1 x 20 x 20 voxels, too few for a",
    ):
        make_tool(open_view(store, "brain", entry), entry)

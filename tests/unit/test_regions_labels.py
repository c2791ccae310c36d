"""Labels, hemispheres and channels through a transform, block by block (D1-D3, E16-E18, F2)."""

import numpy as np
import pytest
from regions_helpers import AffineMap, blocks, grid, rotation, toy_atlas
from scipy import ndimage
from scipy.spatial.transform import Rotation

from terareg.atlas.ontology import Ontology, Structure
from terareg.atlas.prepare import make_atlas
from terareg.core.frames import Frame
from terareg.regions import labels as labels_module
from terareg.regions import warp as warp_module
from terareg.regions.labels import Vote, hemisphere_block, label_block, region_block, regions_at
from terareg.regions.warp import LevelReader, channel_block

SAMPLE = Frame((17, 14, 19), (18.0, 21.0, 15.0), (-20.0, 10.0, 5.0), "SAR")


class ArrayReader:
    """Reads from an array and remembers the boxes."""

    def __init__(self, array, frame):
        self.array, self.frame, self.boxes = array, frame, []

    def read(self, start, stop):
        assert all(0 <= a < b <= n for a, b, n in zip(start, stop, self.frame.shape))
        self.boxes.append((start, stop))
        return self.array[tuple(slice(a, b) for a, b in zip(start, stop))]


def plain_labels(transform, atlas, frame):
    """The whole grid at once, with scipy."""
    index = atlas.frame.to_index(transform.to_atlas(grid(frame).reshape(-1, 3)))
    found = ndimage.map_coordinates(
        atlas.annotation.astype(np.float64), index.T, order=0, mode="grid-constant", cval=0
    )
    return found.reshape(frame.shape).astype(np.uint32)


@pytest.mark.parametrize("seed", range(3))
def test_d1_d2_labels_equal_scipy_and_no_id_is_new(seed):
    atlas = toy_atlas(seed=seed)
    transform = AffineMap(rotation(5.0 + 20 * seed))
    labels = label_block(transform, atlas, SAMPLE)
    assert labels.dtype == np.uint32
    assert np.array_equal(labels, plain_labels(transform, atlas, SAMPLE))
    assert set(np.unique(labels)) <= set(atlas.ids.tolist())
    assert 2**32 - 1 in labels and 614454277 in labels


@pytest.mark.parametrize("block", [(1, 1, 19), (5, 4, 3), (16, 8, 8), (17, 14, 19)])
def test_blockwise_equals_whole(block):
    atlas, transform = toy_atlas(), AffineMap(rotation())
    whole, sides = region_block(transform, atlas, SAMPLE)
    for start, stop in blocks(SAMPLE.shape, block):
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        part = SAMPLE.cropped(start, stop)
        assert np.array_equal(label_block(transform, atlas, part), whole[box])
        assert np.array_equal(hemisphere_block(transform, atlas, part), sides[box])


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_blockwise_equals_whole_where_voxel_faces_meet(factor):
    # commensurate grids put sample voxels exactly on the faces of atlas voxels
    atlas = toy_atlas(spacing_um=(0.3, 0.1, 0.7))
    spacing = tuple(s / factor for s in atlas.frame.spacing_um)
    sample = Frame(tuple(n * factor for n in atlas.frame.shape), spacing)
    whole = label_block(AffineMap(), atlas, sample)
    for start, stop in blocks(sample.shape, (7, 5, 11)):
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        assert np.array_equal(
            label_block(AffineMap(), atlas, sample.cropped(start, stop)), whole[box]
        )


def test_d3_coarser_output_is_nearest_not_averaged():
    atlas = toy_atlas()
    coarse = atlas.frame.resampled(tuple(2.3 * s for s in atlas.frame.spacing_um))
    labels = label_block(AffineMap(), atlas, coarse)
    assert set(np.unique(labels)) <= set(atlas.ids.tolist())
    assert np.array_equal(labels, plain_labels(AffineMap(), atlas, coarse))


def test_outside_the_atlas_is_zero_and_the_outer_voxels_are_whole():
    atlas = toy_atlas(shape=(3, 3, 3), spacing_um=(10, 10, 10))
    point = np.array([[-4.99, 0, 0], [-5.01, 0, 0], [24.99, 0, 0], [25.01, 0, 0], [np.nan, 0, 0]])
    labels, sides = regions_at(atlas, point.T)
    a = atlas.annotation
    assert labels.tolist() == [a[0, 0, 0], 0, a[2, 0, 0], 0, 0]
    assert (sides > 0).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize(("orientation", "axis", "low"), [("RIP", 0, 1), ("SAL", 2, 2)])
def test_hemispheres_are_those_of_the_atlas(orientation, axis, low):
    atlas = toy_atlas(orientation=orientation)
    transform = AffineMap(rotation(25))
    sides = hemisphere_block(transform, atlas, SAMPLE)
    index = atlas.frame.to_index(transform.to_atlas(grid(SAMPLE)))
    inside = atlas.frame.contains(transform.to_atlas(grid(SAMPLE)))
    middle = (atlas.frame.shape[axis] - 1) / 2
    wanted = np.where(index[..., axis] < middle, low, 3 - low) * inside
    assert np.array_equal(sides, wanted)
    assert {1, 2} <= set(np.unique(sides))


def plain_channel(transform, array, frame, atlas_frame):
    position = transform.to_sample(grid(atlas_frame))
    index = np.moveaxis(frame.to_index(position), -1, 0)
    values = ndimage.map_coordinates(array.astype(np.float64), index, order=1, mode="nearest")
    return np.where(frame.contains(position), values, 0)


@pytest.mark.parametrize("slab", [1, 500, 2**20])
def test_e17_channel_equals_scipy(monkeypatch, slab):
    monkeypatch.setattr(labels_module, "_SLAB_VOXELS", slab)
    array = np.random.default_rng(3).integers(0, 65536, SAMPLE.shape).astype(np.uint16)
    atlas_frame, transform = toy_atlas().frame, AffineMap(rotation(-15))
    reader = ArrayReader(array, SAMPLE)
    result = channel_block(transform, reader, atlas_frame)
    assert result.dtype == np.float32
    wanted = plain_channel(transform, array, SAMPLE, atlas_frame)
    assert np.allclose(result, wanted, rtol=1e-5, atol=0.05)
    assert (wanted == 0).any() and (wanted > 0).any()
    for start, stop in blocks(atlas_frame.shape, (4, 9, 5)):
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        part = channel_block(transform, reader, atlas_frame.cropped(start, stop))
        assert np.allclose(part, result[box], rtol=1e-6, atol=0.01)


def test_the_box_around_an_oblique_plane_is_read_in_parts(monkeypatch):
    array = np.random.default_rng(3).integers(0, 65536, SAMPLE.shape).astype(np.uint16)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    turned[:3, 3] = SAMPLE.to_um(np.array(SAMPLE.shape) / 2)
    plane = Frame((1, 100, 60), (2.0, 2.0, 2.0), (0.0, -100.0, -60.0))

    def sampled(least: int) -> tuple[np.ndarray, int]:
        monkeypatch.setattr(warp_module, "_LEAST_POINTS", least)
        monkeypatch.setattr(warp_module, "_MOST_VOXELS", 0.05)
        reader = ArrayReader(array, SAMPLE)
        found = channel_block(AffineMap(turned), reader, plane)
        return found, max(np.prod(np.subtract(stop, start)) for start, stop in reader.boxes)

    (whole, largest), (parts, part) = sampled(10**9), sampled(50)
    np.testing.assert_array_equal(parts, whole)
    assert whole.any() and part < largest / 4


def test_channel_reads_no_more_than_it_needs():
    array = np.ones(SAMPLE.shape, np.uint8)
    reader = ArrayReader(array, SAMPLE)
    far = Frame((3, 3, 3), (10, 10, 10), (1e5, 0, 0))
    assert not channel_block(AffineMap(), reader, far).any() and not reader.boxes
    assert (channel_block(AffineMap(), reader, far, outside=7) == 7).all()
    small = SAMPLE.cropped((4, 5, 6), (6, 7, 8))
    assert (channel_block(AffineMap(), reader, small) == 1).all()
    ((start, stop),) = reader.boxes
    assert all(a >= b - 1 for a, b in zip(start, (4, 5, 6)))
    assert all(a <= b + 1 for a, b in zip(stop, (6, 7, 8)))


def test_single_planes_and_the_round_trip():
    flat = Frame((1, 9, 8), (100, 10, 10))
    ramp = np.add.outer(np.arange(9), np.arange(8))[None].astype(np.uint8)
    result = channel_block(AffineMap(), ArrayReader(ramp, flat), flat)
    assert np.array_equal(result, ramp.astype(np.float32))


def test_level_reader_adapts_a_pyramid():
    class Pyramid:
        def level_frame(self, level):
            return SAMPLE.downsampled((2**level,) * 3)

        def read(self, level, start, stop):
            return np.full(tuple(b - a for a, b in zip(start, stop)), level, np.uint8)

    reader = LevelReader(Pyramid(), 1)
    assert reader.frame == SAMPLE.downsampled((2, 2, 2))
    inner = reader.frame.cropped((1, 1, 1), (3, 3, 3))
    assert (channel_block(AffineMap(), reader, inner) == 1).all()


def test_a_vote_is_the_maximum_of_interpolated_shares():
    atlas, transform = toy_atlas(), AffineMap(rotation(17))
    index = atlas.frame.to_index(transform.to_atlas(grid(SAMPLE).reshape(-1, 3))).T
    annotation = atlas.annotation
    shares = np.stack([
        ndimage.map_coordinates((annotation == i).astype(float), index, order=1,
                                mode="grid-constant", cval=float(i == 0))
        for i in atlas.ids
    ])  # fmt: skip
    wanted = atlas.ids[shares.argmax(0)]
    found = Vote(atlas).block(transform, SAMPLE).ravel()
    clear = np.diff(np.sort(shares, axis=0)[-2:], axis=0)[0] > 1e-3
    assert found.dtype == np.uint32 and clear.mean() > 0.9
    assert np.array_equal(found[clear], wanted[clear])
    assert (found != label_block(transform, atlas, SAMPLE).ravel()).any()


def test_a_vote_makes_a_slanted_border_smooth():
    annotation = np.zeros((12, 12, 12), np.uint32)
    z, y, _ = np.indices(annotation.shape)
    annotation[z + y < 11] = 7
    atlas = make_atlas(annotation, Frame(annotation.shape, (10.0,) * 3, orientation="RIP"),
                       Ontology([Structure(7, "a", "a")]))  # fmt: skip
    fine = Frame((60, 60, 4), (1.0, 1.0, 1.0), (20.0, 20.0, 50.0), "RIP")
    z, y, _ = np.meshgrid(*fine.axes_um(), indexing="ij")
    truth = np.where(z + y < 105, 7, 0)
    wrong = [
        np.mean(found != truth)
        for found in (Vote(atlas).block(AffineMap(), fine), label_block(AffineMap(), atlas, fine))
    ]
    assert wrong[0] < 0.5 * wrong[1]


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_votes_blockwise_equal_the_whole_where_they_are_equal(factor):
    atlas = toy_atlas(spacing_um=(0.3, 0.1, 0.7))
    spacing = tuple(s / factor for s in atlas.frame.spacing_um)
    sample = Frame(tuple(n * factor for n in atlas.frame.shape), spacing)
    vote = Vote(atlas)
    whole = vote.block(AffineMap(), sample)
    for start, stop in blocks(sample.shape, (7, 5, 11)):
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        assert np.array_equal(vote.block(AffineMap(), sample.cropped(start, stop)), whole[box])


def test_far_outside_nothing_is_elected():
    atlas = toy_atlas(shape=(3, 3, 3), spacing_um=(10, 10, 10))
    point = np.array([[-400.0, 0, 0], [25.01, 0, 0], [np.nan, 0, 0], [10, 10, 10]])
    found = Vote(atlas)(point.T)
    assert found.tolist() == [0, 0, 0, atlas.annotation[1, 1, 1]]

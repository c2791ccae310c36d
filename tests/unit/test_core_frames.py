"""Frames and orientation codes."""

import numpy as np
import pytest

from terareg.core.errors import ConfigError
from terareg.core.frames import Frame, all_orientations, check_orientation, orientation_matrix


def test_there_are_48_orientations_and_each_pair_of_matrices_is_inverse():
    codes = all_orientations()
    assert len(set(codes)) == 48
    for source in codes[::5]:
        for target in codes[::7]:
            forth = orientation_matrix(source, target)
            back = orientation_matrix(target, source)
            assert np.array_equal(forth @ back, np.eye(3))


def test_orientation_matrix_moves_a_vector_to_the_named_axes():
    # one step towards posterior along the last axis of RIP is one step back along A of SAR
    assert np.array_equal(orientation_matrix("RIP", "SAR") @ [0, 0, 1], [0, -1, 0])


@pytest.mark.parametrize(
    ("code", "words"), [("RAX", "'RAX' is not an orientation"), ("RLA", "twice"), ("RA", "not an")]
)
def test_bad_orientation_is_named(code, words):
    with pytest.raises(ConfigError, match=words):
        check_orientation(code)


@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 2, 2), (1, 4, 4), (3, 5, 2)])
def test_downsampled_frame_keeps_the_positions_of_block_means(factor):
    frame = Frame((7, 11, 13), (5.0, 2.0, 3.0), (10.0, -4.0, 1.0), "RIP")
    coarse = frame.downsampled(factor)
    axis = frame.axes_um()
    for d in range(3):
        first_block = axis[d][: factor[d]].mean()
        assert coarse.axes_um()[d][0] == pytest.approx(first_block)
        assert coarse.shape[d] == -(-frame.shape[d] // factor[d])


def test_index_and_um_are_inverse_and_cropping_keeps_positions():
    frame = Frame((7, 11, 13), (5.0, 2.0, 3.0), (10.0, -4.0, 1.0))
    index = np.array([[0.5, 3, 12], [6, 0, 1]])
    assert np.allclose(frame.to_index(frame.to_um(index)), index)
    crop = frame.cropped((1, 2, 3), (4, 5, 6))
    assert np.allclose(crop.to_um([0, 0, 0]), frame.to_um([1, 2, 3]))
    assert crop.shape == (3, 3, 3)


def test_resampled_frame_covers_the_same_faces():
    frame = Frame((10, 20, 30), (5.0, 1.5, 1.5))
    other = frame.resampled((4.0, 4.0, 4.0))
    low = np.array(frame.origin_um) - np.array(frame.spacing_um) / 2
    low_other = np.array(other.origin_um) - np.array(other.spacing_um) / 2
    assert np.allclose(low, low_other)
    assert all(a >= b for a, b in zip(other.extent_um, frame.extent_um))


def test_json_round_trip():
    frame = Frame((7, 11, 13), (5.0, 2.0, 3.0), (10.0, -4.0, 1.0), "RIP")
    assert Frame.from_json(frame.to_json()) == frame


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -2, 1), (1, float("nan"), 1)])
def test_impossible_voxel_size_is_named(spacing):
    with pytest.raises(ConfigError, match=r"voxel size .* is impossible"):
        Frame((2, 2, 2), spacing)

"""Rounding and clipping into integers: nothing wraps (D5, D6), everything is counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg.core.numeric import Clipped, to_integer


def test_d5_d6_saturated_values_do_not_wrap():
    values = np.array([70000.0, 65535.4, 65535.6, -3.0, 1.5, 2.5], np.float32)
    array, clipped = to_integer(values, np.uint16)
    assert array.tolist() == [65535, 65535, 65535, 0, 2, 2]
    assert clipped == Clipped(low=1, high=2)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_result_is_the_nearest_value_in_range(values):
    array, clipped = to_integer(np.array(values, np.float32), np.uint8)
    expected = np.clip(np.rint(np.array(values)), 0, 255)
    assert np.array_equal(array, expected)
    assert clipped.low == sum(np.rint(v) < 0 for v in values)
    assert clipped.high == sum(np.rint(v) > 255 for v in values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_extremes_of_every_type(dtype, kind):
    info = np.iinfo(dtype)
    values = np.array([np.nan, -np.inf, np.inf, 0], kind)
    array, clipped = to_integer(values, dtype)
    assert array[0] == 0 and array[1] == info.min
    assert array[2] <= info.max and array[2] > info.max * 0.999
    assert (clipped.low, clipped.high) == (2, 1)

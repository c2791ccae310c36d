"""Items are divided among batches and threads."""

from hypothesis import given
from hypothesis import strategies as st

from terareg.core.parallel import batch_range


@given(st.integers(1, 500), st.integers(1, 60))
def test_batches_cover_every_item_once_and_evenly(items, count):
    count = min(items, count)
    ranges = [batch_range(items, b, count) for b in range(count)]
    assert [i for r in ranges for i in r] == list(range(items))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1

"""Batches and requests for memory and time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg import planning
from terareg.core.parallel import batch_range

SIZE = planning.Size(60, 107, 2, (2000, 2048, 2048), (2000, 12000, 18000))
MB = {1: (2048, 8192), 2: (4096, 16384), 4: (8192, 30720), 8: (16384, 61440), 16: (32768, 122880)}


@given(st.integers(1, 500), st.integers(1, 60))
def test_batches_cover_every_item_once_and_evenly(items, count):
    count = min(items, count)
    ranges = [batch_range(items, b, count) for b in range(count)]
    assert [i for r in ranges for i in r] == list(range(items))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize("terabytes", [0.001, 0.1, 1, 2, 20])
def test_a_stage_never_has_more_jobs_than_the_limit(terabytes):
    for channels in (1, 2, 3, 4, 200):
        jobs = channels * planning.batches(terabytes * 1000, 10**6, 20, channels)
        assert channels <= jobs <= max(100, channels)


@given(st.floats(1, 3e5), st.integers(1, 40))
def test_requests_are_what_aws_batch_accepts(mem_mb, threads):
    cpus = planning.fit_threads(threads, mem_mb)
    memory = planning.fit(mem_mb, cpus)
    least, most = MB[cpus]
    assert least <= memory <= most
    assert memory % 1024 == 0
    assert memory >= mem_mb or cpus == 16


def test_a_retry_asks_for_more_memory():
    assert planning.grow(4000, 2) > planning.grow(4000, 1)


def test_a_terabyte_has_the_sizes_that_it_has():
    assert SIZE.channel_gb == pytest.approx(1006, rel=0.01)
    assert SIZE.tile_gb == pytest.approx(16.8, rel=0.01)

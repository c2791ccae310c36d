"""Batches, and the terms that costs are made of."""

from __future__ import annotations

import pytest
from planned_samples import brain

from terareg.core import cost


@pytest.mark.parametrize("terabytes", [0.001, 0.1, 1, 2, 20])
def test_a_stage_never_has_more_jobs_than_the_limit(terabytes):
    for channels in (1, 2, 3, 4, 200):
        jobs = channels * cost.batches(terabytes * 1000, 10**6, 20, channels)
        assert channels <= jobs <= max(100, channels)


def test_work_for_displacements_is_none_where_the_user_brings_them():
    load = cost.if_measured(cost.for_each(cost.one, 7.0))
    assert load(brain()).jobs == 1 and load(brain()).cpu_s == 7
    for name, jobs in (("xml_import", 1), ("xml_displcomp", 0), ("xml_merging", 0)):
        assert load(brain(stitching={"xml": {name: "own.xml"}})).jobs == jobs, name


def test_memory_of_blocks_grows_with_the_threads_up_to_their_number():
    memory = cost.blocks(2.0)
    small, large = brain(1, 1), brain()
    assert memory(large, 4) - memory(large, 2) == pytest.approx(2 * 2 * 2 * large.block_mvox)
    most = small.block_count()
    assert memory(small, most) == memory(small, most + 5) > memory(small, most - 1)

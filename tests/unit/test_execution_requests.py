"""Requests for memory, threads and time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned_samples import ATLAS, brain

from terareg.execution import requests
from terareg.execution.rule_table import RULES, jobs_of_rules

MB = {1: (2048, 8192), 2: (4096, 16384), 4: (8192, 30720), 8: (16384, 61440), 16: (32768, 122880)}


@given(st.floats(1, 3e5), st.integers(1, 40))
def test_requests_are_what_aws_batch_accepts(mem_mb, threads):
    cpus = requests.fit_threads(threads, mem_mb)
    memory = requests.fit(mem_mb, cpus)
    least, most = MB[cpus]
    assert least <= memory <= most
    assert memory % 1024 == 0
    assert memory >= mem_mb or cpus == 16


def test_a_retry_asks_for_more_memory():
    assert requests.grow(4000, 2) > requests.grow(4000, 1)


def test_a_large_atlas_gets_the_cpus_that_its_memory_takes_on_aws_batch():
    fine = replace(ATLAS, shape=(1320, 800, 1140), spacing_um=(10.0, 10.0, 10.0))
    assert requests.threads_of("prepare_atlas", brain()) == 1
    threads = requests.threads_of("prepare_atlas", brain(atlas=fine))
    needed = requests.request_mb("prepare_atlas", brain(atlas=fine), threads)
    assert threads > 1 and requests.fit(1.5 * needed, threads) >= 1.5 * needed > 20_000
    one = brain(atlas=fine, jobs={"threads": 1})
    assert requests.threads_of("find_pose", one) >= 4


def test_a_retry_of_a_job_gets_twice_the_time():
    assert requests.minutes("fuse_blocks", brain(), 2) == pytest.approx(
        2 * requests.minutes("fuse_blocks", brain(), 1), abs=1
    )
    assert requests.minutes("register", brain(), 1) >= 240


def test_time_limits_leave_room_for_the_planned_time_on_a_slow_disk():
    sample = brain()
    for rule, jobs in jobs_of_rules(sample).items():
        load = RULES[rule].load(sample)
        gigabytes = (load.read_gb + load.written_gb) / max(1, jobs)
        assert requests.minutes(rule, sample, 1) * 60 > gigabytes / 0.1


def test_a_second_pass_over_tiles_asks_for_its_own_time():
    """With displacements of the user's own the first pass has nothing to do, the second all."""
    own = brain(stitching={"xml": {"xml_merging": "own.xml"}}, jobs={"gb_per_job": 2000})
    assert RULES["sum_tiles"].load(own).jobs == 0 < RULES["sum_placed_tiles"].load(own).jobs
    first, second = (requests.minutes(f"{n}_tiles", own, 1) for n in ("sum", "sum_placed"))
    assert second >= first + 10


def test_a_pass_that_the_data_decide_on_has_time_for_it_and_no_place_in_the_plan():
    rows, auto = (brain(intensity={"destriping": value}) for value in ("rows", "auto"))
    for rule in ("sum_lines", "estimate_stripes"):
        usual, most = RULES[rule].load(auto), RULES[rule].load(auto).most
        assert usual.read_gb == 0 and usual.jobs == most.jobs
        assert most.read_gb == pytest.approx(RULES[rule].load(rows).read_gb)
        assert requests.minutes(rule, auto, 1) >= requests.minutes(rule, rows, 1)

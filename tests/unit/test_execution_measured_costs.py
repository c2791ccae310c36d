"""The report's table of what a run took beside its plan."""

import pytest

from terareg.execution.measured_costs import cost_table
from terareg.execution.run_plan import Planned

PLAN = [
    Planned("fused", 4, 2.0, 12.0, 100.0, 60.0, 8192),
    Planned("registration", 2, 0.1, 3.0, 1.0, 0.0, 4096),
]


def record(rule, **facts):
    usual = {"seconds": 60.0, "cpu_s": 3600.0, "peak_mb": 900, "bytes_read": 10**9}
    return {"rule": rule, "bytes_written": 5 * 10**8} | usual | facts


def test_stages_are_summed_and_stand_beside_the_plan():
    records = [record("fuse_blocks"), record("fuse_blocks", seconds=120, peak_mb=1500)]
    table = cost_table(PLAN, [*records, record("register", bytes_read=0)], raw_gb=2.0)
    fused, registration, everything = table["rows"]
    assert fused == ["Fused volume", "2 (4)", "2 (2)", "2 (12)", "2 (100)", "1 (60)", "1500 (8192)"]
    assert registration[:2] == ["Registration", "1 (2)"]
    assert everything[0] == "all" and everything[1] == "3 (6)"
    assert table["bytes_per_raw_byte"] == pytest.approx((3 * 0.5 + 2) / 2)
    assert table["planned"] == pytest.approx(161 / 2)


def test_jobs_are_summed_by_rule():
    records = [record("register"), record("fuse_blocks"), record("fuse_blocks", seconds=120)]
    fused, registered = cost_table(PLAN, records, raw_gb=2.0)["rules"]
    assert fused == {
        "rule": "fuse_blocks", "jobs": 2, "seconds": 180, "longest_s": 120, "cpu_s": 7200,
        "peak_mb": 900,
    }  # fmt: skip
    assert (registered["rule"], registered["jobs"]) == ("register", 1)


def test_without_records_only_the_plan_is_there():
    table = cost_table(PLAN, [], raw_gb=2.0)
    assert table["bytes_per_raw_byte"] is None
    assert table["rows"][0][1] == "– (4)"
    assert table["rules"] == []

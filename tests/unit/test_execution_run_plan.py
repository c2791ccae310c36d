"""Plans of a run add up and follow the data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned_samples import brain, run_of, scan

from terareg.execution import run_plan, sizing
from terareg.volumes.cost import RULES


@pytest.mark.parametrize(("rows", "columns", "channels"), [(2, 3, 1), (5, 6, 2), (6, 10, 4)])
def test_plans_grow_with_the_data_and_jobs_are_worth_their_start(rows, columns, channels):
    sample = brain(rows, columns, channels)
    plan = {row.stage: row for row in run_plan.make_plan(sample)}
    raw = sample.raw_gb
    assert plan["fused"].read_gb >= raw and 0.3 * raw < plan["fused"].written_gb < raw
    assert sum(row.jobs for row in plan.values()) <= 500
    hours = sum(row.cpu_hours for row in plan.values())
    assert 2 < hours / raw * 1000 < 20, "hours of a terabyte"
    assert plan["fused"].longest_minutes > 1.5
    assert max(row.memory_mb for row in plan.values()) <= 30720


def test_what_is_left_out_is_not_planned():
    plan = {r.stage: r for r in run_plan.make_plan(brain(atlas=None))}
    assert "registration" not in plan and "regions" not in plan
    without = brain(intensity={"bias": {"enabled": False}})
    assert "bias" not in {r.stage for r in run_plan.make_plan(without)}
    whole = brain(intensity={"bias": {"volume_um": None}})
    assert run_plan.store_gb(without) == pytest.approx(run_plan.store_gb(whole) / 2)
    # levels of 5 x 1.46 x 1.46 um: 5 x 5.84 x 5.84 is the last that is as fine as 10
    ratio = run_plan.store_gb(brain()) / run_plan.store_gb(without)
    assert ratio == pytest.approx(1 + 1 / 16, rel=1e-3)


def test_the_usual_chain_moves_few_bytes():
    for sample in (brain(2, 3, 1), brain(), brain(6, 10, 4)):
        plan = run_plan.make_plan(sample)
        moved = sum(row.read_gb + row.written_gb for row in plan)
        assert moved / sample.raw_gb < 2.3


def test_the_plan_says_what_a_compressed_image_takes_beside_memory(workspace):
    plain = sizing.sized(run_of(workspace, scan(workspace)), "scan")
    packed = replace(plain, size=replace(plain.size, kept_gb=8.0))
    (line,) = [row for row in run_plan.plan_text("t", packed).splitlines() if "TMPDIR" in row]
    assert line.startswith("import_volume: the image is decoded plane by plane; its job ")
    assert line.endswith("keeps up to 8.0 GB in TMPDIR")
    small = replace(plain, size=replace(plain.size, kept_gb=0.004))
    assert "its job keeps up to 4 MB in TMPDIR" in run_plan.plan_text("t", small)
    assert "TMPDIR" not in run_plan.plan_text("t", plain)
    once, more = (RULES["import_volume"].load(sample).cpu_s for sample in (plain, packed))
    assert more == pytest.approx(once + 48)
    # what was imported needs no place for it any more
    assert "TMPDIR" not in run_plan.plan_text("t", packed, {"verify_volume": 1})


def test_the_table_ends_with_the_sum():
    lines = run_plan.plan_text("brain7", brain()).splitlines()
    assert lines[0].split()[0] == "brain7"
    jobs = sum(row.jobs for row in run_plan.make_plan(brain()))
    assert lines[-1].startswith(f"{jobs} jobs, ") and "1006.6 GB of raw data" in lines[-1]

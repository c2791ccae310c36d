"""What rules need: requests that follow the data, and plans that add up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from terareg import planning, runplan, workload
from terareg.execution.config import check
from terareg.workload import RULES

ATLAS = planning.Grid((528, 320, 456), (25.0, 25.0, 25.0))
SPACING = (5.0, 1.46, 1.46)


def brain(rows=5, columns=6, channels=2, atlas=ATLAS, **over) -> planning.Brain:
    """Tiles of 2048 x 2048 x 2000 voxels that overlap by 15 %."""
    config = {
        "sample": "brain",
        "input": {"path": ".", "orientation": "SAR",
                  "channels": {f"ch{c}": c for c in range(channels)}},
    }  # fmt: skip
    config = check(config | over)
    volume = (2000, *(round(2048 * (0.85 * (n - 1) + 1)) for n in (rows, columns)))
    pairs = rows * (columns - 1) + columns * (rows - 1)
    size = planning.Size(rows * columns, pairs, channels, (2000, 2048, 2048), volume)
    atlases = {} if atlas is None else {"mouse": atlas}
    return planning.Brain(size, config, planning.Grid(volume, SPACING), 0.15, atlases)


def test_memory_follows_block_tile_and_threads_and_not_the_brain():
    small, large = brain(2, 3), brain(20, 30)
    same = ("sum_tiles", "correct_tile", "measure_displacements", "correct_volume",
            "transform_labels", "prepare_atlas")  # fmt: skip
    for rule in same:
        assert workload.request_mb(rule, small, 4) == workload.request_mb(rule, large, 4), rule
    one, four = (RULES["correct_volume"].memory_mb(small, threads) for threads in (1, 4))
    assert four > 2.5 * one
    looked_at = [RULES["estimate_steps"].memory_mb(b, 1) for b in (small, large, brain(40, 50))]
    assert looked_at[0] < looked_at[1] == looked_at[2] < 700


def test_a_row_of_blocks_is_cut_where_memory_ends():
    blocks = {columns: planning.row_blocks(brain(5, columns)) for columns in (1, 6, 30)}
    assert blocks == {1: 4, 6: 16, 30: 16}
    requests = [workload.request_mb("fuse_block", brain(5, columns), 4) for columns in (6, 30)]
    assert requests[0] == requests[1] < 8192, "what AWS Batch gives with four CPUs"
    share = [RULES["fuse_block"].load(b).read_gb / b.raw_gb for b in (brain(5, 4), brain(5, 30))]
    assert share[0] == 1 < share[1] < 1.25, "tiles where a row is cut are read twice"


@pytest.mark.parametrize(
    "rule", ["prepare_atlas", "preview_alignment", "register", "draw_registration", "init_labels",
             "transform_labels", "sum_regions", "measure_regions", "transform_points"]
)  # fmt: skip
def test_requests_know_the_size_of_the_atlas(rule):
    fine = replace(ATLAS, shape=(1320, 800, 1140), spacing_um=(10.0, 10.0, 10.0))
    at_25, at_10 = (workload.request_mb(rule, brain(atlas=a), 4) for a in (ATLAS, fine))
    assert at_10 - at_25 > 1.99 * (fine.megavoxels - ATLAS.megavoxels)


def test_requests_know_how_many_images_are_registered_together():
    two = brain(registration={"channel": ["ch0", "ch1"]})
    of_two = {f"i{n}": f"{n}.nrrd" for n in range(2)}
    more = brain(atlases={"mouse": {"template": "t", "annotation": "a", "ontology": "o",
                                    "orientation": "RIP", "images": of_two}})  # fmt: skip
    one = RULES["register"].memory_mb(brain(), 1)
    assert one < RULES["register"].memory_mb(two, 1) < RULES["register"].memory_mb(more, 1)
    loads = [RULES["register"].load(b) for b in (brain(), two, more)]
    assert loads[0].cpu_s < loads[1].cpu_s < loads[2].cpu_s
    assert loads[1].read_gb > loads[0].read_gb
    assert RULES["prepare_atlas_image"].load(more).jobs == 2


def test_a_large_atlas_gets_the_cpus_that_its_memory_takes_on_aws_batch():
    fine = replace(ATLAS, shape=(1320, 800, 1140), spacing_um=(10.0, 10.0, 10.0))
    assert workload.threads_of("prepare_atlas", brain()) == 1
    threads = workload.threads_of("prepare_atlas", brain(atlas=fine))
    needed = workload.request_mb("prepare_atlas", brain(atlas=fine), threads)
    assert threads > 1 and planning.fit(1.5 * needed, threads) >= 1.5 * needed > 20_000
    one = brain(atlas=fine, jobs={"threads": 1})
    assert workload.threads_of("preview_alignment", one) >= 4


def test_a_retry_of_a_job_gets_twice_the_time():
    assert workload.minutes("fuse_block", brain(), 2) == pytest.approx(
        2 * workload.minutes("fuse_block", brain(), 1), abs=1
    )
    assert workload.minutes("register", brain(), 1) >= 240


def test_time_limits_leave_room_for_the_planned_time_on_a_slow_disk():
    for rule, jobs in workload.jobs_of_rules(brain()).items():
        load = RULES[rule].load(brain())
        gigabytes = (load.read_gb + load.written_gb) / max(1, jobs)
        assert workload.minutes(rule, brain(), 1) * 60 > gigabytes / 0.1


@pytest.mark.parametrize(("rows", "columns", "channels"), [(2, 3, 1), (5, 6, 2), (6, 10, 4)])
def test_plans_grow_with_the_data_and_jobs_are_worth_their_start(rows, columns, channels):
    sample = brain(rows, columns, channels)
    plan = {row.stage: row for row in runplan.make_plan(sample)}
    raw = sample.raw_gb
    assert plan["fused"].read_gb >= raw and 0.3 * raw < plan["fused"].written_gb < raw
    assert sum(row.jobs for row in plan.values()) <= 500
    hours = sum(row.cpu_hours for row in plan.values())
    assert 2 < hours / raw * 1000 < 20, "hours of a terabyte"
    assert plan["fused"].longest_minutes > 1.5
    assert max(row.memory_mb for row in plan.values()) <= 30720


def test_what_is_left_out_is_not_planned():
    plan = {r.stage: r for r in runplan.make_plan(brain(atlas=None))}
    assert "registration" not in plan and "regions" not in plan
    without = brain(intensity={"bias": {"enabled": False}})
    assert "bias" not in {r.stage for r in runplan.make_plan(without)}
    whole = brain(intensity={"bias": {"volume_um": None}})
    assert workload.store_gb(without) == pytest.approx(workload.store_gb(whole) / 2)
    # levels of 5 x 1.46 x 1.46 um: 5 x 5.84 x 5.84 is the last that is as fine as 10
    ratio = workload.store_gb(brain()) / workload.store_gb(without)
    assert ratio == pytest.approx(1 + 1 / 16, rel=1e-3)


def test_the_usual_chain_moves_few_bytes():
    for size in ((2, 3, 1), (5, 6, 2), (6, 10, 4)):
        moved = {}
        for stripes in ("none", "auto"):
            sample = brain(*size, intensity={"stripes": stripes})
            plan = runplan.make_plan(sample)
            moved[stripes] = sum(row.read_gb + row.written_gb for row in plan) / sample.raw_gb
        assert moved["none"] < 2.3
        # at most once more, which is planned, but not done where the tiles show no stripes
        assert moved["auto"] < moved["none"] + 1.1


def test_the_table_ends_with_the_sum():
    lines = runplan.plan_text("brain7", brain()).splitlines()
    assert lines[0].split()[0] == "brain7"
    jobs = sum(row.jobs for row in runplan.make_plan(brain()))
    assert lines[-1].startswith(f"{jobs} jobs, ") and "1006.6 GB of raw data" in lines[-1]

"""What rules need follows the data."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from planned_samples import ATLAS, brain

from terareg import core
from terareg.execution import requests
from terareg.execution.rule_table import RULES
from terareg.volumes.cost import row_blocks


def test_memory_follows_block_tile_and_threads_and_not_the_brain():
    small, large = brain(2, 3), brain(20, 30)
    same = ("sum_tiles", "correct_tiles", "measure_displacements", "correct_volume",
            "transform_labels", "prepare_atlas")  # fmt: skip
    for rule in same:
        assert requests.request_mb(rule, small, 4) == requests.request_mb(rule, large, 4), rule
    one, four = (RULES["correct_volume"].memory_mb(small, threads) for threads in (1, 4))
    assert four > 2.5 * one
    looked_at = [RULES["estimate_steps"].memory_mb(b, 1) for b in (small, large, brain(40, 50))]
    assert looked_at[0] < looked_at[1] == looked_at[2] < 700


def test_a_row_of_blocks_is_cut_where_memory_ends():
    blocks = {columns: row_blocks(brain(5, columns)) for columns in (1, 6, 30)}
    assert blocks == {1: 4, 6: 16, 30: 16}
    copied = {"model": "translation", "channel_shift": "none"}  # no tile is interpolated
    wide = (brain(5, columns, stitching=copied) for columns in (6, 30))
    asked = [requests.request_mb("fuse_blocks", sample, 4) for sample in wide]
    assert asked[0] == asked[1] < 2048, "no block is held"
    blocks = [
        row_blocks(brain(5, 30, store="s3://lab", volume={"formats": formats}))
        for formats in (["ome-zarr"], ["ome-zarr", "precomputed"])
    ]
    assert blocks == [13, 6], "what goes to S3 is held until it is whole"
    both = brain(5, 30, store="s3://lab", volume={"formats": ["ome-zarr", "precomputed"]})
    assert requests.request_mb("fuse_blocks", both, 4) < 8192, "what AWS Batch gives with four CPUs"
    share = [RULES["fuse_blocks"].load(b).read_gb / b.raw_gb for b in (brain(5, 4), brain(5, 30))]
    assert share[0] == 1 < share[1] < 1.25, "tiles where a row is cut are read twice"


@pytest.mark.parametrize(
    "rule", ["prepare_atlas", "find_pose", "register", "assess_registration", "init_labels",
             "transform_labels", "sum_regions", "measure_regions", "transform_points"]
)  # fmt: skip
def test_requests_know_the_size_of_the_atlas(rule):
    fine = replace(ATLAS, shape=(1320, 800, 1140), spacing_um=(10.0, 10.0, 10.0))
    at_25, at_10 = (requests.request_mb(rule, brain(atlas=a), 4) for a in (ATLAS, fine))
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


def test_every_stage_is_in_the_table_once():
    stages = sorted(Path(core.__file__).parents[1].glob("*/cost.py"))
    stages = [path.parent.name for path in stages if path.parent.name != "core"]
    rules = [name for s in stages for name in import_module(f"terareg.{s}.cost").RULES]
    assert len(stages) > 6 and sorted(rules) == sorted(RULES)

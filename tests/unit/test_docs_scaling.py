"""The tables of docs/scaling.md are those of the code."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from planned_samples import ATLAS, brain

from terareg.execution import run_plan
from terareg.execution.rule_table import RULES
from terareg.volumes.cost import row_blocks

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
WORKING_UM = 200.0
FINE_ATLAS = replace(ATLAS, shape=(1320, 800, 1140), spacing_um=(10.0, 10.0, 10.0))


def at_working_voxel(channels=("ch0",), **over):
    return {"registration": {"resolution_um": WORKING_UM, "channel": list(channels)}, **over}


def two_images():
    files = {key: key for key in ("template", "annotation", "ontology")}
    return {"mouse": {**files, "orientation": "RIP", "images": {"nissl": "n.nrrd"}}}


def imported(sample, held_gb, tiles):
    return replace(sample, size=replace(sample.size, held_gb=held_gb, tiles=tiles))


def compared(sample):
    counts = {"samples": 12, "measures": 5, "permutations": 0}
    return replace(sample, config={**sample.config, "comparison": counts})


REGIONS = {"from": "atlases/mouse/annotation"}
#: sample, sums of the contrast transform, images, registered channels
SAMPLES = {
    "usual": (brain(**at_working_voxel()), 17, 1, 1),
    "one tile": (brain(1, 1, 1, **at_working_voxel()), 17, 1, 1),
    "wide, small blocks": (brain(2, 30, **at_working_voxel(volume={"block": 256})), 17, 1, 1),
    "fine atlas": (brain(atlas=FINE_ATLAS, **at_working_voxel()), 17, 1, 1),
    "two channels": (brain(**at_working_voxel(("ch0", "ch1"))), 25, 1, 2),
    "two images": (brain(**at_working_voxel(atlases=two_images())), 38, 2, 1),
    "both": (brain(**at_working_voxel(("ch0", "ch1"), atlases=two_images())), 46, 2, 2),
    "a fused volume": (brain(**at_working_voxel(export={"v": {"from": "fused/ch0"}})), 17, 1, 1),
    "regions": (
        brain(**at_working_voxel(atlases=two_images(), export={"regions": REGIONS})),
        38,
        2,
        1,
    ),
    "cells": (
        brain(
            cells={
                "a": {"channel": "ch0", "diameter_um": 10},
                "b": {"channel": "ch1", "diameter_um": [30, 20, 20]},
            },
            **at_working_voxel(),
        ),
        17,
        1,
        1,
    ),
    "error bars": (
        brain(
            registration={"resolution_um": WORKING_UM, "channel": ["ch0"], "error_bars": True},
            cells={"a": {"channel": "ch0", "diameter_um": 10}},
        ),
        17,
        1,
        1,
    ),
    "a comparison": (compared(brain(**at_working_voxel())), 17, 1, 1),
    "an image file": (imported(brain(**at_working_voxel()), 3.0, 0), 17, 1, 1),
    "an image in chunks": (imported(brain(**at_working_voxel()), 0.0, 0), 17, 1, 1),
}


def formulas() -> dict[str, str]:
    """Formula of every rule of the table; "" is that of all others."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+|all others) \| `([^`]+)` \|$", TEXT, re.MULTILINE)
    found = {}
    for rules, formula in rows:
        for name in re.findall(r"`(\w+)`", rules) or [""]:
            assert name not in found, f"{name} is there twice"
            found[name] = formula
    return found


def value(formula: str, symbols: dict[str, float]) -> float:
    """A formula as the table writes it, where a space between two factors multiplies."""

    def of(node):
        match node:
            case ast.Constant(number):
                return number
            case ast.Name(symbol):
                return symbols[symbol]
            case ast.BinOp(left, ast.Add(), right):
                return of(left) + of(right)
            case ast.BinOp(left, ast.Mult(), right):
                return of(left) * of(right)
            case ast.Call(ast.Name("min" | "max" as name), arguments):
                return {"min": min, "max": max}[name](map(of, arguments))
        raise AssertionError(f"{formula}: {ast.dump(node)} is no part of a formula")

    return of(ast.parse(re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula), mode="eval").body)


def searched(sample, settings) -> float:
    """Millions of voxels of a box of the search with its margins, by the description in the code:
    windows of 2 diameters around whole windows, and a Gaussian of a third of a diameter."""
    sizes = settings["diameter_um"]
    sizes = [sizes] * 3 if isinstance(sizes, int) else sizes
    level = sample.level(min(sizes) / 5)
    voxels = 1
    for diameter, spacing in zip(sizes, level.spacing_um):
        window = 4 * max(1, round(diameter / spacing / 2))
        reach = int(4 * diameter / 3 / spacing + 0.5) + 2
        voxels *= 256 // window * window + 2 * (window + reach)
    return min(voxels / 1e6, level.megavoxels)


def cells_mm3(sample) -> float:
    volume = math.prod(n * s / 1e3 for n, s in zip(sample.grid.shape, sample.grid.spacing_um))
    return volume if sample.option("cells") else 0


def symbols_of(sample, threads: int, sums: int, images: int, channels: int) -> dict[str, float]:
    """What the symbols of the table mean for a sample, by their description there."""
    size, grid = sample.size, sample.grid
    depth, *sides = size.tile_shape
    longer, shorter = max(sides), min(sides)
    flatfield = sample.option("intensity.flatfield")
    block_mb = math.prod(sample.block) * size.bytes_per_voxel / 1e6
    blocks = math.prod(-(-n // sample.option("volume.block")) for n in grid.shape)
    binned = math.prod(side // (shorter // 192) for side in sides)
    atlas = sample.largest_atlas
    levels = sample.option("volume.block") / sample.option("volume.chunk")
    height, width = sample.block[1:]
    reach = (math.ceil(2 * s / p) for s, p in zip((20, 30, 30), grid.spacing_um))
    search = [min(s, n // 4) for s, n in zip(reach, size.tile_shape)]
    deep = min(depth, 24 + 2 * search[0])
    grown = [min(n, 128 + 2 * s) for n, s in zip(sides, search[1:])]
    return {
        "t": threads,
        "P": math.prod(sides) * size.bytes_per_voxel / 1e6,
        "l": depth * longer / 1e6,
        "g": size.tiles * longer / 1e6,
        "s": size.tiles * flatfield["slabs"] * flatfield["blocks"] ** 2 / 1e6,
        "q": size.tiles if sample.option("stitching.model") in ("elastic", "auto") else 0,
        "o": min(96, size.tiles) * min(16, max(8, 0.07 * depth)) * binned / 1e6,
        "w": min(sample.option("stitching.displacement")["window_planes"], depth),
        "S": max(64, 2 * sample.overlap * longer) * longer / 1e6,
        "B": block_mb,
        "n": min(threads, blocks),
        "r": row_blocks(sample),
        "L": 64 * height * width * size.bytes_per_voxel / 1e6,
        "m": (deep * math.prod(grown) + 24 * 128**2) / 1e6,
        "b": 2 * deep * min(sides[0], grown[0] + 30) * sides[1] / 1e6,
        "W": 9 * 64 * height * size.tile_shape[2] * size.bytes_per_voxel / 1e6,
        "p": 0 if sample.tiled or not size.held_gb else math.prod(grid.shape[1:]) / 1e6,
        "h": int(not sample.tiled and not size.held_gb),
        "f": size.held_gb,
        "c": math.prod(grid.shape) * size.bytes_per_voxel / levels**3 / 1e6,
        "A": math.prod(atlas.shape) / 1e6,
        "a": atlas.at(max(n * s for n, s in zip(atlas.shape, atlas.spacing_um)) / 320),
        "V": grid.at(sample.option("intensity.bias.resolution_um")),
        "R": grid.at(WORKING_UM),
        "e": grid.at(WORKING_UM) if sample.option("registration.error_bars") else 0,
        "I": images,
        "C": channels,
        "T": sums,
        "M": sample.level(sample.option("labels.mesh_resolution_um")).megavoxels,
        "U": grid.at(25.0),
        **export_symbols(sample),
        "Y": sample.config.get("comparison", {}).get("samples", 0),
        "K": sample.config.get("comparison", {}).get("measures", 0),
        "D": max((searched(sample, c) for c in sample.option("cells").values()), default=0),
        "N": cells_mm3(sample) * 3000 / 1e6,
    }  # fmt: skip


def export_symbols(sample) -> dict[str, float]:
    """Of the exports of these samples: a fused volume, and regions of the atlas."""
    if not sample.option("export"):
        return {"E": 0, "H": 0}
    shape = sample.largest_atlas.shape
    if "regions" not in sample.option("export"):
        shape = sample.grid.shape
    plane_mb = 4 * math.prod(shape[1:]) / 1e6
    planes = max(1, min(shape[0], int(256 * 2**20 / 1e6 / plane_mb)))
    regions = "regions" in sample.option("export")
    return {"E": planes * plane_mb, "H": 8 * math.prod(shape) / 1e6 if regions else 0}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("threads", [1, 4])
def test_the_table_of_memory_is_what_rules_ask_for(name, threads):
    sample, *counts = SAMPLES[name]
    table, symbols = formulas(), symbols_of(sample, threads, *counts)
    assert table.keys() - {""} <= RULES.keys()
    for rule, cost in RULES.items():
        said = value(table.get(rule, table[""]), symbols)
        assert said == pytest.approx(cost.memory_mb(sample, threads), rel=0.01), rule


def test_every_symbol_is_explained():
    used = set(re.findall(r"\b[A-Za-z]\b", " ".join(formulas().values())))
    told = set(re.findall(r"^\| ([A-Za-z]) \|", TEXT, re.MULTILINE))
    assert used == told


def test_the_table_of_plans_is_what_a_dry_run_prints():
    rows = re.findall(
        r"^\| [\d.]+ TB \| (\d+) x (\d+) \| (\d) \| (\d+) \| ([\d.]+) \| (\d+) min \| (\d+) GB "
        r"\| ([\d.]+) TB \|",
        TEXT, re.MULTILINE,
    )  # fmt: skip
    assert len(rows) == 4
    for row in rows:
        height, width, channels, jobs, hours, minutes, memory_gb, room_tb = map(float, row)
        sample = brain(int(height), int(width), int(channels))
        plan = run_plan.make_plan(sample)
        assert sum(stage.jobs for stage in plan) == jobs
        assert sum(stage.cpu_hours for stage in plan) == pytest.approx(hours, rel=0.06)
        assert round(max(stage.longest_minutes for stage in plan)) == minutes
        assert max(stage.memory_mb for stage in plan) == memory_gb * 1024
        assert run_plan.store_gb(sample) / 1000 == pytest.approx(room_tb, rel=0.06)

"""Derived volumes as plans see them: sizes, batches and costs from headers alone."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from planned_samples import brain, run_of, scan
from web_server import serving

from terareg.core.errors import ConfigError, TeraregError
from terareg.derived.catalogue import OUTPUT_KEYS, SOURCE_KEYS, TOOLS
from terareg.derived.cost import RULES, derived_batches, derived_gb, entry_lines
from terareg.execution import derived_volumes, inputs, sizing, targets
from terareg.execution.config import check
from terareg.execution.requests import request_mb
from terareg.execution.rule_table import jobs_of_rules
from terareg.execution.run import load_run
from terareg.execution.run_plan import plan_text, store_gb
from terareg.execution.schema import SCHEMA
from terareg.storage.array_files import read_arrays, write_arrays
from terareg.storage.records import write_json
from terareg.volumes.cost import temporary_gb

SEGMENTATION = {"type": "segmentation", "data_type": "uint64", "num_channels": 1}


def precomputed(folder, size=(700, 600, 500), **more):
    """Metadata of a volume, and one chunk of it."""
    scales = []
    for level in range(3):
        shape = [-(-n // 2**level) for n in size]
        scales.append({"key": str(level), "size": shape, "resolution": [1000 * 2**level] * 3,
                       "chunk_sizes": [[64, 64, 64]], "encoding": "raw",
                       "voxel_offset": [0, 0, 0]})  # fmt: skip
        (folder / str(level)).mkdir(parents=True)
        (folder / str(level) / "0-64_0-64_0-64").write_bytes(b"x")
    info = {"@type": "neuroglancer_multiscale_volume", "scales": scales}
    write_json(folder / "info", info | SEGMENTATION | more)
    return str(folder)


def alone(workspace, **derived):
    return load_run({"sample": "tools", "derived": derived})


@pytest.mark.slow
def test_a_source_on_the_web_is_planned_from_its_metadata(workspace):
    precomputed(workspace.folder / "lab")
    # the web lists nothing, and so a chunk in the middle is looked for
    (workspace.folder / "lab/0/320-384_320-384_256-320").write_bytes(b"x")
    with serving(workspace.folder) as url:
        run = alone(workspace, a={"from": f"{url}/lab", "do": "convert", "level": 1})
        sample = sizing.sized(run, "tools")
        assert sample.derived["a"].source.shape == (250, 300, 350)
        assert inputs.derived_source(run, "tools", "a") == []
        assert inputs.derived_state(run, "tools", "a")
        assert inputs.derived_address(run, "tools", "a") == f"{url}/lab"
        run = alone(workspace, a={"from": f"{url}/lab/a.tif", "do": "convert"})
        with pytest.raises(TeraregError, match=r"a\.tif does not exist; correct the path"):
            sizing.sized(run, "tools")


def test_a_sample_without_images_has_the_rules_of_derived_volumes_only(workspace):
    source = precomputed(workspace.folder / "lab")
    run = alone(
        workspace,
        a={"from": source, "do": "convert", "level": 1, "box_vox": [[0, 0, 0], [9, 9, 9]]},
        b={"from": source, "do": "downsample", "format": "both"},
        c={"from": source, "do": "quantize", "labels": False, "codec": "raw"},
    )
    sample = sizing.sized(run, "tools")
    made = sample.derived
    assert made["a"].source.shape == (9, 9, 9) and made["a"].source.spacing_um == (2.0, 2.0, 2.0)
    assert (made["a"].dtype, made["a"].kind) == ("uint64", "labels")
    assert made["b"].grid.shape == (250, 300, 350)
    assert (made["c"].dtype, made["c"].kind, made["c"].measured) == ("uint8", "image", True)
    assert sample.raw_gb == pytest.approx(sum(d.source_gb for d in made.values()))
    jobs = {rule: count for rule, count in jobs_of_rules(sample).items() if count}
    assert jobs == {
        "check_inputs": 1, "init_derived": 3, "measure_derived": 1, "gather_derived": 1,
        "derive_blocks": 3, "finish_pyramid": 3, "finalize_volume": 3,
        "write_neuroglancer_state": 1,
    }  # fmt: skip
    text = plan_text("tools", sample)
    assert "Derived volumes" in text and "GB of sources" in text
    assert "derived b: downsample, 1 blocks of 250 x 300 x 350 voxels in 1 batches, reads" in text
    assert targets.all_files(run, "tools") == targets.derived_files(run, "tools")
    assert inputs.index_file(run, "tools") == [] and run.tiled == run.imported == []
    assert store_gb(sample) == derived_gb(sample) > 0


def test_jobs_follow_the_bytes_and_memory_the_blocks(workspace):
    large = precomputed(workspace.folder / "large", (20_000, 10_000, 5_000), type="image",
                        data_type="uint16")  # fmt: skip
    run = alone(
        workspace,
        a={"from": large, "do": "convert"},
        b={"from": large, "do": "downsample"},
        c={"from": large, "do": "convert", "block": 256},
    )
    sample = sizing.sized(run, "tools")
    assert sample.derived["a"].source_gb == pytest.approx(2000)
    assert derived_batches(sample, "a") > 10
    assert inputs.derived_batches(run, "tools", "a") == derived_batches(sample, "a")
    one, four = (request_mb("derive_blocks", sample, n) for n in (1, 4))
    block_mb = 2 * 512**3 / 1e6
    assert block_mb < one < 8 * block_mb and one < four < 4 * one
    (small,) = (
        sizing.sized(alone(workspace, c={"from": large, "do": "convert", "block": 256}), "tools"),
    )
    assert request_mb("derive_blocks", small, 1) < one / 2
    loads = {name: rule.load(sample) for name, rule in RULES.items()}
    assert loads["derive_blocks"].jobs == sum(derived_batches(sample, name) for name in "abc")
    assert loads["derive_blocks"].most.cpu_s < loads["derive_blocks"].cpu_s
    assert loads["measure_derived"].jobs == 0
    # the plan says what other blocks would hold, and it is what they hold
    line, _, smaller = entry_lines(sample, 2)
    found = dict(re.findall(r"block: (\d+) would hold ([0-9.]+) GB", line))
    assert list(found) == ["256", "1024"]
    assert float(found["256"]) < 0.5 * float(found["1024"])
    assert f"a job holds {found['256']} GB on 2 threads (block: 128 would hold" in smaller


def test_local_contrast_reads_and_holds_what_lies_around_a_block(workspace):
    large = precomputed(workspace.folder / "large", (20_000, 10_000, 5_000), type="image",
                        data_type="uint16")  # fmt: skip

    def planned(**more):
        entry = {"from": large, "do": "equalize", "block": 256, **more}
        return sizing.sized(alone(workspace, a=entry), "tools")

    plain, local = planned(), planned(local_um=100)
    assert plain.derived["a"].halo == (0, 0, 0) and local.derived["a"].halo == (0, 150, 150)
    assert planned(local_um=100, per="whole").derived["a"].halo == (150, 150, 150)
    around = (556 / 256) ** 2
    loads = [RULES["derive_blocks"].load(sample) for sample in (plain, local)]
    assert loads[1].read_gb == pytest.approx(around * loads[0].read_gb)
    assert loads[1].cpu_s > 5 * loads[0].cpu_s
    one, more = (request_mb("derive_blocks", sample, 1) for sample in (plain, local))
    assert more - one > 2 * (around - 1) * 2 * 256**3 / 1e6


def test_a_mask_is_made_and_planned_before_what_is_read_within_it(workspace):
    large = precomputed(workspace.folder / "large", type="image", data_type="uint16")
    run = alone(
        workspace,
        a={"from": large, "do": "convert", "within": "derived/tissue", "block": 256},
        tissue={"from": large, "do": "tissue", "level": 1},
        b={"from": large, "do": "convert", "block": 256},
    )
    plan = "results/tools/derived/tissue/plan.json"
    assert plan in inputs.derived_source(run, "tools", "a")
    assert plan not in inputs.derived_source(run, "tools", "b")
    assert inputs.complete_source(run, "tools", "a") == {
        "complete_within": "results/tools/derived/tissue/complete.json"
    }
    made = sizing.sized(run, "tools").derived
    assert made["a"].masked and not made["b"].masked and list(made) == ["tissue", "a", "b"]


def test_volumes_of_the_sample_are_sources(workspace):
    derived = {"a": {"from": "fused/t1", "do": "convert"}, "b": {"from": "a", "do": "equalize"}}
    config = scan(workspace, derived=derived)
    run = run_of(workspace, config)
    made = sizing.sized(run, "scan").derived
    assert made["a"].grid.shape == (3, 4, 5) and made["a"].dtype == "float32"
    assert made["b"].source == made["a"].grid
    assert inputs.derived_source(run, "scan", "b") == ["results/scan/derived/a/plan.json"]
    assert inputs.complete_source(run, "scan", "a") == {
        "complete": "results/scan/fused/t1/complete.json"
    }
    assert inputs.measured_source(run, "scan", "a") == {}
    assert inputs.measured_parts(run, "scan", "b") == ["results/scan/derived/b/measured/0.npz"]
    assert inputs.derived_state(run, "scan", "a") == "" and not inputs.derived_address(
        run, "scan", "a"
    )
    assert inputs.blocks_of_volume(run, "scan", "derived/b") == [
        "results/scan/derived/b/batches/0.json"
    ]
    assert "results/scan/derived/b/complete.json" in targets.all_files(run, "scan")
    assert derived_volumes.names(run, "equalize") == ["b"]
    assert derived_volumes.names(run, volumes=True) == ["a", "b"]
    assert jobs_of_rules(brain())["derive_blocks"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"do": "convert", "level": 3},
            "derived.a.level: 3 is not a level of LAB, which has levels 0 to 2",
        ),
        (
            {"do": "convert", "downsampling": "mean"},
            ("derived.a.downsampling: labels cannot be averaged"),
        ),
        (
            {"do": "downsample", "downsampling": "mean"},
            "derived.a.downsampling: labels cannot be averaged",
        ),
        ({"do": "equalize"}, "derived.a.do: equalize works on image, but LAB is labels"),
        (
            {"do": "remap", "table": "ids.csv", "labels": False},
            "remap works on labels, but LAB is image",
        ),
        (
            {"do": "remap", "table": "ids.csv", "ids": "uint32"},
            "ids.csv maps id 1 to 4294967296, too large for uint32; set ids: uint64",
        ),
        ({"do": "remap", "table": "other.csv"}, "derived.a.table: 'other.csv' does not exist"),
        (
            {"do": "convert", "box_vox": [[0, 0, 0], [501, 9, 9]]},
            "derived.a.box_vox: [[0, 0, 0], [501, 9, 9]] reaches beyond the volume, whose level "
            "has 500 x 600 x 700 voxels of 1 x 1 x 1 um",
        ),
        (
            {"do": "convert", "channel": 1},
            "derived.a.channel: LAB has channels 0 to 0, not",
        ),
        (
            {"do": "convert", "format": "precomputed", "codec": "png"},
            "derived.a.codec: png stores uint8 or "
            "uint16, not uint64; use another codec, or convert",
        ),
        (
            {"do": "equalize", "labels": False, "within": "derived/b"},
            "derived.a.within: derived/b is an image; give a volume of labels, for example one of",
        ),
        (
            {"do": "equalize", "labels": False, "local_um": 20},
            "derived.a.local_um: 20 makes regions of 1 x 20 x 20 voxels, too few for a histogram",
        ),
        (
            {"do": "equalize", "labels": False, "local_um": 300, "block": 256},
            "derived.a.local_um: 300 makes regions of 1 x 300 x 300 voxels, larger than a block of "
            "256; give a smaller edge, a larger block:, or a coarser level:",
        ),
        ({"do": "reorder", "order": "order.txt"}, "derived.a.order: 'order.txt' does not exist"),
    ],
)
def test_what_does_not_fit_the_source_is_said_when_the_workflow_is_loaded(
    workspace, settings, words
):
    lab = precomputed(workspace.folder / "lab")
    (workspace.folder / "ids.csv").write_text("from,to\n1,4294967296\n")
    with pytest.raises(ConfigError) as error:
        image = {"from": lab, "do": "convert", "labels": False}
        sizing.sized(alone(workspace, b=image, a={"from": lab} | settings), "tools")
    assert words.replace("LAB", lab) in str(error.value)


def test_of_several_channels_one_has_to_be_named(workspace):
    several = precomputed(workspace.folder / "two", type="image", data_type="uint16",
                          num_channels=2)  # fmt: skip
    entry = {"from": several, "do": "convert"}
    with pytest.raises(ConfigError, match=r"derived\.a\.channel: .* has 2 channels; give the num"):
        sizing.sized(alone(workspace, a=entry), "tools")
    sizing.sized(alone(workspace, a=entry | {"channel": 1}), "tools")


@pytest.mark.parametrize(
    ("entry", "export", "words"),
    [
        ({}, {}, r"export\.x\.format: nifti stores the anatomical orientation, which is unknown"),
        ({}, {"format": "tiff"}, ""),
        ({"orientation": "SAR"}, {}, ""),
        (
            {},
            {"format": "tiff", "interpolation": "mean"},
            "mean is not for labels; use vote or nearest",
        ),
        ({}, {"format": "png_series"}, r"derived/b is of type uint64; use tiff_series"),
    ],
)
def test_exports_of_derived_volumes(workspace, entry, export, words):
    """Refused when the workflow is loaded, also through the volume between; or planned."""
    first = {"from": precomputed(workspace.folder / "lab"), "do": "convert", **entry}
    config = {
        "sample": "tools",
        "derived": {"a": first, "b": {"from": "a", "do": "convert"}},
        "export": {"x": {"from": "derived/b", **export}},
    }
    run = load_run(config)
    if words:
        with pytest.raises(ConfigError, match=words):
            sizing.sized(run, "tools")
        return
    assert jobs_of_rules(sizing.sized(run, "tools"))["export_volume"] == 1
    made = [path for path in targets.all_files(run, "tools") if "/exports/" in path]
    assert len(made) == 1 and made[0].startswith("results/tools/exports/x.")


def test_files_that_do_not_say_their_voxel_size_ask_for_the_key_of_the_entry(workspace):
    tifffile.imwrite(workspace.folder / "a.tif", np.zeros((5, 6, 7), np.uint8))
    with pytest.raises(ConfigError, match=r"set spacing_um of its entry to \[z, y, x\]"):
        sizing.sized(alone(workspace, a={"from": "a.tif", "do": "convert"}), "tools")
    run = alone(workspace, a={"from": "a.tif", "do": "convert", "spacing_um": [2, 1, 1]})
    made = sizing.sized(run, "tools").derived["a"]
    assert made.grid.shape == (5, 6, 7) and made.held_gb > 0


def test_a_compressed_file_is_cut_into_as_few_jobs_as_its_decompression_is_worth(workspace):
    source = precomputed(workspace.folder / "a", (20_000, 10_000, 5_000), type="image",
                         data_type="uint16")  # fmt: skip
    for codec, most in (("raw", 1), ("gzip", 3)):  # gzip takes twice as long as decompressing
        entry = {"from": source, "do": "convert", "codec": codec, "format": "precomputed"}
        plain = sizing.sized(alone(workspace, a=entry), "tools")
        gzipped = replace(plain.derived["a"], passed_gb=2000.0, kept_gb=2000.0)
        packed = replace(plain, derived={"a": gzipped})
        once, load = (RULES["derive_blocks"].load(sample) for sample in (plain, packed))
        assert derived_batches(plain, "a") > 20 and derived_batches(packed, "a") == most
        assert load.jobs == most and load.read_gb == pytest.approx(2000 * most)
        # seconds that decompressing takes count for the time limit of the jobs
        assert load.cpu_s == pytest.approx(once.cpu_s + 6 * 2000 * most)
        assert "and up to 2000.0 GB in TMPDIR" in plan_text("tools", packed)
        assert "TMPDIR" not in plan_text("tools", plain)


def test_a_compressed_tiff_is_decoded_plane_by_plane_and_the_plan_says_where(workspace):
    """Four layers of blocks of three rows each, which jobs share."""
    image = np.zeros((32, 24, 10), np.uint8)
    for name, codec in (("plain.tif", None), ("packed.tif", "zlib")):
        tifffile.imwrite(workspace.folder / name, image, compression=codec)
    said = {}
    for name in ("plain.tif", "packed.tif"):
        config = {
            "sample": "tools",
            "volume": {"chunk": 8, "block": 8},
            "derived": {"a": {"from": name, "do": "convert", "spacing_um": [2, 1, 1]}},
        }
        sample = sizing.sized(load_run(config), "tools")
        made = sample.derived["a"]
        assert (made.passed_gb, made.kept_gb) == (0, image.nbytes / 1e9 * (name == "packed.tif"))
        said[name] = plan_text("tools", replace(sample, derived={"a": large(made)}))
    assert "TMPDIR" not in said["plain.tif"] and "up to 8.0 GB in TMPDIR" in said["packed.tif"]
    # jobs of 12 rows, of 6 (two layers), of 2 and 3 (some of them in two layers), and of 3 and 1
    for jobs, share in ((1, 1), (2, 0.5), (5, 0.5), (4, 0.25), (12, 0.25)):
        assert temporary_gb((8.0, 0.0), (4, 3), jobs) == pytest.approx(8 * share)
        assert temporary_gb((8.0, 8.0), (4, 3), jobs) == 8.0


def large(made):
    return replace(made, kept_gb=8.0 * (made.kept_gb > 0))


def test_jobs_on_other_machines_reach_no_local_source(workspace):
    lab = precomputed(workspace.folder / "lab")
    config = {
        "sample": "tools",
        "store": "s3://b/store",
        "derived": {"a": {"from": lab, "do": "convert"}},
    }
    run = load_run(config, "s3://b/results")
    with pytest.raises(
        ConfigError, match=r"derived\.a\.from: .* is a local path, which jobs on other"
    ):
        sizing.sized(run, "tools")


def test_arrays_survive_a_file_and_its_bytes_are_the_same(tmp_path):
    arrays = {"b": np.arange(5), "a": np.zeros((2, 3), np.float32)}
    for name in ("1.npz", "2.npz"):
        write_arrays(tmp_path / name, arrays)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    found = read_arrays(tmp_path / "1.npz")
    assert all(np.array_equal(found[key], arrays[key]) for key in arrays)
    (tmp_path / "2.npz").write_bytes(b"PK")
    with pytest.raises(Exception, match=r"2\.npz cannot be read .* delete it and run again"):
        read_arrays(tmp_path / "2.npz")


def test_the_schema_has_every_key_of_every_tool():
    text = SCHEMA.read_text().split("\n  derived:\n")[1].split("\n  points:\n")[0]
    keys = {line.strip().rstrip(":") for line in text.splitlines() if line.startswith(" " * 8)
            and not line.startswith(" " * 9)}  # fmt: skip
    wanted = {
        "from",
        "do",
        *SOURCE_KEYS,
        *OUTPUT_KEYS,
        *(k for f in TOOLS.values() for k in f.keys),
    }
    assert keys == wanted
    check({"sample": "x", "derived": {"a": {"from": "/x", "do": "convert"}}})

"""Files and settings of every rule, from the configuration of its sample."""

from __future__ import annotations

import pytest
from planned_samples import run_of, scan

from terareg.core.errors import ConfigError
from terareg.execution import inputs, sizing
from terareg.execution.rule_table import jobs_of_rules
from terareg.intensity.cost import tile_batches
from terareg.stitching.cost import pair_batches, shifted_channels

LANDMARKS = {"registration": {"landmarks": {"mouse": {"sample": "ls.csv", "atlas": "la.csv"}}}}


@pytest.fixture
def plain(workspace):
    return run_of(workspace, workspace.sample(), scan(workspace))


@pytest.fixture
def own(workspace):
    return run_of(workspace, workspace.sample(**LANDMARKS))


def test_a_volume_is_described_by_another_file_than_tiles(plain):
    assert inputs.index_file(plain, "brain") == "results/brain/acquisition.json"
    assert inputs.index_file(plain, "scan") == "results/scan/input.json"


# ---------------------------------------------------------------- tiles
def test_a_pattern_becomes_a_file_for_each_batch(plain):
    pattern = "corrected/{channel}/batches/{batch}.json"
    names = {"channel": "signal", "sample": "brain"}
    files = inputs.batch_files(plain, "brain", pattern, lambda sample: 3, names)
    assert files == [f"results/brain/corrected/signal/batches/{i}.json" for i in range(3)]


@pytest.mark.parametrize("kind", ["stream", "keep", "temporary"])
@pytest.mark.parametrize("destriping", ["none", "rows"])
def test_tiles_are_read_with_what_corrects_them_or_corrected(workspace, kind, destriping):
    over = {"corrected_tiles": kind, "destriping": destriping}
    run = run_of(workspace, workspace.sample(intensity=over))
    files = inputs.tile_files(run, "brain", "signal")
    assert files["profile"] == "results/brain/intensity/signal/flatfield.tif"
    assert ("stripes" in files) == inputs.destripes(run, "brain") == (destriping == "rows")
    count = tile_batches(sizing.sized(run, "brain"))
    assert len(files.get("corrected", ())) == (0 if kind == "stream" else count)
    assert inputs.temporary_tiles(run) is (kind == "temporary")


def test_tiles_that_are_compared_are_those_of_the_aligned_channel(workspace):
    run = run_of(workspace, workspace.sample(stitching={"channel": "signal"}))
    assert inputs.alignment_tiles(run, "brain") == inputs.tile_files(run, "brain", "signal")
    first = inputs.unplaced_tiles(run, "brain")
    assert first["profile"] == "results/brain/intensity/signal/nominal/flatfield.tif"


def test_tiles_cannot_be_kept_and_temporary_in_one_run(workspace):
    kinds = [workspace.sample(k, intensity={"corrected_tiles": k}) for k in ("keep", "temporary")]
    with pytest.raises(ConfigError, match=r"mix keep and temporary; run them separately"):
        inputs.temporary_tiles(run_of(workspace, *kinds))


def test_a_volume_has_no_tiles_to_draw(plain):
    assert inputs.tiles_drawn(plain, "scan") == {}
    assert set(inputs.tiles_drawn(plain, "brain")) == {"acquisition", "placement"}


@pytest.mark.parametrize(
    ("own", "measured"),
    [({}, True), ({"xml_import": "a"}, True), ({"xml_displcomp": "a"}, False),
     ({"xml_import": "a", "xml_merging": "b"}, False)],
)  # fmt: skip
def test_displacements_are_measured_unless_the_user_brings_them(workspace, own, measured):
    run = run_of(workspace, workspace.sample(stitching={"xml": own}))
    files = inputs.measured_pairs(run, "brain")
    assert len(files) == (pair_batches(sizing.sized(run, "brain")) if measured else 0)


# ---------------------------------------------------------------- volumes
def test_blocks_of_every_volume_have_a_rule_that_writes_them(plain):
    written = {"fused/signal": "fuse_blocks", "corrected_volume/signal": "correct_volume",
               "labels/mouse": "transform_labels",
               "atlas_space/mouse/signal": "transform_volume"}  # fmt: skip
    for volume, rule in written.items():
        assert inputs.writer_of_volume(plain, "brain", volume) == rule
        files = inputs.blocks_of_volume(plain, "brain", volume)
        assert len(files) == sizing.volume_batches(plain, "brain", volume) >= 1
        assert files[-1] == f"results/brain/{volume}/batches/{len(files) - 1}.json"
    assert inputs.writer_of_volume(plain, "scan", "fused/t1") == "import_volume"


@pytest.mark.parametrize("bias", [True, False])
def test_measurements_read_the_volume_without_bias_where_there_is_one(workspace, bias):
    run = run_of(workspace, workspace.sample(intensity={"bias": {"enabled": bias}}))
    measured = "corrected_volume" if bias else "fused"
    path = f"results/brain/{measured}/{{}}/complete.json"
    assert inputs.measured_file(run, "brain", "signal", "complete.json") == path.format("signal")
    every = [path.format(channel) for channel in ("autofluorescence", "signal")]
    assert inputs.every_channel(run, "brain", "complete.json") == every
    drawn = inputs.images_of_channels(run, "brain")
    assert len(drawn["fused"]) == len(drawn["fused_complete"]) == 2
    assert len(drawn["corrected_volume"]) == len(drawn["corrected_volume_complete"]) == 2 * bias
    assert inputs.registration_source(run, "brain") == f"{measured}/autofluorescence"


def test_the_first_registered_channel_finds_the_pose(workspace):
    channels = ["signal", "autofluorescence"]
    run = run_of(workspace, workspace.sample(registration={"channel": channels}))
    assert list(inputs.registration_sources(run, "brain")) == channels
    assert inputs.registration_source(run, "brain") == "corrected_volume/signal"
    place = "results/brain/corrected_volume/signal/plan.json"
    assert inputs.registration_volume(run, "brain", "plan.json") == place
    assert len(inputs.registration_volumes(run, "brain")) == 2


# ---------------------------------------------------------------- what makes a rule run again
@pytest.mark.parametrize(
    ("settings", "over", "counts"),
    [
        (inputs.registration_settings, {"registration": {"resolution_um": 77}}, True),
        (inputs.registration_settings, {"registration": {"threads": 3}}, False),
        (inputs.registration_settings, {"registration": {"export": True}}, False),
        (inputs.registration_settings, {"registration": {"pose": {"search": False}}}, False),
        (inputs.registration_settings, {"registration": {"channel": "signal"}}, False),
        (inputs.bias_settings, {"intensity": {"bias": {"resolution_um": 333}}}, True),
        (inputs.bias_settings, {"intensity": {"bias": {"volume_um": 9}}}, False),
        (inputs.sum_settings, {"intensity": {"flatfield": {"planes": 7}}}, True),
        (inputs.sum_settings, {"intensity": {"flatfield": {"degree": 6}}}, False),
    ],
)  # fmt: skip
def test_a_rule_sees_the_options_that_it_reads_and_no_others(
    workspace, plain, settings, over, counts
):
    changed = run_of(workspace, workspace.sample(**over))
    assert (settings(changed, "brain") != settings(plain, "brain")) is counts


# ---------------------------------------------------------------- registration and atlases
def test_landmarks_are_read_where_there_are_some(own, plain):
    paired = "results/brain/registration/mouse/landmarks.json"
    assert inputs.landmark_files(own, "brain", "mouse") == {"landmarks": paired}
    assert inputs.paired_landmarks(own, "brain") == [paired]
    assert inputs.landmark_files(plain, "brain", "mouse") == {}


def test_points_go_through_the_transform_of_their_atlas(workspace):
    config = workspace.sample(points={"cells": {"path": "c.csv", "atlas": "rat"}})
    config["atlases"]["rat"] = dict(config["atlases"]["mouse"])
    run = run_of(workspace, config)
    transform = inputs.transform_of_points(run, "brain", "cells")
    assert transform == inputs.transform_files(run, "brain", "rat")
    assert transform["affine"] == "results/brain/registration/rat/affine.txt"
    assert inputs.atlas_of_points(run, "brain", "cells") == inputs.prepared_atlas(run, "rat")


def test_every_file_of_a_transform_is_one_of_a_registration(plain):
    names = {path.rpartition("/")[2] for path in
             inputs.transform_files(plain, "brain", "mouse").values()}  # fmt: skip
    assert names <= set(inputs.REGISTRATION_FILES.values())
    assert len(set(inputs.REGISTRATION_FILES.values())) == len(inputs.REGISTRATION_FILES)


def test_an_atlas_is_prepared_apart_from_its_further_images(workspace):
    images = {"nissl": "n.nrrd", "ara": "a.nrrd"}
    with_images = run_of(workspace, workspace.sample(atlases__mouse__images=images))
    without = run_of(workspace, workspace.sample())
    assert inputs.atlas_settings(with_images, "mouse") == inputs.atlas_settings(without, "mouse")
    assert inputs.image_names(with_images, "mouse") == ["nissl", "ara"]
    assert inputs.image_source(with_images, "mouse", "ara") == ["a.nrrd"]
    prepared = inputs.prepared_images(with_images, "mouse")
    assert prepared == [f"results/atlases/mouse/images/{name}.nrrd" for name in images]
    checksums = inputs.image_checksums(with_images, "mouse")
    assert checksums == [path.replace(".nrrd", ".json") for path in prepared]
    assert inputs.prepared_images(without, "mouse") == []


def test_a_file_that_snakemake_cannot_follow_is_followed_by_its_state(workspace):
    run = run_of(workspace, workspace.sample(atlases__mouse__template="{t}.nrrd"))
    assert inputs.template_source(run, "mouse") == []
    assert "template" not in inputs.atlas_sources(run, "mouse")
    before = inputs.atlas_state(run, "mouse")
    (workspace.folder / "{t}.nrrd").write_text("another one")
    assert [path for path, *_ in before] == ["{t}.nrrd"] and inputs.atlas_state(
        run, "mouse"
    ) != before


def test_files_of_an_atlas_are_those_that_are_given(workspace, plain):
    given = inputs.atlas_sources(plain, "mouse")
    assert set(given) == {"template", "annotation", "ontology"}
    assert inputs.template_source(plain, "mouse") == [given["template"]]
    run = run_of(workspace, workspace.sample(atlases__mouse__hemispheres="h.nrrd"))
    assert inputs.atlas_sources(run, "mouse") == given | {"hemispheres": "h.nrrd"}


# ---------------------------------------------------------------- channels that do not coincide
def test_a_shift_that_is_measured_is_a_file_of_the_channel(workspace):
    run = run_of(workspace, workspace.sample())
    shift = inputs.channel_shift(run, "brain", "signal")
    assert shift == {"shift": "results/brain/stitching/channels/signal.json"}
    assert inputs.channel_shift(run, "brain", "autofluorescence") == {}
    assert inputs.given_shift(run, "brain", "signal") is None


def test_a_shift_that_is_given_needs_no_tiles_and_one_that_is_not_wanted_no_job(workspace):
    given = {"channel_shift": "given", "channel_shift_um": {"signal": [1.0, 2.0, 3.0]}}
    run = run_of(workspace, workspace.sample(stitching=given))
    assert inputs.given_shift(run, "brain", "signal") == [1.0, 2.0, 3.0]
    assert sizing.batches_of(run, "brain", shifted_channels) == 1
    none = run_of(workspace, workspace.sample(stitching={"channel_shift": "none"}))
    assert inputs.channel_shift(none, "brain", "signal") == {}
    assert sizing.batches_of(none, "brain", shifted_channels) == 0


# ---------------------------------------------------------------- through another atlas
@pytest.fixture
def through(workspace):
    """An atlas of labels that is reached through a template, by two files."""
    brain = workspace.sample(registration={"error_bars": True})
    known = {"atlas": "mouse", "transform": ["1Warp.nii.gz", "0.mat"], "points_from": "ccf"}
    brain["atlases"]["ccf"] = brain["atlases"]["mouse"] | {"through": known}
    brain["export"] = {
        name: {"from": f"registration/ccf/{name}"} for name in ("jacobian", "missing")
    }
    return run_of(workspace, brain)


def test_a_composition_reads_registration_atlases_and_known_files(through):
    base = inputs.base_files(through, "brain", "ccf")
    assert base["base_forward"] == "results/brain/registration/mouse/forward.nrrd"
    assert base["base_summary"] == "results/brain/registration/mouse/summary.json"
    assert inputs.through_files(through, "ccf")["base_atlas"] == "results/atlases/mouse/atlas.json"
    assert inputs.known_transform(through, "ccf") == ["1Warp.nii.gz", "0.mat"]
    assert inputs.known_state(through, "ccf") == []
    settings = inputs.known_settings(through, "ccf")
    assert settings["points_from"] == "ccf"
    assert settings["templates"] == dict.fromkeys(("reached", "through"), "atlas/template.nrrd")
    assert "through" not in inputs.atlas_settings(through, "ccf")


def test_what_no_composition_has_is_that_of_the_registration(through):
    predicted = inputs.fit_file(through, "brain", "ccf", "predicted")
    assert predicted == "results/brain/registration/mouse/predicted.nrrd"
    assert inputs.initial_file(through, "brain", "ccf").endswith("mouse/initial_affine.txt")
    assert inputs.error_files(through, "brain", "ccf") == {}
    assert inputs.error_files(through, "brain", "mouse")
    assert inputs.deviation_volumes(through, "brain") == [
        "results/brain/registration/mouse/deviation.json"
    ]
    jacobian, missing = (
        inputs.export_source(through, "brain", name)["image"] for name in ("jacobian", "missing")
    )
    assert jacobian == "results/brain/registration/ccf/jacobian.nrrd"
    assert missing == "results/brain/registration/mouse/posteriors.nrrd"


def test_only_registrations_cost_one(through):
    sample = sizing.sized(through, "brain")
    assert list(sample.atlases) == ["mouse", "ccf"] and list(sample.registered) == ["mouse"]
    jobs = jobs_of_rules(sample)
    assert jobs["register"] == jobs["estimate_errors"] == jobs["first_look"] == 1
    assert jobs["compose_transforms"] == jobs["assess_composition"] == 1
    assert jobs["measure_regions"] == 2


def test_files_with_braces_are_followed_by_their_state(workspace):
    brain = workspace.sample()
    known = {"atlas": "mouse", "transform": ["{1}.nii.gz", "0.mat"], "points_from": "ccf"}
    brain["atlases"]["ccf"] = brain["atlases"]["mouse"] | {"through": known}
    run = run_of(workspace, brain)
    assert inputs.known_transform(run, "ccf") == []
    assert [row[0] for row in inputs.known_state(run, "ccf")] == known["transform"]

"""Files that make up the targets of the workflow: those of a sample, stage by stage."""

from __future__ import annotations

from pathlib import PurePosixPath

from terareg.execution.inputs import Files, corrected_batches, destripes
from terareg.execution.run import Run

_FIGURES = ("overlay", "prediction", "posteriors", "energy", "jacobian")
_COMPLETE = "complete.json"


def flatfield_files(run: Run, sample: str) -> Files:
    """Flat-fields, and corrected tiles where they are kept."""
    if run.is_imported(sample):
        return []
    files = run.of_channels(sample, "intensity/{channel}/flatfield.tif")
    if destripes(run, sample):
        files += run.of_channels(sample, "intensity/{channel}/stripes.json")
    if run.option(sample, "intensity.corrected_tiles") != "stream":
        for channel in run.channels_of(sample):
            files += corrected_batches(run, sample, channel)
    return files


def stitching_files(run: Run, sample: str) -> Files:
    """Placement of the tiles, TeraStitcher's and Render's files."""
    if run.is_imported(sample):
        return []
    names = ("xml_merging.xml", "placement.json", "render/tilespecs.json.gz")
    return [run.path(sample, f"stitching/{name}") for name in names]


def fused_files(run: Run, sample: str) -> Files:
    """Fused or imported volumes."""
    return run.of_channels(sample, f"fused/{{channel}}/{_COMPLETE}")


def corrected_volume_files(run: Run, sample: str) -> Files:
    """Bias-corrected volumes."""
    if run.measured_volume(sample) == "fused":
        return []
    return run.of_channels(sample, f"corrected_volume/{{channel}}/{_COMPLETE}")


def preview_files(run: Run, sample: str) -> Files:
    """Pictures of the initial poses."""
    return run.of_atlases(sample, "registration/{atlas}/preview.png")


def registration_files(run: Run, sample: str) -> Files:
    """Registrations of all atlases."""
    files = run.of_atlases(sample, "registration/{atlas}/transform.json")
    if run.option(sample, "registration.export"):
        files += run.of_atlases(sample, "registration/{atlas}/itk/sample_to_atlas_composite.tfm")
    return files


def scores(run: Run, sample: str) -> Files:
    """Errors at fiducials, and overlaps with the user's own labels, where these are given."""
    scored = run.atlases_with(sample, "fiducials")
    labelled = run.atlases_with(sample, "sample_labels")
    files = run.of_atlases(sample, "accuracy/{atlas}.tsv", scored)
    return files + run.of_atlases(sample, "overlap/{atlas}.tsv", labelled)


def region_files(run: Run, sample: str) -> Files:
    """Labels, meshes, region tables, scores, points, channels in the atlas."""
    files = run.of_atlases(sample, "regions/{atlas}.tsv")
    files += run.of_atlases(sample, "labels/{atlas}/meshes.json")
    files += scores(run, sample)
    files += [run.path(sample, f"points/{name}.csv") for name in run.option(sample, "points")]
    if run.option(sample, "atlas_space.enabled"):
        for atlas in run.registered_atlases(sample):
            files += run.of_channels(sample, f"atlas_space/{atlas}/{{channel}}/{_COMPLETE}")
    return files


def all_files(run: Run, sample: str) -> Files:
    """Everything, from raw tiles to the report."""
    files = stitching_files(run, sample) + fused_files(run, sample)
    files += corrected_volume_files(run, sample)
    files += registration_files(run, sample) + region_files(run, sample)
    temporary = run.option(sample, "intensity.corrected_tiles") == "temporary"
    if temporary and not run.is_imported(sample):
        files += run.of_channels(sample, "corrected/{channel}/dropped.json")
    return [*files, run.path(sample, "report.html")]


def verified_files(run: Run, sample: str) -> Files:
    """Records of having read every volume back."""
    paths = map(PurePosixPath, all_files(run, sample))
    files = [str(path.with_name("verified.json")) for path in paths if path.name == _COMPLETE]
    return files + run.of_atlases(sample, "labels/{atlas}/meshes_verified.json")


def reported_files(run: Run, sample: str) -> Files:
    """Tables and pictures that the report shows."""
    channels = [f"fused/{{channel}}/{_COMPLETE}", "views/fused_{channel}.png"]
    names = ["views/neuroglancer.json"]
    if not run.is_imported(sample):
        channels += [
            "intensity/{channel}/flatfield.json",
            "views/flatfield_{channel}.png",
            "views/tile_means_{channel}.png",
        ]
        if destripes(run, sample):
            channels += ["intensity/{channel}/stripes.json"]
        if run.option(sample, "intensity.destriping") in ("rows", "columns"):
            channels += ["views/stripes_{channel}.png"]
        names += [
            "stitching/placement.json",
            "views/placement.png",
            "views/seams.png",
            "views/loop_closure.png",
        ]
    if run.measured_volume(sample) == "corrected_volume":
        channels += [
            "bias/{channel}.json",
            f"corrected_volume/{{channel}}/{_COMPLETE}",
            "views/bias_{channel}.png",
            "views/corrected_volume_{channel}.png",
        ]
    atlases = [f"views/{name}_{{atlas}}.png" for name in _FIGURES]
    atlases += [
        f"registration/{{atlas}}/{name}"
        for name in ("preview.png", "pose.json", "summary.json", "energy.tsv")
    ]
    atlases += ["regions/{atlas}.tsv", "views/regions_{atlas}.png"]
    files = [run.path(sample, name) for name in names]
    for pattern in channels:
        files += run.of_channels(sample, pattern)
    for pattern in atlases:
        files += run.of_atlases(sample, pattern)
    scored = run.atlases_with(sample, "fiducials")
    files += run.of_atlases(sample, "views/fiducials_{atlas}.png", scored)
    return files + scores(run, sample)

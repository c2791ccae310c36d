"""Files that make up the targets of the workflow: those of a sample, stage by stage."""

from __future__ import annotations

from pathlib import PurePosixPath

from terareg.core.orientation import VIEWS
from terareg.execution import derived_volumes
from terareg.execution.inputs import (
    Files,
    corrected_batches,
    destripes,
    export_files,
    measured_pairs,
)
from terareg.execution.run import Run

_FIGURES = ("overlay", "jacobian")
_FIGURES_OF_FIT = ("prediction", "posteriors", "energy")
_COMPLETE = "complete.json"
_STATE = "views/neuroglancer.json"
_OBJECTS_VERIFIED = "objects_verified.json"


def flatfield_files(run: Run, sample: str) -> Files:
    """Flat-fields, and corrected tiles where they are kept."""
    if not run.is_tiled(sample):
        return []
    files = run.of_sides(sample, "intensity/{channel}/flatfield.tif")
    if destripes(run, sample):
        files += run.of_sides(sample, "intensity/{channel}/stripes.json")
    if run.option(sample, "intensity.corrected_tiles") != "stream":
        for side in run.all_sides(sample):
            files += corrected_batches(run, sample, side)
    return files


def stitching_files(run: Run, sample: str) -> Files:
    """Placement of the tiles, TeraStitcher's and Render's files."""
    if not run.is_tiled(sample):
        return []
    names = ("xml_merging.xml", "placement.json", "render/tilespecs.json.gz")
    return [run.path(sample, f"stitching/{name}") for name in names]


def channel_shift_files(run: Run, sample: str) -> Files:
    """Shifts of the other channels and sides, and how the sides of channels go together."""
    shifted, two_sided = run.shifted_channels(sample), run.two_sided(sample)
    files = [run.path(sample, f"stitching/channels/{channel}.json") for channel in shifted]
    return files + [run.path(sample, f"stitching/sides/{name}.json") for name in two_sided]


def fused_files(run: Run, sample: str) -> Files:
    """Fused or imported volumes."""
    return run.of_channels(sample, f"fused/{{channel}}/{_COMPLETE}")


def corrected_volume_files(run: Run, sample: str) -> Files:
    """Bias-corrected volumes."""
    if run.measured_volume(sample) == "fused":
        return []
    return run.of_channels(sample, f"corrected_volume/{{channel}}/{_COMPLETE}")


def preview_files(run: Run, sample: str) -> Files:
    """Raw images beside the atlas, and pictures of the initial poses."""
    registered = run.registered_atlases(sample)
    files = run.of_atlases(sample, "registration/{atlas}/preview.png", registered)
    return first_looks(run, sample) + files


def first_looks(run: Run, sample: str) -> Files:
    """Raw images beside every registered atlas."""
    registered = run.registered_atlases(sample)
    return run.of_atlases(sample, "views/first_look_{atlas}.png", registered)


def registration_files(run: Run, sample: str) -> Files:
    """Registrations of all atlases, and transforms of those that are reached through others."""
    files = run.of_atlases(sample, "registration/{atlas}/transform.json")
    if run.option(sample, "registration.error_bars"):
        registered = run.registered_atlases(sample)
        files += run.of_atlases(sample, "registration/{atlas}/error_bars.json", registered)
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
    """Labels, meshes, region tables, scores, points, cells, channels in the atlas."""
    files = run.of_atlases(sample, "regions/{atlas}.tsv")
    files += run.of_atlases(sample, "labels/{atlas}/meshes.json")
    files += scores(run, sample)
    for name in run.option(sample, "points"):
        files += [run.path(sample, f"points/{name}.{ending}") for ending in ("csv", "tsv")]
    for name in run.option(sample, "cells"):
        files += [run.path(sample, f"cells/{name}.csv")]
        files += run.of_atlases(sample, f"cells/{name}/{{atlas}}/regions.tsv")
    if run.option(sample, "atlas_space.enabled"):
        for atlas in run.atlases_of(sample):
            files += run.of_channels(sample, f"atlas_space/{atlas}/{{channel}}/{_COMPLETE}")
    return files


def derived_files(run: Run, sample: str) -> Files:
    """What the section ``derived:`` asks for."""
    found = derived_volumes.entries(run, sample).values()
    files = [run.path(sample, f"{entry.key}/{entry.facts.product}") for entry in found]
    for entry in found:
        if entry.by_region:
            files += run.of_atlases(sample, f"{entry.key}/regions/{{atlas}}.tsv")
    if not run.has_images(sample) and any(e.facts.makes or e.facts.shards for e in found):
        # there is no other page or picture of these
        files.append(run.path(sample, _STATE))
    return files


def exported_files(run: Run, sample: str) -> Files:
    """Files for other programs."""
    files = [f for name in run.option(sample, "export") for f in export_files(run, sample, name)]
    return files + ([run.path(sample, "bids.json")] if run.option(sample, "bids.enabled") else [])


def all_files(run: Run, sample: str) -> Files:
    """Everything, from raw tiles to the report."""
    if not run.has_images(sample):
        return derived_files(run, sample) + exported_files(run, sample)
    files = stitching_files(run, sample) + channel_shift_files(run, sample)
    files += fused_files(run, sample)
    files += corrected_volume_files(run, sample)
    files += registration_files(run, sample) + region_files(run, sample)
    files += exported_files(run, sample)
    temporary = run.option(sample, "intensity.corrected_tiles") == "temporary"
    if temporary and run.is_tiled(sample):
        files += run.of_sides(sample, "corrected/{channel}/dropped.json")
    files += derived_files(run, sample)
    return [*files, run.path(sample, "report.html")]


def verified_files(run: Run, sample: str) -> Files:
    """Records of having read every volume, mesh, skeleton and layer of points back."""
    paths = map(PurePosixPath, all_files(run, sample))
    files = [str(path.with_name("verified.json")) for path in paths if path.name == _COMPLETE]
    files += run.of_atlases(sample, f"labels/{{atlas}}/{_OBJECTS_VERIFIED}")
    found = derived_volumes.entries(run, sample).values()
    layers = [entry.key for entry in found if entry.facts.shards]
    layers += [f"cells/{name}" for name in run.option(sample, "cells")]
    return files + [run.path(sample, f"{layer}/{_OBJECTS_VERIFIED}") for layer in layers]


def reported_files(run: Run, sample: str) -> Files:
    """Tables and pictures that the report shows."""
    channels = [f"fused/{{channel}}/{_COMPLETE}", "views/fused_{channel}.png"]
    sides: list[str] = []
    names = [_STATE]
    if run.is_tiled(sample):
        sides += [
            "intensity/{channel}/flatfield.json",
            "views/flatfield_{channel}.png",
            "views/tile_means_{channel}.png",
        ]
        if destripes(run, sample):
            sides += ["intensity/{channel}/stripes.json"]
        if run.option(sample, "intensity.destriping") in ("rows", "columns"):
            sides += ["views/stripes_{channel}.png"]
        names += [
            "stitching/placement.json",
            "stitching/seams.json",
            "views/placement.png",
            "views/seams.png",
            "views/loop_closure.png",
        ]
        names += ["stitching/steps.json"] if measured_pairs(run, sample) else []
        names += [f"views/sides_{channel}.png" for channel in run.two_sided(sample)]
    if run.measured_volume(sample) == "corrected_volume":
        channels += [
            "bias/{channel}.json",
            f"corrected_volume/{{channel}}/{_COMPLETE}",
            "views/bias_{channel}.png",
            "views/corrected_volume_{channel}.png",
        ]
    registered = [f"views/{name}_{{atlas}}.png" for name in _FIGURES_OF_FIT]
    if run.option(sample, "registration.error_bars"):
        registered += ["views/error_bars_{atlas}.png", "registration/{atlas}/error_bars.json"]
    registered += [
        f"registration/{{atlas}}/{name}" for name in ("preview.png", "pose.json", "energy.tsv")
    ]
    atlases = [f"views/{name}_{{atlas}}.png" for name in _FIGURES]
    atlases.append("registration/{atlas}/summary.json")
    atlases += [f"views/borders_{view}_{{atlas}}.jpg" for view in VIEWS]
    atlases += [
        "registration/{atlas}/quality.tsv",
        "views/quality_{atlas}.png",
        "views/worst_{atlas}.jpg",
        "views/slices_{atlas}.html",
        "regions/{atlas}.tsv",
        "views/regions_{atlas}.png",
    ]
    files = [run.path(sample, name) for name in names] + channel_shift_files(run, sample)
    for pattern in channels:
        files += run.of_channels(sample, pattern)
    for pattern in sides:
        files += run.of_sides(sample, pattern)
    for pattern in registered:
        files += run.of_atlases(sample, pattern, run.registered_atlases(sample))
    for pattern in atlases:
        files += run.of_atlases(sample, pattern)
    for name in run.option(sample, "cells"):
        files.append(run.path(sample, f"cells/{name}.json"))
        files += run.of_atlases(sample, f"cells/{name}/{{atlas}}/regions.tsv")
        files += run.of_atlases(sample, f"views/cells_{name}_{{atlas}}.png")
    for name in run.option(sample, "points"):
        files += [run.path(sample, f"points/{name}{end}") for end in ("/summary.json", ".tsv")]
    files += [
        path for path in derived_files(run, sample) if "/regions/" in path or _COMPLETE in path
    ]
    scored = run.atlases_with(sample, "fiducials")
    files += run.of_atlases(sample, "views/fiducials_{atlas}.png", scored)
    return files + first_looks(run, sample) + scores(run, sample)

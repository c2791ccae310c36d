"""``report.html``: results of a run with verdicts and pictures, in one self-contained file.

:func:`gather_report` collects what exists (a panel appears only if its files exist, failed checks
come first), :func:`render_report` makes the page.
"""

from __future__ import annotations

import base64
import importlib.metadata
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from terareg.storage.store import write_atomic
from terareg.views import thresholds
from terareg.views.stages import Results, gather_stages
from terareg.views.tables import show

_TEMPLATE = "report.html.j2"
_PACKAGES = (
    "snakemake", "numpy", "scipy", "tensorstore", "torch", "SimpleITK", "tifffile", "matplotlib",
    "terareg",
)  # fmt: skip

# stage, heading
STAGES = (
    ("input", "Input"),
    ("acquisition", "Acquisition"),
    ("intensity", "Flat-field"),
    ("stitching", "Stitching"),
    ("fused", "Fused volume"),
    ("bias", "Bias field"),
    ("registration", "Registration"),
    ("regions", "Regions"),
    ("accuracy", "Accuracy"),
    ("other", "Further pictures"),
)

# file name without .png (the group names channel or atlas), stage, what the picture shows
FIGURES = (
    (r"flatfield_(?P<of>.+)", "intensity",
     "Flat-field: how sensitive each camera pixel is, with profiles along rows and columns."),
    (r"tile_means_(?P<of>.+)", "intensity",
     "Mean of all tiles before and after the correction. After, it should be even; where "
     "tiles are few, the sample's own structure stays in it."),
    (r"stripes_(?P<of>.+)", "intensity",
     "Stripes of the light-sheet: the tile whose lines differ most, before and after, and the "
     "brightness of its lines. Streaks should fade, and anatomy stay."),
    (r"placement", "stitching",
     "Map of the tiles at their solved positions; colour and dash of a link tell "
     "whether it was kept."),
    (r"seams", "stitching",
     "Worst seams before and after the placement; one tile is magenta, the other "
     "green, so that a good fit is grey."),
    (r"loop_closure", "stitching",
     "Loop closure of each cell of four tiles; zero is perfect."),
    (r"fused_(?P<of>.+)", "fused",
     "Three middle planes of the volume with orientation letters and scale bar."),
    (r"corrected_volume_(?P<of>.+)", "bias",
     "Three middle planes of the volume after bias correction."),
    (r"bias_(?P<of>.+)", "bias",
     "Bias field: image before, field that is divided out, image after."),
    (r"preview_(?P<of>.+)", "registration",
     "Initial alignment: region boundaries of the atlas on the sample, and the atlas beside it."),
    (r"overlay_(?P<of>.+)", "registration",
     "Region boundaries on the sample by the initial affine and after registration."),
    (r"prediction_(?P<of>.+)", "registration",
     "Sample, atlas as the registration predicts it, checkerboard of both, and difference."),
    (r"posteriors_(?P<of>.+)", "registration",
     "Where the sample matches the atlas, where it is an artefact, where tissue is missing."),
    (r"energy_(?P<of>.+)", "registration",
     "Energy against iteration for each level; it should fall and level off."),
    (r"jacobian_histogram_(?P<of>.+)", "registration",
     "How often each local change of volume occurs; zero or less would be a fold."),
    (r"jacobian_(?P<of>.+)", "registration",
     "Map of the local change of volume in three planes."),
    (r"regions_(?P<of>.+)", "regions",
     "Volumes of the largest regions, left against right."),
    (r"fiducials_(?P<of>.+)", "accuracy",
     "Distance of every fiducial from its partner, before and after registration."),
)  # fmt: skip

# pattern of files under the results folder, what they are
ARTEFACTS = (
    ("input.json", "images that the sample was imported from"),
    ("acquisition.json", "index of the raw data"),
    ("intensity/*/flatfield.tif", "flat-field, mean 1 (float32)"),
    ("intensity/*/flatfield.json", "dark offset and quality of the flat-field"),
    ("stitching/xml_*.xml", "stitching in TeraStitcher's format"),
    ("stitching/placement.json", "positions, links and residuals"),
    ("stitching/render/*", "Render: tile specifications and point matches"),
    ("fused/*/complete.json", "summary of the fused or imported volume"),
    ("bias/*.nrrd", "log of the bias field"),
    ("corrected_volume/*/complete.json", "summary of the corrected volume"),
    ("registration/*/*.nrrd", "fields of the registration, readable by ITK tools"),
    ("registration/*/*.txt", "affine matrices, atlas to sample, micrometres, (z, y, x)"),
    ("registration/*/energy.tsv", "energy of every iteration"),
    ("registration/*/summary.json", "summary of the registration"),
    ("labels/*/complete.json", "summary of the label volume"),
    ("atlas_space/*/*/complete.json", "summary of a channel in atlas space"),
    ("points/*.*", "transformed points, and their counts per region"),
    ("cells/*.csv", "cells in the sample"),
    ("cells/*/*/cells.csv", "cells in the atlas"),
    ("cells/*/*/regions.tsv", "cells per region"),
    ("cells/*/*/density.nrrd", "map of cells in the atlas, per cubic millimetre"),
    ("regions/*.tsv", "volume and intensity per region"),
    ("accuracy/*.tsv", "fiducial errors"),
    ("overlap/*.tsv", "overlap of regions with the sample's own labels"),
    ("views/neuroglancer.json", "state for Neuroglancer"),
)


def gather_report(
    results: str | os.PathLike,
    *,
    sample: str,
    provenance: Mapping[str, Any] | None = None,
    limits: Mapping[str, Mapping[str, float | None]] | None = None,
    store_url: str = "",
    costs: Mapping[str, Any] | None = None,
    files: Iterable[str | os.PathLike] | None = None,
) -> dict:
    """Collect what the report shows from the small files of one sample.

    Parameters
    ----------
    results : path
        ``results/{sample}``. No file in it is required; panels of absent files are left out.
    sample : str
        Name in the heading.
    provenance : mapping, optional
        Shown as it is, for example config_hash, code_version; nested mappings become "a b".
    limits : mapping, optional
        Changes to :data:`terareg.views.thresholds.THRESHOLDS`.
    store_url : str
        Array store, for the line that says how to look at the volumes.
    costs : mapping, optional
        Cost of the run compared with its plan, see :func:`terareg.views.costs.cost_table`.
    files : iterable of path, optional
        Tables and pictures of the present run in ``results``; those left there by an earlier run
        with other options are not shown. All files are used by default.

    Returns
    -------
    dict
        For :func:`render_report`: sample, provenance, verdicts, counts, stages, costs, files,
        viewer.
    """
    folder = Path(results)
    stages = {key: {"id": key, "title": title, "warnings": [], "tables": [], "figures": []}
              for key, title in STAGES}  # fmt: skip
    names = None
    if files is not None:
        names = frozenset(Path(path).relative_to(folder).as_posix() for path in files)
    own = Results(folder, names)
    measured = gather_stages(own, stages)
    _figures(own, stages)
    verdicts = [asdict(v) for v in thresholds.judge(measured, limits)]
    for verdict in verdicts:
        verdict["shown"] = " ".join(p for p in (show(verdict["value"]), verdict["unit"]) if p)
    return {
        "sample": sample,
        "provenance": _flat(provenance or {}),
        "verdicts": verdicts,
        "counts": {s: sum(v["status"] == s for v in verdicts) for s in ("fail", "warn", "pass")},
        "stages": [s for s in stages.values() if s["warnings"] or s["tables"] or s["figures"]],
        "costs": costs,
        "files": _files(folder),
        "viewer": _viewer(folder, store_url),
    }


def render_report(data: Mapping[str, Any]) -> str:
    """Return the page for what :func:`gather_report` collected."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(**data)


def write_report(path: str | os.PathLike, data: Mapping[str, Any]) -> None:
    """Write the page atomically."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render_report(data).encode())


def software_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that affect results."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _figures(results: Results, stages: dict) -> None:
    paths = results.glob("views/*.png")
    shown = {p.stem for p in paths}
    previews = [
        p for p in results.glob("registration/*/preview.png")
        if f"preview_{p.parent.name}" not in shown
    ]  # fmt: skip
    found = [(f"preview_{p.parent.name}", p) for p in previews] + [(p.stem, p) for p in paths]
    placed: dict[str, list[Any]] = {stage: [] for stage in stages}
    for stem, path in found:
        rank, stage, text, match = len(FIGURES), "other", stem.replace("_", " "), None
        for number, (pattern, *rest) in enumerate(FIGURES):
            match = re.fullmatch(pattern, stem)
            if match:
                rank, (stage, text) = number, rest
                break
        of = match.groupdict().get("of") if match else None
        data = base64.b64encode(path.read_bytes()).decode()
        placed[stage].append(
            (
                (of or "", rank),
                {
                    "source": f"data:image/png;base64,{data}",
                    "alt": f"{of}: {text}" if of else text,
                    "caption": f"{of}: {text}" if of else text,
                    "file": path.relative_to(results.folder).as_posix(),
                },
            )
        )
    for stage, items in placed.items():
        stages[stage]["figures"] = [f for _, f in sorted(items, key=lambda item: item[0])]


def _files(folder: Path) -> list[dict]:
    return [
        {"path": p.relative_to(folder).as_posix(), "size": _bytes(p.stat().st_size), "what": what}
        for pattern, what in ARTEFACTS
        for p in sorted(folder.glob(pattern))
        if p.is_file()
    ]


def _viewer(folder: Path, store_url: str) -> dict:
    state = folder / "views" / "neuroglancer.json"
    if not state.exists():
        return {}
    # inside a workflow the path is relative and can be copied; an absolute one is not shown
    shown = state.relative_to(folder) if folder.is_absolute() else state
    words = ["python", "-m", "terareg.views.serve", store_url or "STORE", "--state"]
    return {"command": f"PYTHONPATH=workflow/scripts {shlex.join([*words, shown.as_posix()])}"}


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in data.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name} ")
        else:
            rows.append((name, show(value)))
    return rows


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"

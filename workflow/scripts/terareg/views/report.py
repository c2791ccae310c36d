"""``report.html``: results of a run with verdicts and pictures, in one self-contained file.

:func:`gather_report` collects what exists (a panel appears only if its files exist, failed checks
come first), :func:`render_report` makes the page.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from terareg.core.orientation import VIEWS
from terareg.storage.records import read_json
from terareg.storage.store import write_atomic
from terareg.views import neuroglancer, thresholds, worst
from terareg.views.conclusion import conclude, next_steps
from terareg.views.methods import methods
from terareg.views.page import embedded_image, render_page
from terareg.views.stages import Results, gather_stages, where_it_is_bad
from terareg.views.tables import show, size

_TEMPLATE = "report.html.j2"
_LEAST_PERCENT = 0.001  # below which a share is said to be below it
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
    ("cells", "Cells and signal"),
    ("derived", "Derived volumes"),
    ("accuracy", "Accuracy"),
    ("other", "Other pictures"),
)

# file name without its ending (the group names channel or atlas), stage, what the picture shows
FIGURES = (
    *(
        (rf"borders_{view}_(?P<of>.+)", "brain",
         "Borders of the atlas regions on the sample, at the resolution of the image.")
        for view in VIEWS
    ),
    (r"worst_(?P<of>.+)", "worst",
     "The worst-fitting regions, each at its worst position: its border is light blue, the others "
     "are orange."),
    (r"quality_(?P<of>.+)", "where",
     "Every region coloured by its fit, its missing fraction, its artefacts and its change of "
     "volume."),
    (r"first_look_(?P<of>.+)", "acquisition",
     "First look: raw tiles at their stage positions, or the raw image, turned upright by the "
     "declared orientation, beside the atlas. Both must look alike."),
    (r"flatfield_(?P<of>.+)", "intensity",
     ("Flat-field: relative sensitivity of each camera pixel, with profiles along rows and "
"columns.")),
    (r"tile_means_(?P<of>.+)", "intensity",
     "Mean of all tiles before and after the correction. Afterwards it should be even; with few "
     "tiles, some structure of the sample remains."),
    (r"stripes_(?P<of>.+)", "intensity",
     "Stripe artefacts: the tile whose lines differ most, before and after destriping, and the "
     "brightness of its lines. Stripes should fade while the anatomy remains."),
    (r"placement", "stitching",
     "Map of the placed tiles; the colour and dashes of a link between two tiles show whether its "
     "measured displacement was used."),
    (r"seams", "stitching",
     "Worst seams, at the stage's positions and as they are fused; one tile is magenta and the "
     "other green, so a good fit is grey."),
    (r"sides_(?P<of>.+)", "stitching",
     "Both sides of a channel on coarse blocks of the middle plane, and the weight of each in the "
     "fused volume. The side with more structure should count; along the red line both do."),
    (r"loop_closure", "stitching",
     "Loop closure: contradiction among the displacements around every four tiles; zero is "
     "perfect."),
    (r"fused_(?P<of>.+)", "fused",
     "Three middle slices of the volume with orientation letters and scale bar."),
    (r"corrected_volume_(?P<of>.+)", "bias",
     "Three middle slices of the volume after bias correction."),
    (r"bias_(?P<of>.+)", "bias",
     "Bias field: image before, the field divided out, and image after."),
    (r"preview_(?P<of>.+)", "registration",
     "Initial alignment: region boundaries of the atlas on the sample, and the atlas beside it."),
    (r"overlay_(?P<of>.+)", "registration",
     "Region boundaries on the sample before (initial affine) and after registration."),
    (r"prediction_(?P<of>.+)", "registration",
     "Sample, its prediction from the atlas, a checkerboard of both, and their difference."),
    (r"posteriors_(?P<of>.+)", "registration",
     ("Where the sample matches the atlas, where it shows an artefact, and where tissue is "
"missing.")),
    (r"energy_(?P<of>.+)", "registration",
     "Misfit and energy of the deformation at each step; their sum should fall and level off."),
    (r"error_bars_(?P<of>.+)", "registration",
     ("Uncertainty of the borders of regions: standard deviation in micrometres. It is the least "
"of the error, what images leave open: on brains of another age it was about twice as large.")),
    (r"jacobian_histogram_(?P<of>.+)", "registration",
     "Distribution of the local change of volume; zero or less would be a fold."),
    (r"jacobian_(?P<of>.+)", "registration",
     "Map of the local change of volume in three slices."),
    (r"regions_(?P<of>.+)", "regions",
     "Volumes of the largest regions, left against right."),
    (r"cells_(?P<of>.+)", "cells",
     "Regions with the most cells, left against right."),
    (r"fiducials_(?P<of>.+)", "accuracy",
     "Distance of every fiducial from its counterpart, before and after registration."),
)  # fmt: skip

# pattern of files under the results folder, what they are
ARTEFACTS = (
    ("input.json", "images that the sample was imported from"),
    ("acquisition.json", "index of the raw data"),
    ("intensity/*/flatfield.tif", "flat-field, mean 1 (float32)"),
    ("intensity/*/flatfield.json", "dark offset and quality of the flat-field"),
    ("stitching/xml_*.xml", "stitching in the format of TeraStitcher"),
    ("stitching/placement.json", "positions, links and residuals"),
    ("stitching/channels/*.json", "shift of a channel or side relative to another"),
    ("stitching/sides/*.json", "brightness of the sides of a channel, and where each is used"),
    ("stitching/render/*", "Render: tile specifications and point matches"),
    ("fused/*/complete.json", "summary of the fused or imported volume"),
    ("bias/*.nrrd", "log of the bias field"),
    ("corrected_volume/*/complete.json", "summary of the corrected volume"),
    ("registration/*/*_displacement.nrrd", "displacement fields, readable by ITK tools"),
    ("registration/*/forward.nrrd", "the map to the sample, on the grid of the deformation"),
    ("registration/*/inverse.nrrd", "the map to the atlas, on the grid of the deformation"),
    ("registration/*/velocity.nrrd", "velocity of the deformation"),
    ("registration/*/jacobian.nrrd", "local change of volume"),
    ("registration/*/posteriors.nrrd", "probabilities of match, artefact and missing tissue"),
    ("registration/*/predicted.nrrd", "the atlas in position and contrast of the sample"),
    ("registration/*/contrast.nrrd", "coefficients of the contrast"),
    ("registration/*/deviation.nrrd", "standard deviation of borders, micrometres"),
    ("registration/*/shifts.nrrd", "draws of the error of the registration"),
    ("registration/*/volume_ratios.nrrd", "draws of the error of volumes"),
    ("registration/*/*.txt", "affine matrices, atlas to sample, micrometres, (z, y, x)"),
    ("registration/*/energy.tsv", "energy of every iteration"),
    ("registration/*/summary.json", "summary of the registration"),
    ("registration/*/quality.tsv", "fit, missing fraction, artefacts and volume of every region"),
    ("labels/*/complete.json", "summary of the label volume"),
    ("atlas_space/*/*/complete.json", "summary of a channel in atlas space"),
    ("points/*.*", "transformed points, and their counts per region"),
    ("points/*/summary.json", "how well points lie in the regions"),
    ("cells/*.csv", "cells in the sample"),
    ("cells/*/*/cells.csv", "cells in the atlas"),
    ("cells/*/*/regions.tsv", "cells per region"),
    ("cells/*/*/density.nrrd", "map of cells in the atlas, per cubic millimetre"),
    ("derived/*/complete.json", "summary of a derived volume"),
    ("derived/*/regions/*.tsv", "signal per region"),
    ("regions/*.tsv", "volume and intensity per region"),
    ("accuracy/*.tsv", "fiducial errors"),
    ("overlap/*.tsv", "overlap of regions with the labels of the sample"),
    ("views/slices_*.html", "slice browser"),
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
    settings: Mapping[str, Mapping[str, Any]] | None = None,
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
        Cost of the run compared with its plan, see
        :func:`terareg.execution.measured_costs.cost_table`.
    files : iterable of path, optional
        Tables and pictures of the present run in ``results``; those left there by an earlier run
        with other options are not shown. All files are used by default.

    settings : mapping, optional
        Every setting of the sample, see :func:`terareg.execution.schema.settings`.

    Returns
    -------
    dict
        For :func:`render_report`.
    """
    folder = Path(results)
    stages: dict[str, dict[str, Any]]
    stages = {key: {"id": key, "title": title, "warnings": [], "tables": [], "figures": []}
              for key, title in STAGES}  # fmt: skip
    names = None
    if files is not None:
        names = frozenset(Path(path).relative_to(folder).as_posix() for path in files)
    own = Results(folder, names)
    measured = gather_stages(own, stages, settings or {})
    pictures = _figures(own)
    if stages["input"]["tables"]:
        # an image is not acquired here
        pictures["input"] = pictures.pop("acquisition", [])
    for key, stage in stages.items():
        stage["figures"] = pictures.get(key, [])
    verdicts = [asdict(v) for v in thresholds.judge(measured, limits)]
    for verdict in verdicts:
        value, unit = thresholds.in_unit(verdict["value"], verdict["unit"])
        # a share so small is not zero, and no reader wants its exponent
        tiny = unit == "%" and 0 < value < _LEAST_PERCENT
        words = [f"below {_LEAST_PERCENT:g}" if tiny else show(value), unit]
        verdict["shown"] = "\u00a0".join(word for word in words if word)
    where = where_it_is_bad(own)
    for one in where:
        one["figures"] = [p for p in pictures.get("where", ()) if p["of"] == one["atlas"]]
    return {
        "sample": sample,
        "provenance": _flat(provenance or {}),
        "conclusion": conclude(verdicts),
        "steps": next_steps(verdicts),
        "brains": _brains(own, pictures, where),
        "where": where,
        "limits": worst.limits_text(),
        "verdicts": verdicts,
        "counts": {s: sum(v["status"] == s for v in verdicts) for s in ("fail", "warn", "pass")},
        "stages": [s for s in stages.values() if s["warnings"] or s["tables"] or s["figures"]],
        "costs": costs,
        "settings": _settings(settings or {}),
        "methods": _methods(own, settings or {}, provenance or {}),
        "files": _files(folder),
        "volumes": _volumes(folder, sample, store_url),
        "viewer": _viewer(folder, store_url),
    }


def render_report(data: Mapping[str, Any]) -> str:
    """Return the page for what :func:`gather_report` collected."""
    return render_page(_TEMPLATE, data)


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


def _figures(results: Results) -> dict[str, list[dict]]:
    """Pictures by the stage that shows them, in the order of :data:`FIGURES`."""
    paths = results.glob("views/*.png") + results.glob("views/*.jpg")
    shown = {p.stem for p in paths}
    previews = [
        p for p in results.glob("registration/*/preview.png")
        if f"preview_{p.parent.name}" not in shown
    ]  # fmt: skip
    found = [(f"preview_{p.parent.name}", p) for p in previews] + [(p.stem, p) for p in paths]
    placed: dict[str, list[Any]] = {}
    for stem, path in found:
        rank, stage, text, match = len(FIGURES), "other", stem.replace("_", " "), None
        for number, (pattern, *rest) in enumerate(FIGURES):
            match = re.fullmatch(pattern, stem)
            if match:
                rank, (stage, text) = number, rest
                break
        of = (match.groupdict().get("of") if match else None) or ""
        caption = f"{of}: {text}" if of else text
        file = path.relative_to(results.folder).as_posix()
        picture = {
            "source": embedded_image(path),
            "alt": caption,
            "caption": caption,
            "file": file,
            "href": quote(file),
            "of": of,
        }
        placed.setdefault(stage, []).append(((of, rank, stem), picture))
    return {
        stage: [picture for _, picture in sorted(items, key=lambda item: item[0])]
        for stage, items in placed.items()
    }


def _brains(
    results: Results, pictures: Mapping[str, Sequence[dict]], where: Sequence[Mapping[str, Any]]
) -> list[dict]:
    """The first look at every atlas: planes with borders, worst regions, link to the slices."""
    if not pictures.get("brain"):
        return _unregistered(pictures)
    rows = {one["atlas"]: one["rows"] for one in where}
    suspicious = {one["atlas"]: one["suspicious"] for one in where}
    atlases = dict.fromkeys([p["of"] for p in pictures.get("brain", ())] + list(rows))
    pages = {p.stem: p.relative_to(results.folder).as_posix() for p in results.glob("views/*.html")}
    return [
        {
            "atlas": atlas,
            "planes": [p for p in pictures.get("brain", ()) if p["of"] == atlas],
            "zooms": [p for p in pictures.get("worst", ()) if p["of"] == atlas],
            "worst": [worst.sentence(row) for row in rows.get(atlas, ())[: worst.SHOWN]],
            "suspicious": suspicious.get(atlas, 0),
            "slices": quote(pages.get(f"slices_{atlas}", "")),
        }
        for atlas in atlases
    ]


def _unregistered(pictures: Mapping[str, Sequence[dict]]) -> list[dict]:
    """The first look at a sample without atlas: its volume, if there is one."""
    volumes = list(pictures.get("bias", ())) + list(pictures.get("fused", ()))
    shown = [p for p in volumes if re.match(r"views/(fused|corrected_volume)_", p["file"])][:1]
    look = {"atlas": "", "planes": [], "zooms": shown, "worst": [], "suspicious": 0, "slices": ""}
    return [look] if shown else []


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings as text; those that differ from their defaults also by themselves."""
    rows = [
        {
            "key": key,
            "value": _text(one["value"]),
            "default": _text(one["default"]),
            "changed": one["changed"],
        }
        for key, one in settings.items()
    ]
    return {"all": rows, "changed": [row for row in rows if row["changed"]]}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value is not None else "–"


def _methods(
    results: Results, settings: Mapping[str, Mapping[str, Any]], provenance: Mapping[str, Any]
) -> dict[str, str]:
    if not settings:
        return {}
    paths = results.glob("registration/*/summary.json")
    registered = {path.parent.name: read_json(path) for path in paths}
    values = {key: one["value"] for key, one in settings.items()}
    # what was removed, where the run itself decided
    lines = {read_json(path)["lines"] for path in results.glob("intensity/*/stripes.json")}
    values["intensity.destriping"] = next(iter(lines & {"rows", "columns"}), "none")
    versions = {"terareg": str(provenance.get("terareg", ""))}
    software = versions | dict(provenance.get("software") or {})
    return methods(values, registered, software, _sides(results))


def _sides(results: Results) -> list[dict[str, Any]]:
    """How the sides of channels were put together, with the shift of the second side."""
    found = []
    for path in results.glob("stitching/sides/*.json"):
        match = read_json(path)
        for shift in results.glob(f"stitching/channels/{match['sides'][1]}.json"):
            data = read_json(shift)
            if data["state"] != "not measured":
                spacing = read_json(results / "acquisition.json")["spacing_um"]
                match["shift_um"] = [v * s for v, s in zip(data["shift_vox"], spacing)]
        found.append(match)
    return found


def _files(folder: Path) -> list[dict]:
    return [
        {
            "path": p.relative_to(folder).as_posix(),
            "href": quote(p.relative_to(folder).as_posix()),
            "size": size(p.stat().st_size),
            "what": what,
        }
        for pattern, what in ARTEFACTS
        for p in sorted(folder.glob(pattern))
        if p.is_file()
    ]


def _volumes(folder: Path, sample: str, store_url: str) -> list[dict]:
    """Volumes in the store: what they are, their addresses, and links where a browser can go."""
    found = []
    patterns = ("fused/*", "corrected_volume/*", "labels/*", "atlas_space/*/*")
    for pattern in patterns if store_url else ():
        for complete in sorted(folder.glob(f"{pattern}/complete.json")):
            key = complete.parent.relative_to(folder).as_posix()
            data = read_json(complete)
            for form in data.get("summary", data).get("formats", ()):
                name = {"ome-zarr": "ome.zarr"}.get(form, form)
                address = f"{store_url.rstrip('/')}/{sample}/{key}/{name}"
                near = Path(os.path.relpath(address, folder)) if "://" not in address else None
                there = near is not None and (folder / near).exists()
                href = quote(near.as_posix()) if near is not None and there else ""
                found.append({"what": key, "form": form, "address": address, "href": href})
    return found


def _viewer(folder: Path, store_url: str) -> dict:
    state = folder / "views" / "neuroglancer.json"
    if not state.exists():
        return {}
    # inside a workflow the path is relative and can be copied; an absolute one is not shown
    shown = state.relative_to(folder) if folder.is_absolute() else state
    words = ["terareg", "view", store_url or "STORE", "--state", shown.as_posix()]
    public = read_json(state)
    link = "" if neuroglancer.STORE in json.dumps(public) else neuroglancer.link(public)
    return {"command": shlex.join(words), "link": link if "layers" in public else ""}


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in data.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name} ")
        else:
            rows.append((name, show(value)))
    return rows

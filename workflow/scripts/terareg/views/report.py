"""``report.html``: what a run did, judged, with pictures, in one file without outside parts.

:func:`gather_report` collects what is there (a panel appears only if its files exist, failed
checks come first), :func:`render_report` makes the page.
"""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from terareg.storage.records import read_json
from terareg.storage.store import write_atomic
from terareg.views import thresholds
from terareg.views.thresholds import finite

_TEMPLATE = "report.html.j2"
_MOST_ROWS = 20
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
    ("points/*/*", "transformed points"),
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
) -> dict:
    """Collect what the report shows from the small files of one sample.

    Parameters
    ----------
    results : path
        ``results/{sample}``. Nothing is needed in it: what is absent is left out.
    sample : str
        Name in the heading.
    provenance : mapping, optional
        Shown as it is, for example config_hash, code_version; nested mappings become "a b".
    limits : mapping, optional
        Changes of :data:`terareg.views.thresholds.THRESHOLDS`.
    store_url : str
        Array store, for the line that says how to look at the volumes.
    costs : mapping, optional
        What the run took beside its plan, see :func:`terareg.views.costs.cost_table`.

    Returns
    -------
    dict
        For :func:`render_report`: sample, provenance, verdicts, counts, stages, costs, files,
        viewer.
    """
    folder = Path(results)
    stages = {key: {"id": key, "title": title, "warnings": [], "tables": [], "figures": []}
              for key, title in STAGES}  # fmt: skip
    measured: list[tuple[str, str, float | None]] = []
    _input(folder, stages["input"])
    _acquisition(folder, stages["acquisition"], measured)
    _intensity(folder, stages["intensity"], measured)
    _stitching(folder, stages["stitching"], measured)
    _volumes(folder, "fused", stages["fused"], measured)
    _bias(folder, stages["bias"])
    _volumes(folder, "corrected_volume", stages["bias"], measured)
    _registration(folder, stages["registration"], measured)
    _regions(folder, stages["regions"], measured)
    _accuracy(folder, stages["accuracy"], measured)
    _overlap(folder, stages["accuracy"], measured)
    _figures(folder, stages)
    if _imported(folder):
        stages["fused"]["title"] = "Imported volume"
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
    """Write the page, whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render_report(data).encode())


def software_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that decide about results."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def show(value: Any) -> str:
    """Write a value for people: four significant digits, narrow gaps between thousands."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        if value.is_integer() and abs(value) < 1e15:
            return show(int(value))
        if abs(value) >= 1e4:
            return show(round(value))
        return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(v) for v in value)
    return str(value)


# ---------------------------------------------------------------------- stages
def _imported(folder: Path) -> bool:
    """Whether the sample was a volume already: no tiles, nothing fused."""
    return (folder / "input.json").exists()


def _input(folder: Path, stage: dict) -> None:
    if not _imported(folder):
        return
    data = read_json(folder / "input.json")
    frame = data["frame"]
    facts = {
        "shape z, y, x (voxel)": frame["shape"],
        "voxel size z, y, x (µm)": frame["spacing_um"],
        "orientation of the array axes z, y, x": frame["orientation"],
    }
    stage["tables"].append(_facts("Grid of all channels", facts))
    columns = ("channel", "image", "form", "its type", "stored as")
    keys = ("source", "form", "source_dtype", "dtype")
    rows = [[name, *(image[k] for k in keys)] for name, image in data["channels"].items()]
    stage["tables"].append(_table_of("Images", columns, rows))


def _acquisition(folder: Path, stage: dict, measured: list) -> None:
    path = folder / "acquisition.json"
    if not path.exists():
        return
    data = read_json(path)
    problems = [str(p) for p in data.get("problems", ())]
    stage["warnings"] += problems
    measured.append(("acquisition.problems", "", len(problems)))
    stacks = [stack for tile in data.get("planes", {}).values() for stack in tile.values()]
    if stacks:
        missing = sum(len(stack.get("missing", ())) for stack in stacks)
        measured.append(("acquisition.missing_planes", "", missing))
    shape, spacing = data.get("tile_shape"), data.get("spacing_um")
    tiles = data.get("tiles", ())
    facts = {
        "tiles": len(tiles),
        "grid (rows, columns)": [data.get("rows"), data.get("columns")],
        "tile (planes, y, x)": shape,
        "data type": data.get("dtype"),
        "voxel size z, y, x (µm)": spacing,
        "orientation of the array axes z, y, x": data.get("orientation"),
        "overlap y, x (%)": [100 * v for v in data.get("overlap") or ()],
        "channels": [c["name"] if isinstance(c, Mapping) else c for c in data.get("channels", ())],
        "missing planes are": data.get("missing_planes"),
    }
    if shape and data.get("dtype"):
        size = math.prod(shape) * len(tiles) * len(facts["channels"])
        facts["raw voxels"] = size
    stage["tables"].append(_facts("What was acquired", facts))


def _intensity(folder: Path, stage: dict, measured: list) -> None:
    for path in sorted(folder.glob("intensity/*/flatfield.json")):
        channel, info = path.parent.name, read_json(path)
        seams = info.get("seam_percent")
        after = seams.get("after") if isinstance(seams, Mapping) else seams
        measured.append(("intensity.seam_percent", channel, finite(after)))
        stage["warnings"] += [f"{channel}: {text}" for text in info.get("warnings", ())]
        stage["tables"].append(_facts(f"Flat-field of channel {channel}", _scalars(info)))


def _stitching(folder: Path, stage: dict, measured: list) -> None:
    path = folder / "stitching" / "placement.json"
    if not path.exists():
        return
    data = read_json(path)
    links = data["links"]
    counts = dict(_count(link["state"] for link in links))
    residuals = sorted(math.hypot(*k["residual_vox"]) for k in links if k["state"] == "kept")
    loops = sorted(math.hypot(*loop["closure_vox"]) for loop in data["loops"] if loop["kept"])
    structured = [link for link in links if link["state"] != "empty"]
    share = 100 * counts.get("kept", 0) / len(structured) if structured else None
    # tiles without any structure follow their neighbours, and rightly so
    visible = {name for link in structured for name in (link["a"], link["b"])}
    loose = [n for n, t in data["tiles"].items() if t["state"] in ("model", "group")]
    measured += [
        ("stitching.kept_percent", "", share),
        ("stitching.loose_tiles", "", len(visible & set(loose)) if links else None),
        ("stitching.residual_p95_vox", "", _percentile(residuals, 0.95)),
        ("stitching.loop_closure_vox", "", _percentile(loops, 1)),
    ]
    stage["warnings"] += [str(w) for w in data["warnings"]]
    facts = {f"links {state}": count for state, count in counts.items()}
    facts["residual of kept links, median, worst (voxel)"] = _median_worst(residuals)
    facts["loop closure, median, worst (voxel)"] = _median_worst(loops)
    facts |= {f"tiles {s}": n for s, n in _count(t["state"] for t in data["tiles"].values())}
    model = data.get("model", {})
    facts |= {f"{d} step z, y, x (voxel)": model.get(d) for d in ("EAST", "SOUTH")}
    stage["tables"].append(_facts("Placement", facts))
    refused = [
        [link["a"], link["b"], link["state"], math.hypot(*link["residual_vox"]), link["reason"]]
        for link in links
        if link["state"] not in ("kept", "empty")
    ]
    if refused:
        columns = ("tile", "neighbour", "state", "residual (voxel)", "reason")
        stage["tables"].append(_table_of("Links that were not used", columns, refused))


def _volumes(folder: Path, kind: str, stage: dict, measured: list) -> None:
    for path in sorted(folder.glob(f"{kind}/*/complete.json")):
        channel, data = path.parent.name, read_json(path)
        data = data.get("summary", data)
        voxels = finite(data.get("voxels"))
        imported = kind == "fused" and _imported(folder)
        words = "imported" if imported else "fused" if kind == "fused" else "corrected"
        if voxels:
            # nothing was computed when an image was imported: what counts as clipped had no value
            clipped = "input.not_finite_percent" if imported else "volume.clipped_percent"
            for key, names in (
                ("volume.saturated_percent", ("saturated",)),
                (clipped, ("clipped_low", "clipped_high")),
            ):
                found = [v for n in names if (v := finite(data.get(n))) is not None]
                value = 100 * sum(found) / voxels if found else None
                measured.append((key, f"{channel}, {words}", value))
        title = f"{words.capitalize()} volume of channel {channel}"
        stage["tables"].append(_facts(title, _scalars(data)))


def _bias(folder: Path, stage: dict) -> None:
    for path in sorted(folder.glob("bias/*.json")):
        data = read_json(path)
        stage["warnings"] += [f"{path.stem}: {text}" for text in data.get("warnings", ())]
        stage["tables"].append(_facts(f"Bias field of channel {path.stem}", _scalars(data)))


def _registration(folder: Path, stage: dict, measured: list) -> None:
    for path in sorted(folder.glob("registration/*/summary.json")):
        atlas, data = path.parent.name, read_json(path)
        pose = path.with_name("pose.json")
        texts = read_json(pose).get("warnings", []) if pose.exists() else []
        # both name what is odd about the images
        texts = dict.fromkeys([*texts, *data.get("warnings", ())])
        stage["warnings"] += [f"{atlas}: {text}" for text in texts]
        measured += thresholds.of_registration(data, atlas)
        shares = (data.get("mixture") or {}).get("shares") or {}
        facts = _scalars(data) | {f"tissue: {k}": f"{v:.1%}" for k, v in shares.items()}
        stage["tables"].append(_facts(f"Registration to {atlas}", facts))
    for path in sorted(folder.glob("registration/*/energy.tsv")):
        rows = _table(path)
        if not rows or "level" not in rows[0]:
            continue
        last = {row["level"]: row for row in rows}
        stage["tables"].append(
            _table_of(
                f"Last step of each level, {path.parent.name}",
                [_label(c) for c in rows[0]],
                [[_parse(v) for v in row.values()] for row in last.values()],
            )
        )


def _regions(folder: Path, stage: dict, measured: list) -> None:
    for path in sorted(folder.glob("regions/*.tsv")):
        rows = _table(path)
        own = [r for r in rows if r.get("scope", "own") == "own"]
        both = [r for r in own if r.get("hemisphere", "both") == "both"]
        extents = [(finite(r.get("atlas_volume_mm3")), finite(r.get("coverage"))) for r in both]
        weights = [(v, c) for v, c in extents if v and c is not None]
        total = sum(v for v, _ in weights)
        share = 100 * sum(v * c for v, c in weights) / total if total else None
        measured.append(("regions.coverage_percent", path.stem, share))
        largest = sorted(both, key=lambda r: -(finite(r.get("volume_mm3")) or 0))[:_MOST_ROWS]
        columns = [
            c for c in (rows[0] if rows else ())
            if c in ("acronym", "name", "volume_mm3", "coverage") or c.endswith("_mean")
        ]  # fmt: skip
        if largest and columns:
            stage["tables"].append(
                _table_of(
                    f"Largest of {len(both)} regions, {path.stem} "
                    f"(all of them: {path.relative_to(folder)})",
                    [_label(c) for c in columns],
                    [[_parse(r[c]) for c in columns] for r in largest],
                )
            )


def _accuracy(folder: Path, stage: dict, measured: list) -> None:
    for path in sorted(folder.glob("accuracy/*.tsv")):
        rows = _table(path)
        points = [r for r in rows if r.get("kind", "fiducial") == "fiducial"]
        errors = [v for r in points if (v := finite(r.get("error_um"))) is not None]
        if not errors:
            continue
        measured.append(("accuracy.mean_um", path.stem, sum(errors) / len(errors)))
        worst = sorted(points, key=lambda r: -(finite(r.get("error_um")) or 0))[:_MOST_ROWS]
        columns = [c for c in rows[0] if c == "name" or c.endswith("error_um")]
        stage["tables"].append(
            _table_of(
                f"Fiducials, {path.stem}: worst of {len(errors)}",
                [_label(c) for c in columns],
                [[_parse(r[c]) for c in columns] for r in worst],
            )
        )


def _overlap(folder: Path, stage: dict, measured: list) -> None:
    for path in sorted(folder.glob("overlap/*.tsv")):
        rows = _table(path)
        means = {r["name"]: finite(r["dice"]) for r in rows if r["kind"] == "summary"}
        measured.append(("overlap.dice_mean", path.stem, means.get("mean")))
        regions = [r for r in rows if r["kind"] == "region"]
        worst = sorted(regions, key=lambda r: finite(r["dice"]) or 0)[:_MOST_ROWS]
        columns = [c for c in rows[0] if c not in ("kind", "id")]
        stage["tables"].append(
            _table_of(
                f"Regions against the sample's own labels, {path.stem}: worst of {len(regions)}",
                [_label(c) for c in columns],
                [[_parse(r[c]) for c in columns] for r in worst],
            )
        )


def _figures(folder: Path, stages: dict) -> None:
    paths = sorted(folder.glob("views/*.png"))
    shown = {p.stem for p in paths}
    previews = [
        p for p in sorted(folder.glob("registration/*/preview.png"))
        if f"preview_{p.parent.name}" not in shown
    ]  # fmt: skip
    found = [(f"preview_{p.parent.name}", p) for p in previews] + [(p.stem, p) for p in paths]
    placed = {stage: [] for stage in stages}
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
                    "file": path.relative_to(folder).as_posix(),
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
    # inside a workflow the path is relative and can be copied; an absolute one stays out
    shown = state.relative_to(folder) if folder.is_absolute() else state
    return {"state": shown.as_posix(), "store": store_url or "STORE"}


# ---------------------------------------------------------------------- tables and words
_UNITS = {
    "um": "µm", "um3": "µm³", "mm3": "mm³", "vox": "voxel", "percent": "%", "mb": "MB", "s": "s",
    "nm": "nm", "mm": "mm",
}  # fmt: skip


def _label(key: str) -> str:
    """Words of a key: "error_before_um" becomes "error before (µm)"."""
    words = str(key).split("_")
    unit = _UNITS.get(words[-1]) if len(words) > 1 else None
    return " ".join(words[:-1]) + f" ({unit})" if unit else " ".join(words)


def _scalars(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a JSON object fits into a table: numbers, words, short lists, two levels deep."""
    found = {}
    for key, value in data.items():
        if key in ("warnings", "problems", "fingerprint", "sha256", "run", "settings", "schema"):
            continue
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if _fits(v)}
            if 0 < len(inner) == len(value) <= 4:
                found |= {f"{key} {k}": v for k, v in inner.items()}
        elif _fits(value):
            found[key] = value
    return {_label(k): v for k, v in found.items()}


def _fits(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 4 and all(_fits(v) and not isinstance(v, (list, tuple)) for v in value)
    return isinstance(value, (int, float, str)) and len(str(value)) <= 200


def _facts(title: str, facts: Mapping[str, Any]) -> dict:
    rows = [[key, show(value)] for key, value in facts.items() if value not in (None, [], ())]
    return {"title": title, "columns": (), "rows": rows}


def _table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict:
    return {"title": title, "columns": columns, "rows": [[show(v) for v in r] for r in rows]}


def _table(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _parse(text: str | None) -> Any:
    number = finite(text)
    return text if number is None else number


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Linear percentile of a sorted sequence, None if it is empty."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _median_worst(ordered: Sequence[float]) -> list[float] | None:
    return [_percentile(ordered, 0.5), ordered[-1]] if ordered else None


def _count(items: Iterable[str]) -> list[tuple[str, int]]:
    items = list(items)
    return [(item, items.count(item)) for item in sorted(set(items))]


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in data.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name} ")
        else:
            rows.append((name, show(value)))
    return rows


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"

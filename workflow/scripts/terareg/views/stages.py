"""Results of each stage in the sample's folder, prepared for the report.

Each function takes the results and the entry of its stage (``warnings``, ``tables``), and most add
tuples (check, subject, value) to ``measured``, which :func:`terareg.views.thresholds.judge` judges.
Absent files are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terareg.core.errors import few
from terareg.storage.records import read_json, read_table
from terareg.views import thresholds, worst
from terareg.views.tables import (
    counted,
    facts_table,
    label,
    median_worst,
    parse,
    percentile,
    rows_table,
    worded,
)
from terareg.views.thresholds import finite
from terareg.views.words import (
    BIAS,
    CELLS,
    COLUMNS,
    COMPOSITION,
    FLATFIELD,
    MISSING_PLANES,
    PLACEMENT,
    POINTS,
    QUALITY,
    REGISTRATION,
    STEPS,
    STRIPES,
    VOLUME,
)

_LEAST_TISSUE = 0.01  # of the blocks of a tile
_SEAM_FITS = 0.5  # correlation of a seam as placed, from which it confirms the placement
_MOST_ROWS = 20
# smaller over larger half of an atlas: below the first it is one of one side, below the second
# its halves are unequal
_ONE_SIDED, _HALF = 0.1, 0.9
_FEW_VALUES = 48  # of an image; one of 8 bits has some hundred, those within 3 % being one
#: what is told of tiles that are distorted within themselves, and the keys of the placement
_FIELDS = {
    "distortion within tiles: standard deviation (voxels), length over which it changes (px)": (
        "field_sd_vox",
        "field_length_px",
    ),
    "misfit of seams without and with it (voxels)": (
        "field_misfit_before_vox",
        "field_misfit_after_vox",
    ),
    "misfit of places of seams that were left out, without and with it (voxels)": (
        "field_held_out_before_vox",
        "field_held_out_after_vox",
    ),
}


@dataclass(frozen=True)
class Results:
    """The small files of a sample; only those of the present run are used.

    Attributes
    ----------
    folder : Path
    names : frozenset of str, optional
        Relative paths of the files of the present run; all files are used if None.
    """

    folder: Path
    names: frozenset[str] | None = None

    def glob(self, pattern: str) -> list[Path]:
        """Sorted paths of the present run that match."""
        found = sorted(self.folder.glob(pattern))
        if self.names is None:
            return found
        return [p for p in found if p.relative_to(self.folder).as_posix() in self.names]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def gather_stages(
    results: Results, stages: Mapping[str, dict], settings: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str, float | None]]:
    """Fill the entries of all stages; return what was measured.

    ``settings`` are those of :func:`terareg.execution.schema.settings`.
    """
    measured: list[tuple[str, str, float | None]] = []
    _input(results, stages["input"])
    _acquisition(results, stages["acquisition"], measured)
    _intensity(results, stages["intensity"], measured)
    _stitching(results, stages["stitching"], measured)
    _channels(results, stages["stitching"], measured)
    _sides(results, stages["stitching"], measured)
    _volumes(results, "fused", stages["fused"], measured)
    _bias(results, stages["bias"])
    _volumes(results, "corrected_volume", stages["bias"], measured)
    _registration(results, stages["registration"], measured)
    _regions(results, stages["regions"], measured)
    _cells(results, stages["cells"], measured)
    _points(results, stages["cells"], measured)
    _signal(results, stages["cells"])
    _derived(results, settings, stages["derived"])
    _accuracy(results, stages["accuracy"], measured)
    _overlap(results, stages["accuracy"], measured)
    if _imported(results):
        stages["fused"]["title"] = "Imported volume"
    return measured


def _imported(results: Results) -> bool:
    """Whether the input was already a volume: no tiles, nothing fused."""
    return (results / "input.json").exists()


def _input(results: Results, stage: dict) -> None:
    if not _imported(results):
        return
    data = read_json(results / "input.json")
    frame = data["frame"]
    facts = {
        "shape z, y, x (voxel)": frame["shape"],
        "voxel size z, y, x (µm)": frame["spacing_um"],
        "orientation of the array axes z, y, x": frame["orientation"],
    }
    stage["tables"].append(facts_table("Grid of all channels", facts))
    columns = ("channel", "image", "form", "its type", "stored as", "missing chunks (zeros)")
    keys = ("source", "form", "source_dtype", "dtype")
    rows = []
    for name, image in data["channels"].items():
        path = results / f"fused/{name}/plan.json"
        absent = read_json(path)["source"]["absent_chunks"] if path.exists() else 0
        shown = "not counted on the web" if absent is None else absent
        rows.append([name, *(image[k] for k in keys), shown])
        if absent:
            stage["warnings"].append(
                f"channel {name}: {absent} chunks of {image['source']} are missing and were read "
                "as zeros, as its format specifies"
            )
    stage["tables"].append(rows_table("Images", columns, rows))
    stage["warnings"] += [
        f"channel {name}: {image['source']} lists further images (multiscales), which are ignored: "
        f"{few(image['ignored_images'])}"
        for name, image in data["channels"].items()
        if image.get("ignored_images")
    ]


def _acquisition(results: Results, stage: dict, measured: list) -> None:
    path = results / "acquisition.json"
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
        "missing planes": MISSING_PLANES.get(data.get("missing_planes")),
    }
    if shape and data.get("dtype"):
        size = math.prod(shape) * len(tiles) * len(facts["channels"])
        facts["raw voxels"] = size
    stage["tables"].append(facts_table("What was acquired", facts))


def _intensity(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("intensity/*/flatfield.json"):
        channel, info = path.parent.name, read_json(path)
        facts = worded(info, FLATFIELD)
        causes = info.get("step_percent") or {}
        facts |= {f"part of the step due to {cause} (%)": value for cause, value in causes.items()}
        tables = {f"Flat-field of channel {channel}": facts}
        seams = info.get("seam_percent")
        for lines in results.glob(f"intensity/{channel}/stripes.json"):
            gains = read_json(lines)
            seams = gains["seam_percent"] or seams
            tables[f"Stripe artefacts of channel {channel}"] = worded(gains, STRIPES)
        left = seams.get("beyond") if isinstance(seams, Mapping) else seams
        measured.append(("intensity.seam_percent", channel, finite(left)))
        measured.append(
            ("intensity.saturated_percent", channel, finite(info.get("saturated_percent")))
        )
        stage["warnings"] += [f"{channel}: {text}" for text in info.get("warnings", ())]
        stage["tables"] += [facts_table(*table) for table in tables.items()]


def _stitching(results: Results, stage: dict, measured: list) -> None:
    path = results / "stitching" / "placement.json"
    if not path.exists():
        return
    data = read_json(path)
    links = data["links"]
    counts = dict(counted(link["state"] for link in links))
    residuals = sorted(math.hypot(*k["residual_vox"]) for k in links if k["state"] == "kept")
    loops = sorted(math.hypot(*loop["closure_vox"]) for loop in data["loops"] if loop["kept"])
    structured = [link for link in links if link["state"] != "empty"]
    path = results / "stitching" / "seams.json"
    seams = read_json(path) if path.exists() else None
    path = results / "stitching" / "steps.json"
    steps = read_json(path) if path.exists() else {"warnings": []}
    contradicted = steps.get("contradicted")
    known = counts.get("kept", 0) + len(_confirmed(seams) & _unused(links))
    share = 100 * known / len(structured) if structured else None
    # tiles without any structure are placed by their neighbours, which is no fault; one whose
    # tissue lies in its middle shows none to its neighbours
    visible = {name for link in structured for name in (link["a"], link["b"])}
    visible |= _tiles_with_tissue(results)
    loose = [n for n, t in data["tiles"].items() if t["state"] in ("model", "group")]
    measured += [
        ("stitching.contradicted_steps", "", None if contradicted is None else len(contradicted)),
        ("stitching.kept_percent", "", share),
        ("stitching.loose_tiles", "", len(visible & set(loose)) if links else None),
        ("stitching.residual_p95_vox", "", percentile(residuals, 0.95)),
        ("stitching.loop_closure_vox", "", percentile(loops, 1)),
        ("stitching.lean_left_vox", "", finite(data["summary"].get("lean_left_vox"))),
        ("stitching.bent_tiles", "", finite(data["summary"].get("tiles_bent"))),
        ("stitching.distorted_tiles", "", finite(data["summary"].get("tiles_distorted"))),
        ("stitching.seam_misfit_vox", "", finite(data["summary"].get("seam_misfit_vox"))),
        ("stitching.seams_off_percent", "", _seams_off(seams, links, stage)),
        ("stitching.leaning_tiles", "", finite(data["summary"].get("tiles_leaning"))),
    ]
    stage["warnings"] += [str(w) for w in [*steps["warnings"], *data["warnings"]]]
    facts: dict[str, Any] = {
        f"pairs of neighbours: {PLACEMENT.get(state, state)}": count
        for state, count in counts.items()
    }
    facts["residual misfit between neighbours, median, worst (voxels)"] = median_worst(residuals)
    facts["contradiction around four tiles, median, worst (voxels)"] = median_worst(loops)
    for state, count in counted(tile["state"] for tile in data["tiles"].values()):
        facts[f"tiles: {PLACEMENT.get(state, state)}"] = count
    for side, count in counted(k["side"] for k in links if k.get("side") and k["state"] == "kept"):
        facts[f"displacements used that were measured on side {side}"] = count
    model = data.get("model", {})
    for side, words in (("EAST", "to the right"), ("SOUTH", "down")):
        facts[f"step from tile to tile {words}, z, y, x (voxels)"] = model.get(side)
    summary = data["summary"]
    if summary.get("tiles_distorted"):
        for words, keys in _FIELDS.items():
            facts[words] = [finite(summary.get(key)) for key in keys]
    stage["tables"].append(facts_table("Placement", facts))
    refused = [
        [
            link["a"],
            link["b"],
            PLACEMENT.get(link["state"], link["state"]),
            math.hypot(*link["residual_vox"]),
            link["reason"],
        ]
        for link in links
        if link["state"] not in ("kept", "empty")
    ]
    if refused:
        columns = ("tile", "neighbour", "displacement", "misfit (voxels)", "reason")
        title = "Neighbours whose measured displacement was not used"
        stage["tables"].append(rows_table(title, columns, refused))


def _unused(links: list[Mapping]) -> set[tuple[str, str]]:
    """Pairs with structure whose measured displacement was not used."""
    return {(k["a"], k["b"]) for k in links if k["state"] not in ("kept", "empty")}


def _confirmed(seams: Mapping | None) -> set[tuple[str, str]]:
    """Pairs in doubt whose seams, seen on the tiles, fit as placed and nowhere better."""
    return {
        (fit["a"], fit["b"])
        for fit in (seams["seams"] if seams else ())
        if (fit["as_placed"] or 0) >= max(fit["at_best"] or 0, _SEAM_FITS)
    }


def _seams_off(seams: Mapping | None, links: list[Mapping], stage: dict) -> float | None:
    """Percent of the seams that do not fit as placed; a warning names them."""
    known = sum(link.get("seam_share") is not None for link in links)
    if seams is None or not known:
        return None
    stage["warnings"] += seams["warnings"]
    return 100 * sum(fit["off"] for fit in seams["seams"]) / known


def _tiles_with_tissue(results: Results) -> set[str]:
    """Tiles in which a channel shows more tissue than a speck, wherever that is."""
    return {
        name
        for path in results.glob("intensity/*/flatfield.json")
        for name, share in (read_json(path).get("tissue_by_tile") or {}).items()
        if share >= _LEAST_TISSUE
    }


def _channels(results: Results, stage: dict, measured: list) -> None:
    rows = []
    for path in results.glob("stitching/channels/*.json"):
        data = read_json(path)
        channel = data["channel"]
        stage["warnings"] += data["warnings"]
        found = data["state"] != "not measured"
        if found:
            size = max(map(abs, data["shift_vox"]))
            measured.append(("stitching.channel_shift_vox", channel, size))
        if data["state"] == "measured":
            measured.append(("stitching.channel_left_vox", channel, 2 * max(data["sigma_vox"])))
        rows.append([
            channel, data["against"], data["state"], data["shift_vox"] if found else None,
            data["sigma_vox"] if data["state"] == "measured" else None,
            data["bend_vox"], f"{data['agree']} of {data['of']}" if data["of"] else None,
        ])  # fmt: skip
    if rows:
        unmeasured = sum(row[2] == "not measured" for row in rows)
        measured.append(("stitching.channels_unmeasured", "", unmeasured))
        columns = (
            "channel", "against", "shift is", "z, y, x (voxels)", "standard error (voxel)",
            "change within the tile (voxels)", "patches that agree",
        )  # fmt: skip
        stage["tables"].append(rows_table("Shifts between channels", columns, rows))


def _sides(results: Results, stage: dict, measured: list) -> None:
    rows = []
    for path in results.glob("stitching/sides/*.json"):
        data = read_json(path)
        channel, (first, second) = data["channel"], data["sides"]
        stage["warnings"] += data["warnings"]
        brighter = max(data["gain"], 1 / data["gain"]) if data["places"] else None
        measured += [
            ("stitching.sides_brightness", channel, brighter),
            ("stitching.sides_left_percent", channel, finite(data["left_percent"])),
            ("stitching.sides_sharper", channel, finite(data["sharper"])),
        ]
        rows.append([
            channel, *(f"{side} ({end})" for side, end in zip((first, second), data["ends"])),
            data["weights"], data["across"], data["own_percent"], data["gain"],
            data["gain_sigma"], data["left_percent"], data["sharper"], data["places"],
        ])  # fmt: skip
    if rows:
        columns = (
            "channel", "first side (best at)", "second side (best at)",
            "weights by", "each is better in its half of", "each gives (% of the tissue)",
            "second side is multiplied by", "standard error",
            "remaining difference where they meet (%)",
            "sharper in its own half (factor)", "places compared",
        )  # fmt: skip
        stage["tables"].append(rows_table("Sides of one channel", columns, rows))


def _volumes(results: Results, kind: str, stage: dict, measured: list) -> None:
    for path in results.glob(f"{kind}/*/complete.json"):
        channel, data = path.parent.name, read_json(path)
        data = data.get("summary", data)
        voxels = finite(data.get("voxels"))
        imported = kind == "fused" and _imported(results)
        words = "imported" if imported else "fused" if kind == "fused" else "corrected"
        if voxels:
            # an import computes nothing: voxels counted as clipped are those without a finite value
            clipped = "input.not_finite_percent" if imported else "volume.clipped_percent"
            for key, names in (
                ("volume.saturated_percent", ("saturated",)),
                (clipped, ("clipped_low", "clipped_high")),
            ):
                found = [v for n in names if (v := finite(data.get(n))) is not None]
                value = 100 * sum(found) / voxels if found else None
                if key == "volume.saturated_percent" and imported and value is not None:
                    value = max(value, finite(data.get("piled_percent")) or 0.0)
                measured.append((key, f"{channel}, {words}", value))
        if imported and (finite(data.get("grey_values")) or _FEW_VALUES) < _FEW_VALUES:
            stage["warnings"].append(
                f"channel {channel} has only {data['grey_values']} different values, as labels or "
                "a mask have; check that its image was given, not a segmentation"
            )
        title = f"{words.capitalize()} volume of channel {channel}"
        stage["tables"].append(facts_table(title, worded(data, VOLUME)))


def _bias(results: Results, stage: dict) -> None:
    for path in results.glob("bias/*.json"):
        data = read_json(path)
        stage["warnings"] += [f"{path.stem}: {text}" for text in data.get("warnings", ())]
        title = f"Bias field of channel {path.stem}"
        stage["tables"].append(facts_table(title, worded(data, BIAS)))


def _registration(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("registration/*/summary.json"):
        atlas, data = path.parent.name, read_json(path)
        place = path.with_name("pose.json")
        pose = read_json(place) if place.exists() else {}
        texts = pose.get("warnings", [])
        # both may hold the same warnings about the images
        texts = dict.fromkeys([*texts, *data.get("warnings", ())])
        stage["warnings"] += [f"{atlas}: {text}" for text in texts]
        if "through" in data:
            # the registration itself has its own entry
            measured += thresholds.of_registration({**data, "registered": None}, atlas)
            stage["tables"].append(_composition(atlas, data))
            continue
        measured += thresholds.of_registration(data, atlas)
        facts = worded(data, REGISTRATION)
        if "left_right" in pose:
            facts["left and right"] = pose["left_right"]
        voxels = [level.get("voxel_um") for level in data.get("levels") or ()]
        facts["voxel size of each level (µm)"] = ", ".join(f"{v:g}" for v in voxels if v)
        stage["tables"].append(facts_table(f"Registration to {atlas}", facts))
    for path in results.glob("registration/*/energy.tsv"):
        rows = read_table(path)
        if not rows or "level" not in rows[0]:
            continue
        last = list({row["level"]: row for row in rows}.values())
        stage["tables"].append(
            rows_table(
                f"Last step of each pass, {path.parent.name}",
                [STEPS.get(c, label(c)) for c in rows[0]],
                # in their order: passes that were not needed leave gaps in the levels
                [
                    [parse(v) for v in (row | {"level": str(n)}).values()]
                    for n, row in enumerate(last, 1)
                ],
            )
        )


def _composition(atlas: str, data: Mapping[str, Any]) -> dict:
    """What is known of an atlas that was reached through another one."""
    through = data["through"]
    facts = worded(data, COMPOSITION)
    facts["verdicts"] = f"those of {through}, and what is listed here"
    facts["error bars"] = (
        f"those of {through}; the error of the known transform is not in them, and nobody here "
        "measured it"
    )
    return facts_table(f"Atlas {atlas}, reached through {through}", facts)


def where_it_is_bad(results: Results) -> list[dict]:
    """Regions of every atlas, the worst first.

    Returns
    -------
    list of dict
        ``atlas``, ``rows`` (of ``quality.tsv``), ``suspicious`` (how many deserve a look), the
        ``table`` of the worst of them, and ``path`` of the file that holds all.
    """
    found = []
    for path in results.glob("registration/*/quality.tsv"):
        rows = read_table(path)
        summary = path.with_name("summary.json")
        data = read_json(summary) if summary.exists() else {}
        columns = [column for column in QUALITY if column in rows[0]]
        cells = [[_shortened(row[c]) for c in columns] + [_remark(row, data)] for row in rows]
        suspicious = sum(map(worst.needs_a_look, rows))
        most = max(_MOST_ROWS, min(suspicious, 2 * _MOST_ROWS))
        atlas = path.parent.name
        title = f"{atlas}: worst of {len(rows)} regions per hemisphere"
        table = rows_table(title, [*(QUALITY[c] for c in columns), "reason to look"], cells[:most])
        found.append(
            {
                "atlas": atlas,
                "rows": rows,
                "suspicious": suspicious,
                "table": table,
                "path": path.relative_to(results.folder).as_posix(),
            }
        )
    return found


def _remark(row: Mapping[str, str], summary: Mapping[str, Any]) -> str:
    """Why a region is listed, and what the registration itself says of it."""
    words = [worst.reason_text(row)] if worst.needs_a_look(row) else []
    if row["acronym"] in (summary.get("unexplained") or ()):
        words.append("beyond noise")
    if row["acronym"] in (summary.get("worse_regions") or ()):
        words.append("the affine fits better")
    return "; ".join(words)


def _shortened(text: str) -> Any:
    """A cell of a table for readers: three digits are enough."""
    number = finite(text)
    return text if number is None else float(f"{number:.3g}") if abs(number) >= 0.05 else 0


def _regions(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("regions/*.tsv"):
        rows = read_table(path)
        own = [r for r in rows if r.get("scope", "own") == "own"]
        both = [r for r in own if r.get("hemisphere", "both") == "both"]
        extents = [(finite(r.get("atlas_volume_mm3")), finite(r.get("coverage"))) for r in both]
        weights = [(v, c) for v, c in extents if v and c is not None]
        total = sum(v for v, _ in weights)
        share = 100 * sum(v * c for v, c in weights) / total if total else None
        measured.append(("regions.coverage_percent", path.stem, share))
        stage["warnings"] += _unequal_halves(own, path.stem)
        largest = sorted(both, key=lambda r: -(finite(r.get("volume_mm3")) or 0))[:_MOST_ROWS]
        columns = [
            c for c in (rows[0] if rows else ())
            if c in ("acronym", "name", "volume_mm3", "coverage") or c.endswith("_mean")
        ]  # fmt: skip
        if largest and columns:
            stage["tables"].append(
                rows_table(
                    f"Largest of {len(both)} regions, {path.stem} "
                    f"(all of them: {path.relative_to(results.folder)})",
                    [COLUMNS.get(c, _of_channel(c)) for c in columns],
                    [[parse(r[c]) for c in columns] for r in largest],
                )
            )


def _of_channel(column: str) -> str:
    """A column of the region table in words: "signal_mean" is a mean of grey values."""
    if column.endswith("_mean"):
        return f"{column.removesuffix('_mean')}: mean grey value"
    return label(column)


def _unequal_halves(rows: list[dict], atlas: str) -> list[str]:
    """What to say if the left of an atlas is not as large as its right."""
    halves = {
        side: sum(
            finite(row.get("atlas_volume_mm3")) or 0
            for row in rows
            if row.get("hemisphere") == side
        )
        for side in ("left", "right")
    }
    low, high = sorted(halves.values())
    # an atlas of one hemisphere has one side alone
    if not _ONE_SIDED * high < low < _HALF * high:
        return []
    share = 100 * halves["left"] / (low + high)
    return [
        f"{share:.0f} % of the regions of atlas {atlas} are left and {100 - share:.0f} % right, "
        "because the middle plane of its image, which divides them, is not that of its brain; give "
        f"atlases.{atlas}.hemispheres, or use the rows of both sides alone"
    ]


def _cells(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("cells/*.json"):
        data = read_json(path)
        facts = worded(data, CELLS)
        stage["tables"].append(facts_table(f"Cells {path.stem}", facts))
        if not data["cells"]:
            stage["warnings"].append(
                f"{path.stem}: no cell was found; check the channel, then lower threshold or "
                "correct diameter_um"
            )
        for table in results.glob(f"cells/{path.stem}/*/regions.tsv"):
            title = f"Regions with the most cells {path.stem}, {table.parent.name}"
            interval = ("count_low", "count_high")
            stage["tables"] += _most(results, table, title, ("count", "per_mm3"), interval)
            outside = [finite(row["count"]) for row in read_table(table) if row["id"] == "0"]
            if data["cells"] and outside:
                share = 100 * (1 - (outside[-1] or 0) / data["cells"])
                subject = f"{path.stem}, {table.parent.name}"
                measured.append(("points.in_region_percent", subject, share))


def _points(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("points/*/summary.json"):
        data, name = read_json(path), path.parent.name
        stage["tables"].append(facts_table(f"Points {name}", worded(data, POINTS)))
        stage["warnings"] += data["warnings"]
        share, other = data["in_region_percent"], data["other_percent"]
        measured.append(("points.in_region_percent", name, share))
        gain = None if other is None else other - share
        measured.append(("points.other_reading_percent", name, gain))
        for table in results.glob(f"points/{name}.tsv"):
            title = f"Regions with the most points {name}, {data['atlas']}"
            columns, interval = ("count", "per_mm3"), ("count_low", "count_high")
            stage["tables"] += _most(results, table, title, columns, interval, "points")


def _signal(results: Results, stage: dict) -> None:
    for table in results.glob("derived/*/regions/*.tsv"):
        title = f"Regions with the most signal {table.parents[1].name}, {table.stem}"
        columns = ("signal_mm3", "signal_percent", "intensity_mean")
        stage["tables"] += _most(results, table, title, columns, ("length_mm", "length_mm_per_mm3"))


def _derived(results: Results, settings: Mapping[str, Mapping[str, Any]], stage: dict) -> None:
    entries: dict[str, dict[str, Any]] = {}
    for key, one in settings.items():
        section, *path = key.split(".")
        if section == "derived" and len(path) == 2:
            entries.setdefault(path[0], {})[path[1]] = one["value"]
    rows = []
    for name, entry in sorted(entries.items()):
        made = results.glob(f"derived/{name}/complete.json")
        summary = read_json(made[0]) if made else {}
        blocks = summary.get("blocks") if "blocks_outside" in summary else None
        rows.append([name, entry.get("do"), entry.get("from"), entry.get("within"),
                     summary.get("blocks_outside"), blocks])  # fmt: skip
    if rows:
        columns = ("volume or objects", "tool", "made from", "only within the labels",
                   "blocks without these labels", "of blocks")  # fmt: skip
        used = [n for n in range(len(columns)) if any(row[n] is not None for row in rows)]
        stage["tables"].append(
            rows_table(
                "What was made of other volumes",
                [columns[n] for n in used],
                [[row[n] for n in used] for row in rows],
            )
        )


def _most(
    results: Results,
    path: Path,
    title: str,
    columns: tuple[str, ...],
    optional: tuple[str, ...] = (),
    objects: str = "cells",
) -> list[dict]:
    """Regions in the order of the first of some columns, the largest first.

    Columns of the second tuple are shown where the table has them; ``objects`` are what is counted.
    """
    rows = [
        row for row in read_table(path)
        if (row["scope"], row["hemisphere"]) == ("own", "both") and row["id"] != "0"
    ]  # fmt: skip
    most = sorted(rows, key=lambda row: -(finite(row[columns[0]]) or 0))[:_MOST_ROWS]
    shown = ("acronym", "name", *columns, *(c for c in optional if rows and c in rows[0]))
    if not any(finite(row[columns[0]]) for row in most):
        return []
    return [
        rows_table(
            f"{title} (all of them: {path.relative_to(results.folder)})",
            [COLUMNS.get(c, label(c)).format(objects=objects) for c in shown],
            [[parse(row[c]) for c in shown] for row in most],
        )
    ]


def _accuracy(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("accuracy/*.tsv"):
        rows = read_table(path)
        points = [r for r in rows if r.get("kind", "fiducial") == "fiducial"]
        errors = [v for r in points if (v := finite(r.get("error_um"))) is not None]
        if not errors:
            continue
        measured.append(("accuracy.mean_um", path.stem, sum(errors) / len(errors)))
        worst = sorted(points, key=lambda r: -(finite(r.get("error_um")) or 0))[:_MOST_ROWS]
        columns = [c for c in rows[0] if c == "name" or c.endswith("error_um")]
        stage["tables"].append(
            rows_table(
                f"Fiducials, {path.stem}: worst of {len(errors)}",
                [COLUMNS.get(c, label(c)) for c in columns],
                [[parse(r[c]) for c in columns] for r in worst],
            )
        )


def _overlap(results: Results, stage: dict, measured: list) -> None:
    for path in results.glob("overlap/*.tsv"):
        rows = read_table(path)
        means = {r["name"]: finite(r["dice"]) for r in rows if r["kind"] == "summary"}
        measured.append(("overlap.dice_mean", path.stem, means.get("mean")))
        regions = [r for r in rows if r["kind"] == "region"]
        worst = sorted(regions, key=lambda r: finite(r["dice"]) or 0)[:_MOST_ROWS]
        columns = [c for c in rows[0] if c not in ("kind", "id")]
        stage["tables"].append(
            rows_table(
                f"Regions compared with the labels of the sample, {path.stem}: worst of "
                f"{len(regions)}",
                [COLUMNS.get(c, label(c)) for c in columns],
                [[parse(r[c]) for c in columns] for r in worst],
            )
        )

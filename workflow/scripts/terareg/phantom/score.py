"""Score a run of the workflow on a phantom, from the output files that a user gets.

The library's own readers are not used: XML, TIFF, NRRD, OME-Zarr, precomputed volumes and tables
are opened with the tools that a user would use. All positions are in the fused frame (see
:mod:`terareg.phantom.colm`). If the placement shifted the fused volume as a whole, the truth is
shifted with it, so that this error is counted only once, as a tile error.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile
import zarr
from defusedxml import ElementTree
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.core.errors import TeraregError
from terareg.core.frames import Frame, orientation_matrix

logger = logging.getLogger(__name__)

_CLEAR_CONTRAST = 4.0
_TISSUE = 1
_SPOT_REACH_VOX = (3, 12, 12)


class ScoreError(TeraregError):
    """An output file that the scorer needs is missing or invalid."""


@dataclass(frozen=True)
class ScorePaths:
    """Locations of truth and results.

    Attributes
    ----------
    truth : Path
        ``truth`` folder of the phantom.
    results : Path
        Results of the sample, for example ``results/demo``.
    store : Path
        Folder of the array store, without the sample's name.
    sample : str
        Name of the sample in the store.
    atlas : str
        Name of the atlas in the results and in the store.
    benchmarks : Path or None
        Snakemake benchmark tables; ``results/benchmarks`` by default.
    """

    truth: Path
    results: Path
    store: Path
    sample: str = "demo"
    atlas: str = "phantom"
    benchmarks: Path | None = None


# stage of the score -> keys that it fills
STAGES: dict[str, tuple[str, ...]] = {
    "tiles": ("tile_error_vox",),
    "flatfield": ("flatfield_rms_percent",),
    "fused": ("fused_psnr_db",),
    "bias": ("bias_rms_percent",),
    "registration": ("tre_um", "jacobian_min"),
    "labels": ("dice_mean",),
    "regions": ("region_volume_error_percent",),
    "cells": ("cells_f1", "cell_count_error_percent"),
    "cost": ("seconds", "peak_memory_mb"),
}


def score(paths: ScorePaths, stages: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare a run with the truth.

    Parameters
    ----------
    paths : ScorePaths
    stages : sequence of str, optional
        Names in :data:`STAGES`; all by default. Keys of other stages are None.

    Returns
    -------
    dict
        ``tile_error_vox`` {mean, max}: largest component of each tile's position error after
        removing the common (median) offset; ``flatfield_rms_percent``: root mean square of
        estimated / true - 1, both of mean 1, worst channel; ``fused_psnr_db``: in tissue against
        the clean volume after least-squares gain and offset, peak = 99.9th percentile of the
        truth, worst channel; ``bias_rms_percent``: log ratio to the truth in tissue, worst
        channel; ``tre_um`` {start, mean, p95}: landmarks, ``start`` with image centres and
        orientation codes aligned only; ``dice_mean`` over regions; ``jacobian_min``;
        ``region_volume_error_percent``: mean over regions and hemispheres; ``cells_f1``: counted
        cells of contrast 4 and more, found within half a diameter;
        ``cell_count_error_percent``: sum over regions of the differences of their counts, without
        fainter cells; ``seconds`` and
        ``peak_memory_mb`` per rule; ``details`` holds figures per channel and others.

    Raises
    ------
    ScoreError
        If an output file is missing; the message has its path.
    """
    wanted = tuple(STAGES) if stages is None else tuple(stages)
    unknown = [name for name in wanted if name not in STAGES]
    if unknown:
        raise ScoreError(f"stage {unknown[0]!r} is unknown; choose from {', '.join(STAGES)}")
    truth = _read_truth(paths.truth)
    if stages is None and "cells" not in truth:
        wanted = tuple(name for name in wanted if name != "cells")
    for name, key in (("bias", "bias"), ("registration", "landmarks"), ("labels", "labels"),
                      ("regions", "region_volumes"), ("cells", "cells")):  # fmt: skip
        if name in wanted and key not in truth:
            raise ScoreError(
                f"{paths.truth} has no {key.replace('_', ' ')}, because its volume was cut and "
                f"not generated; leave stage {name} out (stages: tiles flatfield fused)"
            )
    result: dict[str, Any] = {key: None for keys in STAGES.values() for key in keys}
    result["details"] = {}
    # all later stages need the offset of the fused frame; without an XML file it is 0
    offset = np.zeros(3)
    if "tiles" in wanted or _merging_xml(paths).exists():
        tiles, offset = _score_tiles(paths, truth)
        if "tiles" in wanted:
            result["tile_error_vox"] = {k: tiles[k] for k in ("mean", "max")}
            result["details"]["tiles"] = tiles
    run: dict[str, Callable[[], None]] = {
        "flatfield": lambda: _score_flatfield(paths, truth, result),
        "fused": lambda: _score_fused(paths, truth, offset, result),
        "bias": lambda: _score_bias(paths, truth, result),
        "registration": lambda: _score_registration(paths, truth, offset, result),
        "labels": lambda: _score_labels(paths, truth, offset, result),
        "regions": lambda: _score_regions(paths, truth, result),
        "cells": lambda: _score_cells(paths, truth, offset, result),
        "cost": lambda: _score_cost(paths, result),
    }
    for name, work in run.items():
        if name in wanted:
            logger.info("scoring %s", name)
            work()
    return result


# ------------------------------------------------------------------ reading
def _need(path: Path, made_by: str) -> Path:
    if not path.exists():
        raise ScoreError(f"{path} is missing; run the workflow up to {made_by} first")
    return path


def _read_truth(folder: Path) -> dict[str, Any]:
    path = _need(Path(folder) / "truth.json", "'python -m terareg.phantom make'")
    return json.loads(path.read_text(encoding="utf-8"))


def _read_nrrd(path: Path) -> tuple[np.ndarray, Frame]:
    """Array (z, y, x) and frame in micrometres of an axis-aligned file in millimetres."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    spacing = tuple(1000 * s for s in image.GetSpacing()[::-1])
    origin = tuple(1000 * o for o in image.GetOrigin()[::-1])
    return array, Frame(array.shape[:3], spacing, origin)


def _open_volume(folder: Path, made_by: str) -> _Lazy | _Precomputed:
    """Finest level of an OME-Zarr or precomputed volume as a lazy array (z, y, x)."""
    if (folder / "ome.zarr").exists():
        group = zarr.open_group(str(folder / "ome.zarr"), mode="r")
        attributes = group.attrs.asdict()
        multiscales = attributes.get("ome", attributes)["multiscales"]
        return _Lazy(group[multiscales[0]["datasets"][0]["path"]])
    if (folder / "precomputed" / "info").exists():
        from cloudvolume import CloudVolume

        layer = CloudVolume(
            f"file://{(folder / 'precomputed').absolute()}", mip=0, progress=False,
            fill_missing=True, bounded=True,
        )  # fmt: skip
        return _Precomputed(layer)
    raise ScoreError(f"{folder} contains no volume; run the workflow up to {made_by} first")


class _Lazy:
    """Zarr array, read along its last three axes."""

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        self.shape = tuple(array.shape[-3:])

    def read(self, z: slice, y: slice = slice(None), x: slice = slice(None)) -> np.ndarray:
        """Read a box; slices may have steps."""
        lead = (0,) * (len(self._array.shape) - 3)
        return np.asarray(self._array[(*lead, z, y, x)])


class _Precomputed:
    """Precomputed layer with the same interface as :class:`_Lazy`."""

    def __init__(self, layer) -> None:
        self._layer = layer
        self.shape = tuple(int(n) for n in layer.shape[:3][::-1])

    def read(self, z: slice, y: slice = slice(None), x: slice = slice(None)) -> np.ndarray:
        """Read a box; slices may have steps."""
        full = [slice(*s.indices(n)) for s, n in zip((z, y, x), self.shape)]
        box = [slice(s.start, max(s.stop, s.start + 1)) for s in full]
        low = self._layer.bounds.minpt
        data = self._layer[tuple(slice(s.start + int(o), s.stop + int(o))
                                 for s, o in zip(box[::-1], low))]  # fmt: skip
        array = np.asarray(data)[..., 0].transpose(2, 1, 0)
        return array[tuple(slice(None, None, s.step) for s in full)]


# ------------------------------------------------------------------ stitching
def _merging_xml(paths: ScorePaths) -> Path:
    return paths.results / "stitching" / "xml_merging.xml"


def _score_tiles(paths: ScorePaths, truth: dict) -> tuple[dict, np.ndarray]:
    path = _need(_merging_xml(paths), "place_tiles")
    root = ElementTree.parse(path, forbid_entities=True, forbid_external=True).getroot()
    found = {}
    for stack in root.iter("Stack"):
        match = re.search(r"LOC\d+", stack.get("DIR_NAME", ""))
        if match:
            found[match.group()] = [float(stack.get(f"ABS_{axis}")) for axis in "DVH"]
    missing = sorted(set(truth["tiles"]) - set(found))
    if missing:
        raise ScoreError(f"{path} has no position for {missing[0]}; every scanned tile needs one")
    names = sorted(truth["tiles"])
    estimated = np.array([found[name] for name in names])
    true = np.array([truth["tiles"][name]["origin_vox"] for name in names], float)
    error = estimated - true
    residual = np.abs(error - np.median(error, axis=0))
    worst = residual.max(axis=1)
    offset = np.median(estimated - estimated.min(axis=0) - true, axis=0)
    return {
        "mean": float(worst.mean()),
        "max": float(worst.max()),
        "worst_tile": names[int(worst.argmax())],
        "frame_offset_vox": offset.tolist(),
    }, offset


# ------------------------------------------------------------------ intensity
def _score_flatfield(paths: ScorePaths, truth: dict, result: dict) -> None:
    details = {}
    for channel in truth["channels"]:
        name = channel["name"]
        folder = paths.results / "intensity" / name
        estimated = tifffile.imread(_need(folder / "flatfield.tif", "estimate_flatfield"))
        true = tifffile.imread(paths.truth / channel["profile"])
        if estimated.shape != true.shape:
            raise ScoreError(
                f"{folder / 'flatfield.tif'} has shape {estimated.shape}, the tiles {true.shape}; "
                "estimate it again from this acquisition"
            )
        ratio = (estimated / estimated.mean(dtype=float)) / (true / true.mean(dtype=float)) - 1
        details[name] = {
            "rms_percent": float(100 * np.sqrt(np.mean(ratio**2))),
            "true_dark": channel["dark"],
        }
        record = folder / "flatfield.json"
        if record.exists():
            details[name]["background"] = json.loads(record.read_text())["background"]
    result["flatfield_rms_percent"] = max(d["rms_percent"] for d in details.values())
    result["details"]["flatfield"] = details


def _score_bias(paths: ScorePaths, truth: dict, result: dict) -> None:
    tissue, frame = _read_nrrd(paths.truth / truth["tissue"])
    points = frame.to_um(np.argwhere(tissue == _TISSUE)[::5])
    details = {}
    for channel, file in zip(truth["channels"], truth["bias"]):
        name = channel["name"]
        path = _need(paths.results / "bias" / f"{name}.nrrd", "estimate_bias_field")
        estimated = _at(*_read_nrrd(path), points)
        true = np.log(_at(*_read_nrrd(paths.truth / file), points))
        error = estimated - true
        details[name] = {
            "rms_percent": float(100 * np.std(error)),
            "uncorrected_percent": float(100 * np.std(true)),
        }
    result["bias_rms_percent"] = max(d["rms_percent"] for d in details.values())
    result["details"]["bias"] = details


def _at(array: np.ndarray, frame: Frame, points_um: np.ndarray) -> np.ndarray:
    """Linear interpolation; border values are continued outside."""
    index = frame.to_index(points_um).T
    return ndimage.map_coordinates(array.astype(float), index, order=1, mode="nearest")


# ------------------------------------------------------------------ fused volume
def _score_fused(paths: ScorePaths, truth: dict, offset: np.ndarray, result: dict) -> None:
    shift = np.rint(offset).astype(int)
    details = {}
    for channel in truth["channels"]:
        volume = _open_volume(
            paths.store / paths.sample / "fused" / channel["name"], "finalize_volume"
        )
        clean = tifffile.imread(paths.truth / channel["clean"])
        clean = clean.reshape(-1, *clean.shape[-2:])
        tissue = _tissue_planes(paths, truth, clean, channel["clean_stride"])
        pairs = []
        for number, plane in enumerate(clean):
            z = number * channel["clean_stride"]
            if not 0 <= z + shift[0] < volume.shape[0]:
                continue
            mask = _scorable(truth, channel["index"], z) & tissue(number)
            measured = volume.read(slice(int(z + shift[0]), int(z + shift[0]) + 1))[0]
            moved = np.zeros(plane.shape, np.float32)
            inside = np.zeros(plane.shape, bool)
            to, take = _overlap(plane.shape, measured.shape, shift[1:])
            moved[to], inside[to] = measured[take], True
            mask &= inside
            pairs.append(np.stack([plane[mask], moved[mask]]).astype(float))
        true, found = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0))
        if true.size < 2:
            raise ScoreError(
                f"fused volume of {channel['name']} has no tissue in common with the truth; "
                "check that the truth belongs to this run"
            )
        gain, base = np.polyfit(found, true, 1)
        rmse = math.sqrt(np.mean((gain * found + base - true) ** 2))
        peak = float(np.percentile(true, 99.9))
        details[channel["name"]] = {
            "psnr_db": 20 * math.log10(peak / max(rmse, 1e-6 * peak)),
            "rmse_counts": rmse,
            "peak_counts": peak,
            "gain": float(gain),
            "offset": float(base),
            "voxels": int(true.size),
        }
    result["fused_psnr_db"] = min(d["psnr_db"] for d in details.values())
    result["details"]["fused"] = details


def _overlap(true_shape, found_shape, shift) -> tuple[tuple, tuple]:
    """Slices of the truth and of the measured plane that show the same area."""
    to, take = [], []
    for n, m, s in zip(true_shape, found_shape, shift):
        low, high = max(0, -int(s)), min(n, m - int(s))
        to.append(slice(low, max(low, high)))
        take.append(slice(low + int(s), max(low, high) + int(s)))
    return tuple(to), tuple(take)


def _scorable(truth: dict, channel: int, z: int) -> np.ndarray:
    """Pixels of a plane that some tile saw, away from saturated spots."""
    mask = np.zeros(truth["shape"][1:], bool)
    height, width = truth["tile_pixels"]
    for tile in truth["tiles"].values():
        oz, oy, ox = tile["origin_vox"]
        if oz <= z < oz + truth["planes"]:
            mask[oy : oy + height, ox : ox + width] = True
    reach = _SPOT_REACH_VOX
    for spot in truth["saturated_spots_vox"]:
        sz, sy, sx = spot["position"]
        if spot["channel"] == channel and abs(sz - z) <= reach[0]:
            mask[
                max(sy - reach[1], 0) : sy + reach[1] + 1, max(sx - reach[2], 0) : sx + reach[2] + 1
            ] = False
    return mask


def _tissue_planes(
    paths: ScorePaths, truth: dict, clean: np.ndarray, clean_stride: int
) -> Callable[[int], np.ndarray]:
    """Function that gives the tissue mask of the n-th clean plane, at full resolution.

    Without a tissue map (a real volume that was cut) pixels brighter than the mean are tissue.
    """
    if "tissue" not in truth:
        mean = clean.mean(dtype=float)
        return lambda number: clean[number] > mean
    tissue, frame = _read_nrrd(paths.truth / truth["tissue"])
    stride = truth["label_stride"]
    index = np.ix_(
        *(
            np.minimum((np.arange(n) + k // 2) // k, m - 1)
            for n, k, m in zip(truth["shape"][1:], stride[1:], frame.shape[1:])
        )
    )

    def mask(number: int) -> np.ndarray:
        layer = (number * clean_stride + stride[0] // 2) // stride[0]
        return tissue[min(layer, frame.shape[0] - 1)][index] == _TISSUE

    return mask


# ------------------------------------------------------------------ registration
def _score_registration(paths: ScorePaths, truth: dict, offset: np.ndarray, result: dict) -> None:
    folder = paths.results / "registration" / paths.atlas
    landmarks = np.loadtxt(paths.truth / truth["landmarks"], delimiter=",", skiprows=1)
    atlas_um, sample_um = landmarks[:, :3], landmarks[:, 3:]
    atlas_frame = Frame.from_json(truth["atlas_frame"])
    sample_frame = Frame.from_json(truth["frame"])
    sample_um = sample_um + offset * np.array(sample_frame.spacing_um)
    matrix = orientation_matrix(atlas_frame.orientation, sample_frame.orientation)
    start = (atlas_um - atlas_frame.centre_um) @ matrix.T + sample_frame.centre_um
    image = sitk.ReadImage(
        str(_need(folder / "atlas_to_sample_displacement.nrrd", "register")), sitk.sitkVectorFloat64
    )
    transform = sitk.DisplacementFieldTransform(image)
    mapped = np.array(
        [transform.TransformPoint((p[::-1] / 1000).tolist()) for p in atlas_um]
    )[:, ::-1]  # fmt: skip
    error = np.linalg.norm(1000 * mapped - sample_um, axis=1)
    start_error = np.linalg.norm(start - sample_um, axis=1)
    homogeneous = np.column_stack([atlas_um, np.ones(len(atlas_um))])
    best = homogeneous @ np.linalg.lstsq(homogeneous, sample_um, rcond=None)[0]
    result["tre_um"] = {
        "start": float(start_error.mean()),
        "mean": float(error.mean()),
        "p95": float(np.percentile(error, 95)),
    }
    jacobian = sitk.GetArrayFromImage(
        sitk.ReadImage(str(_need(folder / "jacobian.nrrd", "register")))
    )
    result["jacobian_min"] = float(jacobian.min())
    details = {
        "landmarks": len(error),
        "median_um": float(np.median(error)),
        "max_um": float(error.max()),
        "best_affine_um": float(np.linalg.norm(best - sample_um, axis=1).mean()),
        "jacobian_max": float(jacobian.max()),
    }
    working = folder / "sample_to_atlas_displacement.nrrd"
    if working.exists():
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(working))
        reader.ReadImageInformation()
        details["working_voxel_um"] = 1000 * float(np.prod(reader.GetSpacing()) ** (1 / 3))
    result["details"]["registration"] = details


def _score_labels(paths: ScorePaths, truth: dict, offset: np.ndarray, result: dict) -> None:
    volume = _open_volume(paths.store / paths.sample / "labels" / paths.atlas, "transform_labels")
    true, _ = _read_nrrd(paths.truth / truth["labels"])
    shift = np.rint(offset).astype(int)
    index = []
    for n, m, k, s in zip(true.shape, volume.shape, truth["label_stride"], shift):
        position = np.arange(n) * k + int(s)
        index.append(np.flatnonzero((position >= 0) & (position < m)))
    found = np.zeros_like(true)
    stride = truth["label_stride"]
    rows, columns = (index[k] * stride[k] + shift[k] for k in (1, 2))
    for layer in index[0]:
        z = int(layer * stride[0] + shift[0])
        plane = volume.read(slice(z, z + 1))[0]
        found[layer][np.ix_(index[1], index[2])] = plane[np.ix_(rows, columns)]
    ids = np.unique(true)
    ids = ids[ids > 0]
    dice = {}
    for number in ids:
        a, b = true == number, found == number
        dice[int(number)] = float(2 * np.count_nonzero(a & b) / (a.sum() + b.sum()))
    foreign = np.setdiff1d(np.unique(found), np.append(ids, 0))
    result["dice_mean"] = float(np.mean(list(dice.values())))
    result["details"]["labels"] = {
        "regions": len(dice),
        "dice_p10": float(np.percentile(list(dice.values()), 10)),
        "dice_min": {"id": min(dice, key=dice.__getitem__), "dice": min(dice.values())},
        "foreign_ids": [int(v) for v in foreign],
    }


# ------------------------------------------------------------------ regions
def _score_regions(paths: ScorePaths, truth: dict, result: dict) -> None:
    path = _need(paths.results / "regions" / f"{paths.atlas}.tsv", "measure_regions")
    measured: dict[tuple[int, str], float] = {}
    with open(path, newline="", encoding="utf-8") as stream:
        table = csv.DictReader((row for row in stream if not row.startswith("#")), delimiter="\t")
        needed = {"id", "hemisphere", "volume_mm3"}
        if not needed <= set(table.fieldnames or ()):
            raise ScoreError(
                f"{path} has no column {sorted(needed - set(table.fieldnames or ()))[0]}; measure "
                "the regions again"
            )
        for row in table:
            # regions of the truth have no descendants, so rows of scope "tree" add nothing
            if row.get("scope", "own") == "own":
                measured[int(row["id"]), row["hemisphere"].lower()] = float(row["volume_mm3"] or 0)
    errors, volumes = [], []
    with open(paths.truth / truth["region_volumes"], newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            true = float(row["volume_mm3"])
            if true == 0:
                continue
            found = measured.get((int(row["id"]), row["hemisphere"]), 0.0)
            errors.append(abs(found - true) / true)
            volumes.append(true)
    result["region_volume_error_percent"] = float(100 * np.mean(errors))
    result["details"]["regions"] = {
        "volume_weighted_percent": float(100 * np.average(errors, weights=volumes)),
        "worst_percent": float(100 * np.max(errors)),
        "regions_and_hemispheres": len(errors),
    }


# ------------------------------------------------------------------ cost
def _score_cells(paths: ScorePaths, truth: dict, offset: np.ndarray, result: dict) -> None:
    folder = paths.results / "cells"
    true = _read_rows(paths.truth / truth["cells"])
    found = _read_rows(_need(folder / "counted.csv", "gather_cells"))
    in_atlas = _read_rows(_need(folder / f"counted/{paths.atlas}/cells.csv", "count_cells"))
    spacing = np.array(truth["frame"]["spacing_um"])
    places, centres = (
        np.array([[float(row[f"{a}_um"]) for a in "zyx"] for row in rows]).reshape(-1, 3)
        for rows in (found, true)
    )
    contrast = np.array([float(row["contrast"]) for row in true])
    figures, partner = match_cells(places, centres + offset * spacing, contrast, truth["cell_um"])
    # faint cells may be found or not
    clear = contrast >= _CLEAR_CONTRAST
    wanted = Counter(row["region_id"] for row, c in zip(true, clear) if c)
    counted = Counter(r["region_id"] for r, n in zip(in_atlas, partner) if n < 0 or clear[n])
    wrong = sum(abs(counted[i] - wanted[i]) for i in {*wanted, *counted})
    result["cells_f1"] = figures["f1"]
    result["cell_count_error_percent"] = 100 * wrong / max(1, int(clear.sum()))
    result["details"]["cells"] = figures | {"true": len(true), "found": len(found)}


def _read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def match_cells(
    found_um: np.ndarray, true_um: np.ndarray, contrast: np.ndarray, diameter_um: float
) -> tuple[dict[str, float], list[int]]:
    """Precision over all cells, recall and F1 over those of contrast 4 and more.

    Found and true cells are paired nearest first, within half a diameter, each once. The second
    result is the true cell of every found one, or -1.
    """
    clear, partner = contrast >= _CLEAR_CONTRAST, [-1] * len(found_um)
    if not len(found_um) or not clear.any():
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}, partner
    near = cKDTree(found_um).sparse_distance_matrix(
        cKDTree(true_um), diameter_um / 2, output_type="coo_matrix"
    )
    taken: set[int] = set()
    for n in np.argsort(near.data, kind="stable").tolist():
        a, b = int(near.row[n]), int(near.col[n])
        if partner[a] < 0 and b not in taken:
            partner[a] = b
            taken.add(b)
    precision = len(taken) / len(found_um)
    recall = sum(bool(clear[b]) for b in taken) / int(clear.sum())
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}, partner


def _score_cost(paths: ScorePaths, result: dict) -> None:
    folder = _need(
        Path(paths.benchmarks) if paths.benchmarks else paths.results / "benchmarks", "its end"
    )
    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    for path in sorted(folder.rglob("*.tsv")):
        stage = path.relative_to(folder).parts[0].split(".")[0]
        with open(path, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                seconds[stage] = seconds.get(stage, 0.0) + _number(row.get("s"))
                memory[stage] = max(memory.get(stage, 0.0), _number(row.get("max_rss")))
    if not seconds:
        raise ScoreError(f"{folder} contains no benchmark tables (*.tsv); run the workflow first")
    result["seconds"], result["peak_memory_mb"] = seconds, memory
    result["details"]["cost"] = {
        "seconds_total": sum(seconds.values()),
        "peak_memory_mb": max(memory.values()),
    }


def _number(text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0

"""Words of the report for what the small files of a run hold; what has no words is not shown."""

from __future__ import annotations

from terareg.views.tables import Word, percent, size

FLATFIELD: dict[str, Word] = {
    "method": ("made from", lambda method: {"statistics": "the tiles", "image": "an image"}.get(
        method, method)),
    "profile_range": "sensitivity of a camera pixel, lowest and highest (1 is the mean)",
    "background": "dark offset (grey values)",
    "background_error": "uncertainty of the dark offset (grey values)",
    "background_effect.uneven": "unevenness within a tile that twice as much makes (%)",
    "background_model": "model of the dark offset",
    "corrected": "corrected in addition to the flat-field",
    "seam_percent.before": "brightness step between neighbouring tiles, before (%)",
    "seam_percent.after": "brightness step between neighbouring tiles, after (%)",
    "seam_percent.noise": "what of it is noise, which no other block or line shares (%)",
    "seam_percent.beyond": "brightness step that is left beyond noise (%)",
    "hidden_fading.rows": "even fading from row to row that is not told from shading, up to (%)",
    "hidden_fading.columns": "the same from column to column (%)",
    "tiles": "tiles that were read",
    "planes": "planes that were read",
    "tissue_fraction": ("planes with tissue (%)", percent),
    "saturated_at": "brightest value of raw pixels, at which some are saturated (grey value)",
    "saturated_percent": "saturated raw pixels (%)",
}  # fmt: skip
MISSING_PLANES = {
    "error": "stop the run",
    "blank": "are read as black",
    "interpolate": "are interpolated",
}
STRIPES: dict[str, Word] = {
    "lines": "direction of the stripes",
    "spread_percent": "strength of the stripes (SD over the lines, %)",
    "seam_percent.before": "brightness step between neighbouring tiles, before (%)",
    "seam_percent.after": "brightness step between neighbouring tiles, after (%)",
    "seam_percent.noise": "what of it is noise, which no other block or line shares (%)",
    "seam_percent.beyond": "brightness step that is left beyond noise (%)",
}
PLACEMENT = {
    "kept": "measured displacement used",
    "rejected": "contradicts the others, not used",
    "unused": "poorly measured, not used",
    "empty": "no tissue in the overlap",
    "linked": "placed relative to their neighbours",
    "group": "placed as a group without links to the others",
    "model": "placed at their nominal stage positions",
}
VOLUME: dict[str, Word] = {
    "shape": "size z, y, x (voxels)",
    "spacing_um": "voxel size z, y, x (µm)",
    "levels": "resolutions stored",
    "formats": "formats",
    "bytes": ("size in the store", size),
    "min": "smallest grey value",
    "max": "largest grey value",
    "mean": "mean grey value",
    "window": "grey values shown black and white in pictures",
}
BIAS: dict[str, Word] = {
    "field_1_percent": "brightness, 1st percentile (factor of the mean)",
    "field_99_percent": "brightness, 99th percentile (factor of the mean)",
    "resolution_um": "voxel size at which it was estimated (µm)",
    "iterations": "maximum number of iterations at each level",
}
REGISTRATION: dict[str, Word] = {
    "images.sample": ("registered", ", ".join),
    "images.atlas": ("registered to", ", ".join),
    "extent": ("part of the atlas", lambda part: {"whole": "the whole"}.get(part, f"{part} half")),
    "kept": ("transform", lambda kept: {"deformation": "affine and deformation",
                                        "affine": "affine alone"}.get(kept, kept)),
    "scale": "length of the sample relative to the atlas (factor)",
    "scale_ratio": "largest ratio of the stretch along two axes (factor)",
    "jacobian_min": "strongest local shrinkage (factor of volume)",
    "jacobian_max": "strongest local growth (factor of volume)",
    "inverse_error_um": "largest error after mapping to the sample and back (µm)",
    "landmarks.count": "landmarks",
    "landmarks.affine_mean_um": "mean distance of landmarks with the affine alone (µm)",
    "landmarks.mean_um": "mean distance of landmarks after registration (µm)",
}  # fmt: skip
COMPOSITION: dict[str, Word] = {
    "through": "labels came through the atlas",
    "files": ("by a known transform", ", ".join),
    "known.kind": "kind of that transform",
    "points_from": "it maps points of",
    "known.overlap_percent": "share of both brains that it lays on each other (%)",
    "known.jacobian_min": "its strongest local shrinkage (factor of volume)",
    "known.jacobian_max": "its strongest local growth (factor of volume)",
    "known.inverse_error_um": "its largest error after mapping there and back (µm)",
    "known.sampling_error_um": "error of the grid that holds it, 99 % are below (µm)",
    "composition_error_um": "error of the grid that holds both, 99 % are below (µm)",
    "inverse_error_um": "largest error after mapping to the sample and back (µm)",
}
CELLS: dict[str, Word] = {
    "cells": "cells",
    "settings.channel": "channel",
    "settings.diameter_um": "diameter (µm)",
    "settings.threshold": "minimum contrast (SD of the surrounding tissue)",
    "quartiles.contrast": "contrast (quartiles of the cells)",
    "saturated": "cells with saturated voxels",
    "per_mm3": "cells per mm³ of the whole volume",
    "filter.rejected": "blobs rejected by the filter",
    "filter.accuracy": ("accuracy of the filter on held-out marks (%)", percent),
    "filter.precision": ("precision of the filter: cells among the blobs it keeps (%)", percent),
    "filter.unfiltered": ("the same without the filter (%)", percent),
    "filter.recall": ("recall of the filter: marked cells that it keeps (%)", percent),
    "filter.without_blob": "marks without a blob",
}
POINTS: dict[str, Word] = {
    "points": "points",
    "atlas": "atlas",
    "outside_volume": "outside of the volume that they were given in",
    "in_region_percent": "inside a region of the atlas (%)",
}
# columns of tables
STEPS = {
    "level": "pass",
    "voxel_um": "voxel (µm)",
    "round": "rounds",
    "evaluation": "evaluations",
    "match": "misfit",
    "regularisation": "energy of the deformation",
    "landmarks": "misfit of landmarks",
    "total": "sum",
    "sigma": "noise (of bright tissue)",
}
COLUMNS = {
    "coverage": "fraction imaged",
    "count": "{objects}",
    "count_low": "{objects} at least (interval of 90 %)",
    "count_high": "{objects} at most (interval of 90 %)",
    "per_mm3": "{objects} per mm³",
    "signal_mm3": "signal (mm³)",
    "signal_percent": "signal (% of the region)",
    "length_mm": "length (mm)",
    "length_mm_per_mm3": "length per volume (mm/mm³)",
    "intensity_mean": "mean brightness of the signal (grey value)",
    "dice": "overlap (Dice)",
    "affine_dice": "overlap with the affine alone (Dice)",
    "affine_error_um": "error with the affine alone (µm)",
}
QUALITY = {
    "acronym": "region",
    "name": "name",
    "hemisphere": "side",
    "voxels": "voxels",
    "volume_mm3": "mm³",
    "fit_percent": "fit: difference (%)",
    "missing_percent": "missing (%)",
    "artefact_percent": "artefact (%)",
    "volume_ratio": "volume, median (factor)",
    "volume_ratio_low": "volume, smallest",
    "volume_ratio_high": "volume, largest",
    "error_um": "error bar (µm)",
}

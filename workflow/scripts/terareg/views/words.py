"""Words of the report for what the small files of a run hold; what has no words is not shown."""

from __future__ import annotations

from terareg.views.tables import Word, percent, size

FLATFIELD: dict[str, Word] = {
    "method": ("made from", lambda method: {"statistics": "the tiles", "image": "an image"}.get(
        method, method)),
    "profile_range": "sensitivity of a camera pixel, lowest and highest (1 is the mean)",
    "background": "dark offset (counts)",
    "background_error": "uncertainty of the dark offset (counts)",
    "background_model": "the dark offset is",
    "corrected": "corrected beside the flat-field",
    "seam_percent.before": "brightness step between neighbouring tiles, before (%)",
    "seam_percent.after": "brightness step between neighbouring tiles, after (%)",
    "tiles": "tiles that were read",
    "planes": "planes that were read",
    "tissue_fraction": ("planes that show tissue (%)", percent),
}  # fmt: skip
STRIPES: dict[str, Word] = {
    "lines": "stripes run along",
    "spread_percent": "strength of the stripes (SD over the lines, %)",
    "seam_percent.before": "brightness step between neighbouring tiles, before (%)",
    "seam_percent.after": "brightness step between neighbouring tiles, after (%)",
}
PLACEMENT = {
    "kept": "measured displacement used",
    "rejected": "contradicts the others, not used",
    "unused": "not measured well, not used",
    "empty": "no tissue in the overlap",
    "linked": "placed by their neighbours",
    "group": "placed as a group that nothing ties to the others",
    "model": "placed where the stage should have moved them",
}
VOLUME: dict[str, Word] = {
    "shape": "size z, y, x (voxels)",
    "spacing_um": "voxel size z, y, x (µm)",
    "levels": "resolutions stored",
    "formats": "formats",
    "bytes": ("size in the store", size),
    "min": "smallest value (counts)",
    "max": "largest value (counts)",
    "mean": "mean value (counts)",
    "window": "counts that pictures show black and white",
}
BIAS: dict[str, Word] = {
    "field_1_percent": "brightness, darkest hundredth (factor of the mean)",
    "field_99_percent": "brightness, brightest hundredth (factor of the mean)",
    "resolution_um": "voxel size at which it was estimated (µm)",
    "iterations": "most iterations on each level",
}
REGISTRATION: dict[str, Word] = {
    "images.sample": ("registered", ", ".join),
    "images.atlas": ("registered to", ", ".join),
    "extent": ("part of the atlas", lambda part: {"whole": "the whole"}.get(part, f"{part} half")),
    "kept": ("transform", lambda kept: {"deformation": "affine and deformation",
                                        "affine": "affine alone"}.get(kept, kept)),
    "scale": "length of the sample over that of the atlas (factor)",
    "scale_ratio": "stretch along one axis over that along another (factor)",
    "jacobian_min": "strongest local shrinkage (factor of volume)",
    "jacobian_max": "strongest local growth (factor of volume)",
    "inverse_error_um": "largest error after mapping to the sample and back (µm)",
    "landmarks.count": "landmarks",
    "landmarks.affine_mean_um": "mean distance of landmarks by the affine alone (µm)",
    "landmarks.mean_um": "mean distance of landmarks in the end (µm)",
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
    "settings.threshold": "least contrast (SD of the tissue around)",
    "quartiles.contrast": "contrast (quarter, half, three quarters of the cells are below)",
    "saturated": "cells with saturated voxels",
    "per_mm3": "cells per mm³ of the whole volume",
    "filter.rejected": "blobs that the filter left out",
    "filter.accuracy": ("the filter is right about other marks in (%)", percent),
    "filter.precision": ("of what it keeps, cells (%)", percent),
    "filter.unfiltered": ("without it (%)", percent),
    "filter.recall": ("of the marked cells it keeps (%)", percent),
    "filter.without_blob": "marks where no blob was found",
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
    "coverage": "share imaged",
    "count": "cells",
    "per_mm3": "cells per mm³",
    "signal_mm3": "signal (mm³)",
    "signal_percent": "signal (% of the region)",
    "length_mm": "length (mm)",
    "length_mm_per_mm3": "length per volume (mm/mm³)",
    "intensity_mean": "mean brightness of the signal (counts)",
    "dice": "overlap (Dice)",
    "affine_dice": "overlap by the affine alone (Dice)",
    "affine_error_um": "error by the affine alone (µm)",
}
QUALITY = {
    "acronym": "region",
    "name": "name",
    "hemisphere": "side",
    "fit_percent": "fit: difference (%)",
    "missing_percent": "missing (%)",
    "artefact_percent": "artefact (%)",
    "volume_ratio": "volume, median (factor)",
    "volume_ratio_low": "smallest",
    "volume_ratio_high": "largest",
    "error_um": "error bar (µm)",
}

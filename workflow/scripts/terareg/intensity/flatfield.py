"""Flat-field of a microscope, estimated from its own tiles.

A raw pixel of tile n is ``background + gain_n * profile(y, x) * tissue + noise``: a dark offset,
the illumination profile that all tiles share, and a brightness that may drift from tile to tile.
The mean tile of a brain is not flat, so no average of tiles is the profile. Two facts are used
instead, both as differences of log intensity in which most of the tissue cancels:

* within a tile, pixels a few blocks apart: tissue changes them by heavy-tailed amounts of either
  sign, the profile by the same amount in every tile and plane (a robust location recovers it;
  after Weiss, "Deriving intrinsic images from image sequences", ICCV 2001);
* in the overlap of two tiles: the tissue is the same, so the difference is the profile's alone, and
  it agrees for bright and for dark tissue only if the dark offset is right.

The smooth profile is exp(Legendre series) with a roughness prior whose strength is found from the
data; fixed lines of the sheet or the camera are a second factor along each axis.

It is estimated twice by the same code: from overlaps at the stage's positions, well enough to
measure displacements, and once more from overlaps at the positions found with it.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from terareg.acquisition.tile_correction import Flatfield
from terareg.core.errors import IntensityError, TeraregError
from terareg.intensity.blocks import BlockData, seam_percent
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.shading import fit_shading
from terareg.intensity.sums import merge_sums
from terareg.storage.foreign import boundary
from terareg.storage.records import write_json
from terareg.storage.store import write_atomic
from terareg.volumes.headers import describe_image, image_form
from terareg.volumes.voxels import file_voxels

logger = logging.getLogger(__name__)

_LEAST_DARK = 1.0  # counts; an offset found below is the bound of the search
_LEAST_PROFILE = 0.02  # of the mean; noise is multiplied by its inverse


def estimate_flatfield(
    sums: Sequence[Mapping[str, np.ndarray]], settings: FlatfieldSettings | None = None
) -> tuple[Flatfield, dict[str, Any]]:
    """Estimate profile and dark offset of one channel.

    Parameters
    ----------
    sums : sequence of dict
        Results of :func:`terareg.intensity.sums.sum_tiles`; their order and how tiles were shared
        among them do not matter.
    settings : FlatfieldSettings, optional

    Returns
    -------
    flatfield : Flatfield
        ``corrected = (raw - background) / profile``; the profile has mean 1.
    info : dict
        JSON-able: what was used, how the background was found, and how well overlaps agree
        before and after (``seam_percent``, None without overlaps that hold tissue).

    Raises
    ------
    IntensityError
        No tile holds signal, statistics that do not fit together, or an unusable image.
    """
    settings = settings or FlatfieldSettings()
    stats = merge_sums(sums)
    data = BlockData.of(stats, settings.overlaps)
    info: dict[str, Any] = {
        "method": settings.method,
        "tiles": len(stats["tiles"]),
        "planes": int(stats["planes"].sum()),
        "warnings": [],
    }
    if settings.method == "statistics":
        shading = fit_shading(
            data, stats, settings.degree, background=settings.background, lines=settings.lines
        )
        profile, background = shading.profile, shading.background
        gains = shading.slab_gains if settings.tile_gains == "depth" else shading.gains[:, None]
        gains = np.broadcast_to(gains, data.valid.shape) if settings.tile_gains else None
        info["seam_percent"] = seam_percent(data, background, profile, gains)
        info["background_from"] = shading.background_from
        info["tile_gains"] = settings.tile_gains
        info["gains"] = dict(zip(stats["tiles"].tolist(), shading.gains.tolist()))
        if settings.tile_gains == "depth":
            info["depth_gains"] = {
                str(name): {"planes": planes[seen].tolist(), "values": gains[seen].tolist()}
                for name, planes, gains, seen in zip(
                    stats["tiles"], stats["depths"], gains, data.valid
                )
                if seen.any()
            }
        info["line_percent"] = dict(zip(("rows", "columns"), shading.line_percent))
        if shading.background_from == "overlaps" and shading.background < _LEAST_DARK:
            info["warnings"].append(
                f"the search for the dark offset ended at its lower bound "
                f"({shading.background:.1f} counts), which cameras do not have; look at the "
                "flat-field and give intensity.flatfield.background"
            )
        if shading.background_from == "darkest blocks":
            info["warnings"].append(
                f"no overlaps with signal, so the background of {background:.4g} counts is the "
                "level of the darkest blocks; set background if the camera's offset is known"
            )
    else:
        profile, background, info["background_from"] = _given(data, settings)
        info["seam_percent"] = seam_percent(data, background, profile)
    info["background"] = float(background)
    info["profile_range"] = [float(profile.min()), float(profile.max())]
    info["tissue_fraction"] = data.tissue_fraction(background)
    if not np.isfinite(profile).all() or profile.min() < _LEAST_PROFILE:
        raise IntensityError(
            f"flat-field profile falls to {float(profile.min()):.3g} of its mean; the tiles do "
            "not determine it, lower degree or give an image of the profile"
        )
    for text in info["warnings"]:
        logger.warning("flat-field: %s", text)
    return Flatfield(profile=profile, background=float(background)), info


def _given(data: BlockData, settings: FlatfieldSettings) -> tuple[np.ndarray, float, str]:
    """Profile and background that are the user's, and where the background comes from."""
    shape = int(data.edges[0][-1]), int(data.edges[1][-1])
    if settings.image is None:
        profile = np.ones(shape, np.float32)
    else:
        profile = read_profile(settings.image, shape)
    if settings.background is not None:
        return profile, settings.background, "given"
    if settings.image is None:
        return profile, 0.0, "none"
    return profile, data.lowest(), "darkest blocks"


def read_profile(path: str | os.PathLike, shape: tuple[int, int]) -> np.ndarray:
    """Read a user's profile from a TIFF and scale it to mean 1, float32 of ``shape`` (y, x)."""
    name = f"flat-field image {path}"
    with boundary(name, IntensityError, "give a TIFF"):
        if image_form(os.fspath(path)) != "TIFF":
            raise ValueError("its name does not end in .tif")
        try:
            header = describe_image(os.fspath(path), believed=False)
        except TeraregError as error:
            raise IntensityError(f"flat-field image: {error}") from error
        # the shape first: what a compressed file grows to is not known before
        if header.shape != (1, *shape) or header.channels != 1:
            found = header.shape[1:] if header.shape[0] == header.channels == 1 else header.shape
            raise IntensityError(
                f"{name} has shape {found}, the tiles {tuple(shape)}; give one of the tiles' shape"
            )
        image = file_voxels(os.fspath(path), header)[0]
    image = image.astype(np.float64)
    if not np.isfinite(image).all() or image.min() <= 0:
        raise IntensityError(
            f"flat-field image {path} has values that are zero, negative or not finite; give a "
            "profile that is positive everywhere"
        )
    return (image / image.mean()).astype(np.float32)


def save_flatfield(
    tif_path: str | os.PathLike,
    json_path: str | os.PathLike,
    flatfield: Flatfield,
    info: Mapping[str, Any],
) -> None:
    """Write the profile as a float32 TIFF and the rest as JSON, deterministic bytes."""
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        np.ascontiguousarray(flatfield.profile, dtype="<f4"),
        byteorder="<",
        photometric="minisblack",
        software=False,
        metadata=None,
    )
    Path(tif_path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(tif_path, stream.getvalue())
    write_json(json_path, {**info, "background": float(flatfield.background)})

"""Flat-field of a microscope, estimated from its own tiles.

A raw pixel of tile n is ``background + additive(y, x) + gain_n * profile(y, x) * tissue + noise``:
a dark offset, stray light, the flat-field that all tiles share, and a brightness that may drift
from tile to tile.
The mean tile of a brain is not flat, so averaging tiles does not give the profile. Instead two
facts are used, both as differences of log intensity in which most of the tissue cancels:

* within a tile, pixels a few blocks apart: tissue changes them by heavy-tailed amounts of either
  sign, the profile by the same amount in every tile and plane (a robust location recovers it;
  after Weiss, "Deriving intrinsic images from image sequences", ICCV 2001);
* in the overlap of two tiles: the tissue is the same, so the difference is the profile's alone, and
  it agrees for bright and for dark tissue only if the dark offset is right.

Where tiles without tissue show that the background is not constant, an additive image replaces the
dark offset if the overlaps agree better with it. Differences from tile to tile (gains, their change
with depth, stripe artefacts) are found from the overlaps too.

The smooth profile is exp(Legendre series) with a roughness prior whose strength is found from the
data; fixed lines of the light-sheet or the camera are a second factor along each axis.

The flat-field is estimated twice by the same code: first from overlaps at the positions of the
stage, well enough to measure displacements, then from overlaps at the positions found with it.
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

from terareg.acquisition.tile_correction import Flatfield, smooth_image
from terareg.core.errors import IntensityError, TeraregError, few
from terareg.intensity.blocks import BlockData, seam_percent
from terareg.intensity.evidence import Evidence, gather_evidence
from terareg.intensity.saturation import SATURATED_PERCENT, saturation
from terareg.intensity.settings import FlatfieldSettings
from terareg.intensity.shading import Shading, block_centres, fit_shading
from terareg.intensity.slope import Slope
from terareg.intensity.sums import merge_sums
from terareg.storage.foreign import boundary
from terareg.storage.records import write_json
from terareg.storage.store import write_atomic
from terareg.volumes.headers import describe_image, image_form
from terareg.volumes.voxels import file_voxels

logger = logging.getLogger(__name__)

_LEAST_DARK = 1.0  # counts; a smaller dark offset is only the bound of the search
_OFFSET_SIGMAS = 2.0  # standard errors of the dark offset that are allowed for
_UNEVEN = 3.0  # percent of brightness within a tile that these may make, and
_OFF_LEVEL = 20.0  # percent of brightness, above which the offset should be given
_LARGE_STEP = 1.0  # percent between corrected tiles, above which the causes are named
_LEAST_PROFILE = 0.02  # of the mean; dividing by the profile multiplies noise by its inverse


def estimate_flatfield(
    sums: Sequence[Mapping[str, np.ndarray]], settings: FlatfieldSettings | None = None
) -> tuple[Flatfield, dict[str, Any]]:
    """Estimate profile and dark offset of one channel.

    Parameters
    ----------
    sums : sequence of dict
        Results of :func:`terareg.intensity.sums.sum_tiles`; neither their order nor the division
        of tiles among them matters.
    settings : FlatfieldSettings, optional

    Returns
    -------
    flatfield : Flatfield
        ``corrected = (raw - background - additive) / profile``; the profile has mean 1.
    info : dict
        JSON-able: what was used, how the background was found, and how well overlaps agree
        before and after (``seam_percent``, None without overlaps that hold tissue).

    Raises
    ------
    IntensityError
        If no tile holds signal, statistics do not belong together, or an image is unusable.
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
    saturated = saturation(stats["peak"].tolist())
    info["saturated_at"] = saturated and saturated["at"]
    info["saturated_percent"] = saturated["percent"] if saturated else 0.0
    if saturated and saturated["percent"] > SATURATED_PERCENT:
        bits = f", the limit of {saturated['bits']} bits" if saturated["bits"] else ""
        info["warnings"].append(
            f"{saturated['percent']:.2g} % of the raw pixels are saturated at {saturated['at']} "
            f"counts{bits}: the brightness of these places is lost, so lower the exposure next time"
        )
    additive = None
    if settings.method == "statistics" and len(stats["tiles"]) == 1:
        profile, background = _of_one_tile(data, settings, info)
    elif settings.method == "statistics":
        profile, background, additive = _from_tiles(data, stats, settings, info)
    else:
        profile, background, info["background_from"] = _given(data, settings)
        info["seam_percent"] = seam_percent(data, background, profile)
    info["background"] = float(background)
    info["profile_range"] = [float(profile.min()), float(profile.max())]
    info["tissue_fraction"] = data.tissue_fraction(background)
    shares = (round(share, 4) for share in data.tissue_by_tile(background))
    info["tissue_by_tile"] = dict(zip(stats["tiles"].tolist(), shares))
    if not np.isfinite(profile).all() or profile.min() < _LEAST_PROFILE:
        raise IntensityError(
            f"flat-field profile falls to {float(profile.min()):.3g} of its mean, so the tiles do "
            "not determine it; lower intensity.flatfield.degree or give an image of the profile"
        )
    for text in info["warnings"]:
        logger.warning("flat-field: %s", text)
    return Flatfield(profile=profile, background=float(background), additive=additive), info


def _of_one_tile(
    data: BlockData, settings: FlatfieldSettings, info: dict[str, Any]
) -> tuple[np.ndarray, float]:
    """Flat profile: in a single tile the sample and the microscope cannot be told apart."""
    given = settings.background is not None
    background = settings.background if given else data.lowest()
    data.check_signal(background)
    info["seam_percent"] = None
    info["background_from"] = "given" if given else "darkest blocks"
    info["warnings"].append(
        "shading and tissue cannot be told apart in a single tile, so the profile is left flat "
        f"and {background:.4g} counts are subtracted; give intensity.flatfield.image if you have "
        "a flat-field"
    )
    return np.ones((int(data.edges[0][-1]), int(data.edges[1][-1])), np.float32), background


def _from_tiles(
    data: BlockData,
    stats: Mapping[str, np.ndarray],
    settings: FlatfieldSettings,
    info: dict[str, Any],
) -> tuple[np.ndarray, float, np.ndarray | None]:
    """Profile, background and additive image of the tiles; everything else goes into ``info``."""
    every = settings.tiles in ("all", 1)
    shading = fit_shading(
        data, stats, settings.degree, background=settings.background, lines=settings.lines,
        gains=settings.tile_gains is not False and every,
    )  # fmt: skip
    profile, background, additive = shading.profile, shading.background, None
    raw = data
    if shading.additive is not None:
        grid = dict(zip("yx", (c.tolist() for c in block_centres(data.edges))))
        info["additive"] = {"values": shading.additive.tolist(), **grid}
        additive = smooth_image(**info["additive"], shape=profile.shape)
        info["additive_range"] = [float(additive.min()), float(additive.max())]
        data = data.less(additive, 0.0)
    evidence = gather_evidence(shading.problem, shading.fit, shading.rest)
    chosen = settings.tile_gains
    if chosen == "auto":
        chosen = evidence.gains if evidence is not None and every else False
        chosen = chosen or any(shading.fading)
    gains = np.broadcast_to(shading.gains, data.valid.shape)
    total = np.where(data.valid, np.log(gains), 0).sum(1)
    of_tile = np.exp(total / np.maximum(data.valid.sum(1), 1))
    used = {"depth": gains, True: np.broadcast_to(of_tile[:, None], gains.shape)}.get(chosen)
    info["seam_percent"] = seam_percent(data, background, profile, used)
    if additive is not None and info["seam_percent"] is not None:
        info["seam_percent"]["before"] = seam_percent(raw, background, profile)["before"]
    info["background_from"] = shading.background_from
    info["background_model"] = _background_model(shading)
    info["background_error"] = shading.background_error
    info["background_effect"] = _offset_effect(shading)
    info["hidden_fading"] = {
        line: 100 * float(np.expm1(value)) if np.isfinite(value) else "any"
        for line, value in zip(("rows", "columns"), shading.hidden)
        if value
    }
    info["disagreement"] = shading.disagreement
    if shading.floor is not None:
        floor = shading.floor
        info["without_tissue"] = {
            "share": floor.share, "tiles": floor.tiles, "spread": floor.spread,
        }  # fmt: skip
    info["tile_gains"] = chosen
    info["gains"] = dict(zip(stats["tiles"].tolist(), of_tile.tolist()))
    if chosen == "depth":
        info["depth_gains"] = {
            str(name): {"planes": planes[seen].tolist(), "values": gains[seen].tolist()}
            for name, planes, gains, seen in zip(stats["tiles"], stats["depths"], gains, data.valid)
            if seen.any()
        }
    info["line_percent"] = dict(zip(("rows", "columns"), shading.line_percent))
    if evidence is not None:
        info["step_percent"] = evidence.percent
        info["stripes"] = evidence.stripes
        info["corrected"] = _corrected(evidence, chosen, additive is not None)
    if data.blank:
        names = [str(stats["tiles"][tile]) for tile in data.blank]
        info["warnings"].append(
            f"{len(names)} of {len(data.mean)} tiles show nothing where their neighbours show "
            f"tissue ({few(names)}), so the flat-field was estimated without their overlaps; look "
            "at them, copy them again or leave them out"
        )
    info["warnings"] += _doubts(shading, info)
    return profile, background, additive


def _background_model(shading: Shading) -> str:
    """What is subtracted, and why."""
    if shading.additive is not None:
        return "an additive image, which explains the overlaps better than a constant"
    if shading.background_from == "given":
        return "the given constant"
    if shading.floor is None:
        return "a constant: there are too few tiles without tissue to estimate an additive image"
    if "image" in shading.disagreement:
        return "a constant: an additive image explains the overlaps no better"
    return "a constant, which explains the tiles without tissue"


def _corrected(evidence: Evidence, gains: bool | str, additive: bool) -> str:
    """What is corrected besides the profile, in words with figures."""
    steps = evidence.percent
    found = []
    if additive:
        found.append(f"additive image ({steps['additive image']:.2g} %)")
    if gains is True or (gains and steps["gain of tiles"]):
        found.append(f"gains of tiles ({steps['gain of tiles']:.2g} %)")
    if gains == "depth":
        found.append(f"their change with depth ({steps['gain with depth']:.2g} %)")
    return ", ".join(found) or "nothing beside profile and background"


def _doubts(shading: Shading, info: Mapping[str, Any]) -> list[str]:
    """Warnings: sentences about what the user should check."""
    found = []
    background, source = shading.background, shading.background_from
    if source == "overlaps" and background < _LEAST_DARK:
        found.append(
            f"the dark offset ended at its lower bound ({background:.1f} counts), which no camera "
            "has; inspect the flat-field and set intensity.flatfield.background"
        )
    if source == "overlaps":
        found += _unsure_offset(shading, info["background_effect"])
    if source == "darkest blocks":
        found.append(
            f"no overlaps with signal, so the background of {background:.4g} counts is the level "
            "of the darkest blocks; set intensity.flatfield.background if the dark offset of the "
            "camera is known"
        )
    if shading.additive is not None:
        size = float(np.ptp(shading.additive))
        if size > shading.signal:
            found.append(
                f"the additive image varies by {size:.4g} counts but tissue adds only "
                f"{shading.signal:.4g} to it, so the corrected signal is a small difference of "
                "large numbers; keep stray light from the camera or raise the exposure"
            )
    if shading.slope is not None:
        found.append(_faded(shading, shading.slope))
    seams, steps = info["seam_percent"], info.get("step_percent")
    if seams is not None and steps and seams["beyond"] > _LARGE_STEP:
        parts = ", ".join(f"{name} {size:.2g} %" for name, size in steps.items())
        found.append(
            f"neighbouring tiles differ by {seams['after']:.2g} % where they overlap, "
            f"{seams['beyond']:.2g} % beyond noise; differences found in the overlaps: {parts}; "
            f"corrected: {info['corrected']}"
            + (
                f", stripes along {info['stripes']} (see the part on stripe artefacts)"
                * (info["stripes"] != "none")
            )
        )
    return found


def _offset_effect(shading: Shading) -> dict[str, float]:
    """What two standard errors of the dark offset make of the brightness of tissue, percent.

    ``uneven``: difference between the brightest and the darkest places of the field; ``level``:
    in the middle of it.
    """
    error = _OFFSET_SIGMAS * (shading.background_error or 0.0) / max(shading.signal, 1e-6)
    low, high = np.quantile(shading.profile, (0.02, 0.98)).tolist()
    return {"uneven": 100 * error * (1 / low - 1 / high), "level": 100 * error}


def _unsure_offset(shading: Shading, effect: Mapping[str, float]) -> list[str]:
    """A sentence where overlaps tell the dark offset too roughly for the brightness of tissue."""
    if effect["uneven"] <= _UNEVEN and effect["level"] <= _OFF_LEVEL:
        return []
    return [
        f"the overlaps tell the dark offset no better than {shading.background:.0f} +- "
        f"{shading.background_error:.0f} counts, so tissue that is brighter or darker than most "
        f"may be off by {effect['level']:.2g} % and uneven within the tiles by "
        f"{effect['uneven']:.2g} %; set intensity.flatfield.background to what the camera counts "
        "without light, or to what channels of the same camera show that are surer of it"
    ]


def _faded(shading: Shading, slope: Slope) -> str:
    """A sentence about brightness that changes evenly from tile to tile."""
    words = [
        f"{100 * abs(float(np.expm1(value))):.2g} % along {axis}"
        for axis, value in zip("yx", slope.over_tile)
        if value
    ]
    seen = (
        f"the overlaps would have the profile slope by {' and '.join(words)} more than brightness "
        "does within the tiles: tiles get evenly darker or brighter from row to row or from column "
        "to column, as by bleaching or a fading lamp"
    )
    if not any(shading.fading):
        return (
            f"{seen}; it is left in the profile, since gains of tiles are not corrected: set "
            "intensity.flatfield.tile_gains: auto and tiles: all"
        )
    steps = [
        f"{100 * float(np.expm1(value)):+.2g} % from {line} to {line}"
        for line, value in zip(("row", "column"), shading.fading)
        if value
    ]
    return f"{seen}; it is corrected as gains of tiles ({', '.join(steps)})"


def _given(data: BlockData, settings: FlatfieldSettings) -> tuple[np.ndarray, float, str]:
    """Profile and background given by the user, and the source of the background."""
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
        # the shape is checked before reading, because a compressed file may grow to any size
        if header.shape != (1, *shape) or header.channels != 1:
            found = header.shape[1:] if header.shape[0] == header.channels == 1 else header.shape
            raise IntensityError(
                f"{name} has shape {found} but the tiles have {tuple(shape)}; give one with the "
                "shape of a tile"
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

"""The shading of a channel, and how it is removed from its planes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tifffile
from scipy.interpolate import CubicSpline

from terareg.acquisition.line_gains import LineGains
from terareg.core.errors import IntensityError
from terareg.core.numeric import Clipped, to_integer
from terareg.storage.records import fingerprint, read_json

_BAND_VOXELS = 1 << 16  # corrected at once, so that the float32 copies stay in the cache


@dataclass(frozen=True)
class Gain:
    """Relative brightness of a tile at some planes, linear between them and constant beyond."""

    planes: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, z: int) -> float:
        """Gain of plane ``z``."""
        return float(np.interp(z, self.planes, self.values))


@dataclass(frozen=True, eq=False)
class Flatfield:
    """Shading of a channel: ``raw = true * gain * stripe * profile + background + additive``.

    Attributes
    ----------
    profile : numpy.ndarray of float32, shape (y, x)
        Relative sensitivity, mean 1, positive everywhere.
    background : float
        Dark offset of the camera in counts.
    gains : mapping of str to Gain
        Relative brightness of tiles by name; 1 for those that are not in it.
    stripes : LineGains, optional
        Relative brightness of the lines of tiles.
    additive : numpy.ndarray of float32, shape (y, x), optional
        Counts added to each pixel besides ``background``, mean 0.
    """

    profile: np.ndarray
    background: float
    gains: Mapping[str, Gain] = field(default_factory=dict)
    stripes: LineGains | None = None
    additive: np.ndarray | None = None

    def __post_init__(self) -> None:
        profile = np.ascontiguousarray(self.profile, np.float32)
        object.__setattr__(self, "profile", profile)
        object.__setattr__(self, "background", float(self.background))
        if profile.ndim != 2 or profile.size == 0:
            raise IntensityError(
                f"flat-field of shape {profile.shape} is not an image; give one with two dimensions"
            )
        if not np.all(np.isfinite(profile)) or profile.min() <= 0:
            raise IntensityError(
                "flat-field has values that are zero, negative or not finite; give a profile that "
                "is positive everywhere, with mean 1"
            )
        if not np.isfinite(self.background):
            raise IntensityError(
                f"dark offset {self.background} is not finite; give it in counts of the camera"
            )
        if self.additive is not None:
            additive = np.ascontiguousarray(self.additive, np.float32)
            object.__setattr__(self, "additive", additive)
            if additive.shape != profile.shape or not np.isfinite(additive).all():
                raise IntensityError(
                    f"additive image of shape {additive.shape} does not fit a profile of shape "
                    f"{profile.shape}, or is not finite everywhere; run estimate_flatfield again"
                )
        for tile, gain in self.gains.items():
            wrong = [value for value in gain.values if not 0 < value < np.inf]
            if wrong:
                raise IntensityError(
                    f"gain {wrong[0]} of tile {tile} is impossible; give a positive number, or set "
                    "intensity.flatfield.tile_gains to false"
                )

    @property
    def state(self) -> str:
        """Digest of everything that determines how pixels are corrected."""
        profile = hashlib.sha256(self.profile.tobytes()).hexdigest()
        gains = {tile: [gain.planes, gain.values] for tile, gain in self.gains.items()}
        stripes = self.stripes.digest if self.stripes else None
        image = self.additive
        additive = None if image is None else hashlib.sha256(image.tobytes()).hexdigest()
        return fingerprint(profile, self.profile.shape, self.background, gains, stripes, additive)

    def dark(self, y: slice = slice(None), x: slice = slice(None)) -> np.ndarray:
        """Counts to subtract from a part of a plane, float32: (), or (rows, columns)."""
        background = np.array(self.background, np.float32)
        return background if self.additive is None else self.additive[y, x] + background

    def correct(
        self,
        plane: np.ndarray,
        y: slice = slice(None),
        x: slice = slice(None),
        place: tuple[str, int] | None = None,
        out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Clipped]:
        """Remove dark offset and shading, in float32.

        It is ``(plane - background - additive) / (profile * gain * stripe)``.

        Parameters
        ----------
        plane : numpy.ndarray of uint8 or uint16, shape (rows, columns)
            A whole plane, or the part of it that ``y`` and ``x`` cut out.
        y, x : slice
            Where the part lies in the plane.
        place : (str, int), optional
            Name of the tile and number of the plane, so that their gain and stripes are removed
            too.
        out : numpy.ndarray, optional
            Array of the plane's shape and dtype to put the result into.

        Returns
        -------
        corrected : numpy.ndarray
            Same shape and dtype; rounded, clipped, never wrapped. The dark offset becomes 0.
            ``out``, if given.
        clipped : Clipped
            Pixels that fell below 0 or above the type's largest value.

        Raises
        ------
        IntensityError
            If the flat-field has another size than the plane.
        """
        profile = self.profile[y, x]
        if plane.shape != profile.shape:
            raise IntensityError(
                f"flat-field has {self.profile.shape} pixels but the plane has {plane.shape}; "
                "estimate it from tiles of this acquisition"
            )
        if out is None:
            out = np.empty_like(plane)
        dark = self.dark(y, x)
        if place is not None and place[0] in self.gains:
            profile = profile * np.float32(self.gains[place[0]].at(place[1]))
        if place is not None and self.stripes is not None:
            lines = self.stripes.of(*place)
            profile = profile * (lines[y] if lines.shape[1] == 1 else lines[:, x])
        clipped = Clipped()
        rows = max(1, _BAND_VOXELS // plane.shape[1])
        buffer = np.empty((rows, plane.shape[1]), np.float32)
        for start in range(0, plane.shape[0], rows):
            band = slice(start, start + rows)
            values = buffer[: plane[band].shape[0]]
            values[...] = plane[band]
            values -= dark if self.additive is None else dark[band]
            values /= profile[band]
            clipped += to_integer(values, plane.dtype, out[band], overwrite=True)[1]
        return out, clipped


def load_flatfield(
    tif: str | os.PathLike, json: str | os.PathLike, stripes: LineGains | None = None
) -> Flatfield:
    """Read a flat-field: the profile from a TIFF, the rest from the JSON beside it.

    If ``tile_gains`` says so, gains are used: one per tile, or one per depth of a tile.
    """
    info = read_json(json)
    if not isinstance(info, dict) or not isinstance(info.get("background"), (int, float)):
        raise IntensityError(f"{json} has no number 'background'; run estimate_flatfield again")
    try:
        profile = tifffile.imread(tif)
    except (OSError, ValueError) as error:
        raise IntensityError(
            f"{tif} cannot be read ({error}); run estimate_flatfield again"
        ) from error
    gains = {}
    if info.get("tile_gains") == "depth":
        gains = {tile: Gain(**gain) for tile, gain in info["depth_gains"].items()}
    elif info.get("tile_gains"):
        gains = {tile: Gain((0.0,), (gain,)) for tile, gain in info["gains"].items()}
    additive = None
    if info.get("additive"):
        additive = smooth_image(**info["additive"], shape=profile.shape)
    return Flatfield(profile, info["background"], gains, stripes, additive)


def smooth_image(
    values: Sequence[Sequence[float]] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    x: Sequence[float] | np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Natural cubic spline through values (y, x) at pixel coordinates: float32 of ``shape``."""
    image = np.asarray(values, np.float64)
    for axis, places in enumerate((y, x)):
        pixels = np.arange(shape[axis], dtype=np.float64)
        if len(places) < 3:
            weights = np.stack([np.interp(pixels, places, unit) for unit in np.eye(len(places))], 1)
        else:
            weights = CubicSpline(places, np.eye(len(places)), bc_type="natural")(pixels)
        image = np.einsum("pk,k...->p...", weights, image)
        image = image.swapaxes(0, 1)
    return image.astype(np.float32)

"""Cut any volume into a COLM acquisition with known tile positions and known camera and optics.

Frames: the *fused frame* starts at the smallest tile origin of all scanned tiles; its point
(0, 0, 0) um is the centre of the first voxel. Tile origins are given in its voxels.

A pixel of tile t, channel c is::

    count = dark + scale * signal * profile_c(y, x) * (1 + stripes_t(z, y)) + noise

with ``profile`` of mean 1, shot noise of variance ``counts_per_electron * (count - dark)`` and read
noise of constant standard deviation, then rounded and clipped to 16 bits.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tifffile

from terareg.core.errors import AcquisitionError, ConfigError
from terareg.core.frames import Frame
from terareg.core.numeric import to_integer
from terareg.phantom.fields import SplineField

logger = logging.getLogger(__name__)

#: ``volume(start, stop)`` gives float32 (channels, z, y, x) counts above the dark offset.
VolumeFunction = Callable[[Sequence[int], Sequence[int]], np.ndarray]

_FIELD_UM = 1.46 * 2048
_BLOCK_PLANES = 32
NAME_SCHEMES = {
    "long": "VW0_{tile}D_CM0_CHN{channel:02d}_PLN{plane:04d}.tif",
    "short": "CHN{channel:02d}_PLN{plane:04d}.tif",
}


@dataclass(frozen=True)
class ColmSettings:
    """Stage, optics and camera of the acquisition.

    Attributes
    ----------
    rows, columns : int
        Grid of tiles.
    tile_pixels : tuple of int
        Tile size (y, x).
    planes : int
        Planes of each tile.
    overlap : float
        Nominal overlap of neighbours as a fraction of the tile.
    step_um : float
        Distance between planes.
    empty : tuple of (row, column)
        Cells that were never scanned.
    jitter_vox : tuple of int
        Largest random offset of a tile along (z, y, x).
    drift_row_vox, drift_column_vox : tuple of float
        Offset (z, y, x) that each further row or column adds.
    vignetting : tuple of float
        Loss at the corners, per channel.
    dark : tuple of float
        Camera offset, counts, per channel.
    stripes : float
        Standard deviation of the relative stripe pattern along x, new in each tile.
    counts_per_electron, read_noise : float
        Shot noise and read noise (counts); 0 switches either off.
    scale : float
        Counts per unit of the volume.
    saturated_spots : int
        Number of spots of 65535 per channel in the whole acquisition.
    names : str
        ``long`` (VW0_LOC000D_CM0_CHN00_PLN0000.tif) or ``short`` (CHN00_PLN0000.tif).
    seed : int
        Seed of all random numbers.
    """

    rows: int = 3
    columns: int = 4
    tile_pixels: tuple[int, int] = (192, 192)
    planes: int = 112
    overlap: float = 0.15
    step_um: float = 50.0
    empty: tuple[tuple[int, int], ...] = ()
    jitter_vox: tuple[int, int, int] = (1, 3, 3)
    drift_row_vox: tuple[float, float, float] = (0.5, 0.0, 1.0)
    drift_column_vox: tuple[float, float, float] = (-0.5, -1.0, 0.0)
    vignetting: tuple[float, ...] = (0.35, 0.4, 0.3)
    dark: tuple[float, ...] = (180.0, 240.0, 120.0)
    stripes: float = 0.025
    counts_per_electron: float = 2.0
    read_noise: float = 8.0
    scale: float = 1.0
    saturated_spots: int = 6
    names: str = "long"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.names not in NAME_SCHEMES:
            raise ConfigError(
                f"names: {self.names!r} is unknown; use one of {sorted(NAME_SCHEMES)}"
            )
        if self.rows < 1 or self.columns < 1 or self.planes < 1 or min(self.tile_pixels) < 8:
            raise ConfigError(
                f"grid {self.rows} x {self.columns}, tiles {self.tile_pixels}, {self.planes} "
                "planes: nothing to cut; use at least one tile of 8 x 8 pixels and one plane"
            )
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap: {self.overlap} is not in 0 <= overlap < 1")
        if not self.scanned_cells():
            raise ConfigError("empty: all cells are empty; leave at least one to be scanned")

    def scanned_cells(self) -> list[tuple[int, int]]:
        """Cells (row, column) that hold a tile, row by row."""
        return [
            (row, column)
            for row in range(self.rows)
            for column in range(self.columns)
            if (row, column) not in self.empty
        ]

    def tile_name(self, row: int, column: int) -> str:
        """Folder name of a cell, for example ``LOC007``."""
        return f"LOC{column + row * self.columns:03d}"

    def pixel_um(self) -> float:
        """Pixel size that the microscope's 4x objective gives for this tile width."""
        return _FIELD_UM / self.tile_pixels[1]


@dataclass(frozen=True)
class TrueOrigins:
    """True and nominal tile origins, voxels (z, y, x).

    Attributes
    ----------
    true : dict of str to tuple of int
        Origin of each tile in the fused frame; the smallest is 0 along every axis.
    nominal : dict of str to tuple of float
        Stage position; cell (0, 0) is at 0, even if that cell is empty.
    shape : tuple of int
        Shape of the union of all tiles.
    """

    true: dict[str, tuple[int, int, int]]
    nominal: dict[str, tuple[float, float, float]]
    shape: tuple[int, int, int]

    def frame(self, settings: ColmSettings, orientation: str, spacing_um=None) -> Frame:
        """Fused frame of the acquisition."""
        pixel = settings.pixel_um()
        return Frame(
            self.shape, spacing_um or (settings.step_um, pixel, pixel), (0, 0, 0), orientation
        )


def place_tiles(settings: ColmSettings) -> TrueOrigins:
    """Draw the true tile origins: nominal grid, drift per row and column, integer jitter."""
    rng = np.random.default_rng([settings.seed, 11])
    size = np.array([settings.planes, *settings.tile_pixels])
    step = np.array(settings.tile_pixels) * (1 - settings.overlap)
    true: dict[str, np.ndarray] = {}
    nominal: dict[str, tuple[float, float, float]] = {}
    for row in range(settings.rows):
        for column in range(settings.columns):
            jitter = rng.integers(-np.array(settings.jitter_vox), np.array(settings.jitter_vox) + 1)
            if (row, column) in settings.empty:
                continue
            stage = np.array([0.0, row * step[0], column * step[1]])
            drift = row * np.array(settings.drift_row_vox) + column * np.array(
                settings.drift_column_vox
            )
            name = settings.tile_name(row, column)
            nominal[name] = tuple(float(v) for v in stage)
            true[name] = np.rint(stage + drift).astype(int) + jitter
    first = np.min(list(true.values()), axis=0)
    last = np.max(list(true.values()), axis=0) + size
    origins: dict[str, tuple[int, int, int]] = {
        name: tuple(int(v) for v in origin - first) for name, origin in true.items()
    }
    return TrueOrigins(origins, nominal, tuple(int(v) for v in last - first))


def from_array(array: np.ndarray, offset: Sequence[int] = (0, 0, 0)) -> VolumeFunction:
    """Volume function of an array (z, y, x) or (channels, z, y, x); 0 outside.

    ``offset`` is the position of the array's first voxel in the fused frame.
    """
    data = array if array.ndim == 4 else array[None]

    def volume(start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        out = np.zeros((len(data), *(b - a for a, b in zip(start, stop))), np.float32)
        source, target = [slice(None)], [slice(None)]
        for a, b, o, n in zip(start, stop, offset, data.shape[1:]):
            low, high = max(a - o, 0), min(b - o, n)
            source.append(slice(low, max(low, high)))
            target.append(slice(low + o - a, max(low, high) + o - a))
        out[tuple(target)] = data[tuple(source)]
        return out

    return volume


def vignetting_profile(settings: ColmSettings, channel: int) -> np.ndarray:
    """Smooth illumination profile (y, x), float32, mean 1, off-centre and lopsided."""
    rng = np.random.default_rng([settings.seed, 12, channel])
    height, width = settings.tile_pixels
    y = np.linspace(-1, 1, height)[:, None] - rng.uniform(-0.12, 0.12)
    x = np.linspace(-1, 1, width)[None] - rng.uniform(-0.12, 0.12)
    radius = 0.5 * (y * y * rng.uniform(0.85, 1.15) + x * x * rng.uniform(0.85, 1.15))
    profile = 1 - _cycle(settings.vignetting, channel) * radius * (0.8 + 0.2 * radius)
    profile = profile * (1 + 0.03 * x * rng.choice([-1, 1]) + 0.02 * y * rng.choice([-1, 1]))
    profile = np.clip(profile, 0.05, None)
    return (profile / profile.mean()).astype(np.float32)


@dataclass
class _Camera:
    """Noise sources and spots of one tile and channel."""

    settings: ColmSettings
    channel: int
    tile: int
    profile: np.ndarray
    spots: list[tuple[int, int, int]]
    stripes: SplineField = field(init=False)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.settings.seed, 13, self.channel, self.tile])
        size = (self.settings.planes, self.settings.tile_pixels[0], 1)
        self.stripes = SplineField.random(self.rng, size, (3.0, 1.8, 1e6)).scaled(
            self.settings.stripes * 0.4794**0.5
        )

    def expose(self, signal: np.ndarray, first_plane: int) -> np.ndarray:
        """Turn signal (z, y, x), counts above dark, into uint16 counts."""
        s = self.settings
        planes = np.arange(first_plane, first_plane + len(signal))
        stripes = self.stripes.grid([planes, np.arange(signal.shape[1]), np.zeros(1)])[0]
        counts = signal * np.float32(s.scale) * self.profile * (1 + stripes)
        for z, y, x in self.spots:
            if first_plane - 1 <= z <= first_plane + len(signal):
                _burn(counts, z - first_plane, y, x)
        noise = self.rng.standard_normal(counts.shape, dtype=np.float32)
        noise *= np.sqrt(
            np.float32(s.read_noise**2)
            + np.float32(s.counts_per_electron) * np.clip(counts, 0, None)
        )
        counts += noise + np.float32(_cycle(s.dark, self.channel))
        return to_integer(counts, np.uint16)[0]


def _burn(counts: np.ndarray, z: int, y: int, x: int) -> None:
    """Add a saturated spot, three planes deep and about seven pixels wide."""
    for plane in range(max(z - 1, 0), min(z + 2, len(counts))):
        yy, xx = np.ogrid[: counts.shape[1], : counts.shape[2]]
        counts[plane] += 4e5 * np.exp(-0.5 * (((yy - y) / 1.6) ** 2 + ((xx - x) / 1.6) ** 2))


def write_colm(
    volume: VolumeFunction,
    raw: Path,
    truth: Path,
    settings: ColmSettings,
    channels: Sequence[str] = ("ch0", "ch1"),
    clean_stride: int = 8,
) -> dict:
    """Cut ``volume`` into tiles and write the acquisition and its truth.

    Parameters
    ----------
    volume : callable
        See :data:`VolumeFunction`; voxels of the fused frame. At most 32 planes of one tile are
        requested at a time.
    raw : path
        New folder for ``Experiment.ini``, ``Scanned Cells.txt`` and ``VW0/LOCnnn/*.tif``.
    truth : path
        Folder for ``profile_{channel}.tif`` (float32, mean 1) and ``clean_{channel}.tif``
        (uint16: every ``clean_stride``-th plane of the fused volume without camera and optics).
    settings : ColmSettings
    channels : sequence of str
        One name per channel of ``volume``.
    clean_stride : int
        0 writes no clean planes.

    Returns
    -------
    dict
        Entries for ``truth.json``: ``tiles`` (origin_vox, nominal_vox, row, column by name),
        ``shape``, ``channels`` (name, dark, profile, clean, clean_stride), ``saturated_spots_vox``
        (centres in the fused frame).

    Raises
    ------
    AcquisitionError
        If ``raw`` already holds an acquisition.
    """
    raw, truth = Path(raw), Path(truth)
    if (raw / "VW0").exists():
        raise AcquisitionError(
            f"{raw} already contains an acquisition; delete it or choose another folder"
        )
    placement = place_tiles(settings)
    (raw / "VW0").mkdir(parents=True)
    truth.mkdir(parents=True, exist_ok=True)
    profiles = [vignetting_profile(settings, k) for k in range(len(channels))]
    spots = _draw_spots(settings, len(channels))
    for tile, (row, column) in enumerate(settings.scanned_cells()):
        name = settings.tile_name(row, column)
        (raw / "VW0" / name).mkdir()
        cameras = [
            _Camera(settings, k, tile, profiles[k], spots.get((k, tile), []))
            for k in range(len(channels))
        ]
        origin = placement.true[name]
        for first in range(0, settings.planes, _BLOCK_PLANES):
            last = min(first + _BLOCK_PLANES, settings.planes)
            start = (origin[0] + first, origin[1], origin[2])
            stop = (
                origin[0] + last,
                origin[1] + settings.tile_pixels[0],
                origin[2] + settings.tile_pixels[1],
            )
            signal = volume(start, stop)
            for channel, camera in enumerate(cameras):
                planes = camera.expose(signal[channel], first)
                for offset, plane in enumerate(planes):
                    file = NAME_SCHEMES[settings.names].format(
                        tile=name, channel=channel, plane=first + offset
                    )
                    tifffile.imwrite(raw / "VW0" / name / file, plane, metadata=None)
        logger.info("cut tile %s (%d of %d)", name, tile + 1, len(settings.scanned_cells()))
    write_metadata(raw, settings, len(channels))
    entries = []
    for channel, name in enumerate(channels):
        tifffile.imwrite(truth / f"profile_{name}.tif", profiles[channel], metadata=None)
        entries.append(
            {
                "name": name,
                "index": channel,
                "dark": float(_cycle(settings.dark, channel)),
                "profile": f"profile_{name}.tif",
                "clean": f"clean_{name}.tif" if clean_stride else None,
                "clean_stride": clean_stride,
            }
        )
    if clean_stride:
        paths = [truth / str(entry["clean"]) for entry in entries]
        _write_clean(volume, placement.shape, settings, paths, clean_stride)
    origins = [placement.true[settings.tile_name(*cell)] for cell in settings.scanned_cells()]
    return {
        "shape": list(placement.shape),
        "tile_pixels": list(settings.tile_pixels),
        "planes": settings.planes,
        "tiles": {
            settings.tile_name(row, column): {
                "row": row,
                "column": column,
                "origin_vox": list(placement.true[settings.tile_name(row, column)]),
                "nominal_vox": list(placement.nominal[settings.tile_name(row, column)]),
            }
            for row, column in settings.scanned_cells()
        },
        "saturated_spots_vox": [
            {"channel": channel, "position": [int(o + p) for o, p in zip(origins[tile], place)]}
            for (channel, tile), places in sorted(spots.items())
            for place in places
        ],
        "channels": entries,
    }


def _write_clean(volume, shape, settings, paths, stride) -> None:
    """Every stride-th plane of the fused volume, in counts above the dark offset."""
    planes: list[list[np.ndarray]] = [[] for _ in paths]
    for z in range(0, shape[0], stride):
        signal = volume((z, 0, 0), (z + 1, shape[1], shape[2]))
        for channel, kept in enumerate(planes):
            kept.append(to_integer(signal[channel, 0] * settings.scale, np.uint16)[0])
    for path, kept in zip(paths, planes):
        tifffile.imwrite(
            path, np.stack(kept), compression="zlib", predictor=True, metadata=None,
            photometric="minisblack",
        )  # fmt: skip


def _draw_spots(settings: ColmSettings, channels: int) -> dict:
    """Positions of saturated spots, {(channel, tile): [(z, y, x)]}."""
    rng = np.random.default_rng([settings.seed, 14])
    spots: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    size = (settings.planes, *settings.tile_pixels)
    for channel in range(channels):
        for _ in range(settings.saturated_spots):
            tile = int(rng.integers(len(settings.scanned_cells())))
            place: tuple[int, int, int] = tuple(int(rng.integers(n)) for n in size)
            spots.setdefault((channel, tile), []).append(place)
    return spots


def write_metadata(raw: Path, settings: ColmSettings, channels: int) -> None:
    """Write ``Experiment.ini`` and ``Scanned Cells.txt`` as the microscope does, with quotes."""
    sections: dict[str, dict[str, object]] = {
        "Experiment Settings": {
            "Num in stack (Top Left Corner)": settings.planes,
            "X Resolution": settings.tile_pixels[1],
            "Y Resolution": settings.tile_pixels[0],
            "Num Enabled Channels": channels,
        },
        "North Scan Region": {
            "Num Horizontal": settings.columns,
            "Num Vertical": settings.rows,
            "Stack Step (mm)": f"{settings.step_um / 1000:g}",
        },
        "North Scan Region Stats": {
            "Actual Horizontal Overlap (%)": f"{100 * settings.overlap:g}",
            "Actual Vertical Overlap (%)": f"{100 * settings.overlap:g}",
        },
        "Objectives": {"North": "04x"},
    }
    text = "\n".join(
        f"[{section}]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        for section, keys in sections.items()
    )
    (raw / "Experiment.ini").write_text(text, encoding="utf-8")
    cells = [
        ",".join("0" if (row, column) in settings.empty else "1"
                 for column in range(settings.columns))
        for row in range(settings.rows)
    ]  # fmt: skip
    (raw / "Scanned Cells.txt").write_text("\n".join(cells) + "\n", encoding="utf-8")


def settings_for_volume(shape: Sequence[int], settings: ColmSettings) -> ColmSettings:
    """Choose tile size and planes so that the grid covers a volume of ``shape`` (z, y, x)."""
    reach = [1 + (n - 1) * (1 - settings.overlap) for n in (settings.rows, settings.columns)]
    return replace(
        settings,
        tile_pixels=tuple(int(np.ceil(n / r)) for n, r in zip(shape[1:], reach)),
        planes=int(shape[0]),
    )


def _cycle(values: Sequence[float], index: int) -> float:
    return values[index % len(values)]


# ------------------------------------------------------------------ real two-dimensional tiles
def colm_from_tiles(folder: Path, raw: Path, step_um: float = 50.0) -> ColmSettings:
    """Arrange 2-D tiles listed in ``TileConfiguration.txt`` as a COLM acquisition of one plane.

    Parameters
    ----------
    folder : path
        Holds ``TileConfiguration.txt`` (lines ``name; ; (x, y)``, nominal pixels) and the tiles.
    raw : path
        New folder for the acquisition.
    step_um : float
        Plane distance to write into the metadata.

    Returns
    -------
    ColmSettings
        Grid, tile size and overlap as written.
    """
    folder, raw = Path(folder), Path(raw)
    listing = folder / "TileConfiguration.txt"
    try:
        text = listing.read_text(encoding="utf-8")
    except OSError as error:
        raise AcquisitionError(
            f"{listing} cannot be read ({error.strerror}); name its folder"
        ) from error
    entries = [
        (name.strip(), float(x), float(y))
        for name, x, y in re.findall(
            r"^([^#;\n]+);[^;\n]*;\s*\(\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\)", text, re.M
        )
    ]
    if not entries:
        raise AcquisitionError(f"{listing} lists no tiles; lines read 'name; ; (x, y)'")
    rows = sorted({y for _, _, y in entries})
    columns = sorted({x for _, x, _ in entries})
    cells = {(rows.index(y), columns.index(x)): name for name, x, y in entries}
    first = tifffile.imread(folder / entries[0][0])
    steps = [b - a for axis in (rows, columns) for a, b in itertools.pairwise(axis)]
    overlap = 1 - float(np.median(steps)) / first.shape[1] if steps else 0.0
    settings = ColmSettings(
        rows=len(rows),
        columns=len(columns),
        tile_pixels=first.shape,
        planes=1,
        overlap=round(overlap, 6),
        step_um=step_um,
        empty=tuple(
            (r, c) for r in range(len(rows)) for c in range(len(columns)) if (r, c) not in cells
        ),
    )
    for (row, column), name in sorted(cells.items()):
        tile = settings.tile_name(row, column)
        image = tifffile.imread(folder / name)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise AcquisitionError(
                f"{name} is {image.dtype} {image.shape}, the first tile {first.dtype} "
                f"{first.shape}; give tiles of one type and shape"
            )
        target = raw / "VW0" / tile
        target.mkdir(parents=True)
        file = NAME_SCHEMES["long"].format(tile=tile, channel=0, plane=0)
        tifffile.imwrite(target / file, image, metadata=None)
    write_metadata(raw, settings, 1)
    return settings

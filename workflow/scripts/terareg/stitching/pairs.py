"""Measured pairs of neighbouring tiles, and their files.

Conventions: ``displ_vox`` is origin(b) - origin(a) in voxels (z, y, x), TeraStitcher's ``displ``.
"EAST" means that b lies to the right of a (larger x), "SOUTH" that b lies below (larger y).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from terareg.core.errors import StitchingError
from terareg.stitching.mip_ncc import AxisMeasure
from terareg.storage.records import read_json, write_json

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition

DIRECTIONS = ("EAST", "SOUTH")
SEAM_AXIS = {"EAST": 2, "SOUTH": 1}  # the axis across the seam


@dataclass(frozen=True)
class WindowResult:
    """Result of one window.

    Attributes
    ----------
    z : tuple of int
        Planes [first, last) of tile a.
    seam : tuple of int
        Pixels [first, last) of tile a along the seam.
    displ_vox : tuple of float
        Displacement (z, y, x) of the highest peak; of the refined one where the window agrees.
    peak, second : float
        Correlation there, and at the next best place.
    signal : bool
        Whether both tiles hold structure above the noise here.
    agrees : bool
        Whether the window supports the pair's displacement.
    axes : tuple of AxisMeasure
        With engine mip_ncc: TeraStitcher's attributes of the axes z, y, x; otherwise empty.
    at_limit : bool
        Whether a displacement at the limit of the search fits better than that of the peak.
    """

    z: tuple[int, int]
    seam: tuple[int, int]
    displ_vox: tuple[float, float, float]
    peak: float
    second: float
    signal: bool
    agrees: bool
    axes: tuple[AxisMeasure, ...] = ()
    at_limit: bool = False

    @classmethod
    def from_json(cls, data: dict) -> WindowResult:
        """Inverse of :func:`dataclasses.asdict`, also after a round trip through JSON."""
        axes = tuple(AxisMeasure(**axis) for axis in data.get("axes", ()))
        return cls(**{k: as_tuples(v) for k, v in data.items() if k != "axes"}, axes=axes)


@dataclass(frozen=True)
class SeamPoint:
    """Displacement of a small part of a seam.

    Attributes
    ----------
    at_vox : tuple of float
        Where in tile a (z, y, x) the structure lies that it was measured from, voxels.
    displ_vox : tuple of float
        As of a pair (z, y, x), voxels.
    """

    at_vox: tuple[float, float, float]
    displ_vox: tuple[float, float, float]


@dataclass(frozen=True)
class PairResult:
    """Measured displacement of two neighbouring tiles.

    Attributes
    ----------
    a, b, direction : str
        Tile names, and "EAST" or "SOUTH".
    status : str
        "ok"; "no_signal": fewer than two windows with structure in both tiles (mip_ncc: an axis
        without a peak); "disagree": windows with structure that do not agree; "beyond_search":
        so many of these fit best at the limit of the search that it is no chance.
    displ_vox : tuple of float
        origin(b) - origin(a), voxels (z, y, x); the expected value unless status is "ok".
    sigma_vox : tuple of float
        Standard error of ``displ_vox`` from the scatter of the patches.
    reliability : float
        1 - P(the windows agree by chance), 0 to 1; with mip_ncc TeraStitcher's measure of peak
        and width, the least of the three axes, which is not a probability.
    peak : float
        Correlation at the refined displacement; with mip_ncc the least of the three axes.
    agree, of : int
        Windows that agree, and windows with signal.
    expected_vox, search_vox : tuple
        Centre and half-width of the search.
    windows : tuple of WindowResult
    bytes : int
        Bytes of pixels requested from the source.
    engine : str
        "ncc", "mip_ncc", or "xml" for values read from a TeraStitcher file.
    lean_vox, lean_sigma_vox : tuple of float or None
        Change of the displacement (z, y, x) from the first plane of the stack to the last, and its
        standard error, from all windows; None where fewer than three depths were measured. Where
        it is clear, ``displ_vox`` is the displacement in the middle of the stack.
    points : tuple of SeamPoint
        Parts of the seam, measured one by one, from which warped tiles are told; empty unless
        asked for, see :class:`~terareg.stitching.settings.DisplacementSettings`.
    fall_vox : tuple of float or None
        Distance (z, y, x) from ``displ_vox`` at which the correlation has fallen to half, voxels;
        0 along an axis that was not searched; None where no correlation was measured.
    side : str or None
        The side of the channel that it was measured on; None where the channel has one.
    """

    a: str
    b: str
    direction: str
    status: str
    displ_vox: tuple[float, float, float]
    sigma_vox: tuple[float, float, float]
    reliability: float
    peak: float
    agree: int
    of: int
    expected_vox: tuple[float, float, float]
    search_vox: tuple[int, int, int]
    windows: tuple[WindowResult, ...] = ()
    bytes: int = 0
    engine: str = "ncc"
    lean_vox: tuple[float, float, float] | None = None
    lean_sigma_vox: tuple[float, float, float] | None = None
    points: tuple[SeamPoint, ...] = ()
    fall_vox: tuple[float, float, float] | None = None
    side: str | None = None

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> PairResult:
        """Inverse of :meth:`to_json`."""
        data = dict(data)
        data["windows"] = tuple(WindowResult.from_json(w) for w in data["windows"])
        points = data.get("points", ())
        data["points"] = tuple(
            SeamPoint(as_tuples(point["at_vox"]), as_tuples(point["displ_vox"])) for point in points
        )
        return cls(**{k: as_tuples(v) for k, v in data.items()})


def neighbours(acquisition: Acquisition) -> list[tuple[str, str, str]]:
    """Pairs (a, b, direction) of acquired tiles side by side, row-major, EAST before SOUTH."""
    names = cells_of(acquisition)
    pairs = []
    for (row, column), name in sorted(names.items()):
        for direction, cell in (("EAST", (row, column + 1)), ("SOUTH", (row + 1, column))):
            if cell in names:
                pairs.append((name, names[cell], direction))
    return pairs


def save_pairs(path, pairs: Iterable[PairResult]) -> None:
    """Write pairs as JSON: ``{"pairs": [PairResult.to_json(), ...]}``."""
    write_json(path, {"pairs": [pair.to_json() for pair in pairs]})


def load_pairs(paths) -> list[PairResult]:
    """Read pairs from one JSON file or several, in order."""
    if isinstance(paths, (str, bytes)) or not isinstance(paths, Iterable):
        paths = [paths]
    pairs = []
    for path in paths:
        data = read_json(path)
        try:
            pairs += [PairResult.from_json(item) for item in data["pairs"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise StitchingError(
                f"{path} is not a file of measured pairs ({error}); delete it and run again"
            ) from error
    return pairs


def cells_of(acquisition: Acquisition) -> dict[tuple[int, int], str]:
    """Name of the tile at each (row, column); two tiles at one place are an error."""
    cells: dict[tuple[int, int], str] = {}
    for tile in acquisition.tiles:
        if (tile.row, tile.column) in cells:
            raise StitchingError(
                f"tiles {cells[tile.row, tile.column]} and {tile.name} are both at row {tile.row}, "
                f"column {tile.column}; remove one of them"
            )
        cells[tile.row, tile.column] = tile.name
    return cells


def as_tuples(value):
    """Turn lists into tuples, nested ones too, to undo a round trip through JSON."""
    if isinstance(value, list):
        return tuple(as_tuples(v) for v in value)
    return value

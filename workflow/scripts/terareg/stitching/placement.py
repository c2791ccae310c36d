"""Where the tiles lie: the result of :func:`~terareg.stitching.solver.place`, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from terareg.core.errors import StitchingError
from terareg.stitching.shapes import matrix_of
from terareg.storage.records import read_json_as, write_json
from terareg.volumes.growths import Growth
from terareg.volumes.warps import Warp

_ZERO = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class PlacementSettings:
    """Options of :func:`place`.

    Attributes
    ----------
    min_reliability : float
        Least reliability, 0 to 1, of a measured link.
    min_reliability_xml : float
        The same for links read from TeraStitcher files or measured by mip_ncc, whose reliability
        is not a probability.
    reject_vox, reject_sigmas : float
        A link is rejected if its residual is larger than both, in voxels and in multiples of the
        links' scatter. Below that, links that contradict each other (warped tiles) are averaged.
    anneal_vox : float
        Largest scale of the robust error at the start, voxels.
    sigma_floor_vox : float
        Smallest standard error that a link is credited with, voxels.
    """

    min_reliability: float = 0.99
    min_reliability_xml: float = 0.3
    reject_vox: float = 3.0
    reject_sigmas: float = 4.0
    anneal_vox: float = 60.0
    sigma_floor_vox: float = 0.2

    def __post_init__(self) -> None:
        for name in ("reject_vox", "reject_sigmas", "anneal_vox", "sigma_floor_vox"):
            if not 0 < getattr(self, name) < math.inf:
                raise StitchingError(
                    f"placement {name} {getattr(self, name)} is impossible; give a positive number"
                )
        for name in ("min_reliability", "min_reliability_xml"):
            if not 0 <= getattr(self, name) <= 1:
                raise StitchingError(
                    f"placement {name} {getattr(self, name)} is out of range; give 0 to 1"
                )


@dataclass(frozen=True)
class PlacedTile:
    """Position of a tile.

    Attributes
    ----------
    row, column : int
    origin_vox : tuple of float
        Position (z, y, x) of its first voxel; grid cell (0, 0) is at 0.
    integer : tuple of int
        ``origin_vox`` rounded, once, from the global solution.
    state : str
        "linked": tied by accepted links to the largest group; "group": tied to a smaller group,
        which the stage model places; "model": placed by the stage model alone;
        "file": read from a TeraStitcher file.
    links : int
        Accepted links.
    lean_vox, height_vox, width_vox : tuple of float
        How far what it shows moves (z, y, x), beside its own planes, rows and columns, from its
        first plane to its last, from its first row to its last and from its first column to its
        last, as fusion corrects it; ``origin_vox`` holds in its middle.
    field_vox : tuple or None
        How far what it shows moves beside these, along y and x: of each the values at the nodes of
        a lattice, row by row, from the first pixel of the tile to the last, linear between them
        and alike in all planes; their mean is about 0. None: not at all.
    """

    row: int
    column: int
    origin_vox: tuple[float, float, float]
    integer: tuple[int, int, int]
    state: str
    links: int
    lean_vox: tuple[float, float, float] = _ZERO
    height_vox: tuple[float, float, float] = _ZERO
    width_vox: tuple[float, float, float] = _ZERO
    field_vox: tuple[tuple[tuple[float, ...], ...], ...] | None = None

    @property
    def shape(self) -> np.ndarray:
        """The three as columns of a matrix, see :mod:`terareg.stitching.shapes`."""
        return np.column_stack([self.lean_vox, self.height_vox, self.width_vox])


@dataclass(frozen=True)
class Link:
    """What became of a measured pair.

    Attributes
    ----------
    a, b, direction : str
    displ_vox : tuple of float
        As measured (z, y, x).
    residual_vox : tuple of float
        Measured minus placed; of tiles that are more than moved, the mean over the seam.
    sigma_vox : tuple of float
    reliability : float
    state : str
        "kept"; "rejected": contradicts the others; "unused": windows disagree, low reliability;
        "empty": no signal in the overlap.
    reason : str
        Why it was not kept.
    lean_vox, lean_sigma_vox : tuple of float or None
        Change of the displacement over the stack and its standard error, see
        :class:`~terareg.stitching.pairs.PairResult`.
    seam_share : float or None
        Correlation of the seam where the tiles were placed, as a share of that at its own best
        fit, foretold by the width of its peak; None where that was not measured. What it foretells
        of a place far from the best fit may be wrong: see :mod:`terareg.stitching.seam_fits`.
    side : str or None
        The side of the channel that it was measured on; None where the channel has one.
    """

    a: str
    b: str
    direction: str
    displ_vox: tuple[float, float, float]
    residual_vox: tuple[float, float, float]
    sigma_vox: tuple[float, float, float]
    reliability: float
    state: str
    reason: str = ""
    lean_vox: tuple[float, float, float] | None = None
    lean_sigma_vox: tuple[float, float, float] | None = None
    seam_share: float | None = None
    side: str | None = None


@dataclass(frozen=True)
class Placement:
    """Result of :func:`place`.

    Attributes
    ----------
    tiles : dict of str to PlacedTile
    unscanned : dict of str to tuple of int
        Integer positions of cells without a tile, key "row,column".
    links : tuple of Link
        In the order of the pairs given.
    loops : tuple of dict
        Per 2 x 2 cell with four measured links: ``row``, ``column``, ``closure_vox`` (z, y, x),
        ``kept`` (whether all four links were kept). The closure measures the error without truth.
    model : dict
        ``EAST``, ``SOUTH``: step (z, y, x) in voxels; ``sigma_vox``: scatter of the stage about it;
        ``nominal``: the acquisition's steps.
    summary : dict
        Numbers for the report: links by state; residual and closure statistics.
    warnings : tuple of str
    growth : float
        By how much the planes of all tiles grow from the first to the last, relatively, as fusion
        scales them about the middles of the tiles; positions hold in the middle of the stack.
    """

    tiles: dict[str, PlacedTile]
    unscanned: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    loops: tuple[dict, ...] = ()
    model: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    growth: float = 0.0

    def origins(self, subpixel: bool = False) -> dict[str, tuple[float, float, float]]:
        """Origin (z, y, x) of every tile, voxels: whole ones, or exact with ``subpixel``."""
        return {n: t.origin_vox if subpixel else t.integer for n, t in self.tiles.items()}

    def matrices(self, tile_shape: Sequence[int]) -> dict[str, np.ndarray]:
        """Matrix, (3, 3), of every tile of ``tile_shape`` that is more than moved.

        Voxel v shows the tile at index ``matrix @ (v - middle) + middle``, both relative to the
        tile's origin, ``middle`` being the middle of the tile.
        """
        return {
            name: matrix_of(tile.shape, tile_shape)
            for name, tile in self.tiles.items()
            if np.any(tile.shape)
        }

    def warps(self, tile_shape: Sequence[int]) -> dict[str, Warp]:
        """Field of every tile of ``tile_shape`` that is distorted within itself."""
        size = int(tile_shape[1]), int(tile_shape[2])
        return {
            name: Warp(np.array(tile.field_vox, float), size)
            for name, tile in self.tiles.items()
            if tile.field_vox is not None
        }

    def warped_origins(self, offset_vox: Sequence[int]) -> dict[str, tuple[float, float, float]]:
        """Origins, in whole planes, of tiles that are interpolated within their planes anyway.

        ``offset_vox`` is the placement of the first voxel of the volume.
        """
        return {
            name: tuple(
                float(v - o) for v, o in zip((tile.integer[0], *tile.origin_vox[1:]), offset_vox)
            )
            for name, tile in self.tiles.items()
            if tile.field_vox is not None
        }

    def growths(
        self, origins: Mapping[str, Sequence[float]], tile_shape: Sequence[int]
    ) -> dict[str, Growth]:
        """Growth of every tile of which the origin (z, y, x) is given; none if it is 0."""
        if not self.growth:
            return {}
        middle = (np.array(tile_shape, float) - 1) / 2
        per_plane = self.growth / (int(tile_shape[0]) - 1)
        return {
            name: Growth(tuple(float(v) for v in np.add(origin, middle)), per_plane)
            for name, origin in origins.items()
        }

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Placement:
        """Inverse of :meth:`to_json`."""
        return cls(
            {
                name: PlacedTile(
                    t["row"], t["column"], tuple(t["origin_vox"]), tuple(t["integer"]),
                    t["state"], t["links"],
                    tuple(t.get("lean_vox", _ZERO)), tuple(t.get("height_vox", _ZERO)),
                    tuple(t.get("width_vox", _ZERO)), _tuples(t.get("field_vox")),
                )
                for name, t in sorted(
                    data["tiles"].items(), key=lambda item: (item[1]["row"], item[1]["column"])
                )
            },
            {key: tuple(value) for key, value in data["unscanned"].items()},
            tuple(
                Link(**_tuples(link))
                for link in data["links"]
            ),
            tuple(
                {k: tuple(v) if isinstance(v, list) else v for k, v in loop.items()}
                for loop in data["loops"]
            ),
            {k: _tuples(v) for k, v in data["model"].items()},
            dict(data["summary"]),
            tuple(data["warnings"]),
            float(data.get("growth", 0.0)),
        )  # fmt: skip


def save_placement(path, placement: Placement) -> None:
    """Write a placement as JSON."""
    write_json(path, placement.to_json())


def load_placement(path) -> Placement:
    """Read a placement; a file of another kind is an error that names it."""
    return read_json_as(path, Placement.from_json, ("a placement", "place_tiles"), StitchingError)


def _tuples(value):
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

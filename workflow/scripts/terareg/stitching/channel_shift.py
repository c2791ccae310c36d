"""Shift of a channel against the alignment channel, measured on tiles.

Filters, cameras and lenses image the same tissue at different pixels in different colours. The
shift is that of the channel's tiles: ``shift_vox`` is origin(channel) - origin(alignment channel)
in voxels (z, y, x), which fusion adds to the positions of the tiles. It is one for all tiles,
because it comes from the microscope; within the tile it may change linearly with the position
(chromatic magnification, a rotated camera).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from terareg.core.errors import StitchingError, few
from terareg.core.parallel import map_items
from terareg.stitching.channel_patches import (
    ChannelPatch,
    binning,
    find_places,
    half_extent,
    read_patches,
)
from terareg.stitching.channel_sampling import WIDEN, search_in_voxels
from terareg.stitching.consensus import find_consensus
from terareg.stitching.correlation import best_peak, correlate, subvoxel
from terareg.stitching.least_squares import Cut, fit
from terareg.stitching.pairs import WindowResult, as_tuples
from terareg.stitching.placement import Placement
from terareg.stitching.trends import Trend, robust_fit
from terareg.storage.records import read_json_as, write_json

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader
    from terareg.volumes.warps import Warp

logger = logging.getLogger(__name__)

_SHIFTS = ("shift", "other_shift")  # files from the alignment channel to a side, in their order
_TOLERANCE = 1.5  # voxels, largest difference of two patches that agree
_MAGNIFICATION = 0.004  # relative difference of magnification that agreeing patches may show
_CHANCE = 1e-3  # probability of agreeing by chance below which a shift is believed
_GROWTHS = 8  # times, at most, that patches which lie on the trend of the others join them
_UNSURE = 0.5  # voxels, standard error above which a shift is not used
_BENDS = 0.2  # voxels at the border of the tile from which a linear change is told
_SURE = 4.0  # standard errors from which anything is told
_WHOLE = 0.05  # voxels from a whole number up to which a shift is rounded, at least
_LEAST_SIGMA = 0.01  # voxels
_SURER = 2.0  # times the error of the patches' mean, that of the fit of all together may have
_DIFFERS = 0.01  # probability that some tile seems to differ from the others by chance
_ZERO: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class PatchShift:
    """Shift of one patch: tile, its middle in the tile and its shift, voxels (z, y, x), weight."""

    tile: str
    centre_vox: tuple[float, float, float]
    shift_vox: tuple[float, float, float]
    weight: float


@dataclass(frozen=True)
class ChannelShift:
    """Where a channel's tiles lie beside those of the alignment channel.

    Attributes
    ----------
    channel, against : str
        The channel and the alignment channel.
    state : str
        "measured"; "given": by the user; "not measured": see ``reason``; the channel is then fused
        where the alignment channel lies.
    reason : str
    shift_vox, sigma_vox : tuple of float
        origin(channel) - origin(alignment channel) in the middle of the tile, (z, y, x), and its
        standard error.
    gradient : tuple of tuple of float
        Change of the shift's z, y, x (rows) per voxel along z, y, x (columns); zeros unless the
        tiles ask for it clearly.
    bend_vox : float
        Largest difference that ``gradient`` makes, in the corners of the tile.
    scatter_vox : tuple of float
        Robust standard deviation of the patches about it.
    reliability : float
        1 - P(the patches agree by chance).
    agree, of : int
        Patches that agree, and patches with structure in both channels.
    inverted : bool
        Whether what is bright in one channel is dark in the other.
    patches : tuple of PatchShift
    warnings : tuple of str
    """

    channel: str
    against: str
    state: str
    reason: str = ""
    shift_vox: tuple[float, float, float] = _ZERO
    sigma_vox: tuple[float, float, float] = _ZERO
    gradient: tuple[tuple[float, float, float], ...] = (_ZERO,) * 3
    bend_vox: float = 0.0
    scatter_vox: tuple[float, float, float] = _ZERO
    reliability: float = 0.0
    agree: int = 0
    of: int = 0
    inverted: bool = False
    patches: tuple[PatchShift, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def bends(self) -> bool:
        """Whether the shift changes within the tile."""
        return any(any(row) for row in self.gradient)

    def applied(
        self, tile_shape: Sequence[int]
    ) -> tuple[tuple[float, float, float], np.ndarray | None]:
        """The shift as fusion uses it: what is added to the origins of tiles, and their matrix.

        Along an axis on which the shift is not told from a whole number of voxels it is this
        number, so that voxels are copied and not interpolated. If it changes within the tile, a
        voxel v of the volume shows the tile at index ``matrix @ (v - origin)``; else there is no
        matrix.
        """
        if self.bends:
            gradient, middle = np.array(self.gradient), half_extent(tile_shape)
            matrix = np.eye(3) - gradient
            moved = np.linalg.solve(matrix, np.array(self.shift_vox) - gradient @ middle)
            return _rounded(moved), matrix
        limits = np.maximum(2 * np.array(self.sigma_vox), _WHOLE)
        nearest = np.rint(self.shift_vox)
        whole = np.abs(self.shift_vox - nearest) <= limits
        return _rounded(np.where(whole, nearest, self.shift_vox)), None

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> ChannelShift:
        """Inverse of :meth:`to_json`."""
        values = {key: as_tuples(value) for key, value in data.items() if key != "patches"}
        patches = ({key: as_tuples(v) for key, v in patch.items()} for patch in data["patches"])
        return cls(**values, patches=tuple(PatchShift(**patch) for patch in patches))


def given_shift(
    names: tuple[str, str], shift_um: Sequence[float], spacing_um: Sequence[float]
) -> ChannelShift:
    """The user's own shift, micrometres (z, y, x); names as in :func:`measure_channel_shift`."""
    shift = _rounded(float(s) / p for s, p in zip(shift_um, spacing_um))
    return ChannelShift(names[1], names[0], "given", shift_vox=shift)


def save_shift(path, shift: ChannelShift) -> None:
    """Write a shift as JSON."""
    write_json(path, shift.to_json())


def load_shift(path) -> ChannelShift:
    """Read a shift; a file of another kind is an error that names it."""
    what = ("a channel shift", "measure_channel_shift")
    return read_json_as(path, ChannelShift.from_json, what, StitchingError)


def own_origins(
    origins: Mapping[str, Sequence[float]], files: Mapping[str, Any], tile_shape: Sequence[int]
) -> dict[str, tuple[float, float, float]]:
    """Origins of tiles in the pixels of a channel or side, in which its tiles overlap.

    A camera that magnifies more, or is turned, sees tiles displaced by as much more, see
    :func:`terareg.stitching.better_side.as_on_first_side`.

    Parameters
    ----------
    origins : mapping of str to (z, y, x)
        In those of the alignment channel, voxels.
    files : mapping of str to path or None
        ``shift`` (of the first side against the alignment channel) and ``other_shift`` (of the
        second side against the first), each if there is one.
    tile_shape : sequence of int
    """
    shifts = [load_shift(path) for path in map(files.get, _SHIFTS) if path is not None]
    matrix = _chained([shift.applied(tile_shape) for shift in shifts])[1]
    if matrix is None:
        matrix = np.eye(3)
    return {name: _rounded(matrix @ np.array(origin, float)) for name, origin in origins.items()}


def channel_poses(
    origins: Mapping[str, Sequence[float]],
    placement: Placement,
    shifts: Sequence[ChannelShift],
    tile_shape: Sequence[int],
) -> tuple[dict[str, tuple[float, float, float]], dict[str, np.ndarray]]:
    """Where fusion finds the tiles of a channel, or of one of its sides.

    Parameters
    ----------
    origins : mapping
        Origins (z, y, x) of the alignment channel's tiles in the volume, voxels.
    placement : Placement
        Says which tiles lean.
    shifts : sequence of ChannelShift
        None for the alignment channel; for a second side, that of the first, if it has one, and
        its own against that.
    tile_shape : sequence of int

    Returns
    -------
    origins, matrices : dict
        Voxel v of the volume, with :meth:`Placement.growths` undone, shows the channel's tile at
        index ``matrix @ (v - origin)``; tiles without a matrix are only moved.
    """
    moved, bent = _chained([shift.applied(tile_shape) for shift in shifts])
    leaning = placement.matrices(tile_shape)
    places: dict[str, tuple[float, float, float]] = {}
    matrices: dict[str, np.ndarray] = {}
    for name, origin in origins.items():
        if name not in leaning and bent is None and not placement.growth:
            places[name] = tuple(float(o) + by for o, by in zip(origin, moved))
            continue
        lean = leaning.get(name, np.eye(3))
        middle = half_extent(tile_shape)
        # index in the alignment channel's tile: lean @ (v - start), which across is that in the
        # channel's plus what it is moved by; a plane of another depth is taken at the same moment,
        # and where a tile leans, that is when it lies there
        start = np.array(origin, float) + middle - np.linalg.solve(lean, middle)
        deeper, across = np.array([moved[0], 0.0, 0.0]), np.array([0.0, *moved[1:]])
        places[name] = _rounded(start + deeper + np.linalg.solve(lean, across), 9)
        matrices[name] = lean if bent is None else bent @ lean
    return places, matrices


def channel_warps(
    names: Iterable[str],
    placement: Placement,
    shifts: Sequence[ChannelShift],
    tile_shape: Sequence[int],
) -> dict[str, Warp]:
    """Fields of tiles of a channel, or of one of its sides, as fusion needs them.

    They are those of the alignment channel, at the pixels that show the same; see
    :func:`channel_poses`.
    """
    found = placement.warps(tile_shape)
    moved, bent = _chained([shift.applied(tile_shape) for shift in shifts])
    return {n: replace(found[n], moved=moved, bent=bent) for n in names if n in found}


def _chained(
    applied: Sequence[tuple[tuple[float, float, float], np.ndarray | None]],
) -> tuple[tuple[float, float, float], np.ndarray | None]:
    """Shifts one after the other, as one: index -> bent @ (index - moved)."""
    if not applied:
        return _ZERO, None
    moved, bent = applied[0]
    for by, matrix in applied[1:]:
        step = np.array(by) if bent is None else np.linalg.solve(bent, np.array(by))
        moved = _rounded(np.add(moved, step))
        if matrix is not None:
            bent = matrix if bent is None else matrix @ bent
    return moved, bent


def measure_channel_shift(
    reference: TileReader,
    channel: TileReader,
    names: tuple[str, str],
    search_um: Sequence[float],
    workers: int = 1,
) -> ChannelShift:
    """Measure the shift of a channel against the alignment channel.

    A few planes of a few tiles with structure in both channels are compared: 3 x 3 patches of the
    field of view at each place, whose logarithm is band-passed, without what is fixed in the tile.
    Patches vote with the highest peak of their correlation, as windows of a pair of tiles do. The
    channels may show partly different structures, and one may be bright where the other is dark.
    Patches that agree are fitted by least squares, together and one by one; a robust linear trend
    over their positions tells chromatic magnification from scatter.

    Parameters
    ----------
    reference, channel : TileReader
        Tiles of the alignment channel and of the other, of one acquisition.
    names : tuple of str
        Names of the alignment channel and of the other.
    search_um : sequence of float
        Largest shift, micrometres (z, y, x). If the patches do not agree, twice as much is
        searched.
    workers : int
        Threads. The result does not depend on it.

    Returns
    -------
    ChannelShift
        With state "not measured" where the channels share too little structure.
    """
    acquisition = reference.acquisition
    shape = tuple(int(n) for n in acquisition.tile_shape)
    nothing = ChannelShift(names[1], names[0], "not measured")
    places = find_places(reference, channel, workers)
    if not places:
        reason = f"no plane shows structure in both {names[0]} and {names[1]}"
        return _told(replace(nothing, reason=reason))
    vote = None
    searched: list[list[int]] = []
    for factor in (1, WIDEN):
        search = search_in_voxels([factor * s for s in search_um], acquisition.spacing_um, shape)
        if search in searched:
            break
        searched.append(search)
        patches = read_patches(reference, channel, places, search, workers)
        vote = _vote(patches, search, workers)
        if vote.chance <= _CHANCE:
            break
    assert vote is not None
    nothing = replace(
        nothing, reliability=1 - vote.chance, agree=len(vote.members),
        of=vote.of or sum(patch.signal for patch in patches),
        inverted=vote.sign < 0,
    )  # fmt: skip
    if vote.chance > _CHANCE:
        widest = [n * p for n, p in zip(searched[-1], acquisition.spacing_um)]
        reach = ", ".join(f"{v:.0f}" for v in widest)
        reason = (
            f"{names[1]} shares too little structure with {names[0]} within {reach} um (z, y, x): "
            f"{nothing.agree} of {nothing.of} patches agree"
        )
        capped = any(s >= n // 4 for s, n in zip(searched[-1][1:], shape[1:]))
        return _told(replace(nothing, reason=reason), capped)
    return _told(_fitted(nothing, patches, vote, shape, workers))


def _told(shift: ChannelShift, capped: bool = False) -> ChannelShift:
    """Log what was found; a shift that was not measured becomes a warning."""
    if shift.state == "not measured":
        farther = "no more than a quarter of the tile is searched, so" if capped else (
            "enlarge stitching.channel_search_um, or"
        )  # fmt: skip
        text = (
            f"the shift of channel {shift.channel} could not be measured ({shift.reason}), so the "
            f"channel is fused at the position of {shift.against}; if it lies farther away, "
            f"{farther} give the shift in stitching.channel_shift_um"
        )
        shift = replace(shift, warnings=(*shift.warnings, text))
    for text in shift.warnings:
        logger.warning("%s", text)
    logger.info(
        "channel %s: %s, shift %s voxels (z, y, x), standard error %s",
        shift.channel, shift.state, _listed(shift.shift_vox), _listed(shift.sigma_vox),
    )  # fmt: skip
    return shift


@dataclass(frozen=True)
class _Vote:
    """Patches that agree and their shifts to a voxel, sign of the correlation, P(chance)."""

    members: tuple[int, ...]
    shifts: np.ndarray
    sign: int
    chance: float
    of: int
    bins: int


def _vote(patches: Sequence[ChannelPatch], search: Sequence[int], workers: int) -> _Vote:
    bins = binning(search)
    maps = list(
        map_items(
            lambda patch: patch.scores(search, bins),
            patches,
            workers=workers,
            what="correlated patches of both channels",
        )
    )
    total = np.sum([score for (score, _), p in zip(maps, patches) if p.signal], axis=0)
    if not np.ndim(total):
        return _Vote((), np.zeros((0, 3)), 1, 1.0, 0, bins)
    sign = 1 if total.max() >= -total.min() else -1
    steps = np.array([1, bins, bins])
    first = np.array([-(-s // k) for s, k in zip(search, steps)])
    votes = []
    for (score, ncc), patch in zip(maps, patches):
        index, peak, second = best_peak(sign * score, sign * ncc)
        shift = (np.array(index) - first) * steps
        z = (patch.place.z, patch.place.z + 1)
        votes.append(
            WindowResult(z, (0, 0), tuple(map(float, shift)), peak, second, patch.signal, False)
        )
    shape = np.array([n.stop - n.start for n in _field(patches)])
    tolerance = np.maximum(np.maximum(_TOLERANCE, steps), _MAGNIFICATION * shape / 2)
    lags = [max(1, n - 2) for n in total.shape]
    found = find_consensus(votes, tolerance, steps, lags)
    shifts = np.array([vote.displ_vox for vote in votes])
    vote = _Vote(found.members, shifts, sign, found.chance, found.of, bins)
    if vote.chance > _CHANCE:
        return vote
    return replace(vote, members=_along_trend(patches, vote, shape, tolerance))


def _along_trend(
    patches: Sequence[ChannelPatch], vote: _Vote, shape: np.ndarray, tolerance: np.ndarray
) -> tuple[int, ...]:
    """The patches that agree, and those that agree with a linear trend of the first.

    ``shape`` is the extent of the middles of all patches in the tile, voxels.

    A camera that magnifies by a few percent more moves the patches of one corner alike, and those
    of the others by more than patches may differ by.
    """
    members = vote.members
    half = np.maximum(shape, 1.0) / 2
    centres = np.array([patch.centre for patch in patches])
    centres -= centres.mean(axis=0)
    signal = np.array([patch.signal for patch in patches])
    for _ in range(_GROWTHS):
        axes = _spread(centres[list(members)], half)
        if not axes:
            break
        design = _design(centres, half, axes)
        trend = robust_fit(design[list(members)], vote.shifts[list(members)])
        near = np.all(np.abs(vote.shifts - trend.at(design)) <= tolerance, axis=1) & signal
        if near.sum() <= len(members):
            break
        members = tuple(np.flatnonzero(near).tolist())
    return members


def _field(patches: Sequence[ChannelPatch]) -> list[slice]:
    """Extent (z, y, x) of the middles of the patches in the tile."""
    centres = np.array([patch.centre for patch in patches])
    return [slice(*v) for v in zip(centres.min(axis=0), centres.max(axis=0))]


def _fitted(nothing: ChannelShift, patches, vote: _Vote, shape, workers: int) -> ChannelShift:
    """Sub-voxel shift of the patches that agree, with its change within the tile if it has any."""
    members = [patches[i] for i in vote.members]
    coarse = vote.shifts[list(vote.members)]
    axes = [k for k in range(3) if np.ptp(vote.shifts[:, k]) or shape[k] >= 4]
    middle = half_extent(shape)
    centres = np.array([patch.centre for patch in members]) - middle
    design = _design(centres, middle, _spread(centres, middle))
    start = robust_fit(design, coarse).at(design)
    radius = np.array([2 if k in axes else 0 for k in range(3)])
    radius[1:] += vote.bins - 1

    def fine(item: tuple[ChannelPatch, np.ndarray]) -> tuple[Cut, np.ndarray] | None:
        patch, expected = item
        return _own_shift(patch, np.rint(expected).astype(int), radius, vote.sign, axes)

    found = list(map_items(fine, list(zip(members, start)), workers=workers))
    kept = [k for k, item in enumerate(found) if item is not None]
    if len(kept) < 2:
        reason = "fewer than two of the agreeing patches have a correlation maximum of their own"
        return replace(nothing, reason=reason)
    cuts, own = zip(*(found[k] for k in kept))
    members, centres, own = [members[k] for k in kept], centres[kept], np.array(own)
    trend, gradient, bend = _bent(centres, middle, own)
    shift, sigma = trend.coefficients[0], np.maximum(trend.sigma[0], _LEAST_SIGMA)
    if not bend and len(axes) == 3:
        together = fit([c for c, w in zip(cuts, trend.weights) if w > 0], shift, axes)
        # structures that only one channel shows spoil it more than the mean of the patches
        surer = together is not None and np.all(together[1] < _SURER * np.maximum(sigma, 0.02))
        if together is not None and surer and np.abs(together[0] - shift).max() <= 0.5:
            shift, sigma = together[0], np.maximum(together[1], _LEAST_SIGMA)
    sigma[[k for k in range(3) if k not in axes]] = 0
    result = replace(
        nothing,
        state="measured",
        shift_vox=_rounded(shift),
        sigma_vox=_rounded(sigma),
        gradient=tuple(_rounded(row, 12) for row in gradient),
        bend_vox=round(bend, 6),
        scatter_vox=_rounded(trend.scatter),
        patches=tuple(
            PatchShift(patch.place.tile, patch.centre, _rounded(value), round(float(weight), 6))
            for patch, value, weight in zip(members, own, trend.weights)
        ),
    )
    if sigma.max() > _UNSURE:
        words = f"its standard error is {_listed(sigma)} voxels (z, y, x)"
        return replace(result, state="not measured", reason=words, shift_vox=_ZERO,
                       gradient=(_ZERO,) * 3, bend_vox=0.0)  # fmt: skip
    residuals = own - shift - centres @ np.array(gradient).T
    return replace(result, warnings=tell_differing_tiles(members, residuals, result))


def _own_shift(
    patch: ChannelPatch, expected: np.ndarray, radius: np.ndarray, sign: int, axes: list[int]
) -> tuple[Cut, np.ndarray] | None:
    """Voxels and sub-voxel shift of one patch near an expected one, None without a maximum."""
    cut = patch.cut(expected, radius, sign)
    if cut is None:
        return None
    lag = expected - cut.start
    _, ncc = correlate(cut.a, cut.b, lag - radius, lag + radius)
    index, peak, _ = best_peak(ncc, ncc)
    if peak <= 0:
        return None
    shift = expected - radius + subvoxel(ncc, index)
    fitted = fit([cut], shift, axes) if len(axes) == 3 else None
    return cut, shift if fitted is None else fitted[0]


def _spread(centres: np.ndarray, half: np.ndarray) -> list[int]:
    """Axes along which the patches lie so far apart that a change can be told."""
    spread = [k for k in range(3) if np.ptp(centres[:, k]) > 0.25 * half[k]]
    return spread if len(centres) >= 3 * (1 + len(spread)) else []


def _design(centres: np.ndarray, half: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """1, and the position along ``axes`` from -1 to 1 at the borders of the tile."""
    return np.column_stack([np.ones(len(centres)), *(centres[:, k] / half[k] for k in axes)])


def _bent(
    centres: np.ndarray, half: np.ndarray, shifts: np.ndarray
) -> tuple[Trend, np.ndarray, float]:
    """Trend of the shifts with the axes along which they clearly change.

    Returns also the change per voxel, (3, 3), and the largest that it makes within the tile.
    """
    axes = _spread(centres, half)
    trend = robust_fit(_design(centres, half, axes), shifts)
    clear = np.maximum(_BENDS, _SURE * trend.sigma[1:])
    axes = [k for k, row, limit in zip(axes, trend.coefficients[1:], clear)
            if np.any(np.abs(row) > limit)]  # fmt: skip
    trend = robust_fit(_design(centres, half, axes), shifts)
    gradient = np.zeros((3, 3))
    for k, row in zip(axes, trend.coefficients[1:]):
        gradient[:, k] = row / half[k]
    return trend, gradient, float((np.abs(gradient) @ half).max())


def tell_differing_tiles(
    members: Sequence[ChannelPatch], residuals: np.ndarray, names: ChannelShift
) -> tuple[str, ...]:
    """A warning if the shift differs between tiles by more than their patches scatter (t test).

    ``residuals`` (patches, 3) are the shifts of the patches beside that of all, voxels (z, y, x).
    The scatter is that of the patches within tiles, not a robust one: wrong patches come in twos
    and threes where a tile shows little.
    """
    tiles = list(dict.fromkeys(patch.place.tile for patch in members))
    owner = np.array([tiles.index(patch.place.tile) for patch in members])
    number = np.bincount(owner)
    means = np.array([residuals[owner == k].mean(axis=0) for k in range(len(tiles))])
    free = len(members) - len(tiles)
    if free < 1:
        return ()
    scatter = np.sqrt(((residuals - means[owner]) ** 2).sum(axis=0) / free)
    sure = float(special.stdtrit(free, 1 - _DIFFERS / (6 * len(tiles))))  # three axes, two sides
    error = np.maximum(scatter / np.sqrt(number)[:, None], 0.02)
    odd = [
        f"{tile} ({_listed(mean)})"
        for tile, mean, limit, patches in zip(tiles, means, sure * error, number)
        if patches > 2 and np.any((np.abs(mean) > 0.5) & (np.abs(mean) > limit))
    ]
    if not odd:
        return ()
    return (
        f"the shift of channel {names.channel} is not the same in all tiles: {few(odd)} differ "
        "from the others by the voxels in brackets (z, y, x), so the stage moved between the "
        "channels",
    )


def _listed(values) -> str:
    return ", ".join(f"{v:.2f}" for v in values)


def _rounded(values, digits: int = 6) -> tuple[float, float, float]:
    return tuple(round(float(v), digits) + 0.0 for v in values)

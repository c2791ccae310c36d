"""How far centre lines and their lengths look (standard library only).

Needed where lengths are measured, and where memory for that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from terareg.core.errors import ConfigError
from terareg.core.levels import Box

#: rounds in which vertices of a line are moved towards the middle of their neighbours
SMOOTHING = 12
#: um, the diameter up to which something is a fibre
THICKEST_UM = 20.0
#: rounds in which lines of two voxels beside one another become lines of one
CLEANING = 2
#: where a line ends, it is carried on to the surface, at most this many diameters of the thickest
ONWARD = 1.5
#: side branches that are shorter, in the same diameters, come from the roughness of the surface
SPUR = 0.5
#: how far along (z, y, x) one round of thinning sees: the eight parities of a voxel's place are
#: taken in an order in which that of (z, y, x) changes (2, 3, 2) times, and a voxel sees its
#: neighbours
ROUND: Box = (3, 4, 3)
#: rounds of thinning in blocks, before the lines of an object are put together
ROUNDS = 8
#: voxels by which vertices move to the centre, at most
MOVES = 4
#: voxels, edge of the cells by which it is said what is near
CELL = 4
_MOST_REACH = 256  # voxels, half of a usual block


def thinning_rounds(thickest_um: float, spacing_um: Sequence[float]) -> int:
    """Rounds after which a tube of this diameter is a line, whatever its direction.

    A round takes the voxels at the surface away: a plane goes back by the smallest voxel edge along
    the axis that is nearest to its normal, which is slowest for a normal along a diagonal.
    """
    return math.ceil(thickest_um / 2 * math.sqrt(3) / min(spacing_um)) + 1


def axes_of_round(number: int, spacing_um: Sequence[float]) -> list[int]:
    """Axes whose surfaces a round takes back; a coarse axis waits, so that all go equally far."""
    shares = [min(spacing_um) / s for s in spacing_um]
    return [
        axis
        for axis, share in enumerate(shares)
        if math.floor((number + 1) * share + 0.5) > math.floor(number * share + 0.5)
    ]


def line_reach_vox(thickest_um: float, spacing_um: Sequence[float]) -> Box:
    """How far beyond a box voxels change the lengths in it, along (z, y, x)."""
    rounds = thinning_rounds(thickest_um, spacing_um)
    # a round that smooths sees one vertex further; edges and their kind need three voxels
    along = SMOOTHING + spur_steps(thickest_um, spacing_um) + 5
    z, y, x = (
        (rounds + CLEANING) * step + max(along, math.ceil(ONWARD * thickest_um / s) + 1)
        for step, s in zip(ROUND, spacing_um)
    )
    return z, y, x


def surface_um(spacing_um: Sequence[float], rounds: int = ROUNDS) -> float:
    """How far at most from the surface some rounds take voxels away, or find that lines need them.

    Each goes back by one face; faces of coarse voxels wait, but for half of their edge.
    """
    return 1.5 * rounds * min(spacing_um) + max(spacing_um)


def near_cells(spacing_um: Sequence[float], rounds: int = ROUNDS) -> Box:
    """How many cells along (z, y, x) from that of a voxel of a core its surface is kept."""
    near_um = surface_um(spacing_um, rounds)
    z, y, x = (math.ceil((near_um / s + MOVES) / CELL) for s in spacing_um)
    return z, y, x


def voxels_reach(spacing_um: Sequence[float], rounds: int = ROUNDS) -> Box:
    """How far beyond a box voxels change what some rounds leave in it, and its radii: (z, y, x)."""
    cells = near_cells(spacing_um, rounds)
    z, y, x = (max(rounds * step, (n + 1) * CELL) + 2 for step, n in zip(ROUND, cells))
    return z, y, x


def spur_steps(thickest_um: float, spacing_um: Sequence[float]) -> int:
    """The most voxels of a side branch that is left out."""
    return math.ceil(SPUR * thickest_um / min(spacing_um))


def check_reach(thickest_um: float, spacing_um: Sequence[float], where: str) -> None:
    """Raise :class:`ConfigError` if lengths of such fibres look too far around every block."""
    reach = max(line_reach_vox(thickest_um, spacing_um))
    if reach > _MOST_REACH:
        most = thickest_um
        while max(line_reach_vox(most, spacing_um)) > _MOST_REACH:
            most /= 1.1
        raise ConfigError(
            f"{where}: {thickest_um:g} needs {reach} voxels around every block, more than "
            f"{_MOST_REACH}; give {most:.2g} or less"
        )

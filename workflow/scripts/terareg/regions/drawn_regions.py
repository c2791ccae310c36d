"""Regions of points in every draw of a registration's error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.regions.points import located_in_atlas

if TYPE_CHECKING:
    from terareg.atlas.prepare import Atlas
    from terareg.registration.transform import Transform

_AT_ONCE = 1 << 17  # points looked up together


class Shifts:
    """By how much the draws of a registration's error move the atlas in the sample.

    Parameters
    ----------
    shifts_um : numpy.ndarray, float32, shape (draws, 3, z, y, x)
        See :class:`terareg.registration.error_bars.ErrorBars`. The opposite of every draw is a draw
        as well, so there are twice as many.
    frame : Frame
        Of the shifts, in the sample.
    """

    def __init__(self, shifts_um: np.ndarray, frame: Frame) -> None:
        self.shifts_um = shifts_um.reshape(-1, 3, *frame.shape)
        self.frame = frame

    def regions(
        self, position_um: np.ndarray, transform: Transform, atlas: Atlas
    ) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Region ids, uint32 (n,), and hemispheres of sample positions (n, 3), draw by draw.

        A point that the atlas has moved away from lies where the atlas was before.
        """
        for draw in self.shifts_um:
            moved = np.empty((len(position_um), 3))
            for first in range(0, len(position_um), _AT_ONCE):
                part = slice(first, first + _AT_ONCE)
                index = self.frame.to_index(position_um[part]).T
                for axis, shift in enumerate(draw):
                    moved[part, axis] = ndimage.map_coordinates(
                        shift, index, order=1, mode="nearest"
                    )
            for sign in (1, -1):
                _, ids, sides = located_in_atlas(position_um - sign * moved, transform, atlas)
                yield ids, sides

"""How pictures of a brain stand: as in an atlas, whatever the order of the array's axes.

Coronal and sagittal planes have superior up, horizontal planes anterior up; right is on the right,
and anterior on the left of sagittal planes. All pictures and the slice browser are turned here and
nowhere else. Nothing is interpolated: axes are exchanged and reversed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terareg.core.frames import Frame, orientation_matrix
from terareg.core.orientation import VIEWS, check_orientation, opposite

#: an array with this orientation has its planes, rows and columns as they are shown
SHOWN = "IPR"
# directions in which rows and columns of the views grow
_LETTERS = (("I", "R"), ("I", "P"), ("P", "R"))


@dataclass(frozen=True)
class View:
    """Planes perpendicular to one axis of an array, and how they are shown.

    Attributes
    ----------
    name : str
        One of :data:`terareg.core.orientation.VIEWS`.
    axis : int
        Array axis perpendicular to the planes.
    down, right : int
        Array axes along which the picture's rows and columns run.
    letters : (str, str)
        Directions in which the picture's rows and columns grow.
    reversed : (bool, bool)
        Whether rows and columns run against the index of their axes.
    """

    name: str
    axis: int
    down: int
    right: int
    letters: tuple[str, str]
    reversed: tuple[bool, bool]

    def turned(self, plane: np.ndarray) -> np.ndarray:
        """The picture of a plane.

        Parameters
        ----------
        plane : numpy.ndarray, shape (rows, columns) or (rows, columns, colours)
            Its two axes are those of the array that lie in the plane, in the array's order.

        Returns
        -------
        numpy.ndarray
            A view of ``plane``.
        """
        if self.down > self.right:
            plane = plane.swapaxes(0, 1)
        rows, columns = (slice(None, None, -1 if against else 1) for against in self.reversed)
        return plane[rows, columns]


def views(orientation: str) -> tuple[View, View, View]:
    """The coronal, sagittal and horizontal planes of an array.

    Parameters
    ----------
    orientation : str
        Code of the array axes, see :mod:`terareg.core.frames`.
    """
    code = check_orientation(orientation)
    axis_of = {letter: a for a, own in enumerate(code) for letter in (own, opposite(own))}
    found = []
    for name, (down, right) in zip(VIEWS, _LETTERS):
        rows, columns = axis_of[down], axis_of[right]
        against = (code[rows] != down, code[columns] != right)
        found.append(View(name, 3 - rows - columns, rows, columns, (down, right), against))
    return found[0], found[1], found[2]


def view_across(orientation: str, axis: int) -> View:
    """The view that shows planes perpendicular to an array axis."""
    return next(view for view in views(orientation) if view.axis == axis)


def turned(array: np.ndarray, frame: Frame) -> tuple[np.ndarray, Frame]:
    """A volume with its axes exchanged and reversed, so that its planes stand as they are shown.

    Parameters
    ----------
    array : numpy.ndarray, shape ``frame.shape``
    frame : Frame

    Returns
    -------
    array : numpy.ndarray
        A view, with the orientation :data:`SHOWN`.
    frame : Frame
        Of it. Along axes that are reversed, micrometres count from 0 towards the other side, so
        that all frames of one space stay in one space.
    """
    matrix = orientation_matrix(frame.orientation, SHOWN)
    order = [int(np.flatnonzero(row)[0]) for row in matrix]
    signs = [int(row.sum()) for row in matrix]
    last_um = frame.to_um(np.array(frame.shape) - 1)
    origin = [frame.origin_um[a] if sign > 0 else -last_um[a] for a, sign in zip(order, signs)]
    z, y, x = (frame.spacing_um[a] for a in order)
    found = array.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    return found, Frame(found.shape, (z, y, x), (origin[0], origin[1], origin[2]), SHOWN)

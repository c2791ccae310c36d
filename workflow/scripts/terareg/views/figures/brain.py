"""Pictures of the registered brain at the resolution of the image: borders, and zooms."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from terareg.core.frames import Frame
from terareg.views.customary import view_across
from terareg.views.figures import canvas

_INCHES = 4.6
_COLUMNS = 3


@dataclass(frozen=True)
class Zoom:
    """A window of one plane.

    Attributes
    ----------
    title : str
    image : numpy.ndarray, shape (rows, columns)
    labels : numpy.ndarray of integers, same shape
    frame : Frame
        Of the plane: one voxel along the axis that is perpendicular to it.
    region : int
        Label that stands out.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    frame: Frame
    region: int


@canvas.photo
def borders(image: np.ndarray, labels: np.ndarray, frame: Frame, limits: Sequence[float]) -> Figure:
    """Draw the borders of the regions on one plane, a pixel for a pixel.

    Parameters
    ----------
    image : numpy.ndarray, shape (rows, columns)
    labels : numpy.ndarray of integers, same shape
    frame : Frame
        Of the plane: one voxel along the axis that is perpendicular to it.
    limits : (low, high)
        Counts shown black and white.
    """
    drawn, axis = canvas.outlined(image, labels, limits), frame.shape.index(1)
    shown = view_across(frame.orientation, axis).turned(drawn)
    figure, axes = canvas.filled_figure(shown.shape[:2], _INCHES)
    canvas.show_plane(axes, drawn, frame, axis)
    return figure


@canvas.photo
def zooms(windows: Sequence[Zoom], limits: Sequence[float]) -> Figure:
    """Draw windows side by side, with all borders, and that of one region in another colour.

    Parameters
    ----------
    windows : sequence of Zoom
    limits : (low, high)
        Counts shown black and white.
    """
    if not windows:
        return canvas.nothing("Worst regions", "no region was judged.")
    rows = -(-len(windows) // _COLUMNS)
    figure = canvas.new_figure(10, 0.5 + 3.8 * rows, "Worst regions, outlined in light blue")
    axes = canvas.axes_grid(figure, rows, _COLUMNS)
    for cell in axes.flat[len(windows) :]:
        cell.set_axis_off()
    for cell, window in zip(axes.flat, windows):
        drawn = canvas.outlined(window.image, window.labels, limits, window.region)
        axis = window.frame.shape.index(1)
        canvas.show_plane(cell, drawn, window.frame, axis)
        cell.set_title(textwrap.fill(window.title, 30), fontsize=11)
    return figure

"""Pictures of volumes: orthogonal planes, bias field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from terareg.core.frames import Frame
from terareg.views.customary import View
from terareg.views.figures import canvas
from terareg.views.tables import show


@canvas.picture
def mid_planes(
    volume: np.ndarray,
    frame: Frame,
    *,
    title: str,
    limits: Sequence[float] | None = None,
    index: Sequence[int] | None = None,
) -> Figure:
    """Draw the three middle planes of a volume with scale bar and orientation letters.

    Parameters
    ----------
    volume : numpy.ndarray, shape (z, y, x)
        At a resolution suitable for a page, a few hundred voxels a side.
    frame : Frame
        Of ``volume``.
    title : str
        Heading.
    limits : (low, high), optional
        Display range in counts; percentiles of the three planes where absent.
    index : three int, optional
        Planes shown; the middle ones where absent.
    """
    index = [n // 2 for n in volume.shape] if index is None else index
    planes = [canvas.plane(volume, axis, index[axis]) for axis in range(3)]
    if limits is None:
        limits = canvas.window(np.concatenate([np.ravel(p) for p in planes]))
    figure, axes, shown = canvas.plane_rows(frame, [""], title)
    for view, cell in zip(shown, axes[0]):
        axis = view.axis
        canvas.show_plane(cell, planes[axis], frame, axis, vmin=limits[0], vmax=limits[1])
        cell.set_title(plane_title(frame, view, index[axis]))
    figure.supxlabel(
        f"grey values: black = {show(limits[0])}, white = {show(limits[1])}",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def plane_title(frame: Frame, view: View, index: int) -> str:
    """Heading of one plane: anatomical view, array axis and depth."""
    depth = frame.spacing_um[view.axis] * index
    return f"{view.name} ({canvas.AXES[view.axis]} = {depth / 1000:.2f} mm)"


@canvas.picture
def bias_field(
    before: np.ndarray,
    field: np.ndarray,
    frame: Frame,
    info: Mapping | None = None,
    *,
    channel: str,
) -> Figure:
    """Draw the smooth multiplicative field and its effect on the middle plane of each axis.

    Parameters
    ----------
    before : numpy.ndarray, shape (z, y, x)
        Image at low resolution.
    field : numpy.ndarray, float, shape (z, y, x)
        Multiplicative field; corrected = before / field.
    frame : Frame
        Of both.
    info : mapping, optional
        Shown as far as present: resolution_um, iterations, tissue_fraction.
    channel : str
        Name in the heading.
    """
    after = before / np.maximum(field, 1e-6)
    limits = canvas.window(np.concatenate([np.ravel(canvas.plane(before, a)) for a in range(3)]))
    strong = float(np.max(np.abs(np.log2(np.maximum(field, 1e-6)))))
    strong = max(0.05, min(strong, 3.0))
    figure, axes, shown = canvas.plane_rows(
        frame, ("before", "field", "after"), f"Bias field of channel {channel}", bar=True
    )
    canvas.name_views(axes[0], shown)
    for view, cells in zip(shown, axes.T):
        axis = view.axis
        canvas.show_plane(
            cells[0], canvas.plane(before, axis), frame, axis, vmin=limits[0], vmax=limits[1]
        )
        drawn = canvas.show_plane(
            cells[1], np.log2(np.maximum(canvas.plane(field, axis), 1e-6)), frame, axis,
            cmap="PuOr_r", vmin=-strong, vmax=strong,
        )  # fmt: skip
        canvas.show_plane(
            cells[2], canvas.plane(after, axis), frame, axis, vmin=limits[0], vmax=limits[1]
        )
    bar = figure.colorbar(drawn, ax=list(axes[1]), fraction=0.03, pad=0.01, label="times the mean")
    ticks = np.linspace(-strong, strong, 5)
    bar.set_ticks(ticks, labels=[f"{2.0**t:.2f}" for t in ticks])
    facts = [f"field {field.min():.2f} to {field.max():.2f}"]
    for key, unit in (("resolution_um", "µm"), ("iterations", "iterations")):
        if info and info.get(key) is not None:
            facts.append(f"{show(info[key])} {unit}")
    figure.supxlabel(
        ", ".join(facts) + "; orange = too bright, divided out", fontsize=8,
        x=0.01, ha="left",
    )  # fmt: skip
    return figure

"""Picture of the first look: raw images beside the atlas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from terareg.core.frames import Frame
from terareg.views.customary import View, views
from terareg.views.figures import canvas

Box = tuple[str, float, float, float, float]


@canvas.picture
def first_look(
    planes: Sequence[tuple[np.ndarray, Frame]],
    template: np.ndarray,
    regions: np.ndarray,
    atlas_frame: Frame,
    boxes: Sequence[Box],
    notes: Sequence[str],
) -> Figure:
    """Draw three middle planes of the sample, the same planes of the atlas, and the grid of tiles.

    All planes stand as in an atlas. Without tiles the sample is an image that is imported.

    Parameters
    ----------
    planes : sequence of (image, frame)
        Of the sample, one for each array axis; of the frame, the axis perpendicular to the plane
        has one voxel.
    template, regions : numpy.ndarray, shape (z, y, x)
        Of the atlas; regions are any numbers that tell them apart, 0 outside.
    atlas_frame : Frame
        Of both.
    boxes : sequence of (name, left, top, width, height)
        Tiles seen along z, micrometres; none for an image.
    notes : sequence of str
        Lines of text.
    """
    code = planes[0][1].orientation
    shown = list(zip(views(code), views(atlas_frame.orientation)))
    tallest = []
    for view, own in shown:
        pairs = ((planes[view.axis][1], view), (atlas_frame, own))
        sizes = [canvas.plane_um(frame, one) for frame, one in pairs]
        tallest.append(min(1.4, max(height / width for height, width in sizes)))
    title = "First look: do sample and atlas stand the same way?"
    figure = canvas.new_figure(9.8, 1.1 + sum(3.1 * ratio + 0.35 for ratio in tallest), title)
    axes = canvas.axes_grid(figure, 3, 3, height_ratios=tallest)
    limits = canvas.window(np.concatenate([np.ravel(image) for image, _ in planes]))
    bright = canvas.window(np.concatenate([np.ravel(canvas.plane(template, a)) for a in range(3)]))
    for row, (view, own) in zip(axes, shown):
        image, frame = planes[view.axis]
        drawn = np.nan_to_num(image, nan=limits[0])
        canvas.show_plane(row[0], drawn, frame, view.axis, vmin=limits[0], vmax=limits[1])
        whole = canvas.plane(template, own.axis), canvas.plane(regions, own.axis)
        canvas.show_plane(row[1], canvas.outlined(*whole, bright), atlas_frame, own.axis)
        row[0].set_ylabel(view.name, fontsize=10, fontweight="bold")
        row[0].set_xlabel(_growing(view), fontsize=8)
    axes[0, 0].set_title(f"{'raw tiles' if boxes else 'raw image'}, declared {code}")
    axes[0, 1].set_title("atlas")
    beside = list(axes[:, 2])
    if boxes:
        _grid(beside.pop(0), boxes)
        remarks = [
            "Tiles are at their stage positions: they are",
            "not stitched and not corrected, steps in",
            "brightness are expected.",
        ]
    else:
        beside.pop().set_axis_off()
        remarks = ["The image is not corrected and not aligned."]
    canvas.note(beside[0], notes)
    canvas.note(beside[1], [
        *remarks,
        "Left and right often look alike: only a mark",
        "on one side can tell them apart.",
        "If the sample stands otherwise than the atlas,",
        "correct input.orientation before you go on:",
        "below each plane is where the axes of the",
        "image lead in it.",
    ])  # fmt: skip
    return figure


def _growing(view: View) -> str:
    """Where the axes of the array lead in a picture."""
    places = zip((view.right, view.down), view.reversed[::-1], (("right", "left"), ("down", "up")))
    words = [f"{canvas.AXES[axis]} grows {way[against]}" for axis, against, way in places]
    return ", ".join(words)


def _grid(axes, boxes: Sequence[Box]) -> None:
    """Outlines of the tiles with their names, if these are readable."""
    for name, left, top, width, height in boxes:
        axes.add_patch(
            Rectangle((left, top), width, height, fill=False, ec=canvas.BLUE, lw=1, alpha=0.7)
        )
        if len(boxes) <= 60:
            axes.text(left + width / 2, top + height / 2, name, ha="center", va="center",
                      fontsize=6)  # fmt: skip
    right = max(left + width for _, left, _, width, _ in boxes)
    bottom = max(top + height for _, _, top, _, height in boxes)
    axes.set_xlim(min(box[1] for box in boxes), right)
    axes.set_ylim(bottom, min(box[2] for box in boxes))
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{len(boxes)} tiles (x right, y down)")

"""Picture of the first look: raw images beside the atlas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from terareg.core.frames import Frame
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

    Without tiles the sample is an image that is imported.

    Parameters
    ----------
    planes : sequence of (image, frame)
        Of the sample, one for each array axis; of the frame, the axis perpendicular to the plane
        has one voxel.
    template, regions : numpy.ndarray, shape (z, y, x)
        Of the atlas, turned into the orientation of the sample; regions are any numbers that tell
        them apart, 0 outside.
    atlas_frame : Frame
        Of both.
    boxes : sequence of (name, left, top, width, height)
        Tiles seen along z, micrometres; none for an image.
    notes : sequence of str
        Lines of text.
    """
    tallest = [
        max(f.extent_um[d] / f.extent_um[r] for f in (frame, atlas_frame))
        for axis, (_, frame) in enumerate(planes)
        for d, r in [canvas.plane_axes(axis)]
    ]
    height = sum(3.1 * min(1.4, ratio) + 0.35 for ratio in tallest)
    figure = canvas.new_figure(
        9.8, 1.1 + height, "First look: are the same letters next to the same structures?"
    )
    axes = canvas.axes_grid(figure, 3, 3, height_ratios=[min(1.4, ratio) for ratio in tallest])
    limits = canvas.window(np.concatenate([np.ravel(image) for image, _ in planes]))
    shown = canvas.window(np.concatenate([np.ravel(canvas.plane(template, a)) for a in range(3)]))
    for axis, (image, frame) in enumerate(planes):
        drawn = np.nan_to_num(image, nan=limits[0])
        canvas.show_plane(axes[axis, 0], drawn, frame, axis, vmin=limits[0], vmax=limits[1])
        own = canvas.plane(template, axis), canvas.plane(regions, axis)
        canvas.show_plane(axes[axis, 1], canvas.outlined(*own, shown), atlas_frame, axis)
        axes[axis, 0].set_ylabel(canvas.view_name(frame, axis), fontsize=10, fontweight="bold")
    code = planes[0][1].orientation
    axes[0, 0].set_title(f"{'raw tiles' if boxes else 'raw image'}, declared {code}")
    axes[0, 1].set_title(f"atlas, reoriented to {code}")
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
        "If a letter is wrong, correct",
        "input.orientation before you go on.",
    ])  # fmt: skip
    return figure


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
    axes.set_title(f"{len(boxes)} tiles, seen along z")

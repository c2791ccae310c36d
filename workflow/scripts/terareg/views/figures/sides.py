"""Picture of the two sides of a channel: what each shows, and where each counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from terareg.views.figures import canvas
from terareg.volumes.share_maps import WHOLE, unpacked

_SHARES = LinearSegmentedColormap.from_list("shares", [canvas.ORANGE, "#f4f4f4", canvas.BLUE])


@canvas.picture
def sides_map(match: Mapping[str, Any], spacing_um: Sequence[float]) -> Figure:
    """Draw brightness and fine structure of both sides, and the weight of each.

    Parameters
    ----------
    match : mapping
        As in ``stitching/sides/*.json``: ``sides``, ``ends``, ``weights``, ``own_percent``, and
        ``picture`` of :func:`terareg.stitching.side_shares.side_picture`.
    spacing_um : sequence of float
        (z, y, x).
    """
    (one, other), shown = match["sides"], match["picture"]
    if not shown:
        return canvas.nothing("Sides of a channel", f"{one} and {other} share no tile.")
    rows, columns = ("zyx".index(axis) for axis in shown["axes"])
    height, width = (
        n * step * spacing_um[axis] / 1000
        for n, step, axis in zip(shown["shape"], shown["step_vox"], (rows, columns))
    )
    ratio = float(np.clip(height / width, 0.25, 1.5))
    figure = canvas.new_figure(
        10.0,
        1.3 + 7.0 * ratio,
        f"Sides of channel {match['channel']}: weights by {match['weights']}",
    )
    axes = canvas.axes_grid(figure, 2, 3)
    extent = (0.0, width, height, 0.0)
    for row, (name, words) in zip(axes, (("brightness", "brightness"),
                                         ("structure", "fine structure"))):  # fmt: skip
        for cell, side, end, text in zip(row, (one, other), match["ends"], shown[name]):
            image = unpacked(text, shown["shape"])
            cell.imshow(image, cmap="gray", vmin=0, vmax=WHOLE, extent=extent, aspect="equal")
            cell.set_title(f"{side} ({end}): {words}")
    share = unpacked(shown["share"], shown["shape"]) / WHOLE
    picture = axes[0, 2].imshow(share, cmap=_SHARES, vmin=0, vmax=1, extent=extent, aspect="equal")
    figure.colorbar(picture, ax=axes[0, 2], label=f"weight of {one}", fraction=0.05)
    axes[0, 2].set_title(_own(match))
    structure = [unpacked(text, shown["shape"]).astype(float) for text in shown["structure"]]
    mixed = share * structure[0] + (1 - share) * structure[1]
    axes[1, 2].imshow(mixed, cmap="gray", vmin=0, vmax=WHOLE, extent=extent, aspect="equal")
    axes[1, 2].set_title("fine structure by these weights")
    if share.min() < 0.5 < share.max():
        for cell in axes.ravel():
            cell.contour(
                share, levels=[0.5], colors=[canvas.RED], linewidths=1.2, extent=extent,
                origin="upper",
            )  # fmt: skip
    for cell in axes.ravel():
        cell.set_xlabel(f"{shown['axes'][1]} (mm)")
        cell.set_ylabel(f"{shown['axes'][0]} (mm)")
    return figure


def _own(match: Mapping[str, Any]) -> str:
    own = match["own_percent"]
    if own is None:
        return "weights"
    return f"{own[0]:.0f} % {match['sides'][0]}, {own[1]:.0f} % {match['sides'][1]}"

"""A picture for what there is nothing to show of, and why."""

from __future__ import annotations

from matplotlib.figure import Figure

from terareg.views.figures import canvas


@canvas.picture
def blank(title: str, reason: str) -> Figure:
    """Draw a heading and one sentence."""
    figure = canvas.new_figure(7.0, 1.2, title)
    figure.text(0.02, 0.3, reason, fontsize=9)
    return figure

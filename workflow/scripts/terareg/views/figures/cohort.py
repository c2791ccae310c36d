"""Pictures of comparisons: volcano plots, heat maps of regions by samples, maps in the atlas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.views.figures import canvas

_NAMED = 8  # regions with their names in a volcano plot
_SHOWN = 30  # regions of a heat map
_REACH = 3.0  # standard deviations, of the colours of a heat map
Row = Mapping[str, str]


def shown_rows(rows: Sequence[Row], measure: str) -> list[Row]:
    """Rows of a measure that pictures show: regions with all below them, both sides, tested."""
    kept = (r for r in rows if (r["scope"], r["hemisphere"]) == ("tree", "both"))
    return [row for row in kept if row["measure"] == measure and row["p"]]


@canvas.picture
def volcano(rows: Sequence[Row], measures: Mapping[str, str], fdr: float) -> Figure:
    """Draw p-values against effect sizes, one panel for each measure.

    Parameters
    ----------
    rows : sequence of mapping
        Of :func:`terareg.cohort.regions.compare_regions`, as text.
    measures : mapping of str to str
        Measures and their titles.
    fdr : float
        False discovery rate from which on a region is coloured and named.
    """
    columns = min(2, len(measures))
    lines = math.ceil(len(measures) / columns)
    figure = canvas.new_figure(5 * columns, 0.4 + 3.8 * lines, "Effect size and p-value of regions")
    panels = canvas.axes_grid(figure, lines, columns).reshape(-1)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    for axes, (measure, title) in zip(panels, measures.items()):
        chosen = shown_rows(rows, measure)
        axes.set_title(title)
        if not chosen:
            canvas.note(axes, ["No region could be tested."])
            continue
        g, p, q = (np.array([float(r[k]) for r in chosen]) for k in ("hedges_g", "p", "q"))
        height, found = -np.log10(np.maximum(p, 1e-300)), q <= fdr
        for part, colour in ((~found, canvas.GREY), (found & (g > 0), canvas.RED),
                             (found & (g <= 0), canvas.BLUE)):  # fmt: skip
            axes.scatter(g[part], height[part], s=12, color=colour, alpha=0.7, linewidths=0)
        if found.any():
            axes.axhline(height[found].min(), color=canvas.GREY, lw=0.8, ls="--")
        for n in np.lexsort((-np.abs(g), p))[:_NAMED]:
            axes.annotate(chosen[n]["acronym"], (g[n], height[n]), xytext=(3, 3), fontsize=7,
                          textcoords="offset points")  # fmt: skip
        axes.axvline(0, color=canvas.GREY, lw=0.5)
        axes.set_xlabel("Hedges' g")
        axes.set_ylabel("-log10 p")
    return figure


@canvas.picture
def heat_map(
    rows: Sequence[Row],
    values: Mapping[tuple[str, ...], np.ndarray],
    measures: Mapping[str, str],
    samples: Sequence[tuple[str, str]],
) -> Figure:
    """Draw the values of the regions with the smallest p-values, sample by sample.

    Parameters
    ----------
    rows : sequence of mapping
        As for :func:`volcano`.
    values : mapping of tuple to numpy.ndarray, shape (samples,)
        Of each row by :func:`value_key`; NaN where a sample has none.
    measures : mapping of str to str
    samples : sequence of (str, str)
        Name and group, in the order of the values.
    """
    chosen = {m: _smallest(shown_rows(rows, m), values)[:_SHOWN] for m in measures}
    heights = [max(2, len(regions)) for regions in chosen.values()]
    width = 2.6 + 0.32 * len(samples)
    figure = canvas.new_figure(
        max(6.0, width), 0.8 + 0.17 * sum(heights) + 1.3 * len(heights),
        "Regions with the smallest p-values, by sample",
    )  # fmt: skip
    panels = canvas.axes_grid(figure, len(chosen), 1, height_ratios=heights)[:, 0]
    order = sorted(range(len(samples)), key=lambda n: samples[n][1] != samples[0][1])
    drawn = None
    for axes, (measure, regions) in zip(panels, chosen.items()):
        axes.set_title(measures[measure])
        if not regions:
            canvas.note(axes, ["No region could be tested."])
            continue
        table = np.stack([_standardised(values[value_key(row)][order]) for row in regions])
        drawn = axes.imshow(table, cmap="RdBu_r", vmin=-_REACH, vmax=_REACH, aspect="auto",
                            interpolation="nearest")  # fmt: skip
        axes.set_yticks(range(len(regions)), [row["acronym"] for row in regions], fontsize=7)
        axes.set_xticks(range(len(order)), [samples[n][0] for n in order], rotation=60,
                        ha="right", fontsize=7)  # fmt: skip
        first = sum(samples[n][1] == samples[order[0]][1] for n in order)
        axes.axvline(first - 0.5, color="black", lw=1.5)
    if drawn is not None:
        figure.colorbar(
            drawn, ax=list(panels), shrink=0.5, label="standard deviations from the mean"
        )
    return figure


def value_key(row: Row) -> tuple[str, ...]:
    """What names the values of a row."""
    return tuple(row[key] for key in ("measure", "id", "scope", "hemisphere"))


def _smallest(rows: list[Row], values: Mapping[tuple[str, ...], np.ndarray]) -> list[Row]:
    """Rows from the smallest p-value on; of regions with the same values only the first."""
    found: dict[bytes, Row] = {}
    for row in sorted(rows, key=lambda row: (float(row["p"]), -abs(float(row["hedges_g"])))):
        found.setdefault(values[value_key(row)].tobytes(), row)
    return list(found.values())


def _standardised(values: np.ndarray) -> np.ndarray:
    there = np.isfinite(values)
    spread = values[there].std() if there.any() else 0.0
    return (values - values[there].mean()) / spread if spread else np.zeros_like(values)


@canvas.picture
def voxel_maps(maps: Mapping[str, np.ndarray], titles: Mapping[str, str], frame: Frame,
               title: str) -> Figure:  # fmt: skip
    """Draw maps in the atlas in three planes through the clearest difference.

    Parameters
    ----------
    maps : mapping of str to numpy.ndarray, shape ``frame.shape``
        With "cohens_d", which is drawn in colours from blue (less) over white to red (more).
    titles : mapping of str to str
        Of the maps that are drawn, in their order.
    frame : Frame
    title : str
    """
    d = maps["cohens_d"]
    smooth = ndimage.uniform_filter(d, 5)
    place = np.unravel_index(int(np.argmax(np.abs(smooth))), d.shape)
    means = np.concatenate([maps[n].reshape(-1) for n in titles if n.startswith("mean")])
    low, high = canvas.window(means, 0.5, 99.9)
    figure, axes, shown = canvas.plane_rows(frame, list(titles.values()), title, bar=True)
    canvas.name_views(axes[0], shown)
    for panels, name in zip(axes, titles):
        options = {"cmap": "gray", "vmin": low, "vmax": high}
        if name == "cohens_d":
            reach = max(float(np.percentile(np.abs(d), 99.9)), 1e-6)
            options = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
        elif name == "sd":
            options["vmin"], options["vmax"] = canvas.window(maps[name], 0.5, 99.9)
        for view, panel in zip(shown, panels):
            image = canvas.plane(maps[name], view.axis, int(place[view.axis]))
            drawn = canvas.show_plane(panel, image, frame, view.axis, **options)
        figure.colorbar(drawn, ax=list(panels), shrink=0.7)
    return figure

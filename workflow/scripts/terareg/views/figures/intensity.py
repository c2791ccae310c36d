"""Pictures of the flat-field and of its effect on the tiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from terareg.views.figures import canvas


@canvas.picture
def flatfield_map(
    profile: np.ndarray, info: Mapping, additive: np.ndarray | None = None, *, channel: str
) -> Figure:
    """Draw a flat-field with its row and column profiles and the data it was estimated from.

    Parameters
    ----------
    profile : numpy.ndarray, float, shape (y, x)
        Relative sensitivity, mean 1.
    info : mapping
        Shown as far as present: method, background (counts), tiles, planes, residual (fraction),
        tissue_fraction.
    additive : numpy.ndarray, float, shape (y, x), optional
        Additive image beside the background, counts.
    channel : str
        Name in the heading.

    """
    small, factor = canvas.shrink(np.asarray(profile) * 100)
    height, width = profile.shape
    low, high = canvas.window(small, 0.1, 99.9)
    rows = 2 if additive is None else 3
    title = f"Flat-field of channel {channel}"
    figure = canvas.new_figure(8.6, 6.0 if additive is None else 9.6, title)
    heights = (3, 1.2, 2.6)[:rows]
    axes = canvas.axes_grid(figure, rows, 2, width_ratios=(3, 1.35), height_ratios=heights)
    picture = axes[0, 0].imshow(
        small, cmap="cividis", vmin=low, vmax=high, extent=(0, width, height, 0), aspect="auto"
    )
    lines = axes[0, 0].contour(
        (np.arange(small.shape[1]) + 0.5) * factor, (np.arange(small.shape[0]) + 0.5) * factor,
        small, levels=6, colors="white", linewidths=0.7,
    )  # fmt: skip
    axes[0, 0].clabel(lines, fmt="%.0f %%", fontsize=7)
    axes[0, 0].set_ylabel("camera row (pixel)")
    axes[0, 0].set_title("Sensitivity, 100 % = mean")
    figure.colorbar(picture, ax=axes[0, 0], label="percent of the mean", fraction=0.05, pad=0.02)
    _profiles(axes[1, 0], small, factor, across=True)
    _profiles(axes[0, 1], small, factor, across=False)
    axes[0, 1].sharey(axes[0, 0])
    canvas.note(axes[1, 1], _flatfield_facts(profile, info))
    if additive is not None:
        image, _ = canvas.shrink(np.asarray(additive) + info["background"])
        picture = axes[2, 0].imshow(
            image, cmap="cividis", extent=(0, width, height, 0), aspect="auto"
        )
        axes[2, 0].set_ylabel("camera row (pixel)")
        axes[2, 0].set_title("Background with its additive image, from tiles without tissue")
        figure.colorbar(picture, ax=axes[2, 0], label="grey value", fraction=0.05, pad=0.02)
        canvas.note(
            axes[2, 1], [f"{image.min():.0f} to {image.max():.0f} grey values,", "subtracted"]
        )
    return figure


@canvas.picture
def no_stripes(steps: Mapping[str, float]) -> Figure:
    """Say that the overlaps show no stripes, and name the differences between tiles.

    Parameters
    ----------
    steps : mapping of str to float
        Causes and their brightness steps, percent of one tile.
    """
    figure = canvas.new_figure(8.6, 2.6, "Stripe artefacts: none")
    axes = canvas.axes_grid(figure, 1, 1)
    lines = ["The lines of neighbouring tiles agree where they overlap: no line was corrected.", ""]
    canvas.note(axes[0, 0], lines + [f"{name}: {size:.2f} %" for name, size in steps.items()])
    return figure


@canvas.picture
def stripes_map(
    before: np.ndarray, after: np.ndarray, gains: np.ndarray, *, place: tuple[str, int], rows: bool
) -> Figure:
    """Draw a plane with and without its stripes, and the gains of all lines of its tile.

    Parameters
    ----------
    before, after : numpy.ndarray, shape (y, x)
        The plane without and with division by the gains.
    gains : numpy.ndarray of float, shape (planes, lines)
        Around 1.
    place : (str, int)
        Name of the tile and number of the plane.
    rows : bool
        Whether a line is a row of pixels or a column.
    """
    tile, plane = place
    line = int(np.abs(gains[plane] - 1).argmax())
    height, width = before.shape
    # averaging pixels would hide stripes, so a part of the plane is shown at full resolution
    y = _around(line if rows else height // 2, height)
    x = _around(width // 2 if rows else line, width)
    z, lines = _around(plane, len(gains)), y if rows else x
    figure = canvas.new_figure(8.6, 7.2, f"Stripe artefacts in tile {tile}")
    axes = canvas.axes_grid(figure, 2, 2, height_ratios=(1.4, 1))
    low, high = canvas.window(before[y, x])
    for ax, image, title in zip(axes[0], (before, after), ("before", "after")):
        ax.imshow(image[y, x], cmap="gray", vmin=low, vmax=high)
        ax.set_title(f"plane {plane}, {title}")
        ax.set_axis_off()
    percent = 100 * gains[z, lines]
    low, high = canvas.window(percent)
    reach = max(100 - low, high - 100, 0.5)
    picture = axes[1, 0].imshow(
        percent, cmap="RdBu_r", vmin=100 - reach, vmax=100 + reach, aspect="auto",
        extent=(lines.start, lines.stop, z.stop, z.start),
    )  # fmt: skip
    name = "row" if rows else "column"
    axes[1, 0].set_xlabel(f"{name} (pixel)")
    axes[1, 0].set_ylabel("plane")
    axes[1, 0].set_title("brightness of lines")
    figure.colorbar(picture, ax=axes[1, 0], label="percent", fraction=0.05, pad=0.02)
    axes[1, 1].plot(np.arange(lines.start, lines.stop), 100 * gains[plane, lines],
                    color=canvas.BLUE, lw=0.9)  # fmt: skip
    axes[1, 1].set_xlabel(f"{name} of plane {plane} (pixel)")
    axes[1, 1].set_ylabel("percent")
    axes[1, 1].set_xlim(lines.start, lines.stop)
    axes[1, 1].grid(alpha=0.3)
    return figure


def _around(middle: int, size: int, most: int = 512) -> slice:
    """At most ``most`` indices around ``middle``, of 0 to ``size``."""
    start = min(max(0, middle - most // 2), max(0, size - most))
    return slice(start, min(start + most, size))


def _profiles(axes, image: np.ndarray, factor: int, *, across: bool) -> None:
    """Mean, first and last tenth of the camera along one axis."""
    lines = image if across else image.T
    tenth = max(1, len(lines) // 10)
    position = (np.arange(lines.shape[1]) + 0.5) * factor
    ends = ("top tenth", "bottom tenth") if across else ("left tenth", "right tenth")
    parts = (
        ("mean", lines.mean(axis=0), canvas.BLUE, "-"),
        (ends[0], lines[:tenth].mean(axis=0), canvas.ORANGE, "--"),
        (ends[1], lines[-tenth:].mean(axis=0), canvas.GREEN, ":"),
    )
    for label, values, colour, style in parts:
        pair = (position, values) if across else (values, position)
        axes.plot(*pair, style, color=colour, label=label, lw=1.4)
    if across:
        axes.set_xlabel("camera column (pixel)")
        axes.set_ylabel("percent")
        axes.set_xlim(0, lines.shape[1] * factor)
    else:
        axes.set_xlabel("percent")
        axes.set_title("Along rows")
    axes.legend(fontsize=7, frameon=False)
    axes.grid(alpha=0.3)


def _flatfield_facts(profile: np.ndarray, info: Mapping) -> list[str]:
    lines = [f"brightest / darkest: {profile.max() / max(profile.min(), 1e-9):.2f}"]
    texts = {
        "method": "method: {}",
        "background": "dark offset: {:.1f} grey values",
        "background_model": "model of the dark offset: {}",
        "tiles": "tiles used: {:d}",
        "planes": "planes used: {:d}",
        "tissue_fraction": "planes with tissue: {:.0%}",
        "residual": "residual: {:.2%}",
    }
    for key, text in texts.items():
        value = info.get(key)
        if value is None:
            continue
        try:
            lines.append(text.format(value))
        except (TypeError, ValueError):
            lines.append(f"{text.split(':')[0]}: {value}")
    return lines


@canvas.picture
def tile_means(before: np.ndarray, after: np.ndarray, *, channel: str) -> Figure:
    """Draw the mean over all tiles before and after the flat-field correction.

    What all tiles have in common is due to the microscope, not to the sample, so the right picture
    should be even.

    Parameters
    ----------
    before, after : numpy.ndarray, shape (y, x)
        Means of the raw planes (dark offset removed, if known) and of the corrected ones.
    channel : str
        Name in the heading.
    """
    images = [np.asarray(i, np.float64) for i in (before, after)]
    relative = [100 * i / max(float(np.nanmean(i)), 1e-9) for i in images]
    small = [canvas.shrink(i) for i in relative]
    low, high = canvas.window(small[0][0])
    height, width = images[0].shape
    figure = canvas.new_figure(8.6, 5.6, f"Mean of all tiles, channel {channel}")
    axes = canvas.axes_grid(figure, 2, 2, height_ratios=(3, 1.3))
    for column, (name, (image, _)) in enumerate(zip(("before", "after"), small)):
        spread = float(np.nanstd(image))
        picture = axes[0, column].imshow(
            image, cmap="cividis", vmin=low, vmax=high, extent=(0, width, height, 0), aspect="auto"
        )
        axes[0, column].set_title(f"{name}: unevenness (SD) {spread:.1f} %")
    axes[0, 0].set_ylabel("camera row (pixel)")
    figure.colorbar(picture, ax=list(axes[0]), label="percent of the mean", fraction=0.03, pad=0.01)
    for column, (label, axis, size) in enumerate((("column", 0, width), ("row", 1, height))):
        for name, (image, factor), colour, style in zip(
            ("before", "after"), small, (canvas.ORANGE, canvas.BLUE), ("--", "-")
        ):
            values = np.nanmean(image, axis=axis)
            axes[1, column].plot(
                (np.arange(len(values)) + 0.5) * factor, values, style, color=colour, label=name
            )
        axes[1, column].axhline(100, color=canvas.GREY, lw=0.8)
        axes[1, column].set_xlim(0, size)
        axes[1, column].set_xlabel(f"camera {label} (pixel)")
        axes[1, column].grid(alpha=0.3)
    axes[1, 0].set_ylabel("percent of the mean")
    axes[1, 0].legend(fontsize=8, frameon=False)
    return figure

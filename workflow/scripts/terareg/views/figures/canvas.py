"""Shared by all pictures: figure and PNG, colours, display windows, planes, bars and letters."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from terareg.core.frames import Frame
from terareg.core.orientation import opposite
from terareg.core.threshold import white_level, zeros_are_empty
from terareg.views.customary import View, view_across, views

P = ParamSpec("P")

# palette of Okabe and Ito, distinguishable with every common kind of colour blindness
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, GREY = "#d55e00", "#cc79a7", "#6b6b6b"

_RGB_OF_REGION = (0, 220, 255)

AXES = ("z", "y", "x")
_DPI = 100
_STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,
}


def picture(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Turn a function that draws a figure into one that returns PNG bytes.

    It runs with terareg's own settings, whatever matplotlibrc says. The PNG carries no metadata,
    so that equal figures give equal bytes; one without colour is stored as 8-bit grey, a third of
    the size.
    """

    return _drawn(draw, _png)


def photo(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """As :func:`picture`, for tissue at full resolution: JPEG bytes, a tenth of the size of PNG."""
    return _drawn(draw, _jpeg)


def _drawn(draw: Callable[P, Figure], encoded: Callable[[np.ndarray], bytes]) -> Callable[P, bytes]:
    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
            figure = draw(*args, **kwargs)
            canvas = figure.canvas
            assert isinstance(canvas, FigureCanvasAgg)
            canvas.draw()
        return encoded(np.asarray(canvas.buffer_rgba())[..., :3])

    return drawn


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    # colour at full resolution, or lines of one pixel would fade
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=85, subsampling=0)
    return stream.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    grey = (pixels == pixels[..., :1]).all()
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return a figure of ``width`` x ``height`` inches with a heading; see :func:`picture`."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    FigureCanvasAgg(figure)
    return figure


def filled_figure(pixels: tuple[int, int], inches: float):
    """Return a figure of exactly ``pixels`` (rows, columns), and axes that fill it.

    Text is as large as on a figure that is ``inches`` wide.
    """
    rows, columns = pixels
    dpi = columns / inches
    # a little more than whole pixels, so that rounding never drops one
    figure = Figure(figsize=((columns + 0.01) / dpi, (rows + 0.01) / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0, 0, 1, 1))


def axes_grid(figure: Figure, rows: int, columns: int, **ratios) -> np.ndarray:
    """Return axes as an object array (rows, columns); ``ratios``: width_ratios, height_ratios."""
    return figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios or None)


def window(values: np.ndarray, low: float = 0.5, high: float = 99.7) -> tuple[float, float]:
    """Display range of an image: percentiles of its finite values, never empty.

    White is at most three times what is typical of tissue above the lower end, so that a few very
    bright parts do not leave the rest black. Places that were not imaged do not count. A constant
    image gets a range of one around its value, so that it shows as mid grey.
    """
    values = np.asarray(values)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    imaged = finite[finite != 0]
    if 0 < imaged.size < finite.size and zeros_are_empty(*np.percentile(imaged, [0.1, 10])):
        finite = imaged
    bottom, top = (float(v) for v in np.percentile(finite, [low, high]))
    if top <= bottom:
        bottom, top = float(finite.min()), float(finite.max())
    if top > bottom:
        top = white_level(finite, bottom, top)
    return (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def shrink(image: np.ndarray, largest: int = 512) -> tuple[np.ndarray, int]:
    """Average a 2-D image over whole squares until no side exceeds ``largest`` pixels.

    Returns
    -------
    image : numpy.ndarray, float32
    factor : int
        Pixels averaged along each axis; means at the far edges are over the pixels that exist.
    """
    image = np.asarray(image, np.float32)
    factor = max(1, math.ceil(max(image.shape) / largest))
    if factor == 1:
        return image, 1
    pads = [(0, -n % factor) for n in image.shape]
    padded = np.pad(image, pads, constant_values=np.nan)
    rows, columns = (n // factor for n in padded.shape)
    blocks = padded.reshape(rows, factor, columns, factor)
    valid = np.isfinite(blocks)
    total = np.where(valid, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return (total / np.maximum(valid.sum(axis=(1, 3)), 1)).astype(np.float32), factor


def plane(volume: np.ndarray, axis: int, index: int | None = None) -> np.ndarray:
    """Return the 2-D plane ``index`` (default: the middle) perpendicular to ``axis``."""
    index = volume.shape[axis] // 2 if index is None else index
    return np.take(volume, index, axis=axis)


def show_plane(axes, image: np.ndarray, frame: Frame, axis: int, **options):
    """Draw one plane of a volume in true proportions with a scale bar and orientation letters.

    It stands as in an atlas, see :mod:`terareg.views.customary`. Returns what ``imshow`` does.

    Parameters
    ----------
    axes : matplotlib axes
    image : numpy.ndarray
        2-D, or 2-D with RGB, its axes in the order of the array, as returned by :func:`plane`. Its
        pixels may be smaller than the voxels of the frame, but it covers the same area.
    frame : Frame
        Frame of the whole volume; gives pixel sizes and letters.
    axis : int
        Array axis perpendicular to the plane.
    **options
        For ``imshow``: cmap, vmin, vmax. Defaults to grey in the window of the image.
    """
    drawn = add_plane(axes, image, frame, axis, **options)
    view = view_across(frame.orientation, axis)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    letters(axes, *view.letters)
    height, width = plane_um(frame, view)
    scale_bar(axes, width, height, round_length(width / 3))
    return drawn


def add_plane(axes, image: np.ndarray, frame: Frame, axis: int, **options):
    """As :func:`show_plane`, over another plane: without letters and scale bar."""
    view = view_across(frame.orientation, axis)
    height, width = plane_um(frame, view)
    if image.ndim == 2 and "cmap" not in options and "norm" not in options:
        options["cmap"] = "gray"
        if "vmin" not in options:
            options["vmin"], options["vmax"] = window(image)
    options = {"interpolation": "nearest", "aspect": "equal", **options}
    return axes.imshow(view.turned(image), extent=(0, width, height, 0), **options)


def plane_um(frame: Frame, view: View) -> tuple[float, float]:
    """Height and width of a plane as it is shown."""
    return frame.extent_um[view.down], frame.extent_um[view.right]


def letters(axes, down: str, right: str) -> None:
    """Write the four anatomical directions at the edges of a plane.

    ``down`` and ``right`` are the directions in which the picture's rows and columns grow.
    """
    style = {
        "transform": axes.transAxes, "fontsize": 9, "fontweight": "bold", "color": "#111111",
        "bbox": {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
    }  # fmt: skip
    axes.text(0.5, 0.985, opposite(down), ha="center", va="top", **style)
    axes.text(0.5, 0.015, down, ha="center", va="bottom", **style)
    axes.text(0.015, 0.5, opposite(right), ha="left", va="center", **style)
    axes.text(0.985, 0.5, right, ha="right", va="center", **style)


def scale_bar(axes, width_um: float, height_um: float, length_um: float) -> None:
    """Draw a bar of a known length at the lower left of a picture with axes in micrometres."""
    x, y = 0.04 * width_um, 0.93 * height_um
    # black within white is one bar on dark tissue and on white paper
    for colour, thickness in (("white", 6.0), ("black", 3.0)):
        axes.plot([x, x + length_um], [y, y], color=colour, lw=thickness, solid_capstyle="butt")
    axes.text(
        x, y - 0.02 * height_um, length_text(length_um), color="black", fontsize=8, va="bottom",
        bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.8},
    )  # fmt: skip
    axes.set_xlim(0, width_um)
    axes.set_ylim(height_um, 0)


def round_length(length_um: float) -> float:
    """Largest of 1, 2, 5 times a power of ten that does not exceed ``length_um``."""
    power = 10.0 ** math.floor(math.log10(length_um))
    return next(m * power for m in (5, 2, 1) if m * power <= length_um * (1 + 1e-9))


def length_text(length_um: float) -> str:
    """Write a length in a suitable unit."""
    if length_um >= 1000:
        return f"{length_um / 1000:g} mm"
    return f"{length_um:g} µm" if length_um >= 1 else f"{length_um * 1000:g} nm"


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Mark pixels whose right or lower neighbour carries another label, shape of ``labels``."""
    labels = np.asarray(labels)
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    return edge


def outlined(
    image: np.ndarray, labels: np.ndarray, limits: Sequence[float], region: int = 0
) -> np.ndarray:
    """Draw the boundaries of labelled regions on a grey image.

    Parameters
    ----------
    image, labels : numpy.ndarray, shape (rows, columns)
        Both are enlarged by repetition, so that lines stay thin. Label 0 is outside.
    limits : (low, high)
        Display range of the image.
    region : int
        A label whose boundary stands out; 0 for none.

    Returns
    -------
    numpy.ndarray, uint8, RGB
        The outline of the whole in full colour, inner boundaries half transparent.
    """
    image, labels = (enlarge(i) for i in (image, labels))
    low, high = limits
    grey = np.clip((np.nan_to_num(image, nan=low) - low) / (high - low), 0, 1)
    picture = np.repeat((grey * 255)[..., None], 3, axis=2)
    colour = np.array([int(ORANGE[i : i + 2], 16) for i in (1, 3, 5)], float)
    inner = boundaries(labels)
    picture[inner] = 0.5 * picture[inner] + 0.5 * colour
    outer = boundaries(labels > 0)
    picture[outer | np.roll(outer, 1, 0) | np.roll(outer, 1, 1)] = colour
    if region:
        own = boundaries(labels == region)
        picture[own | np.roll(own, 1, 0) | np.roll(own, 1, 1)] = _RGB_OF_REGION
    return picture.astype(np.uint8)


def composite(first: np.ndarray, second: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """Show two images as magenta and green; where they agree the picture is grey."""
    low, high = limits
    a, b = (
        np.clip((np.nan_to_num(i, nan=low) - low) / (high - low), 0, 1) for i in (first, second)
    )
    return (np.stack([a, b, a], axis=-1) * 255).astype(np.uint8)


def enlarge(image: np.ndarray, smallest: int = 360) -> np.ndarray:
    """Repeat pixels of a small picture so that one-pixel lines stay visible when it is scaled."""
    factor = max(1, math.ceil(smallest / max(image.shape[:2])))
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def plane_rows(frame: Frame, names: Sequence[str], title: str, *, bar: bool = False):
    """Return a figure, axes (rows, 3) for rows of three orthogonal planes, and the three views.

    Parameters
    ----------
    frame : Frame
        Gives the proportions.
    names : sequence of str
        Label of each row.
    title : str
        Heading.
    bar : bool
        Leave room for a colour bar at the right.
    """
    shown = views(frame.orientation)
    heights, widths = zip(*(plane_um(frame, view) for view in shown))
    tallest = max(heights)
    height = (8.8 if bar else 9.7) * tallest / sum(widths)
    figure = new_figure(10, 0.9 + len(names) * (min(max(height, 1.2), 7.0) + 0.08), title)
    axes = axes_grid(figure, len(names), 3, width_ratios=widths)
    for row, name in zip(axes, names):
        row[0].set_ylabel(name, fontsize=10, fontweight="bold")
    return figure, axes, shown


def name_views(cells: Iterable, shown: Iterable[View]) -> None:
    """Write the names of views above the panels of a row."""
    for cell, view in zip(cells, shown):
        cell.set_title(view.name)


def nothing(title: str, reason: str) -> Figure:
    """Return a small figure that says why there is nothing to draw.

    A workflow declares its pictures before the data are known, so an empty one has to explain why.
    """
    figure = new_figure(8.6, 2.0, title)
    note(axes_grid(figure, 1, 1)[0, 0], ["Nothing to draw: " + reason])
    return figure


def note(axes, lines: Iterable[str]) -> None:
    """Fill an empty panel with lines of text."""
    axes.set_axis_off()
    axes.text(
        0.0, 1.0, "\n".join(lines), va="top", ha="left", fontsize=9, linespacing=1.5,
        transform=axes.transAxes, wrap=True,
    )  # fmt: skip

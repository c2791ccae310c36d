"""What all pictures share: figure and PNG, colours, display windows, planes, bars and letters."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from terareg.frames import Frame

# Okabe and Ito's palette: told apart with every common kind of colour blindness
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, SKY, GREY = "#d55e00", "#cc79a7", "#56b4e9", "#6b6b6b"

AXES = ("z", "y", "x")
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
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


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return a figure of ``width`` x ``height`` inches with terareg's settings and a heading."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        if title:
            figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    FigureCanvasAgg(figure)
    return figure


def axes_grid(figure: Figure, rows: int, columns: int, **options) -> np.ndarray:
    """Return an object array (rows, columns) of axes drawn with terareg's settings."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        return figure.subplots(rows, columns, squeeze=False, gridspec_kw=options or None)


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG without any metadata; equal figures give equal bytes.

    Pictures without colour are stored as 8-bit grey, which is a third of the size.
    """
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy(), "RGB")
    bands = np.asarray(picture)
    if np.array_equal(bands[..., 0], bands[..., 1]) and np.array_equal(bands[..., 1], bands[..., 2]):
        picture = picture.convert("L")
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def window(values: np.ndarray, low: float = 0.5, high: float = 99.7) -> tuple[float, float]:
    """Display range of an image: percentiles of its finite values, never empty.

    A constant image gets a range of one around its value, so that it shows as mid grey.
    """
    values = np.asarray(values)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    bottom, top = (float(v) for v in np.percentile(finite, [low, high]))
    if top <= bottom:
        bottom, top = float(finite.min()), float(finite.max())
    return (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def shrink(image: np.ndarray, largest: int = 512) -> tuple[np.ndarray, int]:
    """Average a 2-D image over whole squares until no side exceeds ``largest`` pixels.

    Returns
    -------
    image : numpy.ndarray, float32
    factor : int
        Pixels averaged along each axis; the mean at the far edges covers what is there.
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


def plane_axes(axis: int) -> tuple[int, int]:
    """Array axes that run down and to the right in the plane perpendicular to ``axis``."""
    down, right = (a for a in range(3) if a != axis)
    return down, right


def show_plane(axes, image: np.ndarray, frame: Frame, axis: int, **options):
    """Draw one plane of a volume in true proportions with a scale bar and orientation letters.

    Parameters
    ----------
    axes : matplotlib axes
    image : numpy.ndarray
        2-D, or 2-D with RGB; rows run down, as :func:`plane` returns it.
    frame : Frame
        Frame of the whole volume; gives pixel sizes and letters.
    axis : int
        Array axis perpendicular to the plane.
    **options
        For ``imshow``: cmap, vmin, vmax. Defaults to grey in the window of the image.
    """
    down, right = plane_axes(axis)
    height, width = (n * frame.spacing_um[a] for n, a in zip(image.shape[:2], (down, right)))
    if image.ndim == 2 and "cmap" not in options and "norm" not in options:
        options["cmap"] = "gray"
        if "vmin" not in options:
            options["vmin"], options["vmax"] = window(image)
    drawn = axes.imshow(
        image, extent=(0, width, height, 0), interpolation="nearest", aspect="equal", **options
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    letters(axes, frame.orientation[down], frame.orientation[right])
    scale_bar(axes, width, height)
    return drawn


def letters(axes, down: str, right: str) -> None:
    """Write the four anatomical directions at the edges of a plane.

    ``down`` and ``right`` are the directions in which the picture's rows and columns grow.
    """
    style = {
        "transform": axes.transAxes, "fontsize": 9, "fontweight": "bold", "color": "#111111",
        "bbox": {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
    }  # fmt: skip
    axes.text(0.5, 0.985, _OPPOSITE[down], ha="center", va="top", **style)
    axes.text(0.5, 0.015, down, ha="center", va="bottom", **style)
    axes.text(0.015, 0.5, _OPPOSITE[right], ha="left", va="center", **style)
    axes.text(0.985, 0.5, right, ha="right", va="center", **style)


def scale_bar(axes, width_um: float, height_um: float) -> None:
    """Draw a bar of a round length, about a quarter of the picture, at its lower left."""
    length = round_length(width_um / 4)
    x, y = 0.04 * width_um, 0.93 * height_um
    for colour, thickness in (("black", 5.5), ("white", 3.0)):
        axes.plot([x, x + length], [y, y], color=colour, lw=thickness, solid_capstyle="butt")
    axes.text(
        x, y - 0.02 * height_um, length_text(length), color="black", fontsize=8, va="bottom",
        bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.8},
    )  # fmt: skip
    axes.set_xlim(0, width_um)
    axes.set_ylim(height_um, 0)


def round_length(length_um: float) -> float:
    """Largest of 1, 2, 5 times a power of ten that does not exceed ``length_um``."""
    power = 10.0 ** math.floor(math.log10(length_um))
    return next(m * power for m in (5, 2, 1) if m * power <= length_um * (1 + 1e-9))


def length_text(length_um: float) -> str:
    """Write a length with the unit a person would use."""
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


def overlay(image: np.ndarray, mask: np.ndarray, colour: str, limits: Sequence[float]) -> np.ndarray:
    """Return an 8-bit RGB picture of a grey image with the mask's pixels in one colour."""
    low, high = limits
    grey = np.clip((np.nan_to_num(image, nan=low) - low) / (high - low), 0, 1)
    picture = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture[mask] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return picture


def composite(first: np.ndarray, second: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """Show two images as magenta and green; where they agree the picture is grey."""
    low, high = limits
    a, b = (np.clip((np.nan_to_num(i, nan=low) - low) / (high - low), 0, 1) for i in (first, second))
    return (np.stack([a, b, a], axis=-1) * 255).astype(np.uint8)


def enlarge(image: np.ndarray, smallest: int = 240) -> np.ndarray:
    """Repeat pixels of a small picture so that one-pixel lines stay visible when it is scaled."""
    factor = max(1, math.ceil(smallest / max(image.shape[:2])))
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def note(axes, lines: Iterable[str]) -> None:
    """Fill an empty panel with lines of text."""
    axes.set_axis_off()
    axes.text(
        0.0, 1.0, "\n".join(lines), va="top", ha="left", fontsize=9, linespacing=1.5,
        transform=axes.transAxes, wrap=True,
    )  # fmt: skip

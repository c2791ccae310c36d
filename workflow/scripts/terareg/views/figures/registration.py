"""Pictures of the registration: initial pose, overlays, posteriors, energy, Jacobian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.regions.quality import SIDES, judged_sides
from terareg.views.customary import views
from terareg.views.figures import canvas
from terareg.views.thresholds import Verdict

# row, column of the table, end of the colours, and what the colour bar says
_QUALITY = (
    ("fit", "fit_percent", 20.0, "difference (%)"),
    ("missing", "missing_percent", 50.0, "missing (%)"),
    ("artefact", "artefact_percent", 50.0, "artefact (%)"),
    ("volume", "volume_ratio", 1.0, "factor"),
)
_OUTSIDE = ListedColormap(["white"]).with_extremes(bad="#bbbbbb")


@canvas.picture
def preview_alignment(
    sample: np.ndarray,
    sample_frame: Frame,
    template: np.ndarray,
    annotation: np.ndarray,
    atlas_frame: Frame,
    affine: np.ndarray,
) -> Figure:
    """Draw the atlas on the sample by the initial affine, to be checked before the registration.

    Left, the sample with the atlas's region boundaries; middle, the atlas at the same place after
    the affine; right, the atlas in its own frame. All stand in the same way: the first two columns
    are turned by the orientation of the sample, the third by that of the atlas.

    Parameters
    ----------
    sample : numpy.ndarray, shape (z, y, x)
        At a low resolution.
    sample_frame : Frame
        Of ``sample``.
    template, annotation : numpy.ndarray, shape (z, y, x)
        Of the atlas.
    atlas_frame : Frame
        Of both.
    affine : numpy.ndarray, shape (4, 4)
        Maps atlas points to sample points, micrometres, (z, y, x).
    """
    tall = _row_heights(sample_frame, atlas_frame)
    title = "Initial alignment: does it look right?"
    figure = canvas.new_figure(9.6, 1.4 + sum(tall), title)
    axes = canvas.axes_grid(figure, 3, 3, height_ratios=tall)
    limits = canvas.window(np.concatenate([np.ravel(canvas.plane(sample, a)) for a in range(3)]))
    shown = canvas.window(template)
    for row, view, own in zip(
        axes, views(sample_frame.orientation), views(atlas_frame.orientation)
    ):
        axis = view.axis
        image = canvas.plane(sample, axis)
        where = to_index(plane_points(sample_frame, axis), affine, atlas_frame)
        labels = nearest_labels(annotation, where)
        atlas = ndimage.map_coordinates(np.asarray(template, np.float32), where, order=1, cval=0.0)
        canvas.show_plane(row[0], canvas.outlined(image, labels, limits), sample_frame, axis)
        canvas.show_plane(row[1], canvas.outlined(atlas, labels, shown), sample_frame, axis)
        whole = canvas.plane(template, own.axis), canvas.plane(annotation, own.axis)
        canvas.show_plane(row[2], canvas.outlined(*whole, shown), atlas_frame, own.axis)
        row[0].set_ylabel(view.name, fontsize=10, fontweight="bold")
    for cell, words in zip(
        axes[0],
        (
            f"sample ({sample_frame.orientation})",
            "atlas, transformed by the affine",
            f"atlas as it is ({atlas_frame.orientation})",
        ),
    ):
        cell.set_title(words)
    figure.supxlabel(_affine_text(affine), fontsize=8, x=0.01, ha="left")
    return figure


def _row_heights(*frames: Frame) -> list[float]:
    """Heights in inches of the rows of coronal, sagittal and horizontal panels, 3 inches wide."""
    tall = []
    for same in zip(*(views(frame.orientation) for frame in frames)):
        sizes = [canvas.plane_um(frame, view) for frame, view in zip(frames, same)]
        tall.append(3.1 * min(1.25, max(height / width for height, width in sizes)) + 0.25)
    return tall


def plane_points(frame: Frame, axis: int) -> np.ndarray:
    """Micrometres on the middle plane, finer than its voxels, shape (3, rows, columns)."""
    longest = max(n for a, n in enumerate(frame.shape) if a != axis)
    factor = max(1, -(-360 // longest))
    lines = []
    for number, (count, spacing, origin) in enumerate(
        zip(frame.shape, frame.spacing_um, frame.origin_um)
    ):
        if number == axis:
            lines.append(np.array([origin + spacing * (count // 2)]))
        else:
            steps = (np.arange(count * factor) + 0.5) / factor - 0.5
            lines.append(origin + spacing * steps)
    return np.take(np.stack(np.meshgrid(*lines, indexing="ij")), 0, axis=axis + 1)


def to_index(points: np.ndarray, affine: np.ndarray, frame: Frame) -> np.ndarray:
    """Pull sample points back by an affine and give atlas voxel indices, shape of ``points``."""
    inverse = np.linalg.inv(np.asarray(affine, np.float64))
    moved = np.tensordot(inverse[:3, :3], points, 1) + inverse[:3, 3].reshape(3, 1, 1)
    return np.moveaxis(frame.to_index(np.moveaxis(moved, 0, -1)), -1, 0)


def nearest_labels(labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Labels at fractional indices, 0 outside; never interpolated, so all ids are preserved."""
    rounded = np.rint(index).astype(np.int64)
    size = np.array(labels.shape).reshape(3, 1, 1)
    inside = np.all((rounded >= 0) & (rounded < size), axis=0)
    picked = labels[tuple(np.clip(rounded, 0, size - 1))]
    return np.where(inside, picked, 0)


def _affine_text(affine: np.ndarray) -> str:
    stretch = np.linalg.svd(np.asarray(affine)[:3, :3], compute_uv=False)
    kind = "mirrored" if np.linalg.det(np.asarray(affine)[:3, :3]) < 0 else "not mirrored"
    return (
        f"Scale {stretch.min():.3f} to {stretch.max():.3f} (sample over atlas), array axes {kind}. "
        "Letters: R right, L left, A anterior, P posterior, S superior, I inferior."
    )


@canvas.picture
def registration_overlay(
    sample: np.ndarray, frame: Frame, before: np.ndarray, after: np.ndarray, *, title: str = ""
) -> Figure:
    """Draw region boundaries on the sample in three planes, by the initial affine and final map.

    Parameters
    ----------
    sample : numpy.ndarray, shape (z, y, x)
    frame : Frame
        Of all three arrays.
    before, after : numpy.ndarray of integers, shape (z, y, x)
        Atlas labels on the sample's grid, by the initial affine and by the final transform.
    """
    limits = canvas.window(np.concatenate([np.ravel(canvas.plane(sample, a)) for a in range(3)]))
    figure, axes, shown = canvas.plane_rows(
        frame,
        ("initial affine", "registered"),
        title or "Region boundaries before and after registration",
    )
    for row, labels in zip(axes, (before, after)):
        for view, cell in zip(shown, row):
            planes = canvas.plane(sample, view.axis), canvas.plane(labels, view.axis)
            canvas.show_plane(cell, canvas.outlined(*planes, limits), frame, view.axis)
    canvas.name_views(axes[0], shown)
    return figure


@canvas.picture
def prediction(
    channels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    frame: Frame,
    *,
    title: str = "",
    squares: int = 8,
) -> Figure:
    """Draw the sample, its prediction from the atlas, a checkerboard, and the difference.

    For several channels only checkerboard and difference are drawn.

    Parameters
    ----------
    channels : mapping
        Name of a channel to the sample and its prediction, both of shape (z, y, x) and in one
        unit: the prediction has the sample's contrast.
    frame : Frame
        Of all arrays.
    squares : int
        Checkerboard fields along the longer side.
    """
    kinds = ["sample", "prediction", "checkerboard", "difference"]
    names = kinds
    if len(channels) > 1:
        kinds = kinds[2:]
        names = [f"{name}\n{kind}" for name in channels for kind in kinds]
    title = title or "Sample against prediction"
    figure, axes, shown = canvas.plane_rows(frame, names, title, bar=True)
    for number, (sample, predicted) in enumerate(channels.values()):
        planes = [(canvas.plane(sample, v.axis), canvas.plane(predicted, v.axis)) for v in shown]
        limits = canvas.window(np.concatenate([np.ravel(p[0]) for p in planes]))
        half = (limits[1] - limits[0]) / 2
        *rows, last = axes[len(kinds) * number :][: len(kinds)]
        for n, (view, (image, guess)) in enumerate(zip(shown, planes)):
            axis = view.axis
            pictures = (image, guess, _checkerboard(image, guess, frame, axis, squares))
            for row, picture in zip(rows, pictures[-len(rows) :]):
                canvas.show_plane(row[n], picture, frame, axis, vmin=limits[0], vmax=limits[1])
            drawn = canvas.show_plane(
                last[n], image - guess, frame, axis, cmap="PuOr_r", vmin=-half, vmax=half
            )
        figure.colorbar(drawn, ax=list(last), fraction=0.03, pad=0.01, label="sample - prediction")
    canvas.name_views(axes[0], shown)
    return figure


def _checkerboard(image, guess, frame: Frame, axis: int, squares: int) -> np.ndarray:
    down, right = (a for a in range(3) if a != axis)
    edge = max(frame.extent_um[down], frame.extent_um[right]) / squares
    rows = (np.arange(image.shape[0]) * frame.spacing_um[down] // edge).astype(int)
    columns = (np.arange(image.shape[1]) * frame.spacing_um[right] // edge).astype(int)
    return np.where((rows[:, None] + columns[None]) % 2 == 0, image, guess)


@canvas.picture
def posterior_maps(
    posteriors: Mapping[str, np.ndarray],
    frame: Frame,
    sample: np.ndarray | None = None,
    verdicts: Sequence[Verdict] = (),
) -> Figure:
    """Draw where the sample matches the atlas, where it is an artefact, where tissue is missing.

    Parameters
    ----------
    posteriors : mapping
        Name (match, artefact, missing) to probabilities 0 to 1, shape (z, y, x).
    frame : Frame
        Of all arrays.
    sample : numpy.ndarray, optional
        Shown in the first row.
    verdicts : sequence of Verdict, optional
        Of the registration; those on missing tissue and artefacts appear in the title.
    """
    title = "Does the sample match the atlas? Probabilities"
    for name in ("missing", "artefact"):
        for verdict in (v for v in verdicts if v.key == f"registration.{name}_percent"):
            title += f"\n{verdict.text}: {verdict.value:.1f} %"
    maps = posteriors
    first = 0 if sample is None else 1
    rows = ["sample"] * first + list(maps)
    figure, axes, shown = canvas.plane_rows(frame, rows, title, bar=True)
    for view, cells in zip(shown, axes.T):
        axis = view.axis
        if sample is not None:
            canvas.show_plane(cells[0], canvas.plane(sample, axis), frame, axis)
        for cell, values in zip(cells[first:], maps.values()):
            drawn = canvas.show_plane(
                cell, canvas.plane(values, axis), frame, axis, cmap="cividis", vmin=0, vmax=1
            )
    canvas.name_views(axes[0], shown)
    figure.colorbar(
        drawn, ax=list(axes[first:].ravel()), fraction=0.03, pad=0.01, label="probability"
    )
    return figure


@canvas.picture
def quality_map(
    rows: Sequence[Mapping[str, Any]], labels: np.ndarray, sides: np.ndarray, frame: Frame
) -> Figure:
    """Draw every region in the colour of its fit, missing tissue, artefacts and change of volume.

    Parameters
    ----------
    rows : sequence of mapping
        Of :func:`terareg.regions.quality.region_quality`.
    labels : numpy.ndarray of integers, shape (z, y, x)
        Region of every voxel.
    sides : numpy.ndarray of uint8, same shape
        1 left, 2 right.
    frame : Frame
        Of both.
    """
    names = [name for name, *_ in _QUALITY]
    title = "Where does the registration fit badly? Every region"
    figure, axes, shown = canvas.plane_rows(frame, names, title, bar=True)
    canvas.name_views(axes[0], shown)
    sides = judged_sides(labels, sides)
    for cells, (_, key, most, text) in zip(axes, _QUALITY):
        found = {(row["id"], row["hemisphere"]): row[key] for row in rows if row[key] is not None}
        if key == "volume_ratio":
            found = {region: abs(np.log2(max(ratio, 1e-3))) for region, ratio in found.items()}
        for view, cell in zip(shown, cells):
            axis = view.axis
            regions = canvas.plane(labels, axis)
            image = _painted(regions, canvas.plane(sides, axis), found)
            background = np.where(regions > 0, np.nan, 0.0)
            canvas.show_plane(cell, background, frame, axis, cmap=_OUTSIDE, vmin=0, vmax=1)
            drawn = canvas.add_plane(cell, image, frame, axis, cmap="YlOrRd", vmin=0, vmax=most)
        bar = figure.colorbar(drawn, ax=list(cells), fraction=0.03, pad=0.01, label=text)
        if key == "volume_ratio":
            ticks = np.linspace(0, most, 3)
            bar.set_ticks(ticks, labels=[f"{2.0**t:.3g}" for t in ticks])
    figure.supxlabel(
        "white: outside the atlas; grey: not judged (region too small, or too little of it "
        "matches)",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _painted(
    labels: np.ndarray, sides: np.ndarray, found: Mapping[tuple[int, str], float]
) -> np.ndarray:
    """Image of the value of every region and side, not a number where there is none."""
    image = np.full(labels.shape, np.nan)
    for side, word in SIDES.items():
        here = sides == side
        for region in np.unique(labels[here]):
            image[here & (labels == region)] = found.get((int(region), word), np.nan)
    return image


@canvas.picture
def energy_curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the energy against the iteration, one panel per pass at a resolution.

    Parameters
    ----------
    rows : sequence of mapping
        As in ``energy.tsv``, one per step in the order of the run: ``level``, ``total`` and, as
        far as present, ``match``, ``regularisation``, ``landmarks``, ``voxel_um``.
    """
    if not rows:
        return canvas.nothing("Energy of the registration", "the table has no steps.")
    levels = list(dict.fromkeys(str(row["level"]) for row in rows))
    names = [n for n in ("total", "match", "regularisation", "landmarks") if n in rows[0]]
    figure = canvas.new_figure(
        max(5.0, min(10.0, 3.4 * len(levels))), 3.6, "Energy of the registration (lower is better)"
    )
    axes = canvas.axes_grid(figure, 1, len(levels))
    for number, (cell, level) in enumerate(zip(axes[0], levels), 1):
        part = [row for row in rows if str(row["level"]) == level]
        colours = (canvas.BLUE, canvas.ORANGE, canvas.GREEN, canvas.PURPLE)
        for name, colour, style in zip(names, colours, ("-", "--", ":", "-.")):
            values = [float(row[name]) for row in part]
            cell.plot(range(len(part)), values, style, color=colour, label=name)
        voxel = part[0].get("voxel_um")
        cell.set_title(f"pass {number}" + (f" ({float(voxel):.3g} µm)" if voxel else ""))
        cell.set_xlabel("step")
        cell.grid(alpha=0.3)
    axes[0, 0].set_ylabel("energy")
    axes[0, 0].legend(fontsize=7, frameon=False)
    return figure


@canvas.picture
def jacobian_map(jacobian: np.ndarray, frame: Frame) -> Figure:
    """Draw the local change of volume: three planes.

    Parameters
    ----------
    jacobian : numpy.ndarray, shape (z, y, x)
        Jacobian of the deformation; 1 keeps volume, 2 doubles it, zero or less is a fold.
    frame : Frame
        Of ``jacobian``.
    """
    log = np.log2(np.maximum(jacobian, 2.0**-4))
    strong = float(np.clip(np.percentile(np.abs(log), 99.5), 0.1, 3.0))
    title = "Local change of volume (Jacobian)"
    figure, axes, shown = canvas.plane_rows(frame, [""], title, bar=True)
    canvas.name_views(axes[0], shown)
    for view, cell in zip(shown, axes[0]):
        axis = view.axis
        drawn = canvas.show_plane(
            cell, canvas.plane(log, axis), frame, axis, cmap="PuOr_r", vmin=-strong, vmax=strong
        )
        fold = canvas.plane(jacobian, axis) <= 0
        if fold.any():
            canvas.add_plane(
                cell, np.ma.masked_equal(fold, 0), frame, axis, cmap=ListedColormap(["black"])
            )
    bar = figure.colorbar(drawn, ax=list(axes[0]), fraction=0.03, pad=0.01, label="sample / atlas")
    ticks = np.linspace(-strong, strong, 5)
    bar.set_ticks(ticks, labels=[f"{2.0**t:.2f}" for t in ticks])
    figure.supxlabel(
        "orange: larger in the sample, purple: smaller, black: folded",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


@canvas.picture
def error_bars(
    deviation_um: np.ndarray, labels: np.ndarray, image: np.ndarray, frame: Frame
) -> Figure:
    """Draw how far the borders of regions may be off: three planes of the sample.

    Parameters
    ----------
    deviation_um : numpy.ndarray, shape (z, y, x)
        Standard deviation of the place of a border.
    labels : numpy.ndarray of int, shape (z, y, x)
        Regions by the registration, 0 for none; the map is shown in them.
    image : numpy.ndarray, shape (z, y, x)
        Drawn around them, such as the predicted sample.
    frame : Frame
        Of all arrays.
    """
    inside = labels > 0
    shown = np.ma.masked_array(deviation_um, ~inside)
    median, strong = np.percentile(deviation_um[inside], [50, 99]) if inside.any() else (0.0, 1.0)
    title = "How far borders may be off: standard deviation of their place"
    figure, axes, views_shown = canvas.plane_rows(frame, [""], title, bar=True)
    canvas.name_views(axes[0], views_shown)
    window = canvas.window(image)
    for view, cell in zip(views_shown, axes[0]):
        axis = view.axis
        canvas.show_plane(
            cell, canvas.plane(image, axis), frame, axis,
            cmap="gray", vmin=window[0], vmax=window[1],
        )  # fmt: skip
        drawn = canvas.add_plane(
            cell, canvas.plane(shown, axis), frame, axis, cmap="viridis", vmin=0, vmax=strong
        )
        borders = canvas.boundaries(canvas.enlarge(canvas.plane(labels, axis)))
        lines = np.ones((*borders.shape, 4))
        lines[..., 3] = borders
        # smoothed, or lines of one pixel would have gaps
        canvas.add_plane(cell, lines, frame, axis, interpolation="antialiased")
    figure.colorbar(drawn, ax=list(axes[0]), fraction=0.03, pad=0.01, extend="max",
                    label="µm, along any one axis")  # fmt: skip
    figure.supxlabel(
        f"median {median:.3g} µm, 99 % of all places below {strong:.3g} µm; lines: borders of "
        "regions; grey: outside them",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
    return figure


@canvas.picture
def jacobian_histogram(jacobian: np.ndarray, mask: np.ndarray | None = None) -> Figure:
    """Draw the histogram of the local change of volume.

    Parameters
    ----------
    jacobian : numpy.ndarray, any shape
        As for :func:`jacobian_map`.
    mask : numpy.ndarray of bool, optional
        Voxels that are used, for example the atlas's tissue.
    """
    values = np.ravel(jacobian if mask is None else jacobian[mask])
    figure = canvas.new_figure(8.6, 3.4, "Distribution of the change of volume")
    axes = canvas.axes_grid(figure, 1, 1)[0, 0]
    axes.hist(values, bins=80, color=canvas.BLUE, log=True)
    axes.axvline(1, color="black", lw=1, ls="--", label="1: volume unchanged")
    folds = int(np.count_nonzero(values <= 0))
    axes.axvline(0, color=canvas.RED, lw=1.5, label=f"0: fold ({folds} voxels at or below)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    axes.set_xlabel("Jacobian determinant (volume in sample / volume in atlas)")
    axes.set_ylabel("voxels")
    axes.set_title(f"smallest {values.min():.3f}, largest {values.max():.3f}")
    axes.legend(frameon=False, fontsize=8)
    return figure

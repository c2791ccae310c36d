"""Pictures of the stitching: positions of the tiles, links, seams, loop closures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from terareg.views.figures import canvas

# state of a link -> colour, line style, words
_STATES = {
    "kept": (canvas.BLUE, "-", "kept"),
    "rejected": (canvas.RED, "--", "rejected"),
    "unused": (canvas.ORANGE, ":", "not usable"),
    "empty": (canvas.GREY, ":", "no signal"),
}


_MOST_FIELDS = 150  # tiles whose fields are drawn


@canvas.picture
def placement_map(
    placement: Mapping[str, Any],
    tile_shape: Sequence[int],
    spacing_um: Sequence[float],
    nominal: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw the tiles at their solved positions with the links between them.

    Parameters
    ----------
    placement : mapping
        As in ``placement.json``: ``tiles``, name to a mapping with ``origin_vox`` (z, y, x);
        ``field_vox`` of distorted tiles, (2, rows, columns), is drawn as arrows;
        ``links``, mappings with a, b, state (kept, rejected, unused, empty) and residual_vox
        (z, y, x).
    tile_shape : sequence of int
        (z, y, x) voxels of a tile.
    spacing_um : sequence of float
        (z, y, x).
    nominal : mapping, optional
        Name to the stage's position in voxels (z, y, x), drawn as grey outlines.
    """
    tiles = {n: np.asarray(t["origin_vox"], float) for n, t in placement["tiles"].items()}
    scale = np.array(spacing_um[1:]) / 1000
    size = np.array(tile_shape[1:]) * scale
    places = {name: origin[1:] * scale for name, origin in tiles.items()}
    corner = np.min(list(places.values()), axis=0)
    reach = np.max(list(places.values()), axis=0) + size - corner
    ratio = float(np.clip(reach[0] / reach[1], 0.3, 1.8))
    figure = canvas.new_figure(9.6, 1.5 + 6.2 * ratio, "Placement of the tiles, seen along z")
    axes = canvas.axes_grid(figure, 1, 2, width_ratios=(3.2, 1))
    field = axes[0, 0]
    if nominal:
        shapes = [
            Rectangle((o[2] * scale[1], o[1] * scale[0]), size[1], size[0])
            for o in (nominal[name] for name in sorted(nominal) if name in tiles)
        ]
        field.add_collection(
            PatchCollection(shapes, facecolor="none", edgecolor="#999999", ls="--", lw=0.8)
        )
    shapes = [Rectangle((p[1], p[0]), size[1], size[0]) for p in places.values()]
    field.add_collection(
        PatchCollection(shapes, facecolor="#56b4e922", edgecolor="#222222", lw=0.9)
    )
    if len(tiles) <= 150:
        for name, place in places.items():
            field.text(
                place[1] + size[1] / 2, place[0] + size[0] / 2, name,
                ha="center", va="center", fontsize=7 if len(tiles) <= 60 else 5,
            )  # fmt: skip
    arrows = _draw_fields(field, placement["tiles"], places, size)
    used = _draw_links(field, placement["links"], places, size)
    field.set_xlim(corner[1] - 0.05 * size[1], corner[1] + reach[1] + 0.05 * size[1])
    field.set_ylim(corner[0] + reach[0] + 0.05 * size[0], corner[0] - 0.05 * size[0])
    field.set_aspect("equal")
    field.set_xlabel("x (mm)")
    field.set_ylabel("y (mm)")
    handles = [
        Line2D(
            [], [], color=_STATES[s][0], ls=_STATES[s][1], lw=2, label=f"link {_STATES[s][2]}: {n}"
        )
        for s, n in used.items()
    ]
    if nominal:
        handles.append(Line2D([], [], color="#999999", ls="--", label="position from the stage"))
    if arrows:
        handles.append(Line2D([], [], color=canvas.PURPLE, lw=1.5, label=arrows))
    figure.legend(handles=handles, loc="outside lower left", ncols=5, frameon=False, fontsize=8)
    _residual_histogram(axes[0, 1], placement["links"])
    return figure


def _draw_fields(axes, tiles, places, size) -> str:
    """Arrows of the fields of distorted tiles, enlarged; what they mean, or nothing."""
    fields = {n: np.array(t["field_vox"]) for n, t in tiles.items() if t.get("field_vox")}
    if not fields:
        return ""
    if len(fields) > _MOST_FIELDS:
        return f"{len(fields)} tiles are distorted within themselves, too many to be drawn"
    largest = max(float(np.hypot(*nodes).max()) for nodes in fields.values())
    shown = slice(None, None, 4)
    start, step = [], []
    for name, nodes in sorted(fields.items()):
        rows, columns = (np.linspace(0, n, k) for n, k in zip(size, nodes.shape[1:]))
        y, x = np.meshgrid(rows[shown], columns[shown], indexing="ij")
        start.append(np.stack([x.ravel(), y.ravel()]) + np.array(places[name])[::-1, None])
        step.append(nodes[::-1, shown, shown].reshape(2, -1))
    (x, y), (along_x, along_y) = np.concatenate(start, axis=1), np.concatenate(step, axis=1)
    scale = 0.12 * min(size) / max(largest, 1e-9)
    axes.quiver(
        x, y, along_x * scale, along_y * scale, angles="xy", scale_units="xy", scale=1,
        color=canvas.PURPLE, width=0.002,
    )  # fmt: skip
    return f"distortion within tiles, enlarged: the longest arrow is {largest:.1f} voxels"


def _draw_links(field, links, places, size) -> dict[str, int]:
    segments: dict[str, list] = {}
    for link in links:
        if link["a"] not in places or link["b"] not in places:
            continue
        ends = [(places[link[k]] + size / 2)[::-1] for k in ("a", "b")]
        # the middle third only, so that tile names stay readable
        start, stop = ends[0] + (ends[1] - ends[0]) * 0.3, ends[0] + (ends[1] - ends[0]) * 0.7
        segments.setdefault(link["state"], []).append((start, stop))
    for state in _STATES:
        if state in segments:
            colour, style, _ = _STATES[state]
            field.add_collection(
                LineCollection(segments[state], colors=colour, linestyles=style, linewidths=2.4)
            )
    return {state: len(segments[state]) for state in _STATES if state in segments}


def _residual_histogram(axes, links) -> None:
    kept = [np.linalg.norm(link["residual_vox"]) for link in links if link["state"] == "kept"]
    if not kept:
        canvas.note(
            axes, ["No link was measured:", "all tiles are where", "the stage model puts them."]
        )
        return
    top = max(1.0, float(np.max(kept)) * 1.05)
    axes.hist(kept, bins=np.linspace(0, top, 21), color=canvas.BLUE)
    axes.set_xlabel("residual of kept links (voxel)")
    axes.set_ylabel("links")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"median {np.median(kept):.2f}, worst {np.max(kept):.2f}")
    axes.grid(alpha=0.3)


@canvas.picture
def seam_pairs(seams: Sequence[Mapping[str, Any]], *, most: int = 6) -> Figure:
    """Draw the worst seams before and after the placement.

    Parameters
    ----------
    seams : sequence of mapping
        ``title``; ``before`` and ``after``: pairs of 2-D crops (tile a, tile b) of the same place,
        by the stage's positions and as fusion reads the tiles; ``spacing_um`` (row, column)
        optional.
    most : int
        Seams shown, from the first.

    Notes
    -----
    Tile a is magenta and tile b green: where they agree the picture is grey; coloured fringes show
    a shift.
    """
    seams = list(seams)[:most]
    if not seams:
        return canvas.nothing("Worst seams", "no two tiles were compared.")
    heights = [
        0.5 + 4.0 * min(seam["after"][0].shape) / max(seam["after"][0].shape) for seam in seams
    ]
    figure = canvas.new_figure(
        8.6, 0.8 + sum(heights), "Worst seams: grey is a good fit, coloured fringes a bad one"
    )
    axes = canvas.axes_grid(figure, len(seams), 2, height_ratios=heights)
    for row, seam in zip(axes, seams):
        limits = canvas.window(
            np.concatenate([np.ravel(i) for i in (*seam["before"], *seam["after"])])
        )
        for cell, key, words in zip(
            row, ("before", "after"), ("at the stage's position", "as fused")
        ):
            first, second = (_lying(canvas.shrink(i, 400)[0]) for i in seam[key])
            picture = canvas.composite(first, second, limits)
            cell.imshow(picture, interpolation="nearest", aspect="equal")
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_title(
                f"{seam['title'] if key == 'before' else ''}\n"
                f"{words}: correlation {_correlation(*seam[key]):.2f}",
                fontsize=9,
                fontweight="normal",
            )
    return figure


def _lying(image: np.ndarray) -> np.ndarray:
    """Rotate a tall crop, from a seam between left and right tiles, into landscape format."""
    return image.T if image.shape[0] > image.shape[1] else image


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (np.ravel(i).astype(np.float64) for i in (first, second))
    good = np.isfinite(a) & np.isfinite(b)
    a, b = a[good] - a[good].mean(), b[good] - b[good].mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else 0.0


@canvas.picture
def loop_closure(loops: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how well the four links around each 2 x 2 cell of tiles close.

    Parameters
    ----------
    loops : sequence of mapping
        ``row`` and ``column`` of the upper left tile, ``closure_vox`` (z, y, x): the sum of the
        four measured displacements around the cell, zero if none is wrong; ``kept``: whether the
        placement used all four links.
    """
    title = "Loop closure: a measure of error without ground truth"
    if not loops:
        return canvas.nothing(title, "no four neighbouring tiles were all compared.")
    vectors = np.array([np.asarray(loop["closure_vox"], float) for loop in loops])
    kept = np.array([bool(loop.get("kept", True)) for loop in loops])
    length = np.linalg.norm(vectors, axis=1)
    cells = np.array([(int(loop["row"]), int(loop["column"])) for loop in loops])
    grid = np.full(cells.max(axis=0) + 1, np.nan)
    grid[tuple(cells.T)] = length
    figure = canvas.new_figure(8.6, 4.0, title)
    axes = canvas.axes_grid(figure, 1, 2)
    # cells with a rejected link may be far off and must not hide the others
    top = max(1.0, float(length[kept].max(initial=0)))
    picture = axes[0, 0].imshow(grid, cmap="cividis", vmin=0, vmax=top)
    for (row, column), value, good in zip(cells, length, kept):
        if not good:
            frame = (column - 0.46, row - 0.46)
            axes[0, 0].add_patch(Rectangle(frame, 0.92, 0.92, fill=False, ec=canvas.RED, lw=2))
        if grid.size <= 200:
            axes[0, 0].text(
                column, row, f"{value:.2g}", ha="center", va="center", fontsize=8,
                color="black" if value > 0.55 * top else "white",
            )  # fmt: skip
    figure.colorbar(picture, ax=axes[0, 0], label="closure (voxel)", fraction=0.05)
    axes[0, 0].set_xticks(np.arange(grid.shape[1])[:: max(1, grid.shape[1] // 12)])
    axes[0, 0].set_yticks(np.arange(grid.shape[0])[:: max(1, grid.shape[0] // 12)])
    axes[0, 0].set_xlabel("column of the first tile of the cell")
    axes[0, 0].set_ylabel("row")
    axes[0, 0].set_title("per 2 x 2 cell (white: not measured)")
    if not kept.all():
        figure.supxlabel("red frame: a cell with a rejected link", fontsize=8, x=0.01, ha="left")
    ordered = np.concatenate([[0.0], np.sort(length[kept])])
    share = 100 * np.arange(len(ordered)) / max(1, len(ordered) - 1)
    axes[0, 1].step(ordered, share, where="post", color=canvas.BLUE)
    axes[0, 1].axvline(1.0, color=canvas.RED, ls="--", lw=1, label="1 voxel")
    axes[0, 1].set_ylim(0, 101)
    axes[0, 1].set_xlim(0, top * 1.03)
    axes[0, 1].set_xlabel("closure (voxel)")
    axes[0, 1].set_ylabel("cells below this closure (%), kept links")
    worst = np.abs(vectors[kept]).max(axis=0, initial=0)
    axes[0, 1].set_title("worst z, y, x: " + ", ".join(f"{v:.2g}" for v in worst))
    axes[0, 1].grid(alpha=0.3)
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure

"""Neuroglancer state, as shown by a link or ``neuroglancer.json``, in plain dictionaries.

Neuroglancer places voxel i of a precomputed volume at [i, i + 1] and voxel i of an OME-Zarr
volume at [i - 1/2, i + 1/2]. terareg counts from voxel centres everywhere, so precomputed layers
are translated by half a voxel here, and volumes of both formats coincide exactly.

A state that is written to a file names its volumes relative to the array store, as
``precomputed://{store}/brain/fused/ch0/precomputed``; :func:`with_store` inserts the address of the
store that is valid where the state is opened. Coordinates in a state are in the order x, y, z.
Format: https://github.com/google/neuroglancer, python/neuroglancer/viewer_state.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from scipy.spatial.transform import Rotation

from terareg.core.errors import ConfigError, few
from terareg.core.frames import Frame, orientation_matrix
from terareg.core.orientation import opposite
from terareg.storage.store import check_key

STORE = "{store}"
PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com/"
FORMATS = ("ome-zarr", "ome-zarr-0.4", "precomputed")
# colours of channels in order, which colour-blind readers can also tell apart
CHANNEL_COLOURS = ("#ffffff", "#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442")
#: colour of the surface around the whole brain
OUTLINE_COLOUR = "#b0b0b0"

_FOLDER = {
    "ome-zarr": ("zarr3", "ome.zarr"),
    "ome-zarr-0.4": ("zarr2", "ome.zarr"),
    "precomputed": ("precomputed", "precomputed"),
}
_M_PER_UM = 1e-6
_MOST_POINTS = 2000  # of a set, written into the state itself
# directions that run to the right and down in each panel, in terms of those of the first one: its
# right, its down, and away from the viewer
_PANELS = (((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, 1)), ((0, 0, -1), (0, 1, 0)))
# height of a letter, of the smaller side of its plane
_LETTER = 0.08
_WORDS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior",
          "I": "inferior"}  # fmt: skip
_LINES = """void main() {
  setColor(defaultColor());
  setLineWidth(2.5);
  setEndpointMarkerSize(0.0);
  setEndpointMarkerBorderWidth(0.0);
}
"""
# strokes of the letters in a box from 0 to 0.7 to the right and from 0 to 1 down
_STROKES = {
    "R": (((0, 1), (0, 0)), ((0, 0), (0.7, 0)), ((0.7, 0), (0.7, 0.5)), ((0.7, 0.5), (0, 0.5)),
          ((0.3, 0.5), (0.7, 1))),
    "L": (((0, 0), (0, 1)), ((0, 1), (0.7, 1))),
    "A": (((0, 1), (0.35, 0)), ((0.35, 0), (0.7, 1)), ((0.15, 0.6), (0.55, 0.6))),
    "P": (((0, 1), (0, 0)), ((0, 0), (0.7, 0)), ((0.7, 0), (0.7, 0.5)), ((0.7, 0.5), (0, 0.5))),
    "S": (((0.7, 0), (0, 0)), ((0, 0), (0, 0.5)), ((0, 0.5), (0.7, 0.5)), ((0.7, 0.5), (0.7, 1)),
          ((0.7, 1), (0, 1))),
    "I": (((0.35, 0), (0.35, 1)), ((0.15, 0), (0.55, 0)), ((0.15, 1), (0.55, 1))),
}  # fmt: skip
_SHADER = """#uicontrol invlerp contrast
#uicontrol vec3 colour color(default="{colour}")
void main() {{
  emitRGB(colour * contrast());
}}
"""


@dataclass(frozen=True)
class Source:
    """A volume in the array store.

    Attributes
    ----------
    key : str
        Folder of the volume in the store, for example "brain/fused/ch0".
    format : str
        "ome-zarr", "ome-zarr-0.4" or "precomputed": which of the copies is shown.
    frame : Frame
        Of level 0.
    affine : 4 x 4 nested sequence, optional
        Maps the volume's micrometres to those of the viewer, (z, y, x); the identity if absent.
    offset_vox : tuple of int
        Voxel offset (z, y, x) that a precomputed volume states.
    """

    key: str
    format: str
    frame: Frame
    affine: Sequence[Sequence[float]] | None = None
    offset_vox: Sequence[int] = (0, 0, 0)

    @property
    def precomputed_origin_um(self) -> np.ndarray:
        """Where the position 0 of a precomputed volume, or of its meshes, lies (z, y, x)."""
        spacing = np.array(self.frame.spacing_um)
        return np.array(self.frame.origin_um) - (np.array(self.offset_vox) + 0.5) * spacing

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.format not in FORMATS:
            raise ConfigError(
                f"volume format {self.format!r} cannot be shown; use {', '.join(FORMATS)}"
            )


def image_layer(
    name: str,
    source: Source,
    *,
    window: Sequence[float],
    colour: str = "#ffffff",
    visible: bool = True,
) -> dict:
    """Layer of a grey or coloured volume; several layers are blended additively.

    Parameters
    ----------
    name : str
    source : Source
    window : (low, high)
        Counts shown black and in full colour.
    colour : str
        "#rrggbb".
    visible : bool
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise ConfigError(f"layer {name}: colour {colour!r} is not of the form #rrggbb")
    low, high = float(window[0]), float(window[1])
    if not high > low:
        raise ConfigError(f"layer {name}: display window {low} to {high} is empty; give low < high")
    return {
        "type": "image",
        "name": name,
        "source": _source(source),
        "blend": "additive",
        "opacity": 1,
        "shader": _SHADER.format(colour=colour.lower()),
        "shaderControls": {"contrast": {"range": [low, high]}},
        "visible": bool(visible),
    }


def segmentation_layer(
    name: str,
    source: Source,
    *,
    segments: Iterable[int] = (),
    colours: Mapping[int, str] | None = None,
    visible: bool = True,
) -> dict:
    """Layer of atlas labels; meshes and names come with the precomputed folder itself.

    Parameters
    ----------
    name : str
    source : Source
    segments : iterable of int
        Regions drawn in full and as meshes; the others stay faint.
    colours : mapping, optional
        Region id to "#rrggbb".
    visible : bool
    """
    layer = {
        "type": "segmentation",
        "name": name,
        "source": _source(source),
        "segments": [str(int(s)) for s in segments],
        "selectedAlpha": 0.35,
        "notSelectedAlpha": 0.12,
        "objectAlpha": 0.35,
        "visible": bool(visible),
    }
    if colours:
        layer["segmentColors"] = {str(int(k)): colours[k] for k in sorted(colours)}
    return layer


def object_layer(
    name: str,
    source: Source,
    folder: str,
    *,
    segments: Iterable[int] = (),
    colours: Mapping[int, str] | None = None,
    properties: str | None = None,
) -> dict:
    """Layer of meshes or skeletons without a volume.

    Parameters
    ----------
    name : str
    source : Source
        Grid of the labels that they were made of; ``key`` is the folder above theirs.
    folder : str
        "mesh" or "skeletons".
    segments : iterable of int
        Those that are drawn.
    colours : mapping, optional
        Id to "#rrggbb".
    properties : str, optional
        Folder in the store with names of the ids, of a layer that has them.
    """
    # positions are nanometres
    moved = source.precomputed_origin_um[::-1] * 1000
    matrix = [[int(i == j) for j in range(3)] + [_number(moved[i])] for i in range(3)]
    objects = {
        "url": f"precomputed://{STORE}/{source.key}/{folder}",
        "transform": {"matrix": matrix, "outputDimensions": _dimensions((1e-3, 1e-3, 1e-3))},
    }
    names = [f"precomputed://{STORE}/{check_key(properties)}"] if properties else []
    layer = segmentation_layer(name, source, segments=segments, colours=colours, visible=False)
    return layer | {"source": [objects, *names], "objectAlpha": 1}


def point_layer(
    name: str, points_um: Mapping[str, Sequence[float]], *, colour: str = "#f0e442"
) -> dict:
    """Layer of named points, micrometres (z, y, x)."""
    return _annotations(
        name,
        colour,
        [
            {"type": "point", "id": str(key), "description": str(key), "point": _xyz(point)}
            for key, point in points_um.items()
        ],
    )


def some_points(name: str, position_um: np.ndarray, *, colour: str = "#56b4e9") -> dict:
    """Layer of a set of points (n, 3), micrometres (z, y, x); of many, evenly chosen ones."""
    count = len(position_um)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))
    few = f" ({len(chosen)} of {count})" if len(chosen) < count else ""
    items = [
        {"type": "point", "id": str(n + 1), "point": _xyz(position_um[n])} for n in chosen.tolist()
    ]
    return _annotations(f"points {name}{few}", colour, items, visible=False)


def line_layer(
    name: str,
    lines_um: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    colour: str = "#f0e442",
) -> dict:
    """Layer of named lines, each two ends in micrometres (z, y, x)."""
    return _annotations(
        name,
        colour,
        [
            {
                "type": "line",
                "id": str(key),
                "description": str(key),
                "pointA": _xyz(first),
                "pointB": _xyz(last),
            }
            for key, (first, last) in lines_um.items()
        ],
    ) | {"shader": _LINES}


def letter_lines(frame: Frame) -> dict[str, tuple[list[float], list[float]]]:
    """Strokes of the letters R, L, A, P, S, I at the sides of a volume, for :func:`line_layer`.

    They lie in the three planes that a new view shows first, upright as its panels show these
    planes (:func:`upright`), a little inside the outer faces; in the view in space all are seen.

    Parameters
    ----------
    frame : Frame
        Of the volume that the view is centred on.
    """
    middle = frame.to_um(np.array([n // 2 for n in frame.shape]))
    low = frame.to_um(np.full(3, -0.5))
    extent = np.array(frame.extent_um)
    turn = upright(frame.orientation)[::-1]
    lines = {}
    for panel in _PANELS:
        right, below = (turn @ np.array(direction) for direction in panel)
        across, down = (int(np.flatnonzero(direction)[0]) for direction in (right, below))
        along = 3 - across - down
        height = _LETTER * min(extent[down], extent[across])
        for axis in (down, across):
            code = frame.orientation[axis]
            for letter, place in ((opposite(code), height), (code, extent[axis] - height)):
                centre = middle.copy()
                centre[axis] = low[axis] + place
                for number, ends in enumerate(_STROKES[letter]):
                    points = []
                    for u, v in ends:
                        point = centre + ((u - 0.35) * right + (v - 0.5) * below) * height
                        points.append(point.tolist())
                    lines[f"{_WORDS[letter]}, {'zyx'[along]} {number}"] = (points[0], points[1])
    return lines


def upright(orientation: str) -> np.ndarray:
    """How a view is turned, so that coronal planes stand in its first panel as in an atlas.

    Superior is up and right on the right in the first panel, and superior is up in the sagittal
    planes. The viewer turns volumes but never mirrors them, so which way it looks through a
    coronal plane is that of the array: in horizontal planes right is on the right, and anterior up
    for half of the orientations, down for the other half.

    Parameters
    ----------
    orientation : str
        Code of the array axes z, y, x.

    Returns
    -------
    numpy.ndarray of int, shape (3, 3)
        Columns are the directions (x, y, z) of the array that run to the right, down and away from
        the viewer: a rotation.
    """
    shown = orientation_matrix("AIR", orientation).astype(int)
    # rows and columns of x, y, z
    right, down = shown[::-1, 2], shown[::-1, 1]
    return np.stack([right, down, np.cross(right, down)], axis=1)


def cell_layer(name: str, key: str, *, colour: str = "#e69f00", visible: bool = False) -> dict:
    """Layer of any number of points in the store, see :mod:`terareg.regions.annotations`.

    Its positions are micrometres of the frame, so that nothing is translated.
    """
    return {
        "type": "annotation",
        "name": name,
        "source": f"precomputed://{STORE}/{check_key(key)}",
        "annotationColor": colour,
        "visible": bool(visible),
    }


def box_layer(
    name: str,
    boxes_um: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    colour: str = "#56b4e9",
    visible: bool = False,
) -> dict:
    """Layer of named boxes, each two opposite corners in micrometres (z, y, x)."""
    return _annotations(
        name,
        colour,
        [
            {
                "type": "axis_aligned_bounding_box",
                "id": str(key),
                "description": str(key),
                "pointA": _xyz(first),
                "pointB": _xyz(last),
            }
            for key, (first, last) in boxes_um.items()
        ],
        visible,
    )


def tile_boxes(
    origins_vox: Mapping[str, Sequence[float]],
    tile_shape: Sequence[int],
    frame: Frame,
    offset_vox: Sequence[float] = (0, 0, 0),
) -> dict[str, tuple[list[float], list[float]]]:
    """Outer corners of the tiles in the fused volume, micrometres (z, y, x).

    Parameters
    ----------
    origins_vox : mapping
        Tile name to solved position of its first voxel, (z, y, x) voxels.
    tile_shape : sequence of int
        (z, y, x).
    frame : Frame
        Of the fused volume's level 0.
    offset_vox : sequence of float
        Position at which the fused volume's first voxel lies in the coordinates of
        ``origins_vox``.
    """
    boxes = {}
    for name, origin in origins_vox.items():
        start = np.asarray(origin, float) - np.asarray(offset_vox, float) - 0.5
        corners = frame.to_um(np.stack([start, start + np.asarray(tile_shape)]))
        boxes[name] = (corners[0].tolist(), corners[1].tolist())
    return boxes


def build_state(
    layers: Sequence[Mapping[str, Any]],
    frame: Frame,
    *,
    title: str = "",
    position_um: Sequence[float] | None = None,
    layout: str = "4panel",
) -> dict:
    """Return the state of a viewer with these layers.

    Parameters
    ----------
    layers : sequence of mapping
        As returned by the functions above; names must differ. Annotation layers are put first.
    frame : Frame
        Level 0 of the volume whose voxels are the unit of the viewer.
    title : str
        Title of the browser tab.
    position_um : (z, y, x), optional
        Position in the centre of the view; by default the middle voxel of the volume.
    layout : str
        "4panel", "xy", "xz", "yz" or "3d".

    Returns
    -------
    dict
        Has ``dimensions`` in metres per voxel, the only unit that every version reads.
    """
    names = [layer["name"] for layer in layers]
    if len(set(names)) != len(names):
        raise ConfigError(
            f"two of the layers {few(sorted(names))} have the same name; rename one of them"
        )
    # annotation layers come first: on a slow machine Neuroglancer may write its state while it is
    # still reading one, and then drops annotation layers not yet read (AnnotationUserLayer.toJSON)
    ordered = sorted(layers, key=lambda layer: layer["type"] != "annotation")
    middle = frame.to_um(np.array([n // 2 for n in frame.shape]))
    shown_um = middle if position_um is None else np.asarray(position_um, float)
    voxels = shown_um / np.array(frame.spacing_um)
    across = max(n * s for n, s in zip(frame.shape, frame.spacing_um)) / min(frame.spacing_um)
    turn = [_number(v) for v in Rotation.from_matrix(upright(frame.orientation)).as_quat()]
    state: dict[str, Any] = {
        "dimensions": _dimensions(frame.spacing_um),
        "position": _xyz(voxels),
        "crossSectionOrientation": turn,
        "projectionOrientation": turn,
        "crossSectionScale": _number(max(across / 500, 1e-3)),
        "projectionScale": _number(across * 1.3),
        "crossSectionBackgroundColor": "#000000",
        "showDefaultAnnotations": False,
        "layers": [dict(layer) for layer in ordered],
        "layout": layout,
    }
    if names:
        state["selectedLayer"] = {"visible": False, "layer": names[0]}
    if title:
        state["title"] = title
    return state


def with_store(state: Mapping[str, Any], url: str, cdn: Mapping[str, str] | None = None) -> dict:
    """Return the state with the store's address in place of ``{store}``.

    Parameters
    ----------
    state : mapping
        Of :func:`build_state`.
    url : str
        Address of the store: ``http://127.0.0.1:8000``, ``https://...`` or
        ``s3://bucket/prefix``.
    cdn : mapping, optional
        Maps the beginning of an address to the server for it, for example
        ``{"s3://bucket": "https://d111.cloudfront.net"}``; the longest match is used.
    """
    address = public_address(url, cdn)
    return json.loads(json.dumps(state).replace(STORE, json.dumps(address)[1:-1]))


def keys_of(state: Mapping[str, Any]) -> list[str]:
    """Keys in the store of everything that a state reads from there, sorted.

    Parameters
    ----------
    state : mapping
        Of :func:`build_state`, with ``{store}`` in it.
    """
    text = json.dumps(state, ensure_ascii=False)
    return sorted(set(re.findall(re.escape(STORE) + r'/([^"|\\]+)', text)))


def public_address(url: str, cdn: Mapping[str, str] | None = None) -> str:
    """Replace the beginning of an address as given by ``cdn``, see :func:`with_store`."""
    url = url.rstrip("/")
    servers = cdn or {}
    for start in sorted(servers, key=len, reverse=True):
        stem = start.rstrip("/")
        if url == stem or url.startswith(stem + "/"):
            return servers[start].rstrip("/") + url[len(stem) :]
    return url


def link(state: Mapping[str, Any], viewer: str = PUBLIC_VIEWER) -> str:
    """Return a URL that opens the state in a viewer."""
    if STORE in json.dumps(state):
        raise ConfigError("the state has no store address yet; apply with_store first")
    text = json.dumps(state, separators=(",", ":"), ensure_ascii=False)
    return f"{viewer.split('#')[0]}#!{quote(text, safe='/:,@!$&()*+;=')}"


def _source(source: Source) -> Any:
    scheme, folder = _FOLDER[source.format]
    url = f"{scheme}://{STORE}/{check_key(source.key)}/{folder}"
    precomputed = source.format == "precomputed"
    if not precomputed and source.affine is None:
        return url
    # x, y, z in precomputed, z, y, x in OME-Zarr: rows and columns follow the source
    order = [2, 1, 0] if precomputed else [0, 1, 2]
    spacing = np.array(source.frame.spacing_um)
    origin = source.precomputed_origin_um if precomputed else np.zeros(3)
    affine = np.eye(4) if source.affine is None else np.asarray(source.affine, np.float64)
    linear = affine[:3, :3] * spacing[None] / spacing[:, None]
    shift = (affine[:3, :3] @ origin + affine[:3, 3]) / spacing
    matrix = [
        [_number(linear[row, column]) for column in order] + [_number(shift[row])] for row in order
    ]
    dimensions = _dimensions(source.frame.spacing_um)
    return {
        "url": url,
        "transform": {
            "matrix": matrix,
            "outputDimensions": {"zyx"[axis]: dimensions["zyx"[axis]] for axis in order},
        },
    }


def _annotations(name: str, colour: str, items: list[dict], visible: bool = True) -> dict:
    return {
        "type": "annotation",
        "name": name,
        "source": {
            "url": "local://annotations",
            # annotations are in micrometres, so that users can read and edit them
            "transform": {"outputDimensions": _dimensions((1.0, 1.0, 1.0))},
        },
        "annotationColor": colour,
        "annotations": items,
        "visible": visible,
    }


def _dimensions(spacing_um: Sequence[float]) -> dict[str, list]:
    return {
        name: [_number(float(s) * _M_PER_UM), "m"]
        for name, s in zip("xyz", tuple(spacing_um)[::-1])
    }


def _xyz(point: Sequence[float]) -> list[float]:
    return [_number(v) for v in tuple(point)[::-1]]


def _number(value: float) -> float | int:
    """Twelve significant digits, so that the last bits of a product do not show in the file."""
    value = float(f"{float(value):.12g}")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value

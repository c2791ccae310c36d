"""A slice browser: one HTML file with the sample, the borders of the regions, and the damage.

The page holds its data itself: the sample as 8-bit voxels, the labels as numbers into a list of
names, and the probabilities of missing tissue and of artefacts in 16 steps. Each is a string of
base64 that holds zlib data. The page may run only its own script, whose hash its security policy
names, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.orientation import opposite
from terareg.views.customary import SHOWN, turned, view_across

_TEMPLATE = "slices.html.j2"
#: the page is smaller than this
MOST_BYTES = 15_000_000
#: voxels of the sample that are tried first
VOXELS = 9_000_000
_MAP_VOXELS = 2_000_000
_STEPS = 15


@dataclass(frozen=True)
class Sample:
    """What is browsed.

    Attributes
    ----------
    image : numpy.ndarray, shape (z, y, x)
    labels : numpy.ndarray of integers, same shape
    frame : Frame
        Of both.
    limits : (low, high)
        Counts shown black and white.
    names : mapping of int to str
        What is written under the pointer for a label.
    """

    image: np.ndarray
    labels: np.ndarray
    frame: Frame
    limits: Sequence[float]
    names: Mapping[int, str]


def slices_page(
    title: str, sample: Sample, damage: Mapping[str, np.ndarray], damage_frame: Frame
) -> str:
    """Return the page.

    Parameters
    ----------
    title : str
    sample : Sample
    damage : mapping of str to numpy.ndarray
        Probabilities "missing" and "artefact", shape ``damage_frame.shape``, on a grid of their
        own.
    damage_frame : Frame
    """
    labels, frame = turned(sample.labels, sample.frame)
    image, _ = turned(sample.image, sample.frame)
    ids, numbers = _numbered(labels)
    factor = max(1, math.ceil((math.prod(damage_frame.shape) / _MAP_VOXELS) ** (1 / 3)))
    maps, coarse = {}, damage_frame
    for name, values in damage.items():
        thinned = values[::factor, ::factor, ::factor]
        spacing = tuple(factor * step for step in damage_frame.spacing_um)
        own = replace(damage_frame, shape=thinned.shape, spacing_um=spacing)
        maps[name], coarse = turned(thinned, own)
    data = {
        "shape": frame.shape,
        "spacing_um": frame.spacing_um,
        "views": [view_across(SHOWN, axis).name for axis in range(3)],
        "letters": [[opposite(letter), letter] for letter in SHOWN],
        "names": [sample.names.get(int(i), f"region {i}") if i else "" for i in ids],
        "sample": _packed(_differences(_grey(image, sample.limits))),
        "labels": _packed(numbers),
        "damage": {
            "shape": coarse.shape,
            "step": np.divide(coarse.spacing_um, frame.spacing_um).tolist(),
            "start": frame.to_index(np.array(coarse.origin_um)).tolist(),
            "maps": {name: _packed(_stepped(values)) for name, values in maps.items()},
        },
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["policy"] = _policy
    return environment.get_template(_TEMPLATE).render(title=title, data=_embedded(data))


def smallest_fitting(make: Callable[[float], str], most_bytes: int = MOST_BYTES) -> str:
    """The page with the most voxels that is small enough; ``make`` takes a number of voxels."""
    voxels = float(VOXELS)
    while len(page := make(voxels)) >= most_bytes:
        voxels *= 0.7
    return page


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels in ascending order, 0 first, and the number of each voxel's in that list, 16 bits."""
    found = [np.unique(plane) for plane in labels]
    ids = np.unique(np.concatenate([*found, [0]]))
    if len(ids) > 2**16:
        raise VolumeError(
            f"{len(ids)} labels are more than the 65536 that a slice browser can show"
        )
    numbers = np.empty(labels.shape, "<u2")
    for plane, row in zip(labels, numbers):
        row[...] = np.searchsorted(ids, plane)
    return ids, numbers


def _grey(image: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    low, high = limits
    grey = np.empty(image.shape, np.uint8)
    for plane, row in zip(image, grey):
        row[...] = np.rint(255 * np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1))
    return grey


def _differences(voxels: np.ndarray) -> np.ndarray:
    """Differences of neighbours along x, modulo 256, which compress better than the voxels."""
    return np.diff(voxels, axis=2, prepend=np.uint8(0))


def _stepped(probabilities: np.ndarray) -> np.ndarray:
    steps: np.ndarray = np.rint(np.clip(probabilities, 0, 1) * _STEPS).astype(np.uint8)
    return steps


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def _embedded(data: Mapping) -> str:
    """JSON that no text in it can end: it stands in an element that the browser does not run."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c")


def _policy(text: str) -> str:
    """How a security policy names an inline script or style."""
    digest = hashlib.sha256(str(text).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

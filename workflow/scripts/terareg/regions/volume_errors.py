"""Volumes of regions in every draw of a registration's error."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, stats

from terareg.atlas.prepare import Atlas
from terareg.core.frames import Frame
from terareg.regions.labels import slabs
from terareg.registration.transform import Transform

# share of volumes that lie within the interval
_INTERVAL = 0.9


def volume_draws(
    transform: Transform, ratios: np.ndarray, frame: Frame, atlas: Atlas
) -> dict[tuple[int, int], np.ndarray]:
    """Volume in the sample of every region and hemisphere, as registered and in every draw.

    Parameters
    ----------
    transform : Transform
    ratios : numpy.ndarray, float32, shape (draws, z, y, x)
        Change of the volume of a piece of the atlas, see
        :class:`terareg.registration.error_bars.ErrorBars`.
    frame : Frame
        Of ``ratios``, in atlas space.
    atlas : Atlas

    Returns
    -------
    dict
        (id, hemisphere) to float64 (1 + draws,): the volume as registered first, in any unit; the
        hemisphere is 0 for neither, 1 left, 2 right. The background is left out.
    """
    size = 3 * len(atlas.ids)
    sums = np.zeros((1 + len(ratios), size))
    jacobian = transform.jacobian()
    for start, stop in slabs(atlas.frame):
        index = atlas.index[start:stop]
        inside = atlas.ids[index] > 0
        if not inside.any():
            continue
        part = atlas.frame.cropped((start, 0, 0), (stop, *atlas.frame.shape[1:]))
        axes = part.axes_um()
        place = np.stack([axis[n] for axis, n in zip(axes, np.nonzero(inside))], axis=-1)
        usual = _at(jacobian, transform.frame, place)
        changed = [usual, *(usual * _at(ratio, frame, place) for ratio in ratios)]
        # voxels on the plane between the hemispheres are shared
        for sides in (atlas.hemispheres, atlas.hemispheres_below):
            bins = index[inside].astype(np.int64) * 3 + sides[start:stop][inside]
            for total, volume in zip(sums, changed):
                total += np.bincount(bins, volume, size)
    return {
        (int(atlas.ids[n // 3]), n % 3): sums[:, n] for n in np.flatnonzero(sums[0] > 0).tolist()
    }


def interval(volume: float, draws: np.ndarray) -> tuple[float, float, float]:
    """Standard deviation of a volume, and ends of its interval of 90 %.

    ``draws`` are volumes as registered (first) and in every draw, in any unit. The interval is
    symmetric in the logarithm of the volume.
    """
    logs = np.log(draws[1:] / draws[0])
    deviation = float(np.sqrt(np.mean(logs**2)))
    # the draws are few, and their mean is known
    factor = float(np.exp(stats.t.ppf((1 + _INTERVAL) / 2, len(logs)) * deviation))
    return volume * deviation, volume / factor, volume * factor


def _at(values: np.ndarray, frame: Frame, place_um: np.ndarray) -> np.ndarray:
    index = np.moveaxis(frame.to_index(place_um), -1, 0)
    found: np.ndarray = ndimage.map_coordinates(values, index, order=1, mode="nearest")
    return found

"""Whether the axis that an orientation code calls left-right is the one that a brain mirrors.

A code in the order x, y, z, as headers and papers write it, reads backwards here and puts left and
right on another axis. The images tell, since a brain is symmetric about one plane only.
"""

from __future__ import annotations

import numpy as np

from terareg.core.errors import AtlasError

_SAMPLES = 64  # voxels along an axis that are looked at
# another axis is taken for left-right if its mirror image correlates at least so much, that of the
# declared axis less, and it leaves at most such a share of what that leaves. Templates of mouse
# brains (CCF, DeMBA at three ages) have .94 to .999 for left-right and .64 to .83 for the others;
# images of single brains have less (.53 to .93), and then nothing is said
_SYMMETRIC = 0.9
_SHARE = 1 / 3


def mirror_correlations(template: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Correlation of an image with its mirror image, for each axis.

    Parameters
    ----------
    template : numpy.ndarray, shape (z, y, x)
    labels : numpy.ndarray of int, shape (z, y, x)
        The plane of each reflection goes through the centre of mass of the labelled voxels.

    Returns
    -------
    tuple of float
        Pearson's correlation; 0 for a constant image.
    """
    steps = tuple(slice(None, None, max(1, n // _SAMPLES)) for n in template.shape)
    image, mask = np.asarray(template[steps], np.float32), labels[steps] > 0
    return tuple(_mirror_correlation(image, mask, axis) for axis in range(3))


def _mirror_correlation(image: np.ndarray, mask: np.ndarray, axis: int) -> float:
    count = image.shape[axis]
    along = mask.sum(tuple(other for other in range(3) if other != axis))
    twice_centre = round(2 * float(along @ np.arange(count)) / max(1, along.sum()))
    index = np.arange(max(0, twice_centre - count + 1), min(count, twice_centre + 1))
    one, other = image.take(index, axis), image.take(twice_centre - index, axis)
    if one.std() == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def check_left_right(template: np.ndarray, labels: np.ndarray, orientation: str, name: str) -> None:
    """Raise :class:`AtlasError` if a template is symmetric about another axis than left-right.

    Parameters
    ----------
    template, labels : numpy.ndarray, shape (z, y, x)
    orientation : str
        Code of the axes z, y, x.
    name : str
        Name of the template in the message.
    """
    declared = next(axis for axis, letter in enumerate(orientation) if letter in "RL")
    found = mirror_correlations(template, labels)
    best = int(np.argmax(found))
    if found[declared] >= _SYMMETRIC or found[best] < _SYMMETRIC:
        return
    if 1 - found[best] > _SHARE * (1 - found[declared]):
        return
    backwards = orientation[::-1]
    advice = (
        f"a code written for x, y, z is {backwards} here"
        if backwards[best] in "RL"
        else "give the letters of z, y, x in this order"
    )
    raise AtlasError(
        f"{name} mirrors itself along {'zyx'[best]} (correlation {found[best]:.2f}) and not along "
        f"{'zyx'[declared]} ({found[declared]:.2f}), which is left-right in "
        f"atlases.NAME.orientation: {orientation}; {advice}, or give atlases.NAME.hemispheres if "
        "the code is right"
    )

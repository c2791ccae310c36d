"""Threshold between background and tissue, and the brightness that is shown as white.

References
----------
Otsu, N. IEEE Trans. Systems, Man, Cybernetics 9 (1979), 62.
"""

from __future__ import annotations

import numpy as np

# share of the variance between the classes below a threshold, above which these are classes: noise
# and haze have up to .74, dim tissue beside very bright parts .86 to .95
_APART = 0.8
_WHITE = 3.0  # in what is typical of tissue


def tissue_threshold(contrast: np.ndarray) -> float:
    """Otsu's threshold (1979) between background and tissue, of contrasts of any shape.

    It is found on the square roots, which keeps dim tissue in spite of bright artefacts. If most of
    what stands out lies below it (a nuclear stain, in which cerebellum and olfactory bulb are 20
    times as bright as the rest), the threshold below it is taken.
    """
    root = np.sqrt(contrast)
    root = np.minimum(root, np.percentile(root, 99.5))
    cut, _ = _otsu(root)
    below = root[root <= cut]
    lower, apart = _otsu(below)
    if apart >= _APART and (below > lower).sum() > (root > cut).sum():
        cut = lower
    return cut**2


def white_level(values: np.ndarray, black: float, white: float) -> float:
    """Value to show as white: ``white``, or less if that would leave tissue black.

    It is at most three times as far above ``black`` as the median of the tissue, so that a few very
    bright parts do not hide the rest.

    Parameters
    ----------
    values : numpy.ndarray
        Finite values of an image, or quantiles of them at equal steps.
    black, white : float
        Display range that would be used otherwise.
    """
    contrast = np.clip(np.asarray(values, np.float32) - black, 0, None)
    tissue = contrast[contrast > tissue_threshold(contrast)]
    if tissue.size == 0:
        return white
    return min(white, black + _WHITE * float(np.median(tissue)))


def zeros_are_empty(lowest: float, low: float) -> bool:
    """Whether zeros are places that were not imaged, which would be taken for the background.

    They are where all else begins far above them, as the offset of a camera does. Zeros that end a
    range of small values, or stand beside a single value, are values: those of a background that
    was subtracted, or of a mask.

    Parameters
    ----------
    lowest, low : float
        Percentiles 0.1 and 10 of the values that are not 0.
    """
    return low > lowest > 2 * (low - lowest) + 3


def _otsu(values: np.ndarray) -> tuple[float, float]:
    """Otsu's threshold, and the share of the variance that lies between the classes."""
    if values.size == 0 or values.min() == values.max():
        return float(values.max(initial=0.0)), 0.0
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    best = int(np.nanargmax(between[:-1]))
    variance = float(np.var(values, dtype=np.float64)) * below[-1] ** 2
    return centres[best], float(between[best]) / max(variance, 1e-30)

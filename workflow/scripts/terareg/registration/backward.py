"""The backward match term: images of the atlas, predicted from the sample.

The forward term treats the atlas as free of noise. Where the atlas is as noisy as the sample
(another animal, one section of a series) its noise biases the prediction, and pulls the map to
positions where interpolation smooths the noise. The backward term treats the sample as free of
noise. The mean of both (Christensen & Johnson 2001), weighted as in a regression with errors in
both variables, has no such bias, see :func:`terareg.registration.problem.share_of_noise`.

At every voxel of the atlas the channels of the sample are read at B^-1 phi(x). A separate contrast
transform (:mod:`terareg.registration.contrast`, atlas and sample exchanged) predicts the images of
the atlas from them, and a mixture weights the residuals: match, whose sigma is estimated, and a
wide outlier class. A voxel is weighted by the probability that the sample matches there (posterior
of the forward term), because an artefact or a hole tells nothing about the atlas.

References
----------
Christensen, G. E. & Johnson, H. J. IEEE Trans. Med. Imaging 20, 568 (2001).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from terareg.registration.contrast import LocalContrast
from terareg.registration.flow import SamplingGrid

_OUTLIERS = 0.05
_OUTLIER_SIGMA = 0.5
# initial sigma over the root mean square of the residuals; intensity below which a voxel is
# background, which is predicted well everywhere
_FIRST_SIGMA = 1.5
_BACKGROUND = 0.1


class Backward:
    """Energy of the atlas given the sample.

    Parameters
    ----------
    atlas : torch.Tensor, float32, shape (images, z, y, x)
        Normalised images to predict.
    presence : torch.Tensor, float32, shape (z, y, x)
        Part of the atlas that is expected in the sample, 1 = expected.
    sample_grid : SamplingGrid
        Voxels of ``sample``.
    sample : torch.Tensor, float32, shape (channels + 1, z, y, x)
        Normalised channels, and the fraction of tissue.
    contrast : LocalContrast
        On the atlas's grid.
    scale : float
        Volume of an atlas voxel relative to the volume of the tissue.
    least_sigma : float
        Smallest standard deviation of the match.

    Attributes
    ----------
    sigma : list of float or None
        Standard deviation of the match of every image; None before the first update.
    """

    def __init__(
        self,
        atlas: torch.Tensor,
        presence: torch.Tensor,
        sample_grid: SamplingGrid,
        sample: torch.Tensor,
        contrast: LocalContrast,
        scale: float,
        least_sigma: float,
    ) -> None:
        self.atlas, self.presence = atlas.clamp(0, 1.2), presence
        self.sample_grid, self.sample = sample_grid, sample.clamp(0, 1.2)
        self.contrast, self.scale, self.least_sigma = contrast, scale, least_sigma
        self.weight: torch.Tensor | None = None
        self.sigma: list[float] | None = None

    def energy(self, moved: torch.Tensor) -> torch.Tensor:
        """-log p of the atlas, weighted mean per tissue volume, float64.

        ``moved``, shape (3, z, y, x), holds the positions of the atlas voxels in the sample.
        Weights and sigmas are those of the last :meth:`update`.
        """
        nll = sum(
            -torch.logaddexp(*_log_joint(rest, sigma))
            for rest, sigma in zip(self._residual(moved), self.sigma)
        )
        return (nll * self.weight).sum(dtype=torch.float64) * self.scale

    @torch.no_grad()
    def update(self, moved: torch.Tensor, match: torch.Tensor, expansion: float) -> None:
        """Update weights and sigmas for the current positions of the atlas voxels in the sample.

        Parameters
        ----------
        moved : torch.Tensor, shape (3, z, y, x)
        match : torch.Tensor, shape of the sample
            Weight times posterior of the match in the forward term.
        expansion : float
            Volume in the sample per volume in the atlas, by the affine.
        """
        # a voxel beside a hole is partly hole, whatever its posterior is
        solid = -F.max_pool3d(-match[None, None], 3, stride=1, padding=1)[0]
        inside = self.sample_grid.contains(moved)
        self.weight = self.sample_grid.sample(solid, moved)[0] * inside * self.presence * expansion
        first, sigmas = self.sigma is None, []
        for number, (rest, image) in enumerate(zip(self._residual(moved), self.atlas)):
            mass = self.weight * (image > _BACKGROUND)
            if not first:
                inlier, outlier = _log_joint(rest, self.sigma[number])
                mass = mass * torch.sigmoid(inlier - outlier)
            sigma = float(((mass * rest.square()).sum() / mass.sum().clamp_min(1e-6)).sqrt())
            sigma = _FIRST_SIGMA * sigma if first else min(sigma, self.sigma[number])
            sigmas.append(max(sigma, self.least_sigma))
        self.sigma = sigmas

    def _residual(self, moved: torch.Tensor) -> torch.Tensor:
        pushed = self.sample_grid.sample(self.sample, moved)
        channels, fraction = pushed[:-1], pushed[-1]
        coefficients = self.contrast.fit(channels, fraction, self.atlas, self.weight)
        return self.contrast.apply(coefficients, channels, fraction) - self.atlas


def _log_joint(residual: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """log(prior) + log N of match and of outlier, without the constant."""
    classes = ((1 - _OUTLIERS, sigma), (_OUTLIERS, _OUTLIER_SIGMA))
    match, outlier = (math.log(p / s) - 0.5 * (residual / s) ** 2 for p, s in classes)
    return match, outlier

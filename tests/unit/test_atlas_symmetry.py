"""The axis that an atlas mirrors itself along is the one that its code calls left-right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from terareg.atlas.symmetry import check_left_right, mirror_correlations
from terareg.core.errors import AtlasError

RNG = np.random.default_rng(0)


def brain(shape=(40, 50, 60), axis=0, left_right=0.0):
    """A smooth random brain that mirrors itself along an axis but for a share, off the middle."""
    texture = ndimage.gaussian_filter(RNG.normal(size=shape), 3)
    texture /= texture.std()
    other = ndimage.gaussian_filter(RNG.normal(size=shape), 3)
    template = texture + np.flip(texture, axis) + left_right * other / other.std()
    grid = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    labels = (sum(g**2 for g in grid) < 1).astype(np.uint32)
    template = np.where(labels, 1 + template, 0)
    shift = [4 if a == axis else 0 for a in range(3)]
    return np.roll(template, shift, range(3)), np.roll(labels, shift, range(3))


@pytest.mark.parametrize("axis", range(3))
def test_the_axis_of_symmetry_stands_out_wherever_the_brain_lies(axis):
    found = mirror_correlations(*brain(axis=axis))
    assert found[axis] > 0.999 and max(np.delete(found, axis)) < 0.95


@pytest.mark.parametrize(
    ("orientation", "advice"),
    [("PIR", "a code written for x, y, z is RIP here"), ("IRP", "give the letters of z, y, x")],
)
def test_a_code_that_puts_left_and_right_on_another_axis_is_an_error(orientation, advice):
    template, labels = brain(axis=0)
    message = rf"atlas.nrrd mirrors itself along z \(.*{orientation}; {advice}"
    with pytest.raises(AtlasError, match=message):
        check_left_right(template, labels, orientation, "atlas.nrrd")


def test_right_codes_and_images_that_do_not_tell_pass():
    check_left_right(*brain(axis=0, left_right=0.5), "RIP", "atlas.nrrd")
    check_left_right(*brain(axis=0, left_right=3.0), "PIR", "half.nrrd")
    ball = np.linspace(-1, 1, 40) ** 2
    sphere = ((ball[:, None, None] + ball[:, None] + ball) < 0.5).astype(np.uint32)
    check_left_right(sphere.astype(float), sphere, "PIR", "sphere.nrrd")
    check_left_right(np.ones(sphere.shape), sphere, "PIR", "constant.nrrd")


def test_a_large_image_is_looked_at_in_steps():
    template, labels = brain((130, 40, 40), axis=1)
    with pytest.raises(AtlasError, match="mirrors itself along y"):
        check_left_right(template, labels, "RSA", "atlas.nrrd")

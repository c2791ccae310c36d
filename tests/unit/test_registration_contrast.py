"""Several channels of the sample and several images of the atlas in one registration."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registration_phantom import ATLAS_FRAME, Truth, atlas, grid
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.contrast import LocalContrast, Mixture
from terareg.registration.emlddmm import register
from terareg.registration.flow import SamplingGrid
from terareg.registration.settings import RegistrationSettings
from terareg.storage import nrrd
from terareg.storage.records import read_json

CPU = torch.device("cpu")
SETTINGS = RegistrationSettings(
    resolution_um=250.0, levels=2, iterations=24, kernel_um=900.0, velocity_um=480.0,
    affine="fixed", device="cpu",
)  # fmt: skip
LEFT = grid(ATLAS_FRAME)[2] < ATLAS_FRAME.centre_um[2]


class Swirls(Truth):
    """A local displacement deep in either half, of which surface and other half know nothing."""

    def to_atlas(self, y):
        out = np.array(y, float)
        for side, push in ((-1, (350.0, 200.0, 0.0)), (1, (-200.0, 350.0, 0.0))):
            place = ATLAS_FRAME.centre_um + np.array([0.0, 0.0, side * 1300.0])
            shape = (3, *[1] * (y.ndim - 1))
            squares = ((y - place.reshape(shape)) ** 2).sum(0)
            out += np.reshape(push, shape) * np.exp(-squares / (2 * 750.0**2))
        return out


TRUTH = Swirls()


def blank(image, half, level):
    """The image with all tissue of one half at one level: no structure is left there."""
    # with what is dark inside
    brain = ndimage.binary_fill_holes(image.data > 0.5 * level)
    tissue = ndimage.binary_erosion(brain, iterations=2)
    return replace(image, data=np.where(half & tissue, np.float32(level), image.data))


def halves(image, level):
    """Two images of which the first shows nothing in the right half, the second in the left."""
    names = (f"{image.name} one", f"{image.name} two")
    return [replace(blank(image, half, level), name=name)
            for half, name in zip((~LEFT, LEFT), names)]  # fmt: skip


def errors_um(result):
    """Mean error in the left and in the right half, where something moved."""
    points = grid(ATLAS_FRAME)
    true = TRUTH.to_atlas(points)
    moved = np.linalg.norm(true - points, axis=0) > 200.0
    distance = np.linalg.norm(result.transform.to_atlas_grid(ATLAS_FRAME) - true, axis=0)
    return [float(distance[moved & half].mean()) for half in (LEFT, ~LEFT)]


@pytest.fixture(scope="module", params=["sample", "atlas"])
def sides(request):
    """Images of either side; those of the named side show half of the brain each."""
    if request.param == "sample":
        return [atlas()], halves(TRUTH.sample(), 650.0)
    return halves(atlas(), 0.55), [TRUTH.sample()]


@pytest.mark.slow
def test_two_images_tell_what_neither_tells_alone(sides):
    """Structure in the left half is in the first image only, that in the right in the second."""
    together = errors_um(register(*sides, SETTINGS, np.eye(4)))
    alone = errors_um(register(sides[0][0], sides[1][0], SETTINGS, np.eye(4)))
    assert max(together) < 150 and alone[1] > 200 and together[1] < 0.6 * alone[1], (
        together,
        alone,
    )


@pytest.mark.slow
def test_a_single_image_may_stand_in_a_list():
    bare = register(atlas(), TRUTH.sample(), replace(SETTINGS, iterations=4), np.eye(4))
    listed = register([atlas()], [TRUTH.sample()], replace(SETTINGS, iterations=4), np.eye(4))
    assert bare.energy == listed.energy
    pulled = [one.transform.inverse_displacement for one in (bare, listed)]
    assert np.array_equal(*pulled)
    assert bare.predicted.shape == (1, *ATLAS_FRAME.shape)


@pytest.mark.slow
def test_files_name_channels_and_terms(tmp_path):
    settings = replace(SETTINGS, iterations=2, levels=1, contrast_order=2)
    two = halves(TRUTH.sample(), 650.0)
    result = register(halves(atlas(), 0.55), two, settings, np.eye(4))
    result.save(tmp_path)
    basis = read_json(tmp_path / "contrast.json")
    assert basis["terms"] == ["1", "T1(I1)", "T2(I1)", "T1(I2)", "T2(I2)", "fraction"]
    assert basis["images"]["sample"] == ["sample one", "sample two"]
    coefficients, _ = nrrd.read_scalar(tmp_path / "contrast.nrrd")
    assert np.array_equal(coefficients[6:], result.contrast[1])
    predicted, _ = nrrd.read_scalar(tmp_path / "predicted.nrrd")
    assert predicted.shape == (2, *ATLAS_FRAME.shape)
    header, first = (tmp_path / "energy.tsv").read_text().splitlines()[:2]
    assert header.endswith("sigma\tsigma_2") and float(first.split("\t")[-1]) > 0


def test_polynomials_of_two_images_are_recovered_for_every_channel():
    """The windowed normal equations of two images, against least squares on all voxels."""
    space = SamplingGrid((8, 9, 10), (0.3, 0.3, 0.3), (0.0, 0.0, 0.0))
    images = torch.rand((2, *space.shape), generator=torch.Generator().manual_seed(0))
    a, b = 2 * images / 1.2 - 1
    targets = torch.stack([0.3 + 0.5 * a - 0.2 * b**2, 0.1 - 0.4 * a**2 + 0.6 * b])
    full = torch.ones(space.shape)
    contrast = LocalContrast(space, (2, 2), float("inf"), CPU)
    # a fraction that is not constant, so that it can be told from the first term
    fraction = torch.rand(space.shape, generator=torch.Generator().manual_seed(1))
    found = contrast.fit(images, fraction, targets, full)
    expected = [[0.3 - 0.1, 0.5, 0, 0, -0.1, 0], [0.1 - 0.2, 0, -0.2, 0.6, 0, 0]]
    assert contrast.terms() == ["1", "T1(I1)", "T2(I1)", "T1(I2)", "T2(I2)", "fraction"]
    np.testing.assert_allclose(found[..., 0, 0, 0], expected, atol=2e-3)
    assert (contrast.apply(found, images, fraction) - targets).abs().max() < 2e-3


@pytest.mark.slow
def test_channels_decide_together_which_class_a_voxel_is():
    prior = torch.full((3, 1, 1, 1), 1 / 3)
    one = Mixture(((0.1, 0.5, 0.1),), ((1.8, 0.0),), prior)
    two = Mixture(one.sigma * 2, one.mean * 2, prior)
    residual, target = torch.tensor([0.3, 0.0]), torch.tensor([0.25, 0.9])
    alone = one.posterior(residual[:1, None, None, None], target[:1, None, None, None])
    both = two.posterior(residual[:, None, None, None], target[:, None, None, None])
    assert alone[0] < 0.3 and both[0] > 0.9, "the second channel shows tissue, as predicted"
    torch.testing.assert_close(both.sum(0), torch.ones(1, 1, 1))


@pytest.mark.slow
def test_where_one_channel_has_no_data_no_channel_counts():
    first, second = halves(TRUTH.sample(), 650.0)
    hole = np.zeros(ATLAS_FRAME.shape, bool)
    hole[10:16, 8:18, 10:18] = True
    damaged = replace(second, data=np.where(hole, np.nan, second.data))
    spoiled = replace(first, data=np.where(hole, 500.0, first.data))
    settings = replace(SETTINGS, iterations=4)
    clean, other = (
        register(atlas(), [one, damaged], settings, np.eye(4)) for one in (first, spoiled)
    )
    assert (
        np.abs(clean.transform.inverse_displacement - other.transform.inverse_displacement).max()
        < 5.0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "sample one"}, "sample one is given twice; give every image and channel once"),
        (
            {"frame": replace(ATLAS_FRAME, origin_um=(0.0, 0.0, 90.0))},
            (
                r"sample two has .*um at \(0.0, 0.0, 90.0\) but sample one.*together need the "
                r"same grid"
            ),
        ),
        (
            {"data": np.zeros((4, 5, 6)), "frame": Frame((4, 5, 6), (250.0,) * 3)},
            "sample two has .4, 5, 6. voxels .* resample one of them",
        ),
    ],
)
def test_images_that_do_not_belong_together(change, message):
    first, second = halves(TRUTH.sample(), 650.0)
    with pytest.raises(RegistrationError, match=message):
        register(atlas(), [first, replace(second, **change)], SETTINGS, np.eye(4))


def test_no_channel_at_all():
    with pytest.raises(RegistrationError, match="there is no image to register"):
        register(atlas(), [], SETTINGS, np.eye(4))

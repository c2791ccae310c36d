"""An atlas that was cut: beyond the cut face it says nothing about the sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid, intensity
from test_registration_emlddmm import SETTINGS

from terareg.registration.emlddmm import register
from terareg.registration.flow import SamplingGrid
from terareg.registration.images import Image, cut_faces, prepare
from terareg.registration.pose import PoseSettings, initial_affine
from terareg.registration.search import Search

LAST = 22  # planes of the atlas that are left, of 34
CUT = ATLAS_FRAME.cropped((0, 0, 0), (30, 26, LAST))
FACE_UM = CUT.origin_um[2] + (LAST - 0.5) * CUT.spacing_um[2]


def test_faces_at_which_tissue_ends():
    assert cut_faces(prepare(atlas())) == ()
    assert cut_faces(prepare(atlas(CUT))) == ((2, 1),)
    turned = Image(np.flip(atlas(CUT).data, 2), CUT)
    assert cut_faces(prepare(turned)) == ((2, -1),)


def test_points_beyond_a_face():
    frame = SamplingGrid((4, 4, 4), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    points = torch.tensor([[4.0] * 5, [4.0] * 5, [-2.0, 0.0, 4.0, 8.0, 10.0]])
    np.testing.assert_allclose(frame.beyond(((2, 1),), points), [0, 0, 0, 0.5, 1])
    np.testing.assert_allclose(frame.beyond(((2, -1),), points), [1, 0.5, 0, 0, 0])
    np.testing.assert_allclose(frame.beyond(((2, -1), (2, 1)), points), [1, 0.5, 0, 0.5, 1])


def test_a_sample_beyond_the_face_is_not_explained():
    search = Search(prepare(atlas(CUT)), prepare(Truth(np.eye(4), 0.0).sample()), None)
    away = np.eye(4)
    right = search.unexplained(away, "whole")
    away[2, 3] = ATLAS_FRAME.origin_um[2] - FACE_UM
    assert search.unexplained(away, "whole") > right + 0.3


@pytest.fixture(scope="module", params=["whole", "cut"])
def registered(request):
    """The cut atlas to a whole sample, and to one that ends where the atlas ends."""
    truth = Truth(affine_about_centre((3, 0, -2), (1.0, 1.0, 1.06), (150, 0, 0)), 250.0)
    sample = truth.sample()
    beyond = truth.to_atlas(grid(ATLAS_FRAME))[2] > FACE_UM
    if request.param == "cut":
        noise = 20 * np.random.default_rng(5).standard_normal(beyond.sum())
        sample.data[beyond] = 100 + noise
    affine, _ = initial_affine(atlas(CUT), sample, PoseSettings(check_orientation=False))
    result = register(atlas(CUT), sample, replace(SETTINGS, iterations=40), affine)
    return truth, beyond, affine, result


def test_the_pose_is_near_whether_the_sample_ends_at_the_face_or_not(registered):
    truth, beyond, affine, _ = registered
    true = truth.to_atlas(grid(ATLAS_FRAME))
    inverse = np.linalg.inv(affine)
    found = np.einsum("ij,jzyx->izyx", inverse[:3, :3], grid(ATLAS_FRAME))
    found += inverse[:3, 3, None, None, None]
    known = ~beyond & (intensity(true)[1] > 0)
    error = np.linalg.norm(found - true, axis=0)[known].mean()
    assert error < 500, error


def test_the_known_part_lies_where_it_is(registered):
    truth, beyond, _, result = registered
    found = result.transform.to_atlas_grid(ATLAS_FRAME)
    true = truth.to_atlas(grid(ATLAS_FRAME))
    error = np.linalg.norm(found - true, axis=0)
    near = ~beyond & (true[2] > FACE_UM - 1500) & (intensity(true)[1] > 0)
    assert error[near].mean() < 250, error[near].mean()


def test_what_lies_beyond_is_neither_missing_nor_artefact(registered):
    _, beyond, _, result = registered
    far = result.transform.to_atlas_grid(ATLAS_FRAME)[2] > FACE_UM + 150
    assert far.sum() > 1000 and (beyond & far).sum() > 0.8 * beyond.sum()
    np.testing.assert_allclose(result.posteriors[0][far], 1, atol=1e-3)
    assert np.abs(result.predicted[0][far]).max() < 1e-3
    shares = result.summary["expected_tissue"]
    assert shares["missing"] < 0.05 and shares["artefact"] < 0.03

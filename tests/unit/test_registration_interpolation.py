"""Linear interpolation against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from terareg.registration.flow import cpu_threads
from terareg.registration.interpolation import interpolate

SPACING, ORIGIN = (0.5, 1.0, 2.0), (-1.0, 3.0, 0.5)


def _torch(volume, points):
    scaled = [
        (points[i] - ORIGIN[i]) / SPACING[i] * 2 / (volume.shape[i + 1] - 1) - 1 for i in (2, 1, 0)
    ]
    index = torch.stack(scaled, -1).reshape(1, 1, 1, -1, 3)
    return F.grid_sample(
        volume[None], index, mode="bilinear", padding_mode="border", align_corners=True
    ).reshape(len(volume), *points.shape[1:])


def _case(count):
    draw = torch.Generator().manual_seed(0)
    volume = torch.rand((2, 7, 9, 5), generator=draw)
    extent = torch.tensor(SPACING) * torch.tensor([6.0, 8.0, 4.0])
    share = torch.rand((count, 3), generator=draw) * 1.4 - 0.2  # some lie outside
    points = (torch.tensor(ORIGIN) + share * extent).T.contiguous()
    return volume, points, torch.rand((2, count), generator=draw)


@pytest.mark.parametrize("count", [1, 1000, 2**16 + 7])
def test_values_and_gradients_are_those_of_pytorch(count):
    volume, points, upstream = _case(count)
    results = []
    for method in (_torch, lambda v, p: interpolate(v, p, SPACING, ORIGIN)):
        v, p = volume.clone().requires_grad_(True), points.clone().requires_grad_(True)
        value = method(v, p)
        results.append((value, *torch.autograd.grad((value * upstream).sum(), (v, p))))
    for theirs, ours in zip(*results):
        assert torch.allclose(
            theirs, ours, rtol=1e-3, atol=2e-4 * float(theirs.detach().abs().max())
        )


def test_points_of_any_shape_and_volumes_one_voxel_thick():
    volume = torch.arange(12.0).reshape(1, 1, 3, 4)
    points = torch.tensor([[0.0, 9.0], [3.5, 4.0], [0.5, 2.5]]).reshape(3, 2, 1)
    values = interpolate(volume, points, SPACING, ORIGIN)
    assert values.shape == (1, 2, 1)
    assert values.flatten().tolist() == [2.0, 5.0]


def test_threads_do_not_change_the_bytes():
    volume, points, upstream = _case(200_000)
    found = []
    for threads in (1, 2):
        v, p = volume.clone().requires_grad_(True), points.clone().requires_grad_(True)
        with cpu_threads(threads):
            value = interpolate(v, p, SPACING, ORIGIN)
            found.append((value, *torch.autograd.grad(value, (v, p), upstream)))
    assert all(torch.equal(a, b) for a, b in zip(*found))

"""A small asymmetric brain-like phantom with a known transform, for the registration tests."""

import numpy as np
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.registration.images import Image

VOXEL_UM = 250.0
ATLAS_FRAME = Frame((30, 26, 34), (VOXEL_UM,) * 3, (0.0, 0.0, 0.0), "RIP")

# centre and radii in fractions of the brain's half-axes, and intensity: no two parts alike
_PARTS = [
    ((0, 0, 0), (1, 1, 1), 0.45),
    ((0.45, 0.1, -0.3), (0.32, 0.4, 0.35), 0.8),
    ((-0.45, 0.1, -0.3), (0.32, 0.4, 0.35), 0.75),
    ((0, -0.35, 0.1), (0.5, 0.25, 0.5), 0.25),
    ((0, 0.4, 0.5), (0.4, 0.3, 0.3), 0.95),
    ((0.2, -0.1, -0.75), (0.2, 0.25, 0.2), 0.65),
    ((-0.4, -0.2, 0.5), (0.2, 0.2, 0.25), 0.1),
]
_HALF_UM = np.array([2700.0, 2300.0, 3300.0])


def intensity(points_um):
    """Atlas intensity and part number at points, shape (3, ...)."""
    centre = ATLAS_FRAME.centre_um.reshape(3, *[1] * (points_um.ndim - 1))
    half = _HALF_UM.reshape(centre.shape)
    p = (points_um - centre) / half
    value = np.zeros(points_um.shape[1:])
    label = np.zeros(points_um.shape[1:], int)
    for number, (c, r, level) in enumerate(_PARTS, 1):
        c, r = (np.reshape(v, centre.shape) for v in (c, r))
        distance = np.sqrt((((p - c) / r) ** 2).sum(0))
        edge = np.clip((1 - distance) * np.min(r) * 2000 / VOXEL_UM + 0.5, 0, 1)
        value = value * (1 - edge) + level * edge
        label[distance < 1] = number
    return value, label


def grid(frame):
    return np.stack(np.meshgrid(*frame.axes_um(), indexing="ij"))


def atlas(frame=ATLAS_FRAME):
    return Image(intensity(grid(frame))[0].astype(np.float32), frame, name="atlas")


class Truth:
    """y = A phi(x) with phi^-1 given in closed form, x = q + d(q), q = A^-1 y."""

    def __init__(self, affine=None, amplitude_um=0.0, frame=ATLAS_FRAME):
        self.affine = np.eye(4) if affine is None else affine
        self.amplitude_um = amplitude_um
        self.frame = frame

    def to_atlas(self, y):
        inverse = np.linalg.inv(self.affine)
        q = np.tensordot(inverse[:3, :3], y, 1) + inverse[:3, 3].reshape(3, *[1] * (y.ndim - 1))
        phase = q / 4000.0 * np.pi
        wave = np.stack([np.sin(phase[1]), np.sin(phase[2] + 1), np.sin(phase[0] + 2)])
        return q + self.amplitude_um * wave

    def sample(self, noise=0.02, contrast=None, seed=0):
        """Image of the deformed phantom; ``contrast`` maps (intensity, label, points) to values."""
        points = grid(self.frame)
        value, label = intensity(self.to_atlas(points))
        if contrast is not None:
            value = contrast(value, label, points)
        rng = np.random.default_rng(seed)
        value = value + noise * rng.standard_normal(value.shape)
        return Image((1000 * value + 100).astype(np.float32), self.frame, name="sample")

    def error_um(self, transform):
        """Mean distance over sample tissue of the found from the true atlas position."""
        points = grid(self.frame)
        true = self.to_atlas(points)
        tissue = ndimage.binary_erosion(intensity(true)[1] > 0)
        found = transform.to_atlas_grid(self.frame)
        return float(np.linalg.norm(found - true, axis=0)[tissue].mean())


def affine_about_centre(rotation_deg=(0, 0, 0), scale=(1, 1, 1), shift_um=(0, 0, 0)):
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(rotation_deg)).as_matrix() @ np.diag(scale)
    centre = ATLAS_FRAME.centre_um
    matrix[:3, 3] = centre + np.array(shift_um) - matrix[:3, :3] @ centre
    return matrix

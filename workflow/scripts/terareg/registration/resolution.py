"""The voxel that a registration works on at its finest level (standard library only)."""

_VOXELS_ACROSS = 80  # along the cube root of the tissue's volume


def finest_voxel_um(tissue_um: float) -> float:
    """Edge of that voxel, um, if the configuration does not give it.

    Parameters
    ----------
    tissue_um : float
        Cube root of the volume of the atlas's tissue.
    """
    return tissue_um / _VOXELS_ACROSS

"""What is looked at of a tile before displacements are measured (standard library only)."""


def overview_planes(depth: int) -> int:
    """Planes from the middle of a tile of ``depth`` that show the step of the stage."""
    return min(depth, 16, max(8, int(0.07 * depth)))

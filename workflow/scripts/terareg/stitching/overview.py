"""What is looked at of the tiles before displacements are measured (standard library only)."""

PAIRS_PER_DIRECTION = 8  # that have to show the step of the stage; three times as many are tried
MAX_TILES = 2 * 2 * 3 * PAIRS_PER_DIRECTION  # two in a pair, two directions
BINNED_TO = 192  # pixels, about, of a tile's shorter edge


def overview_planes(depth: int) -> int:
    """Planes from the middle of a tile of ``depth`` that show the step of the stage."""
    return min(depth, 16, max(8, int(0.07 * depth)))

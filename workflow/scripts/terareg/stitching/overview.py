"""Size of the overview of the tiles from which the step is found (standard library only)."""

PAIRS_PER_DIRECTION = 8  # that vote on the step of the stage; up to three times as many are tried
MAX_TILES = 2 * 2 * 3 * PAIRS_PER_DIRECTION  # two in a pair, two directions
BINNED_TO = 192  # pixels, about, of a tile's shorter edge


def overview_planes(depth: int) -> int:
    """Number of planes read from the middle of a tile of ``depth`` planes."""
    return min(depth, 16, max(8, int(0.07 * depth)))

"""How fusion goes through a row of blocks (standard library only)."""

#: planes that are blended at once
SLAB_PLANES = 32

"""How corrected tiles are cut into chunks (standard library only)."""

#: (z, y, x) pixels. A shard is a slab of whole planes, written once by one worker; its chunks are
#: small enough that reading the overlap of two neighbours, or a block of the fused volume, reads
#: little else.
CORRECTED_CHUNK = (16, 256, 256)

"""Encodings of precomputed chunks and the types that they hold (standard library only).

Plans of volumes need them, and so does the workflow while it is loaded, which imports no NumPy.
"""

#: encodings of precomputed chunks that a volume may be given instead of its usual one
ENCODINGS = ("raw", "gzip", "compressed_segmentation", "jpeg", "png", "jpegxl")
_TYPES = {
    "jpeg": ("uint8",),
    "png": ("uint8", "uint16"),
    "jpegxl": ("uint8",),  # of 16 bits Neuroglancer shows nothing, and cloud-volume writes none
    "compressed_segmentation": ("uint32", "uint64"),
}


def encodable(encoding: str | None, dtype: str) -> tuple[str, ...]:
    """Types that an encoding holds; the type itself where it holds all of them."""
    return _TYPES.get(encoding or "", (dtype,))

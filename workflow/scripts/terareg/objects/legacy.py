"""Fragments of Neuroglancer's legacy mesh format.

``info`` is ``{"@type": "neuroglancer_legacy_mesh"}``; the manifest of a segment, object ``<id>:0``,
lists its fragments; a fragment is the number of vertices (uint32), the vertices x, y, z in
nanometres (float32) and the triangles (uint32), little-endian.
Specification: meshes.md of https://github.com/google/neuroglancer, folder
src/datasource/precomputed.
"""

from __future__ import annotations

import numpy as np

INFO = {"@type": "neuroglancer_legacy_mesh"}


def encode_fragment(vertices_nm: np.ndarray, faces: np.ndarray) -> bytes:
    """Bytes of a legacy fragment: vertices (n, 3) in order x, y, z, triangles (m, 3)."""
    count = np.array([len(vertices_nm)], "<u4")
    return (
        count.tobytes()
        + np.ascontiguousarray(vertices_nm, "<f4").tobytes()
        + np.ascontiguousarray(faces, "<u4").tobytes()
    )


def decode_fragment(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of :func:`encode_fragment`."""
    count = int(np.frombuffer(data, "<u4", 1)[0])
    vertices_nm = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    return vertices_nm, np.frombuffer(data, "<u4", offset=4 + 12 * count).reshape(-1, 3)

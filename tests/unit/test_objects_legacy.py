"""Fragments of legacy meshes."""

import numpy as np

from terareg.objects.legacy import decode_fragment, encode_fragment


def test_fragments_round_trip():
    vertices = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    faces = np.arange(12, dtype=np.uint32).reshape(4, 3) % 7
    data = encode_fragment(vertices, faces)
    assert len(data) == 4 + 7 * 12 + 4 * 12
    for got, wanted in zip(decode_fragment(data), (vertices, faces)):
        assert np.array_equal(got, wanted)

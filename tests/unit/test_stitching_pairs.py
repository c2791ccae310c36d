"""Pairs of neighbours, kept in files."""

import numpy as np
import pytest
from seams import camera, measure, pair_of

from terareg.core.errors import StitchingError
from terareg.stitching.pairs import PairResult, load_pairs


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text('{"pairs": [{"a": 1}]}')
    with pytest.raises(StitchingError, match=r"pairs.json is not a file of measured pairs"):
        load_pairs([path])


def test_json_round_trip_of_a_pair():
    images, names, _ = pair_of(np.zeros(3))
    tiles = {n: camera(i, k) for k, (n, i) in enumerate(images.items())}
    result = measure(tiles, names, "EAST")
    assert PairResult.from_json(result.to_json()) == result

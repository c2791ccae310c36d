"""How far lengths look: enough for the order of thinning, and refused where it is too much."""

from __future__ import annotations

import numpy as np
import pytest

from terareg.core.errors import ConfigError
from terareg.objects import line_reach, thinning
from terareg.objects.line_reach import (
    axes_of_round,
    check_reach,
    line_reach_vox,
    thinning_rounds,
)


def test_a_round_sees_as_far_as_parities_change_in_their_order():
    """A voxel sees neighbours that went before it, and those their neighbours, of other parity."""
    bits = np.array([[turn >> n & 1 for n in (2, 1, 0)] for turn in thinning.ORDER])
    changes = np.abs(np.diff(bits, axis=0)).sum(0)
    assert sorted(thinning.ORDER) == list(range(8))
    assert tuple(changes + 1) == line_reach.ROUND


def test_axes_go_back_equally_far():
    spacing_um = (2.5, 1.0, 1.3)
    rounds = [axes_of_round(n, spacing_um) for n in range(40)]
    far = [sum(axis in axes for axes in rounds) * s for axis, s in enumerate(spacing_um)]
    assert np.abs(np.array(far) - 40).max() <= 1.3


def test_reach_follows_the_thickest_and_the_voxels():
    assert thinning_rounds(4.0, (2.0, 2.0, 2.0)) == thinning_rounds(2.0, (1.0, 1.0, 1.0)) == 3
    assert all(a > b for a, b in zip(*(line_reach_vox(t, (1, 1, 1)) for t in (40.0, 20.0))))


def test_too_far_is_one_sentence_with_what_is_possible():
    check_reach(20.0, (1.0, 1.0, 1.0), "thickest_um")
    with pytest.raises(ConfigError, match=r"axons.thickest_um: 200 needs \d+ voxels .* give") as no:
        check_reach(200.0, (1.0, 1.0, 1.0), "axons.thickest_um")
    possible = float(str(no.value).rsplit("give ")[1].split()[0])
    check_reach(possible * 0.95, (1.0, 1.0, 1.0), "thickest_um")

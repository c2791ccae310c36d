"""Lines of progress: not too many, with a time that is right if all goes on as before."""

from __future__ import annotations

import logging

import pytest

from terareg.registration.pace import EVERY_S, Pace


def test_the_time_left_is_that_of_levels_like_those_before():
    now = [0.0]
    pace = Pace(1, (400.0, 200.0, 100.0), [30, 50], 300, lambda: now[0])
    now[0] = 20.0  # ten evaluations of two seconds
    # 40 of a level are expected; one at half the voxel has eight times as many voxels
    assert pace.left_s(10) == pytest.approx(2 * 30 + 40 * 16)
    assert pace.left_s(60) == pytest.approx(20 / 60 * (1 + 40 * 8)), "a level that takes longer"


def test_before_a_level_has_ended_its_limit_counts():
    now = [0.0]
    pace = Pace(0, (200.0, 200.0), [], 100, lambda: now[0])
    now[0] = 10.0
    assert pace.left_s(10) == pytest.approx(90 + 100)


def test_a_line_a_minute(caplog):
    now = [0.0]
    pace = Pace(2, (400.0, 200.0, 100.0), [20], 300, lambda: now[0])
    with caplog.at_level(logging.INFO):
        for evaluations in range(1, 11):
            now[0] += EVERY_S / 4
            pace.step(evaluations, -8.25)
    assert [record.message for record in caplog.records] == [
        "level 2 (3 levels): 4 evaluations, energy -8.2500, about 4 min left",
        "level 2 (3 levels): 8 evaluations, energy -8.2500, about 3 min left",
    ]

"""How far a registration is: once a minute a line with level, energy and the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from terareg.core.parallel import duration

logger = logging.getLogger(__name__)

EVERY_S = 60.0


class Pace:
    """Lines of a level's progress; they change no result.

    Parameters
    ----------
    level : int
        From 0.
    voxels_um : sequence of float
        Working voxel of every level.
    done : sequence of int
        Evaluations that each finished level took; the next ones are expected to take as many.
    most : int
        Evaluations that are expected of a level while none has ended.
    clock : callable
        Seconds, in place of :func:`time.monotonic`.
    """

    def __init__(
        self,
        level: int,
        voxels_um: Sequence[float],
        done: Sequence[int],
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._level, self._voxels_um, self._clock = level, voxels_um, clock
        self._expected = sum(done) / len(done) if done else float(most)
        self._begun = self._said = clock()

    def step(self, evaluations: int, energy: float) -> None:
        """Say how far it is, if the last line is older than a minute.

        Parameters
        ----------
        evaluations : int
            Of this level, so far.
        energy : float
        """
        now = self._clock()
        if now - self._said < EVERY_S:
            return
        self._said = now
        logger.info(
            "level %d (%d levels): %d evaluations, energy %.4f, about %s left",
            self._level, len(self._voxels_um), evaluations, energy,
            duration(self.left_s(evaluations)),
        )  # fmt: skip

    def left_s(self, evaluations: int) -> float:
        """Seconds that this level and the next ones will take, by this level's pace so far.

        An evaluation takes as long as it has voxels.
        """
        each = (self._clock() - self._begun) / max(1, evaluations)
        own = self._voxels_um[self._level]
        later = sum((own / voxel) ** 3 for voxel in self._voxels_um[self._level + 1 :])
        return each * (max(self._expected - evaluations, 1) + self._expected * later)

"""Anatomical orientation codes (standard library only: the workflow checks them while it loads).

A code has one letter per array axis (z, y, x) and names the direction in which the index of that
axis *increases*; see :mod:`terareg.core.frames`.
"""

from __future__ import annotations

import itertools

from terareg.core.errors import ConfigError

_AXIS_OF_LETTER = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_POSITIVE = "RAS"
#: planes of a brain, in the order in which they are shown
VIEWS = ("coronal", "sagittal", "horizontal")


def check_orientation(code: str, name: str = "orientation") -> str:
    """Return ``code`` in capitals, or raise :class:`ConfigError`.

    A code has three letters, one of each pair R/L, A/P and S/I.
    """
    text = str(code).upper()
    pairs = {_AXIS_OF_LETTER.get(letter) for letter in text}
    if len(text) != 3 or None in pairs:
        raise ConfigError(
            f"{name}: {code!r} is not an orientation; write three letters for the array axes z, "
            "y, x, each the anatomical direction in which the index increases (R or L, A or P, S "
            "or I), for example RIP"
        )
    if len(pairs) != 3:
        raise ConfigError(
            f"{name}: {code!r} names one anatomical axis twice; use one letter of each pair "
            "R/L, A/P and S/I"
        )
    return text


def opposite(letter: str) -> str:
    """Return the letter of the opposite direction."""
    return _OPPOSITE[letter]


def all_orientations() -> list[str]:
    """Return the 48 valid codes, sorted."""
    codes = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((0, 1), repeat=3):
            letters = [_POSITIVE[a] for a in axes]
            codes.append("".join(_OPPOSITE[c] if s else c for c, s in zip(letters, signs)))
    return sorted(codes)

"""How many examples the tests of properties try, and whether they are the same in every run.

``HYPOTHESIS_PROFILE=explore`` draws other examples in every run, twenty times as many, and keeps
what fails in ``.hypothesis``; without it every run draws the same ones, so that a failure is a
change of the code.
"""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st

PROFILES = {"repeat": 1, "explore": 20}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "repeat")

settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(PROFILE)


def examples(count: int, **more) -> settings:
    """Settings of a test of foreign bytes: ``count`` examples, more where they are explored."""
    return settings(max_examples=count * PROFILES[PROFILE], **more)


def spoiled(content: bytes, draw) -> bytes:
    """A copy of a binary file that was cut, or in which bits, bytes or sizes are others."""
    data = bytearray(content)
    near = st.integers(0, min(len(data), 600) - 1)
    kind = draw(st.sampled_from(["cut", "flip", "fill", "grow"]))
    place = draw(near | st.integers(0, len(data) - 1))
    if kind == "cut":
        del data[place:]
    elif kind == "flip":
        data[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == "fill":
        data[place : place + 4] = draw(st.sampled_from([b"\xff" * 4, b"\x00" * 4, b"9999"]))
    else:
        data[place:place] = bytes(draw(st.integers(1, 5000)))
    return bytes(data)

"""How many examples the tests of properties try, and whether they are the same in every run.

``HYPOTHESIS_PROFILE=explore`` draws other examples in every run, twenty times as many, and keeps
what fails in ``.hypothesis``; without it every run draws the same ones, so that a failure is a
change of the code.
"""

from __future__ import annotations

import os
import re

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


# what may stand where something else is expected
_OTHERS = [b"", b"null", b"true", b"0", b"-1", b"1.5", b"1e308", b"-1e-320",
          b"18446744073709551616", b"9" * 5000, b"NaN", b"[]", b"{}", b"[[], {}]", b'{"id": 1}',
          b'""', b'"x"', b"x",
          b'"../x"', b"'", b"<x>", b"&lt;", b"=1+1", b"~", b"*a", b"!!python/name:os.system",
          b"0x" + b"f" * 5000]  # fmt: skip


def spoiled_text(data: bytes, draw) -> bytes:
    """A copy that was cut, flipped, doubled, or had something foreign put in or exchanged."""
    kind = draw(st.sampled_from(["cut", "flip", "put", "double", "repeat", "exchange", "exchange"]))
    place = draw(st.integers(0, len(data)))
    if kind == "cut":
        return data[:place]
    if kind == "flip":
        data = bytearray(data)
        data[place % len(data)] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    if kind == "put":
        part = draw(
            st.binary(max_size=20)
            | st.sampled_from(
                [b"\0", b"\xff\xfe", b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b'"' * 3,
                 b"[" * 5000, b"{" * 5000, b"&a [*a]", b"x" * 200_000, b"\r", b"\n", b";", b"../"]
            )
        )  # fmt: skip
        return data[:place] + part + data[place:]
    if kind == "double":
        return data + data
    if kind == "exchange":  # a word, a number or a list for something of another kind
        parts = list(re.finditer(rb'"[^"]*"|[\w.+-]+|[\[{][^\[\]{}]*[\]}]', data))
        part = draw(st.sampled_from(parts))
        return data[: part.start()] + draw(st.sampled_from(_OTHERS)) + data[part.end() :]
    return data[:place] * draw(st.integers(2, 5)) + data[place:]

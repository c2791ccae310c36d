"""Encodings of chunks: what they hold is what their writer takes, and what plans refuse."""

from __future__ import annotations

import pytest

from terareg.core.errors import ConfigError
from terareg.core.frames import Frame
from terareg.derived.section import CODECS
from terareg.volumes.encodings import ENCODINGS, encodable
from terareg.volumes.plan import DTYPES, VolumeSettings, make_plan

KINDS = {dtype: kind for kind, dtypes in DTYPES.items() for dtype in dtypes}


def test_every_encoding_holds_some_type_and_has_a_codec():
    assert {precomputed for _, precomputed in CODECS.values()} - {None} == set(ENCODINGS)
    for encoding in ENCODINGS:
        assert set(encodable(encoding, "uint8")) & {*KINDS}
    assert encodable(None, "float32") == encodable("raw", "float32") == ("float32",)
    assert encodable("png", "float32") == ("uint8", "uint16")


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_plan_refuses_what_an_encoding_does_not_hold(encoding, dtype):
    settings = VolumeSettings(
        16, 16, ("precomputed",), kind=KINDS[dtype], encoding=encoding, sharded=True
    )
    frame = Frame((20, 20, 20), (2.0, 2.0, 2.0))
    if dtype in encodable(encoding, dtype):
        assert make_plan("v", frame, dtype, settings).settings.encoding == encoding
    else:
        with pytest.raises(ConfigError, match=f"{encoding} cannot store {dtype}, only "):
            make_plan("v", frame, dtype, settings)

"""One gzip stream whose pieces are compressed on several threads.

Pieces of fixed size end at a byte boundary (a full flush), so that they are compressed apart and
joined to one member: some readers of NRRD stop after the first of several. The bytes do not depend
on the number of threads. Format: RFC 1951 and RFC 1952.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from terareg.core.parallel import map_items

PIECE_BYTES = 2**22
_LEVEL = 4
_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no name, no time, unknown system


def write_gzip(stream: BinaryIO, parts: Iterable[memoryview | bytes], workers: int = 1) -> int:
    """Write the bytes of ``parts``, one after the other, as one gzip member.

    Returns
    -------
    int
        Bytes before compression.
    """
    stream.write(_HEAD)
    check, size = 0, 0
    for part in parts:
        view = memoryview(part).cast("B")
        check, size = zlib.crc32(view, check), size + len(view)
        for packed in map_items(_packed, list(_pieces(view)), workers=workers):
            stream.write(packed)
    # an empty last block ends the stream
    stream.write(zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS).flush(zlib.Z_FINISH))
    stream.write(struct.pack("<II", check, size & 0xFFFFFFFF))
    return size


def _pieces(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def _packed(piece: memoryview) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)

"""Items are divided among batches and threads."""

import ctypes
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg.core.parallel import batch_range


@given(st.integers(1, 500), st.integers(1, 60))
def test_batches_cover_every_item_once_and_evenly(items, count):
    count = min(items, count)
    ranges = [batch_range(items, b, count) for b in range(count)]
    assert [i for r in ranges for i in r] == list(range(items))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


_HEAPS = """
import ctypes, sys, threading
from terareg.core.parallel import share_heap
if sys.argv[1] == "shared":
    share_heap()
library = ctypes.CDLL(None)
library.malloc.restype, library.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(4)
def work():
    together.wait()
    library.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
library.malloc_info(0, ctypes.c_void_p(library.fopen(b"/dev/stdout", b"w")))
library.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")
def test_threads_share_a_heap_once_they_are_told_to():
    found = [
        subprocess.run([sys.executable, "-c", _HEAPS, how], capture_output=True, check=True).stdout
        for how in ("own", "shared")
    ]
    own, shared = (text.count(b"<heap nr=") for text in found)
    assert own > 1 and shared == 1

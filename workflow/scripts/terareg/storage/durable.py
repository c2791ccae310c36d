"""Objects that have appeared in a folder, and when they are on its disk.

The promise is that what a record names survives a power cut. To wait for the disk after every
object would take longer than to write them: most of the time goes into waiting, one object after
the other. So a finished object only appears (:func:`follow`), the system is asked to begin writing
it, and whoever writes a record calls :func:`make_durable` first. It waits for all that has appeared
in this process since the last call.

Descriptors stay open until then. An error of a write that the system has put off is told to those
who had the file open when it happened; who opens it again may be told nothing. What is waited for
is bounded in number and bytes. An object that could not be written is removed, and until it is
written again, no record can be.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from terareg.core.errors import StoreError
from terareg.core.parallel import map_items

#: bytes that are worth a request of their own to begin writing them
WORTH_STARTING = 1 << 16
#: files and bytes that are waited for together, at most
MOST_FILES, MOST_BYTES = 256, 1 << 28
_SHARE_OF_DESCRIPTORS = 8
_THREADS = 4
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE
# what file systems say that cannot do this for a folder, or need not
_NOT_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.ENOENT)


class _Followed:
    """Files and folders of this process that may not yet be on the disk."""

    def __init__(self) -> None:
        self._lists = threading.Lock()
        self._turn = threading.Lock()  # of the thread that waits for the disk
        self._files: dict[str, int] = {}  # descriptors by path
        self._folders: set[str] = set()
        self._failed: dict[str, OSError] = {}
        self._bytes = 0

    def add(self, path: str, descriptor: int, size: int) -> None:
        with self._lists:
            replaced = self._files.pop(path, None)
            self._failed.pop(path, None)
            self._files[path] = descriptor
            self._folders.add(os.path.dirname(path) or ".")
            self._bytes += size
            full = len(self._files) >= most_files() or self._bytes >= MOST_BYTES
        if replaced is not None:
            os.close(replaced)
        if full:
            self.settle()

    def add_folders(self, folders: Sequence[str]) -> None:
        with self._lists:
            self._folders.update(folders)

    def settle(self) -> None:
        # one after the other, so that nobody returns while another waits for his objects
        with self._turn:
            with self._lists:
                files, self._files = self._files, {}
                folders, self._folders = self._folders, set()
                self._bytes = 0
            for path, error in map_items(_settle_file, files.items(), workers=_THREADS):
                if error is not None:
                    with self._lists:
                        self._failed[path] = error
            for folder in sorted(folders):
                error = _settle_folder(folder)
                if error is not None:
                    with self._lists:
                        self._failed[folder] = error
            with self._lists:
                failed = next(iter(self._failed.items()), None)
        if failed is not None:
            raise disk_error("write", *failed) from failed[1]

    def close(self) -> None:
        for descriptor in self._files.values():
            with suppress(OSError):
                os.close(descriptor)


def follow(path: str, descriptor: int, size: int) -> None:
    """Take over the descriptor of a file that has appeared at ``path`` and is complete.

    If much is waited for already, this waits for it as :func:`make_durable` does.
    """
    _followed.add(path, descriptor, size)


def start_writing(descriptor: int) -> None:
    """Ask the system to begin writing a file to the disk, without waiting for it."""
    call = _sync_file_range()
    if call is not None:
        # advice: where it is refused, the file is written later
        call(descriptor, 0, 0, _START_WRITING)


def make_folders(folder: str) -> None:
    """Make a folder and those above it; their names are made durable with what comes into them."""
    made, above = [], os.path.abspath(folder)
    while not os.path.isdir(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
        made.append(above)
    os.makedirs(folder, exist_ok=True)
    _followed.add_folders(made)


def make_durable() -> None:
    """Wait until all that has appeared is on the disk. Call it before a record is written.

    Raises
    ------
    StoreError
        If an object that appeared since the start of the process could not be written, and was not
        written again.
    """
    _followed.settle()


def settle_file(path: str | os.PathLike[str]) -> None:
    """Wait until a file that another library has written and closed is on the disk.

    Before it all that has appeared, since it may name that. An error is an :class:`OSError`.
    """
    make_durable()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle_folder(folder: str) -> None:
    """Wait until what was made and removed in a folder is on the disk."""
    error = _settle_folder(folder)
    if error is not None:
        raise disk_error("write", folder, error) from error


def disk_error(verb: str, address: str, error: OSError) -> StoreError:
    """The exception for an error of a folder: what happened to ``address``, and what to do."""
    if error.errno == errno.ENOSPC:
        return disk_full(address)
    if error.errno == errno.EDQUOT:
        return StoreError(
            f"disk quota used up while writing {address}; free some space or ask for more, and run "
            "again; finished work is kept"
        )
    if error.errno == errno.EIO:
        return StoreError(
            f"cannot {verb} {address} ({error.strerror}): the disk or its server failed; have it "
            "checked, or point store: elsewhere, and run again; finished work is kept"
        )
    return StoreError(
        f"cannot {verb} {address} ({error.strerror}); check the permissions of the folder or point "
        "store: elsewhere"
    )


def disk_full(address: str) -> StoreError:
    """The exception for a disk without room for ``address``."""
    return StoreError(
        f"disk full while writing {address}; free some space and run again, finished work is kept"
    )


def _settle_file(item: tuple[str, int]) -> tuple[str, OSError | None]:
    path, descriptor = item
    try:
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        return path, error
    return path, None


def _settle_folder(folder: str) -> OSError | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return None if error.errno in _NOT_OF_FOLDERS else error
    return None


@cache
def most_files() -> int:
    """How many files are waited for together, at most: few where few may be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_FILES
    return max(1, min(MOST_FILES, soft // _SHARE_OF_DESCRIPTORS))


@cache
def _sync_file_range() -> Callable[..., int] | None:
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)  # of Linux
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def _renew() -> None:
    """A child waits for nothing of its parent, which does so itself."""
    global _followed
    inherited, _followed = _followed, _Followed()
    inherited.close()


_followed = _Followed()
os.register_at_fork(after_in_child=_renew)

"""Errors that a user can act on.

Every message is one sentence that names the object, its value and the remedy, for example
"LOC012 channel 0: 3 of 512 planes missing (first: PLN0207); copy them or set
input.missing_planes: interpolate". :mod:`terareg.execution.job` prints it without a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# most characters of a message, and what is kept of a longer one: the object and its value stand
# at the beginning, the remedy at the end
_MOST, _HEAD, _TAIL = 1200, 700, 400


class TeraregError(Exception):
    """Base of all errors that the input, the configuration or the machine can cause.

    Whatever a message repeats (names and values of foreign files, what a library said), it is one
    line of bounded length that a terminal only prints, see :func:`one_line`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ConfigError(TeraregError):
    """A key or value of the configuration is unknown, missing, or out of range."""


class AcquisitionError(TeraregError):
    """Raw data that contradict the metadata or the configuration."""


class StoreError(TeraregError):
    """A folder or bucket that cannot be read or written."""


class IntensityError(TeraregError):
    """A flat-field or bias field that the data do not determine."""


class StitchingError(TeraregError):
    """Displacements, XML files or placements that do not fit the acquisition."""


class VolumeError(TeraregError):
    """A volume that is incomplete, or a request outside it."""


class AtlasError(TeraregError):
    """Template, annotation or ontology that do not fit each other."""


class RegistrationError(TeraregError):
    """Images that cannot be registered, or a registration that diverged."""


class PointsError(TeraregError):
    """Point files that cannot be read, or points outside their volume."""


class CohortError(TeraregError):
    """A table of samples, or results of samples, that cannot be compared."""


def one_line(text: str) -> str:
    """A message on one line, without control characters, its middle left out if it is very long.

    Characters that are not printable (escape sequences of terminals, marks that turn the direction
    of writing, bytes of a file name in another encoding) are written as Python's escapes.
    """
    line = re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*", " ", text).strip()
    if not line.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    if len(line) <= _MOST:
        return line
    left_out = len(line) - _HEAD - _TAIL
    return f"{line[:_HEAD]} ... ({left_out} characters left out) ... {line[-_TAIL:]}"


def changed(address: str) -> str:
    """What to say of a file that somebody wrote to meanwhile."""
    return f"{address} changed while it was being read; run again when nothing is writing to it"


def few(names: Iterable[object]) -> str:
    """Names for a message: the first five, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return ", ".join(texts[:5]) + more


def last_line(error: Exception) -> str:
    """Last line of a library's error message, which usually says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__

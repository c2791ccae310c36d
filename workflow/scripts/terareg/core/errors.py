"""Errors that a user can act on.

Every message is one sentence that names the object, its value and the remedy, for example
"LOC012 channel 0: 3 of 512 planes missing (first: PLN0207); copy them or set
input.missing_planes: interpolate". :mod:`terareg.execution.job` prints it without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class TeraregError(Exception):
    """Base of all errors that the input, the configuration or the machine can cause."""


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


def few(names: Sequence[str]) -> str:
    """Names for a message: the first five, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def last_line(error: Exception) -> str:
    """Last line of a library's error message, which usually says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__

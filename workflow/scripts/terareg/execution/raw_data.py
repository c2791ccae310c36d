"""What is known about the samples' raw data when the workflow is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from terareg.acquisition import raw
from terareg.acquisition.layout import Layout, Survey
from terareg.acquisition.layout_kinds import open_layout
from terareg.core.errors import ConfigError, TeraregError
from terareg.core.extents import channel_image
from terareg.execution.run import Run
from terareg.storage.web import is_web, plain_address
from terareg.volumes import headers


@contextmanager
def _of_sample(sample: str) -> Iterator[None]:
    """Name the sample in every error."""
    try:
        yield
    except TeraregError as error:
        raise type(error)(f"sample {sample}: {error}") from error


def check(run: Run) -> None:
    """Look at the metadata or headers of all samples, so that errors show at once."""
    for sample in run.samples:
        if run.is_imported(sample):
            image_headers(run, sample)
        elif run.is_tiled(sample):
            survey(run, sample)


# ------------------------------------------------------------------ files that Snakemake follows
# Snakemake takes {word} for a wildcard, even in paths that an input function returns
_BRACES = re.compile(r"\{\s*\w")


def tracked(paths: Iterable[str]) -> list[str]:
    """Files that Snakemake can follow; the state of the others is a parameter of their rules."""
    return [path for path in paths if not _BRACES.search(path)]


def untracked_state(paths: Iterable[str]) -> list[list[Any]]:
    """Name, size and time of the files that Snakemake cannot follow."""
    return file_states(path for path in paths if _BRACES.search(path))


def file_states(paths: Iterable[str]) -> list[list[Any]]:
    """Name, size and time of files."""
    stats = [(str(path), path.stat()) for path in map(Path, paths) if path.exists()]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


# ------------------------------------------------------------------ tiles
@cache
def layout(run: Run, sample: str) -> Layout:
    """Where a sample's raw tiles lie."""
    with _of_sample(sample):
        return open_layout(run.samples[sample]["input"])


@cache
def survey(run: Run, sample: str) -> Survey:
    """What is known of a sample's acquisition."""
    with _of_sample(sample):
        return layout(run, sample).survey


@cache
def _raw_state(run: Run, sample: str) -> raw.RawState:
    with _of_sample(sample):
        return raw.raw_state(layout(run, sample))


def raw_layout(run: Run, sample: str) -> str:
    """Digest of names and sizes of all planes."""
    return _raw_state(run, sample).layout


def raw_state(run: Run, sample: str, channel: str) -> str:
    """Digest of names, sizes and times of the planes of one channel."""
    numbers = layout(run, sample).numbers()
    assert numbers is not None, "the configuration names the channels"
    return _raw_state(run, sample).channels.get(numbers[channel], "no such plane")


def alignment_raw_state(run: Run, sample: str) -> str:
    """The same of the tiles that are compared."""
    return raw_state(run, sample, run.alignment_side(sample))


def measured_raw_state(run: Run, sample: str) -> str | list[str]:
    """The same of all sides on which displacements are measured."""
    states = [raw_state(run, sample, side) for side in run.measured_sides(sample)]
    return states[0] if len(states) == 1 else states


def channel_raw_state(run: Run, sample: str, channel: str) -> str | list[str]:
    """The same of all sides of a channel."""
    states = [raw_state(run, sample, side) for side in run.sides_of(sample, channel)]
    return states[0] if len(states) == 1 else states


def compared_raw_state(run: Run, sample: str, channel: str) -> list[str]:
    """The same of a channel or side and what it is compared with."""
    against = run.shifted_against(sample, channel)
    return [raw_state(run, sample, side) for side in (channel, against)]


def pose_side(run: Run, sample: str) -> str:
    """The first side of the channel that finds the pose."""
    return run.sides_of(sample, run.registration_channels(sample)[0])[0]


def pose_raw_state(run: Run, sample: str) -> str:
    """State of its planes, or of its image."""
    state = channel_state if run.is_imported(sample) else raw_state
    return state(run, sample, pose_side(run, sample))


def pose_image(run: Run, sample: str) -> dict[str, Any] | None:
    """Its image, see :func:`image_of_channel`; None if there are tiles."""
    if not run.is_imported(sample):
        return None
    return image_of_channel(run, sample, pose_side(run, sample))


def pose_files(run: Run, sample: str) -> list[str]:
    """Local files of that image, where Snakemake can see them."""
    if not run.is_imported(sample):
        return []
    return channel_files(run, sample, pose_side(run, sample))


def metadata_files(run: Run, sample: str) -> list[str]:
    """Files that say what tiles there are, where Snakemake can see them."""
    return tracked(_local_metadata(run, sample))


def metadata_state(run: Run, sample: str) -> list[list[Any]]:
    """State of those that Snakemake cannot follow."""
    return untracked_state(_local_metadata(run, sample))


def _local_metadata(run: Run, sample: str) -> list[str]:
    source = run.samples[sample]["input"]["path"]
    if run.remote is not None:
        return []
    names = layout(run, sample).metadata
    if source.startswith("s3://"):
        return [name for name in names if name.startswith("/")]
    return [name if name.startswith("/") else f"{source}/{name}" for name in names]


# ------------------------------------------------------------------ volumes
def image_of_channel(run: Run, sample: str, channel: str) -> dict[str, Any]:
    """Image of a channel: its address, and the channel's number in it."""
    return channel_image(run.samples[sample], channel)


def image_address(run: Run, sample: str, channel: str) -> str:
    """Address of the image of a channel."""
    address = plain_address(image_of_channel(run, sample, channel)["path"])
    if run.remote is not None and not (address.startswith("s3://") or is_web(address)):
        raise ConfigError(
            f"sample {sample}: channel {channel}: {address} is a local path, which jobs on other "
            "machines cannot read; give an image on s3:// or https://"
        )
    return address


#: digest of the files that an image consists of, see :func:`terareg.volumes.headers.image_state`
source_state = cache(headers.image_state)


@cache
def image_headers(run: Run, sample: str) -> dict[str, headers.Header]:
    """Headers of a sample's images by channel, on one grid."""
    source = run.samples[sample]["input"]
    addresses = {name: image_address(run, sample, name) for name in source["channels"]}
    with _of_sample(sample):
        found = {
            name: headers.read_header(address, source["spacing_um"])
            for name, address in addresses.items()
        }
        headers.check_channels(found, source["orientation"])
        for name, image in source["channels"].items():
            stated = None if isinstance(image, str) else image["channel"]
            headers.check_channel(found[name], name, stated)
        for name, export in run.option(sample, "export").items():
            plate = bool(next(iter(found.values())).outlines)
            if export["illumination"] != "none" and not plate:
                raise ConfigError(
                    f"export.{name}.illumination: the input is a volume, which has no sites; "
                    "remove illumination"
                )
            if export["outlines"] is True and not plate:
                raise ConfigError(
                    f"export.{name}.outlines: the input is a volume, which has neither tiles nor "
                    "wells; remove outlines, or give a table of boxes"
                )
    return found


def sample_images(run: Run, sample: str) -> list[str]:
    """Local files of a sample's images, where Snakemake can see them."""
    return sorted({path for c in run.channels_of(sample) for path in channel_files(run, sample, c)})


def sample_state(run: Run, sample: str) -> dict[str, str]:
    """Digests of the files that the images of a sample consist of, by channel."""
    return {name: channel_state(run, sample, name) for name in run.channels_of(sample)}


def channel_files(run: Run, sample: str, channel: str) -> list[str]:
    """Local files of the image of a channel, where Snakemake can see them."""
    return tracked(headers.image_files(image_address(run, sample, channel)))


def channel_state(run: Run, sample: str, channel: str) -> str:
    """Digest of names, sizes and times of the files that the image of a channel consists of."""
    return source_state(image_address(run, sample, channel))


# ------------------------------------------------------------------ both
def raw_addresses(run: Run, sample: str) -> str | dict[str, str]:
    """Where a sample's raw data lie: one folder of tiles, or an image for each channel."""
    if run.is_tiled(sample):
        path: str = run.samples[sample]["input"]["path"]
        return path
    return {name: image_address(run, sample, name) for name in run.channels_of(sample)}


def spacing_um(run: Run, sample: str) -> tuple[float, float, float]:
    """Voxel size (z, y, x) of the volume."""
    if run.is_imported(sample):
        stated = next(iter(image_headers(run, sample).values())).spacing_um
        assert stated is not None, "a header without voxel size is an error before"
        return stated
    return survey(run, sample).spacing_um

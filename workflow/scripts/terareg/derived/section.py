"""The section ``derived:`` of a sample's configuration (standard library only).

Every entry makes one thing from one source: a volume of the sample, another entry, or a volume or
image file somewhere else. Entries are checked here as far as the configuration alone can tell.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from terareg.core.errors import ConfigError, StoreError
from terareg.core.extents import channels_of
from terareg.core.orientation import check_orientation
from terareg.derived.catalogue import OUTPUT_KEYS, SOURCE_KEYS, TOOLS, ToolFacts
from terareg.objects.line_reach import THICKEST_UM
from terareg.storage.store import Store
from terareg.storage.web import is_web, plain_address, store_at

_CHANNELS = ("fused/", "corrected_volume/")
VOLUMES = ("fused", "corrected_volume", "labels")
OME_ZARR_04 = "ome-zarr-0.4"
FORMATS = {
    "ome-zarr": ("ome-zarr",),
    OME_ZARR_04: ("ome-zarr",),
    "precomputed": ("precomputed",),
    "both": ("ome-zarr", "precomputed"),
}
#: {codec: (OME-Zarr codec, precomputed encoding)}, None where a format does not have it
CODECS: dict[str, tuple[str | None, str | None]] = {
    "raw": ("none", "raw"),
    "gzip": ("gzip", "gzip"),
    "zstd": ("zstd", None),
    "blosc-zstd": ("blosc-zstd", None),
    "blosc-lz4": ("blosc-lz4", None),
    "compressed_segmentation": (None, "compressed_segmentation"),
    "jpeg": (None, "jpeg"),
    "png": (None, "png"),
    "jpegxl": (None, "jpegxl"),
}
_OWN = re.compile(f"({'|'.join(VOLUMES)})/([A-Za-z0-9][A-Za-z0-9_-]*)")


@dataclass(frozen=True)
class Entry:
    """One entry of the section.

    Attributes
    ----------
    name : str
        Of the entry, and of its folder.
    do : str
        The tool.
    volume : str or None
        Volume of the sample that it is made from, for example "fused/signal" or "derived/small".
    address : str or None
        Volume or image file elsewhere that it is made from; one of the two is given.
    settings : mapping
        All keys of the entry besides ``from`` and ``do``, None where nothing is given.
    """

    name: str
    do: str
    volume: str | None
    address: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> ToolFacts:
        """What is known of its tool."""
        return TOOLS[self.do]

    @property
    def key(self) -> str:
        """Its folder below that of the sample."""
        return f"derived/{self.name}"

    @property
    def options(self) -> dict[str, Any]:
        """The settings that its tool gets, by name; without those that are not given."""
        keys = [key for key in self.facts.keys if key not in self.facts.table_keys]
        given = {key: self.settings.get(key) for key in keys}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def mask(self) -> str | None:
        """Labels of the sample outside of which its source counts as zeros.

        A tool that has the key ``within`` itself reads beyond it.
        """
        return None if "within" in self.facts.keys else self.settings.get("within")

    @property
    def others(self) -> dict[str, str]:
        """Other volumes of the sample that its tool reads, by key."""
        found = {key: self.options[key] for key in self.facts.volumes if key in self.options}
        return found if self.mask is None else found | {"within": self.mask}

    @property
    def measures(self) -> bool:
        """Whether its source is measured before anything is made."""
        facts = self.facts
        return facts.measures and (not facts.unless or self.settings.get(facts.unless) is None)

    @property
    def channel(self) -> str:
        """Channel of the sample on whose grid signal lies, and whose brightness counts; or ""."""
        found = self.settings.get("image") or self.volume or ""
        return found if self.do == "signal" and found.startswith(_CHANNELS) else ""

    @property
    def by_region(self) -> bool:
        """Whether what it makes is measured in the regions of atlases: signal in all of a channel.

        A part of the channel, or a coarser level, has a grid of its own.
        """
        part = ("level", "box_vox", "box_um")
        return bool(self.channel) and not any(self.settings.get(key) for key in part)

    @property
    def thickest_um(self) -> float | None:
        """Diameter of the thickest fibres whose length is measured in regions; None if none is."""
        if not self.settings.get("length"):
            return None
        given = self.settings.get("thickest_um")
        return THICKEST_UM if given is None else float(given)

    def without_table_keys(self) -> Entry:
        """The entry as far as what it makes depends on it."""
        keys = self.facts.table_keys
        return replace(self, settings={k: v for k, v in self.settings.items() if k not in keys})

    @property
    def files(self) -> dict[str, str]:
        """Files of the user that its tool reads, by key."""
        options = self.options
        return {key: options[key] for key in self.facts.files if isinstance(options[key], str)}

    def formats(self, volume: Mapping[str, Any]) -> tuple[str, ...]:
        """Formats that are written; ``volume`` is the section of that name."""
        chosen = self.settings.get("format")
        return tuple(volume["formats"]) if chosen is None else FORMATS[chosen]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary, see :meth:`from_json`."""
        given = {k: v for k, v in self.settings.items() if v is not None}
        return {
            "name": self.name,
            "do": self.do,
            "volume": self.volume,
            "address": self.address,
            "settings": given,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Inverse of :meth:`to_json`."""
        return cls(**data)


def entries_of(config: Mapping[str, Any]) -> dict[str, Entry]:
    """Entries of a complete configuration by name, each after the one that it is made from."""
    section = config.get("derived") or {}
    entries = {name: _entry(name, given, section) for name, given in section.items()}
    ordered: dict[str, Entry] = {}
    for name in entries:
        _add(name, entries, ordered, [])
    return ordered


def check_section(config: Mapping[str, Any]) -> None:
    """Refuse entries that cannot work, as far as the configuration alone tells.

    Raises
    ------
    ConfigError
        In one sentence, with the key, its value and the remedy.
    """
    atlases = config["registration"]["atlases"] or list(config["atlases"])
    volumes = {
        "fused": channels_of(config),
        "corrected_volume": channels_of(config),
        "labels": atlases,
    }
    if not config["intensity"]["bias"]["enabled"]:
        volumes["corrected_volume"] = []
    lower: dict[str, str] = {}
    for entry in entries_of(config).values():
        other = lower.setdefault(entry.name.lower(), entry.name)
        if other != entry.name:
            raise ConfigError(
                f"derived: {other!r} and {entry.name!r} differ only in case, and some file "
                "systems would put them into one folder; rename one of them"
            )
        where = f"derived.{entry.name}"
        _check_source(entry, where, volumes, config)
        _check_keys(entry, where)
        _check_output(entry, where, config["volume"])


def _entry(name: str, given: Mapping[str, Any], section: Mapping[str, Any]) -> Entry:
    source, do = given["from"], given["do"]
    settings = {key: value for key, value in given.items() if key not in ("from", "do")}
    if _OWN.fullmatch(source):
        return Entry(name, do, source, None, settings)
    if source in section:
        return Entry(name, do, f"derived/{source}", None, settings)
    if re.fullmatch(r"[A-Za-z0-9_-]+", source):
        near = difflib.get_close_matches(source, section, 1, 0.6)
        advice = (
            f"did you mean {near[0]}?"
            if near
            else "write fused/CHANNEL for a fused channel, or ./NAME for a file"
        )
        raise ConfigError(f"derived.{name}.from: there is no entry {source!r} in derived; {advice}")
    return Entry(name, do, None, source, settings)


def _add(name: str, entries: Mapping[str, Entry], ordered: dict[str, Entry], trail: list) -> None:
    """Put an entry behind its source."""
    if name in ordered:
        return
    if name in trail:
        circle = [*trail[trail.index(name) :], name]
        what = (
            "the entry is its own source"
            if len(circle) == 2
            else f"the entries are each other's sources: {' <- '.join(circle)}"
        )
        after = entries[trail[-1]]
        keys = [key for key, other in after.others.items() if other == f"derived/{name}"]
        where = f"derived.{after.name}.{keys[0]}" if keys else f"derived.{name}.from"
        raise ConfigError(f"{where}: {what}; give one of them another source")
    for other in entries[name].others.values():
        before = other.removeprefix("derived/")
        if before != other and before in entries:
            _add(before, entries, ordered, [*trail, name])
    source = entries[name].volume or ""
    if source.startswith("derived/"):
        before = source.removeprefix("derived/")
        _add(before, entries, ordered, [*trail, name])
        if not entries[before].facts.makes:
            raise ConfigError(
                f"derived.{name}.from: {before!r} makes no volume (do: {entries[before].do}); "
                "give a volume, for example the source of that entry"
            )
    ordered[name] = entries[name]


def _check_source(
    entry: Entry, where: str, volumes: Mapping[str, list[str]], config: Mapping[str, Any]
) -> None:
    """The source is there as far as the configuration tells, and is not the entry's own target."""
    own_volumes = dict(entry.others)
    if entry.do == "signal" and entry.settings.get("image"):
        own_volumes["image"] = entry.settings["image"]
        if not own_volumes["image"].startswith(_CHANNELS):
            raise ConfigError(
                f"{where}.image: {own_volumes['image']} is not a channel, which signal is measured "
                "in; name fused/CHANNEL or corrected_volume/CHANNEL"
            )
    if entry.volume is not None and not entry.volume.startswith("derived/"):
        own_volumes["from"] = entry.volume
    for key, volume in own_volumes.items():
        kind, _, name = volume.partition("/")
        if kind == "derived":
            _check_entry(name, f"{where}.{key}", config)
            continue
        if name not in volumes[kind]:
            known = ", ".join(f"{kind}/{each}" for each in volumes[kind]) or "none"
            raise ConfigError(
                f"{where}.{key}: {volume!r} is not a volume of this sample, which has {known}; "
                "name one of them, or write ./ before a relative path"
            )
    if entry.address is None:
        return
    address = plain_address(entry.address)
    if is_web(address):
        try:
            store_at(address)
        except StoreError as error:
            raise ConfigError(f"{where}.from: {error}") from error
        return
    own = f"{_canonical(config['store'])}/{config['sample']}/{entry.key}"
    if f"{_canonical(address)}/".startswith(f"{own}/"):
        raise ConfigError(
            f"{where}.from: {entry.address!r} is where this entry itself is written; give another "
            "source, or rename the entry"
        )


def _check_entry(name: str, where: str, config: Mapping[str, Any]) -> None:
    """Another entry that is read beside the source is there, and makes a volume."""
    section = config["derived"]
    if name not in section or not TOOLS[section[name]["do"]].makes:
        known = [other for other, given in section.items() if TOOLS[given["do"]].makes]
        raise ConfigError(
            f"{where}: 'derived/{name}' is not an entry that makes a volume; entries that do: "
            f"{', '.join(known) or 'none'}"
        )


def _canonical(address: str) -> str:
    place = Store(address)
    return place.url if place.is_s3 else os.path.realpath(place.url)


def _check_keys(entry: Entry, where: str) -> None:
    known = {*SOURCE_KEYS, *entry.facts.keys}
    known |= set(OUTPUT_KEYS) if entry.facts.makes else set()
    for key, value in entry.settings.items():
        if value is not None and key not in known:
            users = [name for name, facts in TOOLS.items() if key in facts.keys]
            whose = f"belongs to do: {', '.join(users)}" if users else "applies to volumes"
            raise ConfigError(
                f"{where}.{key}: {value!r} {whose}, not to do: {entry.do}; remove it or correct do"
            )
    settings = entry.settings
    for key in entry.facts.needs:
        if settings.get(key) is None:
            raise ConfigError(f"{where}: key {key} is missing; do: {entry.do} needs it")
    if settings.get("length") and not entry.by_region:
        raise ConfigError(
            f"{where}.length: it is measured in the regions of atlases, which needs a mask of the "
            "whole channel; remove level, box_vox and box_um, and make it from fused/CHANNEL, or "
            "name the channel whose grid it has (image: fused/CHANNEL)"
        )
    if settings.get("thickest_um") is not None and not settings.get("length"):
        raise ConfigError(f"{where}.thickest_um belongs to length: true; set that or remove it")
    if entry.do == "signal" and settings.get("method") == "probability":
        _check_probability(settings, where)
    for key in ("percent", "values"):
        ends = settings.get(key)
        if ends is not None and not ends[0] < ends[1]:
            raise ConfigError(
                f"{where}.{key}: {ends} is not a range; give the lower value first, then the upper"
            )
    if settings.get("contrast_limit") is not None and settings.get("local_um") is None:
        raise ConfigError(
            f"{where}.contrast_limit: {settings['contrast_limit']} limits the contrast of regions, "
            "which need local_um; give local_um, their edge, or remove contrast_limit"
        )
    if settings.get("box_vox") is not None and settings.get("box_um") is not None:
        raise ConfigError(f"{where}: box_vox and box_um both give the region; remove one of them")
    for key in ("box_vox", "box_um"):
        box = settings.get(key)
        if box is not None and not all(a < b for a, b in zip(*box)):
            raise ConfigError(
                f"{where}.{key}: {box} is empty; give the first voxel and the one past the last, "
                "[[z, y, x], [z, y, x]]"
            )
    if entry.do == "tissue" and isinstance(settings.get("resolution_um"), list):
        raise ConfigError(
            f"{where}.resolution_um: {settings['resolution_um']} are three sizes, but tissue is "
            "found in cubes; give one number"
        )
    if settings.get("orientation") is not None:
        check_orientation(settings["orientation"], f"{where}.orientation")
    if entry.address is None:
        for key in ("channel", "spacing_um", "orientation", "fill_missing"):
            if settings.get(key) is not None:
                raise ConfigError(
                    f"{where}.{key}: {settings[key]!r} is only for files and volumes from "
                    f"elsewhere; {entry.volume} states its own, so remove it"
                )


def _check_probability(settings: Mapping[str, Any], where: str) -> None:
    for key in ("threshold", "weak"):
        value = settings.get(key)
        if value is not None and not 0 < value <= 1:
            raise ConfigError(
                f"{where}.{key}: {value:g} is no probability; give more than 0 and at most 1, or "
                "another method"
            )
    if settings.get("background_um") is not None:
        raise ConfigError(
            f"{where}.background_um: probabilities have no background; remove it, or use method: "
            "difference for an image"
        )


def _check_output(entry: Entry, where: str, volume: Mapping[str, Any]) -> None:
    """Formats, codecs, chunks and blocks that go together."""
    if not entry.facts.makes:
        return
    settings, formats = entry.settings, entry.formats(volume)
    codec = settings.get("codec")
    for number, form in enumerate(("ome-zarr", "precomputed")):
        if codec is not None and form in formats and CODECS[codec][number] is None:
            fitting = ", ".join(name for name, both in CODECS.items() if both[number])
            raise ConfigError(
                f"{where}.codec: {form} does not support {codec}; use one of {fitting}, or "
                "another format"
            )
    if codec == "gzip" and "precomputed" in formats and settings.get("sharded") is False:
        raise ConfigError(
            f"{where}.codec: precomputed chunks with gzip need shards, because readers expect "
            "unsharded chunks without compression; set sharded: true or codec: raw"
        )
    if settings.get("format") == OME_ZARR_04 and settings.get("sharded"):
        raise ConfigError(
            f"{where}.sharded: OME-Zarr 0.4 has no shards; remove it, or use format: ome-zarr "
            "(version 0.5)"
        )
    edges = chunk_edges(entry, volume)
    block = settings.get("block") or max(volume["block"], *edges)
    ratio = block // max(edges)
    if block % max(edges) or ratio & (ratio - 1):
        raise ConfigError(
            f"{where}.block: {block} is not the longest side of the chunk {list(edges)} times a "
            f"power of two; give {max(edges)}, {2 * max(edges)}, {4 * max(edges)} ..."
        )


def chunk_edges(entry: Entry, volume: Mapping[str, Any]) -> tuple[int, int, int]:
    """Edges (z, y, x) of the chunks that an entry asks for; ``volume`` is the section."""
    given = entry.settings.get("chunk")
    if given is None:
        given = volume["chunk"]
    return tuple(given) if isinstance(given, (list, tuple)) else (given,) * 3


def output_options(entry: Entry, volume: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Arguments of :class:`terareg.volumes.plan.VolumeSettings` for an entry.

    Parameters
    ----------
    entry : Entry
    volume : mapping
        The section ``volume`` of the configuration, for what the entry does not say.
    kind : str
        "image" or "labels", of what is made.
    """
    settings, edges = entry.settings, chunk_edges(entry, volume)
    cubic = len(set(edges)) == 1
    options: dict[str, Any] = {
        "chunk": max(edges),
        "block": settings.get("block") or max(volume["block"], *edges),
        "formats": entry.formats(volume),
        "codec": volume["codec"],
        "precomputed": volume["precomputed"],
        "kind": "segmentation" if kind == "labels" else "image",
        "chunk_shape": None if cubic and edges[0] in range(4, 257) else edges,
    }
    if settings.get("codec") is not None:
        zarr, encoding = CODECS[settings["codec"]]
        options |= {"codec": zarr or volume["codec"], "encoding": encoding}
    if settings.get("format") == OME_ZARR_04:
        options |= {"ngff": "0.4", "sharded": False}
    if settings.get("sharded") is False:
        options["sharded"] = False
        if options.get("encoding") is None and options["precomputed"] == "gzip":
            options["precomputed"] = "raw"
    given = ("downsampling", "halved", "levels")
    return options | {key: settings[key] for key in given if settings.get(key) is not None}

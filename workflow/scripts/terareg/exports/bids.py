"""A sample as a BIDS data set of microscopy: names, sidecars and tables around OME-Zarr images.

The images are those of the fused volumes: hard links where the store is a folder, so that they take
no room, copies on S3 or where that is asked for.

Specification: Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io, pages
"Microscopy", "Data summary files" and "Dataset description".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from terareg import __version__
from terareg.core.errors import ConfigError, VolumeError
from terareg.core.parallel import map_items
from terareg.exports.crate import FILE as CRATE
from terareg.exports.crate import Terms, crate
from terareg.exports.settings import bids_label
from terareg.storage.records import to_json
from terareg.storage.store import Store
from terareg.volumes import ngff
from terareg.volumes.reader import Volume

BIDS_VERSION = "1.10.0"
_SUFFIX = "SPIM"
_ABOUT = ("species", "strain", "sex", "age")
_ABOUT_IMAGES = (
    "Light-sheet microscopy of cleared tissue, stitched into one volume for each channel by "
    "terareg {}."
)
_OWN_FIELDS = ("PixelSize", "PixelSizeUnits", "AxesOrientation")


@dataclass(frozen=True)
class BidsSettings:
    """What a data set says beside what the volumes state.

    Attributes
    ----------
    subject, sample : str
        Labels: letters and digits.
    session : str or None
    about : mapping
        Of the animal, for participants.tsv: species, strain, sex, age, as far as known.
    metadata : mapping
        Further fields of every sidecar, as the specification names them.
    copy : bool
        Whether images are copied also where they could be linked.
    license : str or None
        SPDX identifier or address.
    published : str or None
        Date, YYYY-MM-DD; with it and a licence the data set is an RO-Crate as well.
    authors : tuple of str
    """

    subject: str
    sample: str = "brain"
    session: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    copy: bool = False
    license: str | None = None
    published: str | None = None
    authors: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, section: Mapping[str, Any], name: str) -> BidsSettings:
        """Settings of the section ``bids`` of a sample of this name."""
        own = sorted(set(section["metadata"]) & set(_OWN_FIELDS))
        if own:
            raise ConfigError(
                f"bids.metadata.{own[0]}: terareg writes this field from the volume; remove it"
            )
        return cls(
            subject=section["subject"] or bids_label(name),
            sample=section["sample"],
            session=section["session"],
            about={k: section[k] for k in _ABOUT if section[k] is not None},
            metadata=section["metadata"],
            copy=section["files"] == "copy",
            license=section["license"],
            published=section["published"],
            authors=tuple(section["authors"]),
        )

    @property
    def folder(self) -> str:
        """Folder of the images in the data set."""
        session = f"ses-{self.session}/" if self.session else ""
        return f"sub-{self.subject}/{session}micr"

    def stem(self, channel: str) -> str:
        """Name of the image of a channel, without its ending."""
        session = f"ses-{self.session}_" if self.session else ""
        stain = bids_label(channel)
        return f"sub-{self.subject}_{session}sample-{self.sample}_stain-{stain}_{_SUFFIX}"


def write_dataset(
    store: Store, sample: str, channels: Sequence[str], settings: BidsSettings, workers: int = 4
) -> dict:
    """Write the data set of a sample, ``{sample}/bids`` in the store.

    What an earlier export left there is removed first; ``dataset_description.json``, by which
    programs know a data set, is written last.

    Parameters
    ----------
    store : Store
        Holds the fused volumes ``{sample}/fused/{channel}``.
    sample : str
        Folder of the sample.
    channels : sequence of str
    settings : BidsSettings
    workers : int
        Threads that link or copy.

    Returns
    -------
    dict
        Facts for the record: ``dataset`` (address), ``images`` (names), ``objects`` (their files)
        and ``linked`` (whether none was copied).
    """
    key = f"{sample}/bids"
    store.delete_folder(key)
    names, objects, linked = [], 0, True
    for channel in channels:
        volume = Volume(store, f"{sample}/fused/{channel}")
        if "ome-zarr" not in volume.plan.settings.formats:
            raise VolumeError(
                f"{volume.name} has no OME-Zarr copy, which BIDS requires; add ome-zarr to "
                "volume.formats"
            )
        name = f"{settings.folder}/{settings.stem(channel)}"
        source, target = f"{volume.key}/{ngff.FOLDER}", f"{key}/{name}.ome.zarr"
        found = [entry.key for entry in store.list(source)]

        def take(one: str, source=source, target=target) -> bool:
            return _take(store, one, target + one[len(source) :], copy=settings.copy)

        links = list(map_items(take, found, workers=workers, what=f"BIDS files, {channel}"))
        objects, linked = objects + len(links), linked and all(links)
        store.write(f"{key}/{name}.json", to_json(_sidecar(volume, channel, settings)))
        names.append(f"{name}.ome.zarr")
    subject, tissue = f"sub-{settings.subject}", f"sample-{settings.sample}"
    tables = {
        "participants.tsv": {"participant_id": subject, **settings.about},
        "samples.tsv": {
            "sample_id": tissue, "participant_id": subject, "sample_type": "tissue",
        },
    }  # fmt: skip
    for file, row in tables.items():
        lines = ("\t".join(map(str, row)), "\t".join(map(str, row.values())))
        store.write(f"{key}/{file}", ("\n".join(lines) + "\n").encode())
    store.write(f"{key}/README.md", _readme(sample, names).encode())
    description = {
        "Name": sample,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "terareg", "Version": __version__}],
    }
    if settings.authors:
        description["Authors"] = list(settings.authors)
    if settings.license:
        description["License"] = settings.license
    if settings.license and settings.published:
        terms = Terms(settings.published, settings.license, settings.authors)
        images = dict(zip(names, (f"channel {channel}, fused" for channel in channels)))
        files = {name.replace(".ome.zarr", ".json"): f"metadata of {name}" for name in names}
        files |= {
            "participants.tsv": "the animal", "samples.tsv": "the tissue",
            "README.md": "what this data set is", "dataset_description.json": "name and version",
        }  # fmt: skip
        made = crate(sample, _ABOUT_IMAGES.format(__version__), terms, images, files)
        store.write(f"{key}/{CRATE}", to_json(made))
        # BIDS has no name for this file
        store.write(f"{key}/.bidsignore", f"{CRATE}\n".encode())
    store.write(f"{key}/dataset_description.json", to_json(description))
    return {
        "dataset": store.address(key), "images": names, "objects": objects, "linked": linked,
    }  # fmt: skip


def _take(store: Store, source: str, target: str, *, copy: bool) -> bool:
    """Put an object under a second name; return whether it is a link."""
    if store.is_s3:
        store.write(target, store.read(source))
        return False
    path, place = store.path(source), store.path(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            os.link(path, place)
            return True
        except OSError:
            pass  # a file system without hard links
    shutil.copyfile(path, place)
    return False


def _sidecar(volume: Volume, channel: str, settings: BidsSettings) -> dict[str, Any]:
    """Metadata of one image; sizes are listed x, y, z."""
    frame = volume.frame
    return {
        "SampleStaining": channel,
        "SampleEnvironment": "ex vivo",
        **settings.metadata,
        "PixelSize": list(frame.spacing_um[::-1]),
        "PixelSizeUnits": "um",
        # no field of the specification: where the axes x, y and z of the image point to
        "AxesOrientation": frame.orientation[::-1],
    }


def _readme(sample: str, images: Sequence[str]) -> str:
    listed = "\n".join(f"- `{name}`" for name in images)
    return (
        f"# {sample}\n\n{_ABOUT_IMAGES.format(__version__)}\n\n{listed}\n\n"
        "Images are OME-Zarr 0.5. "
        "`AxesOrientation` in the sidecars names the anatomical directions to which x, y and z "
        "point: R or L, A or P, S or I.\n"
    )

"""What a registration reads: images of an atlas and of a sample, and hints, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from terareg.atlas.prepare import load_atlas, load_image
from terareg.registration.images import Image
from terareg.registration.landmarks import read_landmarks
from terareg.registration.reading import reading_resolution
from terareg.registration.regions import Regions
from terareg.registration.schedule import Hints
from terareg.storage.records import read_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


@dataclass(frozen=True)
class RegistrationInput:
    """Where the input of a registration is.

    Attributes
    ----------
    atlas : path
        Folder of the prepared atlas.
    images : mapping of name to path
        Further images of the atlas.
    store : Store
    channels : mapping of name to str
        Keys of the volumes of the channels.
    pose : path
        Facts of the initial pose.
    landmarks : path, optional
    """

    atlas: str | Path
    images: Mapping[str, str]
    store: Store
    channels: Mapping[str, str]
    pose: str | Path
    landmarks: str | Path | None = None

    def read(
        self, resolution_um: float | None, threads: int
    ) -> tuple[list[Image], list[Image], Hints]:
        """Images of the atlas, channels of the sample at the level that is needed, and hints.

        Errors call the atlas by the name of its folder and a channel by the first part of its key.
        """
        folder = Path(self.atlas)
        atlas = load_atlas(folder)
        assert atlas.template is not None
        templates = [Image(atlas.template, atlas.frame, name=f"atlas {folder.name}")]
        for name, path in self.images.items():
            image = load_image(path, atlas.frame)
            templates.append(Image(image, atlas.frame, name=f"image {name} of atlas {folder.name}"))
        resolution, channels = reading_resolution(atlas.frame, resolution_um), []
        for channel, key in self.channels.items():
            data, frame = Volume(self.store, key).resampled(resolution, threads)
            name = f"channel {channel} of sample {key.split('/')[0]}"
            channels.append(Image(data, frame, name=name))
        regions = Regions(
            atlas.annotation,
            {item.id: item.parent for item in atlas.ontology},
            {item.id: item.acronym for item in atlas.ontology},
        )
        hints = Hints(read_json(self.pose)["extent"], regions=regions)
        landmarks = read_landmarks(self.landmarks)
        if landmarks is not None:
            hints = replace(hints, landmarks=landmarks)
        return templates, channels, hints

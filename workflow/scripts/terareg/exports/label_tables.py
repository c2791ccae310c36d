"""Regions in exports: numbers that programs can show, colours, and tables of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from terareg.atlas.ontology import Ontology, Structure
from terareg.core.errors import VolumeError

#: largest label of ITK-SNAP
_ITKSNAP_MOST = 2**16 - 1


@dataclass(frozen=True)
class LabelTable:
    """Regions of an atlas and the values that stand for them in an export.

    Attributes
    ----------
    regions : tuple of Structure
        In the ontology's order.
    values : tuple of int
        Of the voxels of each: its id, or a number from 1.
    """

    regions: tuple[Structure, ...]
    values: tuple[int, ...]

    @classmethod
    def of(cls, ids: Iterable[int], ontology: Ontology, labels: str = "ids") -> LabelTable:
        """Table of the regions with these ids.

        Parameters
        ----------
        ids : iterable of int
            Ids in the annotation of the atlas; 0 is the background.
        ontology : Ontology
        labels : str
            "ids", or "consecutive" for numbers in the ontology's order.
        """
        wanted = {int(i) for i in ids} - {0}
        regions = tuple(region for region in ontology if region.id in wanted)
        if labels == "consecutive":
            return cls(regions, tuple(range(1, len(regions) + 1)))
        return cls(regions, tuple(region.id for region in regions))

    @property
    def dtype(self) -> str:
        """Smallest type that holds the values of consecutive numbers; uint32 for ids."""
        most = max(self.values, default=0)
        if self.values != tuple(range(1, len(self.values) + 1)):
            return "uint32"
        return "uint8" if most < 2**8 else "uint16" if most < 2**16 else "uint32"

    def palette(self) -> np.ndarray:
        """Colours of the values 0 to 255 for TIFF, uint16, shape (3, 256); for dtype uint8 only."""
        colours = np.zeros((3, 256), np.uint16)
        for value, region in zip(self.values, self.regions):
            colours[:, value] = np.array(_rgb(region), np.uint16) * 257
        return colours

    def renumbered(self, ids: np.ndarray) -> np.ndarray:
        """The values that stand for ids, of type ``dtype``."""
        return self._looked_up(ids, np.array([0, *self.values], self.dtype))

    def coloured(self, ids: np.ndarray) -> np.ndarray:
        """Colours of ids, uint8, with a last axis of red, green, blue; black is no region."""
        colours = np.array([(0, 0, 0), *map(_rgb, self.regions)], np.uint8)
        return self._looked_up(ids, colours)

    def _looked_up(self, ids: np.ndarray, what: np.ndarray) -> np.ndarray:
        known = np.array([0, *(region.id for region in self.regions)], np.uint32)
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
        place = order[place]
        wrong = known[place] != ids
        if wrong.any():
            raise VolumeError(
                f"the labels contain id {int(np.asarray(ids)[wrong][0])}, which is not in the "
                "atlas; make the labels again from this atlas"
            )
        found: np.ndarray = what[place]
        return found

    def to_rows(self) -> list[dict[str, object]]:
        """Rows for a table: value, id, acronym, name, parent, red, green, blue."""
        return [
            {"value": value, "id": region.id, "acronym": region.acronym, "name": region.name,
             "parent": region.parent,
             **dict(zip(("red", "green", "blue"), _rgb(region), strict=True))}
            for value, region in zip(self.values, self.regions)
        ]  # fmt: skip

    def to_itksnap(self) -> bytes:
        """Label descriptions of ITK-SNAP: value, colour, opacity, visibility, mesh, name."""
        lines = [
            "# ITK-SNAP label descriptions: value, red, green, blue, opacity, visible, mesh, name"
        ]
        most = max(self.values, default=0)
        if most > _ITKSNAP_MOST:
            lines.append(
                f"# ITK-SNAP shows labels up to {_ITKSNAP_MOST}, and here they reach {most}: "
                "export with labels: consecutive"
            )
        lines.append('0 0 0 0 0 0 0 "background"')
        for value, region in zip(self.values, self.regions):
            name = f"{region.acronym}: {region.name}".replace('"', "'")
            lines.append(f'{value} {" ".join(map(str, _rgb(region)))} 1 1 1 "{name}"')
        return ("\n".join(lines) + "\n").encode()


def _rgb(region: Structure) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(region.colour)
    return red, green, blue

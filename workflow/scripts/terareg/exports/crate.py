"""Research objects: what a data set holds, from whom and under which terms, as RO-Crate.

Specification: RO-Crate 1.1, https://w3id.org/ro/crate/1.1, one JSON-LD file at the top of a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from terareg import __version__

FILE = "ro-crate-metadata.json"
_VERSION = "https://w3id.org/ro/crate/1.1"
_NGFF = "https://ngff.openmicroscopy.org/0.5/"
_FORMATS = {
    ".json": "application/json", ".md": "text/markdown", ".tsv": "text/tab-separated-values",
}  # fmt: skip
_SPDX = "https://spdx.org/licenses/"
_PROGRAM = "#terareg"


@dataclass(frozen=True)
class Terms:
    """When and by whom a data set was published, and what may be done with it.

    ``published`` is a date, YYYY-MM-DD, ``license`` an SPDX identifier or an address.
    """

    published: str
    license: str
    authors: tuple[str, ...] = ()

    @property
    def license_url(self) -> str:
        """Address of the licence."""
        known = self.license.startswith(("http://", "https://"))
        return self.license if known else f"{_SPDX}{self.license}"


def crate(
    name: str, description: str, terms: Terms, images: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, Any]:
    """The metadata of a data set.

    Parameters
    ----------
    name, description : str
    terms : Terms
    images : mapping of str to str
        Folder of every OME-Zarr image relative to the data set, and what it shows.
    files : mapping of str to str
        Every other file, and what it says.

    Returns
    -------
    dict
        JSON-LD, the same for the same arguments.
    """
    folders = {f"{folder}/": words for folder, words in images.items()}
    parts = [_at(part) for part in (*folders, *files)]
    people = {f"#author-{n}": author for n, author in enumerate(terms.authors, 1)}
    graph: list[dict[str, Any]] = [
        {"@id": FILE, "@type": "CreativeWork", "about": _at("./"), "conformsTo": _at(_VERSION)},
        {
            "@id": "./", "@type": "Dataset", "name": name, "description": description,
            "datePublished": terms.published, "license": _at(terms.license_url),
            "author": [_at(one) for one in people], "hasPart": parts,
        },
        *({"@id": one, "@type": "Person", "name": author} for one, author in people.items()),
        {"@id": terms.license_url, "@type": "CreativeWork", "name": terms.license,
         "description": f"terms of use of {name}"},
        *(
            {"@id": folder, "@type": "Dataset", "name": folder, "description": words,
             "conformsTo": _at(_NGFF)}
            for folder, words in folders.items()
        ),
        *(
            {"@id": file, "@type": "File", "name": file, "description": words,
             "encodingFormat": _FORMATS[file[file.rindex(".") :]]}
            for file, words in files.items()
        ),
        {"@id": _NGFF, "@type": "CreativeWork", "name": "OME-Zarr 0.5"},
        {"@id": _PROGRAM, "@type": "SoftwareApplication", "name": "terareg",
         "version": __version__},
        {"@id": "#made", "@type": "CreateAction", "name": "stitching and fusion of the raw tiles",
         "instrument": _at(_PROGRAM), "result": [_at(folder) for folder in folders]},
    ]  # fmt: skip
    return {"@context": f"{_VERSION}/context", "@graph": graph}


def _at(address: str) -> dict[str, str]:
    return {"@id": address}

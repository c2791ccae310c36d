"""A paragraph for the methods section of a paper, and its references, for what a run did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# key: how the text cites it, type of entry, fields
_WORKS: dict[str, tuple[str, str, dict[str, str]]] = {
    "snakemake": ("Mölder et al. 2021", "article", {
        "author": "Mölder, Felix and Jablonski, Kim Philipp and Letcher, Brice and others",
        "title": "Sustainable data analysis with {Snakemake}",
        "journal": "F1000Research", "volume": "10", "pages": "33", "year": "2021",
        "doi": "10.12688/f1000research.29032.2",
    }),
    "terastitcher": ("Bria and Iannello 2012", "article", {
        "author": "Bria, Alessandro and Iannello, Giulio",
        "title": "{TeraStitcher} - a tool for fast automatic {3D}-stitching of teravoxel-sized "
                 "microscopy images",
        "journal": "BMC Bioinformatics", "volume": "13", "pages": "316", "year": "2012",
        "doi": "10.1186/1471-2105-13-316",
    }),
    "n4": ("Tustison et al. 2010", "article", {
        "author": "Tustison, Nicholas J. and Avants, Brian B. and Cook, Philip A. and others",
        "title": "{N4ITK}: improved {N3} bias correction",
        "journal": "IEEE Transactions on Medical Imaging", "volume": "29", "number": "6",
        "pages": "1310--1320", "year": "2010", "doi": "10.1109/TMI.2010.2046908",
    }),
    "beg": ("Beg et al. 2005", "article", {
        "author": "Beg, M. Faisal and Miller, Michael I. and Trouvé, Alain and Younes, Laurent",
        "title": "Computing large deformation metric mappings via geodesic flows of "
                 "diffeomorphisms",
        "journal": "International Journal of Computer Vision", "volume": "61",
        "pages": "139--157", "year": "2005", "doi": "10.1023/B:VISI.0000043755.93987.aa",
    }),
    "tward": ("Tward et al. 2020", "article", {
        "author": "Tward, Daniel and Brown, Timothy and Kageyama, Yusuke and others",
        "title": "Diffeomorphic registration with intensity transformation and missing data: "
                 "application to {3D} digital pathology of {Alzheimer's} disease",
        "journal": "Frontiers in Neuroscience", "volume": "14", "pages": "52", "year": "2020",
        "doi": "10.3389/fnins.2020.00052",
    }),
    "omezarr": ("Moore et al. 2023", "article", {
        "author": "Moore, Josh and Basurto-Lozada, Daniela and Besson, Sébastien and others",
        "title": "{OME-Zarr}: a cloud-optimized bioimaging file format with international "
                 "community support",
        "journal": "Histochemistry and Cell Biology", "volume": "160", "pages": "223--251",
        "year": "2023", "doi": "10.1007/s00418-023-02209-1",
    }),
}  # fmt: skip


def methods(
    settings: Mapping[str, Any],
    atlases: Mapping[str, Mapping[str, Any]],
    software: Mapping[str, str],
    sides: Sequence[Mapping[str, Any]] = (),
) -> dict[str, str]:
    """The paragraph and its references.

    Parameters
    ----------
    settings : mapping
        Values by dotted key, of all settings of the sample.
    atlases : mapping
        Summary of the registration to each atlas (``registration/{atlas}/summary.json``).
    software : mapping
        Versions of packages by name, terareg among them.
    sides : sequence of mapping
        Of each channel with two sides what ``stitching/sides/{channel}.json`` holds, and the shift
        of the second side, micrometres (z, y, x), as ``shift_um``, if it was measured or given.

    Returns
    -------
    dict
        ``text`` and ``bibtex``.
    """
    cited: list[str] = []

    def cite(*keys: str) -> str:
        cited.extend(key for key in keys if key not in cited)
        return "(" + "; ".join(_WORKS[key][0] for key in keys) + ")"

    version = software.get("terareg", "")
    sentences = [
        f"Images were processed with terareg {version}".rstrip()
        + f", a workflow for Snakemake {cite('snakemake')}."
    ]
    if settings.get("input.kind") == "volume":
        sentences.append("The volume was imported unchanged.")
    else:
        sentences += _of_tiles(settings, cite)
        sentences += map(_of_sides, sides)
    if settings.get("intensity.bias.enabled"):
        sentences.append(
            "Slow variation of brightness in the volume was divided out by N4 "
            f"{cite('n4')} at {settings['intensity.bias.resolution_um']:g} µm."
        )
    sentences += _of_atlases(settings, atlases, cite)
    if "ome-zarr" in settings.get("volume.formats", ()):
        sentences.append(f"Volumes were stored as OME-Zarr {cite('omezarr')}.")
    used = [f"{name} {number}" for name, number in software.items() if name != "terareg"]
    if used:
        sentences.append(f"Versions of the software: {', '.join(used)}.")
    entries = [_of_terareg(version), *(_entry(key) for key in cited)]
    return {"text": " ".join(sentences), "bibtex": "\n\n".join(entries) + "\n"}


def _of_tiles(settings: Mapping[str, Any], cite) -> list[str]:
    source = {
        "statistics": "a flat-field that was estimated from the tiles and their overlaps",
        "image": "a flat-field that was given as an image",
    }.get(settings["intensity.flatfield.method"])
    sentences = [f"Tiles were divided by {source}, after the dark offset was subtracted."]
    if source is None:
        sentences = ["Tiles were used without a flat-field."]
    if settings["intensity.destriping"] in ("rows", "columns"):
        sentences.append(
            "Stripe artefacts of the light-sheet were removed with a gain for each line of each "
            "plane."
        )
    given = any(value for key, value in settings.items() if key.startswith("stitching.xml."))
    if given:
        sentences.append(
            f"The positions of the tiles were taken from TeraStitcher files {cite('terastitcher')}."
        )
    elif settings["stitching.displacement.engine"] == "mip_ncc":
        sentences.append(
            "The displacements of neighbouring tiles were measured by cross-correlation of "
            f"maximum intensity projections as in TeraStitcher {cite('terastitcher')}, and all "
            "tiles were placed together by robust least squares."
        )
    else:
        sentences.append(
            "The displacements of neighbouring tiles were measured by normalised "
            "cross-correlation of band-passed windows, and all tiles were placed together by "
            "robust least squares."
        )
    blending = settings["fusion.blending"]
    how = "blended with cosine weights" if blending == "cosine" else "averaged"
    return [*sentences, f"Overlapping tiles were {how}."]


def _of_sides(match: Mapping[str, Any]) -> str:
    (first, second), shift = match["sides"], match.get("shift_um")
    lay = ""
    if shift is not None:
        lay = f", which were {', '.join(f'{v:.1f}' for v in shift)} µm (z, y, x) apart,"
    where = f"each is used in the half of the {match['across']} next to its light-sheet"
    if match["weights"] == "content":
        where = "each counts where it shows more fine structure"
    return (
        f"The sides {first} and {second} of channel {match['channel']}{lay} were fused so that "
        f"{where}, after correction with its own flat-field; {second} was multiplied by "
        f"{match['gain']:.3g} to match {first} in brightness."
    )


def _of_atlases(settings: Mapping[str, Any], atlases: Mapping, cite) -> list[str]:
    sentences = []
    for name, summary in atlases.items():
        if "through" in summary:
            sentences.append(
                f"The atlas {name} (cite it, and the source of the transform, as their authors "
                f"ask) was reached through {summary['through']}, by a known transform between the "
                f"two ({', '.join(summary['files'])})."
            )
            continue
        last = (summary.get("levels") or [{}])[-1]
        voxel = last.get("voxel_um")
        weight = last.get("regularisation", settings["registration.regularisation"])
        finest = f", with a final voxel size of {voxel:.3g} µm" if voxel else ""
        if summary.get("kept") == "affine":
            sentences.append(
                f"The atlas {name} (please cite it as its authors request) was registered to the "
                f"sample by an affine transform{finest}."
            )
            continue
        sentences.append(
            f"The atlas {name} (please cite it as its authors request) was registered to the "
            "sample by an affine transform and a diffeomorphism (large deformation diffeomorphic "
            f"metric mapping) {cite('beg')}, together with a contrast transform and a mixture of "
            f"matching, missing and artefact tissue {cite('tward')}{finest}; the weight of the "
            f"regularisation was {weight:.3g}."
        )
    if atlases:
        sentences.append(
            "The labels of the atlas were transformed into the sample, where the volume and "
            "brightness of every region were measured."
        )
    return sentences


def _entry(key: str) -> str:
    _, kind, fields = _WORKS[key]
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _of_terareg(version: str) -> str:
    return (
        "@software{terareg,\n  author = {{The terareg developers}},\n"
        "  title = {terareg: from raw light-sheet tiles to atlas-registered brain volumes},\n"
        f"  version = {{{version}}},\n}}"
    )

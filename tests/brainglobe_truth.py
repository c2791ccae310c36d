"""A small atlas with known truth in BrainGlobe's two layouts, alike along no axis.

Arrays are "asr": the index of z grows to posterior, that of y to inferior, that of x to left.
"""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import tifffile

NAME, VERSION = "small_mouse_40um", "1.2"
SHAPE, SPACING_UM = (6, 8, 10), [40.0, 30.0, 20.0]
#: id, acronym, name, path, colour
STRUCTURES = [
    (997, "root", "root", [997], [255, 255, 255]),
    (8, "grey", "Basic cell groups", [997, 8], [191, 218, 227]),
    (614454277, "SNl", "Supraoculomotor periaqueductal gray", [997, 8, 614454277], [255, 144, 255]),
    (73, "VS", "ventricular systems", [997, 73], [170, 170, 170]),
]
ROOT, LARGE, VENTRICLE = 997, 614454277, 73


def images() -> dict[str, np.ndarray]:
    """Reference, annotation and hemispheres; the middle lies nearer the right side."""
    z, y, x = np.indices(SHAPE)
    annotation = np.full(SHAPE, ROOT, np.uint32)
    annotation[0, 0, 0] = LARGE  # anterior, superior, right
    annotation[-1, -2:, -1] = VENTRICLE  # posterior, inferior, left
    hemispheres = np.where(x < 3, 2, 1).astype(np.uint8)
    return {
        "reference": (100 * z + 10 * y + x + 1).astype(np.uint16),
        "annotation": annotation,
        "hemispheres": hemispheres,
    }


def metadata(*, symmetric: bool = False) -> dict:
    return {
        "name": "small_mouse",
        "citation": "Someone 2020, https://doi.org/none",
        "species": "Mus musculus",
        "symmetric": symmetric,
        "resolution": SPACING_UM,
        "orientation": "asr",
        "version": VERSION,
        "shape": list(SHAPE),
        "additional_references": [],
    }


def write_older(folder: Path, *, symmetric: bool = False, version: str = VERSION) -> Path:
    """Write the layout of brainglobe-atlasapi 1 and 2; return the atlas's folder."""
    atlas = folder / f"{NAME}_v{version}"
    atlas.mkdir(parents=True)
    for name, image in images().items():
        if name != "hemispheres" or not symmetric:
            tifffile.imwrite(atlas / f"{name}.tiff", image, compression="zlib")
    (atlas / "metadata.json").write_text(
        json.dumps(metadata(symmetric=symmetric) | {"version": version})
    )
    keys = ("id", "acronym", "name", "structure_id_path", "rgb_triplet")
    (atlas / "structures.json").write_text(json.dumps([dict(zip(keys, s)) for s in STRUCTURES]))
    return atlas


def write_newer(folder: Path, *, values: bool = False) -> Path:
    """Write the layout of brainglobe-atlasapi 3; return the atlas's manifest.

    With ``values``, regions have identifiers other than the values of their voxels.
    """
    import zarr

    root = folder / "brainglobe-atlasapi"
    places = {
        "reference": "templates/small-template/1_0/template.ome.zarr",
        "annotation": "annotation-sets/small-annotation/1_0/annotations_compressed.ome.zarr",
        "hemispheres": "annotation-sets/small-annotation/1_0/hemispheres.ome.zarr",
    }
    for name, image in images().items():
        group = zarr.create_group(root / places[name], zarr_format=3)
        levels = {"0": np.repeat(image, 2, axis=0), "1": image}
        for level, array in levels.items():
            group.create_array(level, data=array, chunks=(4, 4, 4))
        axes = [{"name": a, "type": "space", "unit": "millimeter"} for a in "zyx"]
        datasets = []
        for level, factor in (("0", 0.5), ("1", 1.0)):
            scale = [factor * SPACING_UM[0], *SPACING_UM[1:]]
            scaled = {"type": "scale", "scale": [s / 1000 for s in scale]}
            datasets.append({"path": level, "coordinateTransformations": [scaled]})
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
        }
    table = root / "terminologies/small-terminology/1_0/terminology.csv"
    table.parent.mkdir(parents=True)
    number = {s[0]: (i + 1 if values else s[0]) for i, s in enumerate(STRUCTURES)}
    with open(table, "w", newline="") as stream:
        writer = csv.writer(stream)
        columns = ["identifier", "parent_identifier", "abbreviation", "name", "color_hex_triplet"]
        writer.writerow(
            [*columns, "root_identifier_path", *(["annotation_value"] if values else [])]
        )
        for region, acronym, name, path, rgb in STRUCTURES:
            parent = number[path[-2]] if len(path) > 1 else ""
            colour = "#" + "".join(f"{v:02x}" for v in rgb)
            row = [number[region], parent, acronym, name, colour, [number[i] for i in path]]
            writer.writerow([*row, *([region] if values else [])])
    manifest = root / f"atlases/{NAME}/{VERSION.replace('.', '_')}/manifest.json"
    manifest.parent.mkdir(parents=True)
    location = {name: "/" + str(Path(place).parent) for name, place in places.items()}
    manifest.write_text(
        json.dumps(
            metadata()
            | {
                "terminology": {"location": "/" + str(table.parent.relative_to(root))},
                "annotation_set": {
                    "location": location["annotation"],
                    "template": {"location": location["reference"]},
                },
            }
        )
    )
    return manifest


def write_archive(folder: Path, version: str = VERSION) -> Path:
    """Write what a server of packed atlases holds; return the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    atlas = write_older(folder / "unpacked", version=version)
    archive = folder / f"{atlas.name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(atlas, arcname=atlas.name)
    (folder / "last_versions.conf").write_text(
        f"[atlases]\n{NAME} = {version}\nother_rat_9um=1.0\n"
    )
    return archive

"""Command line of the phantom."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from terareg.core.errors import AcquisitionError, TeraregError
from terareg.core.frames import check_orientation
from terareg.phantom import colm, demo
from terareg.storage.records import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (1 for bad input or a floor not kept)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s"
    )
    try:
        return options.run(options)
    except TeraregError as error:
        sys.stderr.write(f"{options.command}: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m terareg.phantom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--verbose", action="store_true", help="log each tile")
        sub.set_defaults(run=run)
        return sub

    make = command("make", _make, "generate a brain, its atlas, its acquisition and the truth")
    make.add_argument("--out", type=Path, required=True, help="new folder")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--small", action="store_true", help="small form for tests (40 MB)")
    make.add_argument("--names", choices=sorted(colm.NAME_SCHEMES), default="long")
    make.add_argument(
        "--cells", type=int, default=0, help="cells with known centres in the second channel"
    )

    cut = command("cut", _cut, "cut a real volume into an acquisition with known tile positions")
    cut.add_argument("--volume", type=Path, required=True, help="TIFF, NRRD or NIfTI (z, y, x)")
    cut.add_argument("--out", type=Path, required=True, help="new folder")
    cut.add_argument(
        "--spacing", type=_three(float), required=True, metavar="Z,Y,X", help="micrometres"
    )
    cut.add_argument("--grid", type=int, nargs=2, default=(3, 3), metavar=("ROWS", "COLUMNS"))
    cut.add_argument("--overlap", type=float, default=0.2, help="fraction (default 0.2)")
    cut.add_argument("--orientation", default="SAR", help="of the array axes z, y, x")
    cut.add_argument("--sample", default="cut", help="name in sample.yaml")
    cut.add_argument("--jitter", type=_three(int), default=(2, 4, 4), metavar="Z,Y,X")
    cut.add_argument("--vignetting", type=float, default=0.35, help="loss at the corners")
    cut.add_argument("--dark", type=float, default=180.0, help="camera offset added, counts")
    cut.add_argument("--scale", type=float, default=1.0, help="counts per unit of the volume")
    cut.add_argument("--empty", type=_cell, nargs="*", default=[], metavar="ROW,COLUMN")
    cut.add_argument("--noise", type=float, default=1.0, help="0 switches the camera's noise off")
    cut.add_argument("--names", choices=sorted(colm.NAME_SCHEMES), default="long")
    cut.add_argument("--seed", type=int, default=0)

    tiles = command("tiles2d", _tiles2d, "arrange real 2-D tiles as an acquisition of one plane")
    tiles.add_argument("--folder", type=Path, required=True, help="holds TileConfiguration.txt")
    tiles.add_argument("--out", type=Path, required=True, help="new folder")
    tiles.add_argument("--spacing", type=_three(float), required=True, metavar="Z,Y,X")
    tiles.add_argument("--orientation", default="SAR", help="of the array axes z, y, x")
    tiles.add_argument("--sample", default="tiles2d", help="name in sample.yaml")

    ome = command("ome", _ome, "write the tiles of an acquisition as OME-TIFF with positions")
    ome.add_argument("--raw", type=Path, required=True, help="folder with Experiment.ini")
    ome.add_argument("--out", type=Path, required=True, help="new folder")
    ome.add_argument("--channels", type=int, nargs="+", default=[], help="numbers (default: all)")

    score = command("score", _score, "score the results of a run against the truth")
    score.add_argument("--truth", type=Path, required=True)
    score.add_argument("--results", type=Path, required=True, help="for example results/demo")
    score.add_argument("--store", type=Path, required=True, help="folder of the array store")
    score.add_argument("--sample", help="default: name of the results folder")
    score.add_argument("--atlas", default="phantom")
    score.add_argument("--benchmarks", type=Path, help="default: RESULTS/benchmarks")
    score.add_argument("--stages", nargs="+", help="score these only (default: all)")
    score.add_argument("--working-voxel-um", type=float, help="voxel size of the registration")
    score.add_argument("--out", type=Path, help="score.json")
    return parser


def _three(kind):
    def parse(text: str):
        values = tuple(kind(part) for part in text.split(","))
        if len(values) != 3:
            raise ValueError(text)
        return values

    parse.__name__ = "z,y,x triple"
    return parse


def _cell(text: str) -> tuple[int, int]:
    row, column = text.split(",")
    return int(row), int(column)


def _make(options: argparse.Namespace) -> int:
    settings = demo.demo_settings(options.seed, options.small, options.names, options.cells)
    demo.make_demo(options.out, settings)
    sys.stdout.write(f"acquisition, atlas and truth of seed {options.seed}: {options.out}\n")
    return 0


def _cut(options: argparse.Namespace) -> int:
    orientation = check_orientation(options.orientation)
    volume = read_volume(options.volume)
    settings = colm.settings_for_volume(
        volume.shape,
        colm.ColmSettings(
            rows=options.grid[0],
            columns=options.grid[1],
            overlap=options.overlap,
            step_um=options.spacing[0],
            empty=tuple(options.empty),
            jitter_vox=options.jitter,
            drift_row_vox=(0.0, 0.0, 0.0),
            drift_column_vox=(0.0, 0.0, 0.0),
            vignetting=(options.vignetting,),
            dark=(options.dark,),
            scale=options.scale,
            names=options.names,
            seed=options.seed,
        ),
    )
    if not options.noise:
        settings = replace(
            settings, counts_per_electron=0.0, read_noise=0.0, stripes=0.0, saturated_spots=0
        )
    placement = colm.place_tiles(settings)
    # the volume lies in the middle of the union of the tiles, whose size depends on the jitter
    offset = [(n - m) // 2 for n, m in zip(placement.shape, volume.shape)]
    truth = {
        "seed": options.seed,
        "frame": placement.frame(settings, orientation, options.spacing).to_json(),
        "volume_offset_vox": offset,
    }
    truth |= colm.write_colm(
        colm.from_array(volume, offset), options.out / "raw", options.out / "truth", settings,
        ("ch0",), clean_stride=max(1, settings.planes // 16),
    )  # fmt: skip
    write_json(options.out / "truth" / "truth.json", truth)
    config = demo.sample_config(options.out, options.sample, orientation, ("ch0",), options.spacing)
    demo.write_config(options.out / "sample.yaml", config)
    rows, columns = settings.tile_pixels
    sys.stdout.write(
        f"{len(truth['tiles'])} tiles of {settings.planes} x {rows} x {columns}: {options.out}\n"
    )
    return 0


def _tiles2d(options: argparse.Namespace) -> int:
    orientation = check_orientation(options.orientation)
    settings = colm.colm_from_tiles(options.folder, options.out / "raw", options.spacing[0])
    config = demo.sample_config(options.out, options.sample, orientation, ("ch0",), options.spacing)
    config["intensity"] = {"bias": {"enabled": False}}  # one plane has no bias field
    demo.write_config(options.out / "sample.yaml", config)
    sys.stdout.write(
        f"{len(settings.scanned_cells())} tiles, {settings.rows} rows of {settings.columns}, "
        f"overlap {100 * settings.overlap:.1f} %: {options.out}\n"
    )
    return 0


def _ome(options: argparse.Namespace) -> int:
    # reading tiles takes imports that nothing else here needs
    from terareg.phantom.ome_tiles import write_ome_tiles

    files = write_ome_tiles(options.raw, options.out, options.channels)
    sys.stdout.write(f"{len(files)} OME-TIFF files: {options.out}\n")
    return 0


def _score(options: argparse.Namespace) -> int:
    # zarr and SimpleITK are slow to import and not needed to make or cut
    from terareg.phantom import floors, score

    paths = score.ScorePaths(
        truth=options.truth,
        results=options.results,
        store=options.store,
        sample=options.sample or options.results.resolve().name,
        atlas=options.atlas,
        benchmarks=options.benchmarks,
    )
    result = score.score(paths, options.stages)
    lines = floors.verdicts(result, floors.Floors(), options.working_voxel_um)
    if options.out:
        result["details"]["floors"] = {v.name: v.passed for v in lines if v.passed is not None}
        write_json(options.out, result)
    sys.stdout.write(floors.format_table(lines) + "\n\nlook at\n")
    places = (
        options.results / "report.html",
        options.results / "views",
        options.results / "registration" / options.atlas / "preview.png",
        options.results / "regions" / f"{options.atlas}.tsv",
        options.store / paths.sample,
        options.out,
    )
    for place in places:
        if place is not None and Path(place).exists():
            sys.stdout.write(f"  {place}\n")
    return 1 if any(v.passed is False for v in lines) else 0


def read_volume(path: Path) -> np.ndarray:
    """Read a grey volume (z, y, x) from TIFF (tifffile) or any format of SimpleITK."""
    if not path.exists():
        raise AcquisitionError(f"volume {path} does not exist; give a TIFF, NRRD or NIfTI file")
    if path.suffix.lower() in (".tif", ".tiff"):
        volume = tifffile.imread(path)
    else:
        import SimpleITK as sitk

        volume = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if volume.ndim != 3:
        raise AcquisitionError(
            f"volume {path} has {volume.ndim} axes; give one with three (z, y, x)"
        )
    return volume

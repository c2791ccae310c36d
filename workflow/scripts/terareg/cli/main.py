"""Command line of terareg.

Each command is a module that is imported when it is called, so that ``terareg --help`` is instant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from terareg import __version__
from terareg.core.errors import TeraregError

_EPILOGUE = """\
from a microscope folder to results:
  terareg init /data/brain7 --out brain7.yaml
  terareg check brain7.yaml
  terareg run brain7.yaml previews
  terareg run brain7.yaml
  terareg view results
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 1 if something has to be corrected first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["view"]:
        from terareg.views import serve

        return serve.main(given[1:])
    parser = _parser()
    options, unknown = parser.parse_known_args(given)
    if unknown:
        parser.error(_misplaced(given, unknown))
    try:
        return int(options.command(options))
    except TeraregError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _misplaced(given: Sequence[str], unknown: Sequence[str]) -> str:
    """What is wrong with words that no command takes, and where they belong."""
    if given[0] == "run":
        from terareg.cli.running import sample_first

        ordered = sample_first(given[1:])
        if ordered is not None:
            return f"options of Snakemake follow the sample file: {ordered}"
    return f"unrecognized arguments: {' '.join(unknown)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="terareg",
        description="From raw light-sheet tiles to atlas-registered, measured brain volumes.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"terareg {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_init(commands)
    _add_check(commands)
    _add_run(commands)
    commands.add_parser("view", help="show volumes of a results folder in Neuroglancer")
    _add_remove(commands)
    _add_atlas(commands)
    return parser


def _add_init(commands) -> None:
    init = commands.add_parser(
        "init",
        help="inspect a folder or file and write a sample file for it",
        description="Inspect a folder, s3://bucket/prefix or image (a file or volume on this "
        "machine, s3:// or https://) and write a sample file, and a table of tiles if one is "
        "needed. Guesses are marked; the orientation is left blank for you to fill in or confirm.",
    )
    init.add_argument("source", help="folder, image file, or address (s3://, https://)")
    init.add_argument("--out", type=Path, default=Path("sample.yaml"), help="file to write")
    init.add_argument("--name", help="name of the brain (default: name of the folder)")
    init.add_argument("--atlas", default="allen_mouse_25um", help="name of a BrainGlobe atlas")
    init.add_argument("--force", action="store_true", help="overwrite existing files")
    init.set_defaults(command=_init)


def _add_check(commands) -> None:
    check = commands.add_parser(
        "check",
        help="check a sample file and estimate what the run needs",
        description="Check a sample file and its raw data as a run would, and estimate what the "
        "run needs: jobs, hours, memory and disk space. Nothing is written.",
    )
    check.add_argument("sample", type=Path, help="sample file (YAML)")
    check.set_defaults(command=_check)


def _add_run(commands) -> None:
    run = commands.add_parser(
        "run",
        usage="terareg run [--profile PROFILE] SAMPLE [--] [TARGET ...] [SNAKEMAKE OPTIONS ...]",
        help="run a sample with Snakemake",
        description="Run a sample: print the Snakemake command, then start it. Everything after "
        "the sample file goes to Snakemake, for example -n (dry run) or previews (a target). "
        "Without --cores and --profile, all cores of this machine are used.",
    )
    run.add_argument("--profile", help="slurm, aws-batch, or a folder with your own profile")
    run.add_argument("sample", type=Path, help="sample file (YAML)")
    run.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="targets, and options of Snakemake"
    )
    run.set_defaults(command=_run)


def _add_remove(commands) -> None:
    removal = commands.add_parser(
        "remove",
        help="remove a volume that was not made by a run, some of its levels, or a region",
        description="List what would be removed of an OME-Zarr or precomputed volume: all of it, "
        "some levels, or the chunks completely inside a region. Nothing is removed without "
        "--confirm. Volumes made by a run are removed with its targets remove_derived and "
        "remove_sample.",
    )
    removal.add_argument("volume", help="folder or s3:// address of the volume")
    removal.add_argument(
        "--level", type=int, nargs="+", default=[], metavar="N", help="levels; 0 is the finest"
    )
    removal.add_argument(
        "--box-vox", type=int, nargs=6, metavar=("Z0", "Y0", "X0", "Z1", "Y1", "X1"),
        help="first voxel of a region and the one past its last, at the finest level",
    )  # fmt: skip
    removal.add_argument("--confirm", action="store_true", help="remove what is listed")
    removal.set_defaults(command=_remove)


def _add_atlas(commands) -> None:
    atlas = commands.add_parser("atlas", help="list, show or download BrainGlobe atlases")
    verbs = atlas.add_subparsers(title="verbs", required=True, metavar="VERB")
    listed = verbs.add_parser(
        "list", help="list the atlases on this machine, or those on the server"
    )
    listed.add_argument("--remote", action="store_true", help="list all atlases on the server")
    listed.add_argument("--url", help="server to use instead of that of BrainGlobe")
    listed.set_defaults(command=_atlas_list)
    show = verbs.add_parser("show", help="describe an atlas on this machine")
    show.add_argument("name", help="for example allen_mouse_25um, or a folder")
    show.set_defaults(command=_atlas_show)
    get = verbs.add_parser("get", help="download an atlas")
    get.add_argument("name", help="for example allen_mouse_25um")
    get.add_argument("--version", help="for example 1.2 (default: the newest)")
    get.add_argument("--url", help="server to download from instead of that of BrainGlobe")
    get.add_argument("--sha256", help="checksum that the archive must have")
    get.set_defaults(command=_atlas_get)


def _init(options: argparse.Namespace) -> int:
    from terareg.cli.starting import init

    return init(options.source, options.out, options.name, options.atlas, options.force)


def _check(options: argparse.Namespace) -> int:
    from terareg.cli.checking import check

    return check(options.sample)


def _run(options: argparse.Namespace) -> int:
    from terareg.cli.running import run

    return run(options.sample, options.arguments, options.profile)


def _remove(options: argparse.Namespace) -> int:
    from terareg.storage.removal import removal_text
    from terareg.volumes.removing import find_parts, remove_parts

    box = options.box_vox and (tuple(options.box_vox[:3]), tuple(options.box_vox[3:]))
    act = remove_parts if options.confirm else find_parts
    found = act(options.volume, options.level, box)
    sys.stdout.write(removal_text([found], options.confirm, "--confirm"))
    return 0


def _atlas_list(options: argparse.Namespace) -> int:
    from terareg.cli.atlases import list_atlases

    return list_atlases(options.url, remote=options.remote)


def _atlas_show(options: argparse.Namespace) -> int:
    from terareg.cli.atlases import show_atlas

    return show_atlas(options.name)


def _atlas_get(options: argparse.Namespace) -> int:
    from terareg.cli.atlases import get_atlas

    return get_atlas(options.name, options.version, options.url, options.sha256)


if __name__ == "__main__":
    raise SystemExit(main())

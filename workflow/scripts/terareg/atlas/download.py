"""Download of BrainGlobe atlases: once, over HTTP, with checksums kept beside the files.

An archive ``NAME_vX.Y.tar.gz`` holds one folder of that name. It is unpacked beside its place and
renamed at the end, so that an interrupted download leaves no atlas. Standard library only.
"""

from __future__ import annotations

import configparser
import difflib
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from terareg.atlas.brainglobe import (
    DOWNLOAD_RECORD,
    InstalledAtlas,
    atlas_keys,
    brainglobe_folder,
    installed_atlases,
)
from terareg.core.errors import AtlasError
from terareg.storage.foreign import boundary
from terareg.storage.records import file_hash, write_json

#: BrainGlobe's server of packed atlases
SERVER = "https://gin.g-node.org/brainglobe/atlases/raw/master"
_VERSIONS = "last_versions.conf"
_TIMEOUT_S = 60.0
_PIECE = 1 << 20
Progress = Callable[[int, int], None]


def available_atlases(server: str | None = None) -> dict[str, str]:
    """Newest versions of all atlases that a server has, by name.

    Raises
    ------
    AtlasError
        If the server cannot be reached, or answers something else.
    """
    address = f"{(server or SERVER).rstrip('/')}/{_VERSIONS}"
    with boundary(address, AtlasError, "check the address, or give another server with --url"):
        with _open(address) as answer:
            text = answer.read(_PIECE).decode("utf-8")
        parser = configparser.ConfigParser()
        parser.read_string(text)
        return dict(parser["atlases"])


def get_installed(name: str, version: str | None = None) -> InstalledAtlas | None:
    """The installed atlas of this name, and version if one is asked for; None without it."""
    found = [a for a in installed_atlases() if a.name == name and version in (None, a.version)]
    return found[-1] if found else None


def download_atlas(
    name: str,
    version: str | None = None,
    server: str | None = None,
    sha256: str | None = None,
    progress: Progress = lambda done, whole: None,
) -> InstalledAtlas:
    """Download an atlas into the folder of BrainGlobe's atlases.

    Parameters
    ----------
    name, version : str
        By default the newest version.
    server : str, optional
        Address of the folder of archives.
    sha256 : str, optional
        What the SHA-256 of the archive must be.
    progress : callable
        Called with bytes that are there, and bytes in all (0 if the server does not say).

    Raises
    ------
    AtlasError
        If there is no such atlas, the download is incomplete or has another checksum, or the
        archive holds no atlas.
    """
    if version is None:
        known = available_atlases(server)
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            hint = (
                f"did you mean {near[0]}?" if near else "list all with: terareg atlas list --remote"
            )
            raise AtlasError(f"there is no BrainGlobe atlas {name}; {hint}")
        version = known[name]
    folder = brainglobe_folder()
    target = folder / f"{name}_v{version}"
    address = f"{(server or SERVER).rstrip('/')}/{target.name}.tar.gz"
    if target.exists():
        raise AtlasError(f"{target} exists but contains no atlas; remove it and try again")
    with boundary(str(folder), AtlasError, "free some space or set BRAINGLOBE_DIR"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".terareg-", dir=folder) as place:
            archive = Path(place, "atlas.tar.gz")
            found = _fetch(address, archive, progress)
            if sha256 is not None and found != sha256.lower():
                raise AtlasError(
                    f"{address} has SHA-256 {found}, not {sha256}; nothing was installed; check "
                    "the checksum with its source"
                )
            unpacked = _unpack(archive, target.name, Path(place, "unpacked"), address)
            files = {
                path.relative_to(unpacked).as_posix(): file_hash(path)
                for path in sorted(unpacked.rglob("*"))
                if path.is_file()
            }
            record = {"url": address, "sha256": found, "files": files}
            write_json(unpacked / DOWNLOAD_RECORD, record)
            atlas_keys(InstalledAtlas(name, version, unpacked / "metadata.json"))
            unpacked.rename(target)
    return InstalledAtlas(name, version, target / "metadata.json")


def _open(address: str) -> http.client.HTTPResponse:
    if not address.startswith(("https://", "http://")):
        raise ValueError("it is not an address that begins with https:// or http://")
    try:
        return urllib.request.urlopen(address, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise ValueError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise ValueError(f"no connection: {error.reason}") from error


def _fetch(address: str, file: Path, progress: Progress) -> str:
    """Write what is at an address to a file; return its SHA-256."""
    remedy = "try again, or give another server with --url"
    with boundary(address, AtlasError, remedy), _open(address) as answer, open(file, "wb") as out:
        whole = int(answer.headers.get("Content-Length") or 0)
        done, digest = 0, hashlib.sha256()
        while piece := answer.read(_PIECE):
            out.write(piece)
            digest.update(piece)
            done += len(piece)
            progress(done, whole)
        if whole and done != whole:
            raise AtlasError(f"{address} ended after {done} of {whole} bytes; {remedy}")
        return digest.hexdigest()


def _unpack(archive: Path, name: str, place: Path, address: str) -> Path:
    """Unpack an archive that holds one folder of a name; return that folder."""
    with boundary(address, AtlasError, "try another version or server"):
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(place, filter="data")
    archive.unlink()
    folder = place / name
    if not (folder / "metadata.json").is_file():
        there = ", ".join(sorted(p.name for p in place.iterdir())[:5]) or "nothing"
        shutil.rmtree(place)
        raise AtlasError(
            f"{address} contains {there} instead of the folder {name} of the atlas; try another "
            "version or server"
        )
    return folder

"""Download of atlases, from a server on this machine."""

from __future__ import annotations

import functools
import http.server
import tarfile
import threading
from pathlib import Path

import pytest
from brainglobe_truth import NAME, write_archive

from terareg.atlas import download
from terareg.atlas.brainglobe import atlas_keys, find_atlas
from terareg.atlas.prepare import AtlasSettings, prepare_atlas
from terareg.cli.main import main
from terareg.core.errors import AtlasError
from terareg.storage.records import file_hash, read_json


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words) -> None:
        self.server.asked.append(self.path)

    def copyfile(self, source, out) -> None:
        data = source.read()
        out.write(data[: len(data) - self.server.cut])


@pytest.fixture
def server(tmp_path):
    """A server of packed atlases, its archive, and what was asked of it."""
    archive = write_archive(tmp_path / "server")
    handler = functools.partial(Handler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.archive, running.asked, running.cut = archive, [], 0
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BRAINGLOBE_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.slow
def test_an_atlas_is_downloaded_once_and_then_works_offline(server, home, tmp_path, capsys):
    assert main(["atlas", "get", NAME, "--url", server.url]) == 0
    assert server.asked == ["/last_versions.conf", f"/{NAME}_v1.2.tar.gz"]
    assert main(["atlas", "get", NAME, "--url", server.url]) == 0
    assert len(server.asked) == 2
    told = capsys.readouterr()
    assert "downloaded 0 of 0 MB" in told.err
    assert file_hash(server.archive) in told.out
    server.shutdown()
    atlas = find_atlas(NAME)
    record = read_json(atlas.folder / download.DOWNLOAD_RECORD)
    assert record["sha256"] == file_hash(server.archive)
    assert record["files"]["annotation.tiff"] == file_hash(atlas.folder / "annotation.tiff")
    info = prepare_atlas(AtlasSettings(**atlas_keys(atlas)), tmp_path / "out")
    assert info["sources"]["annotation"]["sha256"] == record["files"]["annotation.tiff"]
    assert [path.name for path in home.iterdir()] == [f"{NAME}_v1.2"]


def test_a_file_that_changed_since_the_download_is_refused(server, home, tmp_path):
    atlas = download.download_atlas(NAME, "1.2", server.url)
    assert server.asked == [f"/{NAME}_v1.2.tar.gz"]
    regions = atlas.folder / "structures.json"
    regions.write_text(regions.read_text() + " ")
    with pytest.raises(
        AtlasError, match=r"structures.json has changed since it was downloaded.*get the"
    ):
        prepare_atlas(AtlasSettings(**atlas_keys(atlas)), tmp_path / "out")


@pytest.mark.slow
def test_a_wrong_checksum_or_a_cut_download_installs_nothing(server, home):
    with pytest.raises(AtlasError, match=r"has SHA-256 .*, not 00ff; nothing was installed"):
        download.download_atlas(NAME, "1.2", server.url, "00ff")
    right = file_hash(server.archive).upper()
    server.cut = 40
    with pytest.raises(AtlasError, match=r"tar.gz (ended after|cannot be read)"):
        download.download_atlas(NAME, "1.2", server.url, right)
    assert list(home.iterdir()) == []
    server.cut = 0
    download.download_atlas(NAME, "1.2", server.url, right)


@pytest.mark.slow
def test_archives_that_hold_no_atlas_or_leave_their_folder(server, home, tmp_path):
    stray = tmp_path / "stray.txt"
    stray.write_text("x")
    for name, words in (("elsewhere/stray.txt", "contains elsewhere instead of the folder"),
                        ("../stray.txt", "cannot be read")):  # fmt: skip
        with tarfile.open(server.archive, "w:gz") as tar:
            tar.add(stray, arcname=name)
        with pytest.raises(AtlasError, match=words):
            download.download_atlas(NAME, "1.2", server.url)
    assert list(home.iterdir()) == []
    (home / f"{NAME}_v1.2").mkdir()
    with pytest.raises(AtlasError, match="exists but contains no atlas; remove it"):
        download.download_atlas(NAME, "1.2", server.url)


@pytest.mark.slow
def test_names_and_servers_that_are_not_there(server, home):
    with pytest.raises(AtlasError, match="no BrainGlobe atlas small_mouse_41um; did you mean"):
        download.download_atlas("small_mouse_41um", server=server.url)
    with pytest.raises(AtlasError, match="the server answered 404"):
        download.download_atlas(NAME, "9.9", server.url)
    with pytest.raises(AtlasError, match="no connection"):
        download.available_atlases("http://127.0.0.1:9")
    with pytest.raises(AtlasError, match="it is not an address that begins with https"):
        download.available_atlases("file:///etc")


def test_commands_list_and_show(server, home, capsys):
    assert main(["atlas", "list"]) == 0
    assert "none; download one with: terareg atlas get" in capsys.readouterr().out
    download.download_atlas(NAME, "1.2", server.url)
    assert main(["atlas", "list", "--remote", "--url", server.url]) == 0
    listed = capsys.readouterr().out
    assert "other_rat_9um" in listed and "1.2  (here: 1.2)" in listed
    assert main(["atlas", "show", NAME]) == 0
    shown = capsys.readouterr().out
    for words in ("6 x 8 x 10", "40 x 30 x 20 um", "PIL (z, y, x)", "4: root, grey, VS",
                  f"{{name: {NAME}}}", "an image of the hemispheres"):  # fmt: skip
        assert words in shown, words
    assert main(["atlas", "show", "nothing_mouse"]) == 1

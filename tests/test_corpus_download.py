"""`voxstrata corpus download`, from a server on this machine that stands in for a corpus's owner."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH
from typer.testing import CliRunner

from file_server import FileServer, file_server
from voxstrata.cli import corpus_download
from voxstrata.cli.commands import app
from voxstrata.corpora.download import download
from voxstrata.corpora.published import PUBLISHED, PublishedCorpus, RemoteFile
from voxstrata.corpora.readers import READERS
from voxstrata.errors import CorpusError

NO_WAIT = (0.0, 0.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


def wav(seed: int) -> bytes:
    """Half a second of noise at 16 kHz, other noise for another seed."""
    out = io.BytesIO()
    noise = np.random.default_rng(seed).normal(0, 0.1, 8000)
    soundfile.write(out, noise, 16_000, format="WAV")
    return out.getvalue()


def ravdess_zip() -> bytes:
    """Three clips of three actors of the three splits, zipped as the release is."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for seed, (emotion, actor) in enumerate([("03", "01"), ("05", "18"), ("04", "24")]):
            archive.writestr(f"Actor_{actor}/03-01-{emotion}-01-01-01-{actor}.wav", wav(seed))
    return out.getvalue()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def offered(server: FileServer, content: bytes, *, name: str = "speech.zip") -> PublishedCorpus:
    """A corpus of one file that the server has."""
    server.files[f"/{name}"] = content
    file = RemoteFile(f"{server.url}/{name}", name, sha256(content), len(content))
    return replace(PUBLISHED["ravdess"], parts={"all": (file,)})


def unpacked(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def in_zip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_line_that_is_printed_at_the_end_prepares_the_corpus(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PUBLISHED, "ravdess", offered(server, ravdess_zip()))
    found = CliRunner().invoke(app, ["corpus", "download", "ravdess", "--accept-licence"])
    assert found.exit_code == 0, found.output
    assert "CC BY-NC-SA 4.0" in found.stderr
    typed = shlex.split(found.stdout)
    assert typed[1:] == ["corpus", "prepare", "ravdess", "corpora/ravdess", "prepared/ravdess"]
    prepared = CliRunner().invoke(app, typed[1:])
    assert prepared.exit_code == 0, prepared.output
    about = json.loads(Path("prepared/ravdess/corpus.json").read_text())
    assert about["name"] == "ravdess"
    assert sorted(path.name for path in Path("corpora").iterdir()) == ["ravdess"]


def test_a_broken_connection_goes_on_at_the_byte_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    content = ravdess_zip()
    corpus = offered(server, content)
    server.breaks = [1000, 1, 500]
    assert download(corpus, tmp_path / "out", waits_s=NO_WAIT) == tmp_path / "out"
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1001-", "bytes=1501-"]
    assert unpacked(tmp_path / "out") == in_zip(content)


def test_a_stopped_download_goes_on_in_the_next_call(server: FileServer, tmp_path: Path) -> None:
    content = ravdess_zip()
    corpus = offered(server, content)
    server.breaks = [700, 0, 0]
    with pytest.raises(CorpusError, match="broke after 700 of") as fault:
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert "start the same command again" in str(fault.value)
    assert not (tmp_path / "out").exists()
    server.asked.clear()
    download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert [wanted for _, wanted in server.asked] == ["bytes=700-"]
    assert unpacked(tmp_path / "out") == in_zip(content)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_server_without_ranges_starts_over_and_the_file_is_right(
    server: FileServer, tmp_path: Path
) -> None:
    content = ravdess_zip()
    corpus = offered(server, content)
    server.ranges, server.breaks = False, [900]
    download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert unpacked(tmp_path / "out") == in_zip(content)


def test_a_busy_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    corpus = offered(server, ravdess_zip())
    server.answers = [503, 429]
    download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert len(server.asked) == 3


def test_a_wrong_checksum_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    content = ravdess_zip()
    corpus = offered(server, content)
    server.files["/speech.zip"] = content[:-1] + b"?"
    with pytest.raises(CorpusError, match=f"sha256.*not {sha256(content)[7:]}"):
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server: FileServer, tmp_path: Path) -> None:
    content = ravdess_zip()
    corpus = offered(server, content)
    server.files["/speech.zip"] = content + b"more"
    with pytest.raises(CorpusError, match=f"{len(content) + 4:,} bytes and {len(content):,} are known"):
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_gone_is_one_line(server: FileServer, tmp_path: Path, status: int) -> None:
    corpus = offered(server, ravdess_zip())
    server.answers = [status]
    with pytest.raises(CorpusError, match=f"the server answers {status}") as fault:
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert "\n" not in str(fault.value)
    assert fault.value.exit_code == 2
    assert (list(tmp_path.iterdir()), len(server.asked)) == ([], 1)


def test_without_a_network_nothing_is_left(tmp_path: Path) -> None:
    with file_server() as gone:
        corpus = offered(gone, ravdess_zip())
    with pytest.raises(CorpusError, match=r"no answer .*check the network"):
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_anything_is_asked(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ravdess_zip()
    corpus = replace(offered(server, content), growth=3.0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4 * len(content) - 1))
    with pytest.raises(CorpusError, match=r"GB to fetch and unpack.*free space"):
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert (list(tmp_path.iterdir()), server.asked) == ([], [])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4 * len(content)))
    download(corpus, tmp_path / "out", waits_s=NO_WAIT)


def test_a_folder_that_holds_something_is_not_touched(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(CorpusError, match="is there already"):
        download(offered(server, ravdess_zip()), tmp_path / "out", waits_s=NO_WAIT)
    assert (unpacked(tmp_path), server.asked) == ({"out/mine.txt": b"mine"}, [])


def tar_gz(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, "elsewhere"
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_a_tar_file_is_unpacked_whole(server: FileServer, tmp_path: Path) -> None:
    corpus = replace(offered(server, tar_gz("an4/etc/list", b"a"), name="an4.tar.gz"), inside="an4")
    assert download(corpus, tmp_path / "out", waits_s=NO_WAIT) == tmp_path / "out/an4"
    assert unpacked(tmp_path / "out") == {"an4/etc/list": b"a"}


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("good.wav", wav(0))
        archive.writestr(name, b"evil")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar.gz", tar_gz("../outside", b"evil")),
        ("a.tar.gz", tar_gz("link", b"", kind=tarfile.SYMTYPE)),
        ("a.zip", zipped("../outside")),
        ("a.zip", zipped("/tmp/outside")),
        ("a.zip", b"no zip file"),
        ("a.tar.gz", tar_gz("inside", b"cut" * 9999)[:-30]),
    ],
)
def test_what_cannot_be_unpacked_leaves_nothing(
    server: FileServer, tmp_path: Path, name: str, content: bytes
) -> None:
    place = tmp_path / "place"
    with pytest.raises(CorpusError, match=r"cannot be unpacked|holds"):
        download(offered(server, content, name=name), place / "out", waits_s=NO_WAIT)
    assert unpacked(tmp_path) == {}


def dataverse(server: FileServer, files: dict[str, bytes]) -> PublishedCorpus:
    """A corpus of single files, listed as Dataverse does."""
    rows = []
    for number, (name, content) in enumerate(files.items()):
        server.files[f"/api/access/datafile/{number}"] = content
        about = {"id": number, "filename": name, "filesize": len(content)}
        about |= {"checksum": {"type": "MD5", "value": hashlib.md5(content).hexdigest()}}
        rows.append({"label": name, "dataFile": about})
    listing = {"status": "OK", "data": {"latestVersion": {"files": rows}}}
    server.files["/api/datasets/tess"] = json.dumps(listing).encode()
    return replace(PUBLISHED["tess"], listing=f"{server.url}/api/datasets/tess")


def test_listed_files_are_each_checked_and_go_on_after_a_stop(server: FileServer, tmp_path: Path) -> None:
    files = {f"YAF_word{n}_happy.wav": wav(n) for n in range(4)}
    corpus = dataverse(server, files)
    server.files["/api/access/datafile/2"] = b"another" * 2293
    with pytest.raises(CorpusError, match=r"/api/access/datafile/2"):
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert not (tmp_path / "out").exists()
    corpus = dataverse(server, files)
    server.asked.clear()
    download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert [path for path, _ in server.asked][1:] == ["/api/access/datafile/2", "/api/access/datafile/3"]
    assert unpacked(tmp_path / "out") == files
    assert len(READERS["tess"].read(tmp_path / "out")) == 4


@pytest.mark.parametrize("name", ["../x.wav", "/x.wav", "a\\..\\x.wav", ""])
def test_a_list_whose_names_lead_out_is_refused(server: FileServer, tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="no list of files"):
        download(dataverse(server, {name: wav(0)}), tmp_path / "out", waits_s=NO_WAIT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"data": {"latestVersion": {"files": []}}}', b""])
def test_a_list_that_is_none_is_one_line(server: FileServer, tmp_path: Path, content: bytes) -> None:
    corpus = dataverse(server, {"YAF_a_happy.wav": wav(0)})
    server.files["/api/datasets/tess"] = content
    with pytest.raises(CorpusError) as fault:
        download(corpus, tmp_path / "out", waits_s=NO_WAIT)
    assert "\n" not in str(fault.value)


def test_off_a_terminal_the_licence_needs_the_option(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PUBLISHED, "ravdess", offered(server, ravdess_zip()))
    found = CliRunner().invoke(app, ["corpus", "download", "ravdess"])
    assert isinstance(found.exception, CorpusError)
    assert "--accept-licence" in str(found.exception)
    assert (server.asked, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(("answer", "fetched"), [("n\n", False), ("y\n", True)])
def test_on_a_terminal_the_licence_is_asked_for(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, fetched: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PUBLISHED, "ravdess", offered(server, ravdess_zip()))
    monkeypatch.setattr(corpus_download, "on_terminal", lambda: True)
    found = CliRunner().invoke(app, ["corpus", "download", "ravdess", "mine"], input=answer)
    assert (found.exit_code == 0, bool(server.asked), Path("mine").exists()) == (fetched,) * 3


def test_unknown_names_and_parts_name_what_there_is(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["corpus", "download", "iemocap", str(tmp_path / "out")])
    assert "ravdess, tess, an4, librispeech" in str(found.exception)
    with pytest.raises(CorpusError, match="did you mean dev-clean"):
        download(PUBLISHED["librispeech"], tmp_path / "out", parts=["dev-claen"])
    with pytest.raises(CorpusError, match="tess has no part"):
        download(PUBLISHED["tess"], tmp_path / "out", parts=["dev-clean"])


def test_what_is_known_of_the_files_fits_readers_lhotse_and_checksums() -> None:
    assert set(PUBLISHED) <= set(READERS)
    assert set(PUBLISHED["librispeech"].parts) == {*LIBRISPEECH, *MINI_LIBRISPEECH}
    for corpus in PUBLISHED.values():
        assert set(corpus.default) <= set(corpus.parts) or corpus.listing
        for file in (file for files in corpus.parts.values() for file in files):
            algorithm, _, digest = file.checksum.partition(":")
            assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size
            assert file.url.partition("?")[0].endswith("/" + file.name)

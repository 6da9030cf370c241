"""A data set fetched from a local server: whole, broken off, altered, interrupted, without room, and reaching out.

What else a server may do is in the tests of weights, which come by the same download.
"""

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections import namedtuple

import pytest

from bsm import download
from bsm.data import fetch, registry
from bsm.errors import InputError
from calls import before_call, failing
from made import zipped

MEMBERS = {
    "Set/train/Søng/vocals.wav": b"v" * 70_000,
    "Set/train/Søng/other.wav": b"o" * 50_000,
    "Set/test/b/vocals.wav": b"w" * 60_000,
}


def tarred(members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def home(tmp_path):
    return tmp_path


def work(home):
    return home / "data" / ".fetching-set"


def assert_whole(home):
    folder = home / "data" / "set"
    files = {f"Set/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.wav")}
    assert files == MEMBERS
    # Nothing is left of the work but the lock.
    assert sorted(path.name for path in (home / "data").iterdir()) == [".fetching-set.lock", "set"]


def refuse(match, source=None):
    with pytest.raises(InputError, match=match) as caught:
        fetch.fetch("set", source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["set.zip", "set.tar.gz"])
def test_fetch_checks_and_unpacks(file, home, publish):
    server = publish((zipped if file == "set.zip" else tarred)(MEMBERS), file=file)
    assert registry.load("set").state == "not fetched"
    assert fetch.fetch("set") == home / "data" / "set"
    assert_whole(home)
    assert registry.load("set").state == "here"
    measured = json.loads((home / "data" / "set" / "fetched.json").read_text())["files"][file]
    assert measured["size"] == len(server.body)
    assert measured["checksum"] == f"md5:{hashlib.md5(server.body).hexdigest()}"
    asked = len(server.asked)
    fetch.fetch("set")  # it is there
    assert len(server.asked) == asked


def test_broken_off_download_of_unknown_size_goes_on(home, publish):
    body = zipped(MEMBERS)
    server = publish(body, "truncated", size=None, checksum=None)
    refuse("the connection broke off; [\\d,]+ of \\? bytes are here and kept")
    have = (work(home) / "set.zip.part").stat().st_size
    assert 0 < have < len(body)
    assert not (home / "data" / "set").exists()
    assert registry.load("set").state == "partly fetched"
    publish(body, size=None, checksum=None)
    fetch.fetch("set")
    assert server.asked == [None, f"bytes={have}-"]
    assert_whole(home)


@pytest.mark.parametrize("how", ["good", "unsized"])
def test_unknown_size_and_checksum_are_measured(how, home, publish):
    body = zipped(MEMBERS)
    publish(body, how, size=None, checksum=None)
    fetch.fetch("set")
    assert_whole(home)
    measured = registry.load("set").fetched["set.zip"]
    assert (measured["size"], measured["checksum"]) == (len(body), f"sha256:{hashlib.sha256(body).hexdigest()}")


def test_another_file_is_refused(home, publish):
    publish(zipped(MEMBERS), "altered")
    refuse("not the recorded file: MD5 [0-9a-f]{32} where [0-9a-f]{32} is recorded; kept as .*refused")
    assert not (home / "data" / "set").exists()
    publish(zipped(MEMBERS))
    fetch.fetch("set")
    assert_whole(home)


def test_empty_answer_of_unknown_size(publish):
    publish(b"", "empty", size=None, checksum=None)
    refuse("offers 0 bytes")


MOMENTS = {
    "before the check": (download, "fault_of", 1),
    "downloaded": (fetch, "unpack", 1),
    "first member": (zipfile.ZipFile, "extract", 1),
    "last member": (zipfile.ZipFile, "extract", 4),
    "before the record": (fetch, "write_text", 1),
    "before its name": (fetch.os, "sync", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_at_any_moment(moment, home, publish, monkeypatch):
    server = publish(zipped(MEMBERS))
    module, name, count = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, before_call(getattr(module, name), count, failing(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch("set")
    assert not (home / "data" / "set").exists()
    asked = len(server.asked)
    fetch.fetch("set")
    assert len(server.asked) == asked  # what was downloaded is not asked for again
    assert_whole(home)


def test_killed_after_it_had_its_name(home, publish):
    publish(zipped(MEMBERS))
    fetch.fetch("set")
    (work(home) / "unpacked").mkdir(parents=True)
    (work(home) / "set.zip").write_bytes(b"left")
    fetch.fetch("set")
    assert_whole(home)


def test_what_a_killed_call_left(home, publish):
    publish(zipped(MEMBERS))
    (work(home) / "unpacked" / "Set" / "train" / "old").mkdir(parents=True)
    (work(home) / "unpacked" / "Set" / "train" / "old" / "vocals.wav").write_bytes(b"of another version")
    fetch.fetch("set")
    assert_whole(home)


Usage = namedtuple("Usage", "total used free")


def test_no_room_is_said_before_the_download(home, publish, monkeypatch):
    server = publish(zipped(MEMBERS))
    need = 2 * len(server.body)  # the archive, and at least as much unpacked
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, need - 1))
    refuse(f"set.zip of set: {need - 1:,} bytes are free where {need:,} are needed")
    assert server.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, need))
    fetch.fetch("set")
    assert_whole(home)


def test_no_room_for_a_file_of_unknown_size(home, publish, monkeypatch):
    server = publish(zipped(MEMBERS), size=None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 1000))
    refuse(f"1,000 bytes are free where {len(server.body):,} are needed")
    assert not list(work(home).glob("*.part"))


def test_no_room_to_unpack(home, publish, monkeypatch):
    server = publish(tarred({"Set/test/b/vocals.wav": bytes(10**6)}), file="set.tar.gz")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**5))
    refuse("the unpacked set.tar.gz: 100,000 bytes are free where 1,000,000 are needed")
    assert len(server.asked) == 1


def test_a_full_disk_is_said(publish, monkeypatch):
    publish(zipped(MEMBERS))
    monkeypatch.setattr(zipfile.ZipFile, "extract", failing(OSError(28, "No space left on device")))
    refuse("No space left on device; fix that and run the same command again")


@pytest.mark.parametrize("name", ["../out.wav", "Set/../../out.wav", "/out.wav", "Set\\..\\..\\out.wav"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_member_outside_is_refused(name, pack, home, publish):
    publish(pack(MEMBERS | {name: b"out"}), file="set.zip" if pack is zipped else "set.tar.gz")
    refuse("is a link or lies outside the folder; nothing was unpacked")
    assert not list(home.rglob("out.wav"))
    assert not list(home.rglob("vocals.wav"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_link_is_refused(kind, home, publish):
    made = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(made, "w") as file:
            member = zipfile.ZipInfo("Set/link")
            member.external_attr = 0o120777 << 16
            file.writestr(member, "/etc/passwd")
    else:
        with tarfile.open(fileobj=made, mode="w:gz") as file:
            member = tarfile.TarInfo("Set/link")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(member)
    publish(made.getvalue(), file="set.zip" if kind == "zip" else "set.tar.gz")
    refuse("'Set/link' is a link")


def flip(body):
    third = len(body) // 3
    return body[:third] + bytes([body[third] ^ 255]) + body[third + 1 :]


@pytest.mark.parametrize("spoil", [lambda body: body[: len(body) // 2], lambda _: b"not an archive", flip])
@pytest.mark.parametrize("file", ["set.zip", "set.tar.gz"])
def test_a_damaged_archive(spoil, file, home, publish):
    """As it may be where its checksum is not known."""
    publish(spoil((zipped if file == "set.zip" else tarred)(MEMBERS)), file=file, size=None, checksum=None)
    refuse(f"{file}: damaged archive")
    assert not (home / "data" / "set").exists()


def test_archive_without_the_folder(publish):
    publish(tarred({"Other/a.wav": b"a"}), file="set.tar.gz")
    refuse("has no folder 'Set' in it")


def test_from_a_path(home, publish, tmp_path):
    body = zipped(MEMBERS)
    server = publish(body)
    (tmp_path / "mine.zip").write_bytes(body)
    fetch.fetch("set", str(tmp_path / "mine.zip"))
    assert server.asked == []
    assert (tmp_path / "mine.zip").read_bytes() == body
    assert_whole(home)


def test_two_at_once_are_refused(home, publish, locked):
    publish(zipped(MEMBERS))
    with locked(work(home).with_suffix(".lock")):
        refuse(r"another process is fetching 'set' \(.*\); wait for it, or stop it")
    fetch.fetch("set")
    assert_whole(home)


def test_a_folder_that_lacks_songs_of_the_manifest_is_not_complete(home, publish):
    publish(zipped(MEMBERS))
    fetch.fetch("set")
    shutil.rmtree(home / "data" / "set" / "test" / "b")
    refuse(r"data/set: incomplete: .*test/b: missing \(test\); move the folder away, and fetch set again")
    (home / "data" / "set" / "fetched.json").write_text("{")
    refuse(r"fetched.json: damaged .*; move its folder away, and fetch it again")


def test_what_is_not_ours_is_left_alone(home, publish):
    publish(zipped(MEMBERS))
    mine = home / "data" / "set" / "mine.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    refuse("is there, but not from `bsm data fetch`; check it with `bsm data verify set`")
    mine.unlink()
    fetch.fetch("set")  # an empty folder is no obstacle
    assert_whole(home)


def test_made_here_is_not_fetched():
    with pytest.raises(InputError, match="'demo' is made here, not fetched: bsm data prepare demo"):
        fetch.fetch("demo")


def test_command_line(home, publish, url, invoke):
    publish(zipped(MEMBERS), "missing")

    listed = invoke("data", "list").output
    assert all(text in listed for text in ("set: a set", "not fetched, 0 MB to fetch", "none stated", "https://a.org"))
    fetched = invoke("data", "fetch", "set", "--from", f"{url}/good")
    assert "licence of 'set': none stated" in fetched.output
    assert str(home / "data" / "set") in fetched.output
    assert "bsm data verify set" in fetched.output
    assert_whole(home)
    assert f"here, 0 MB to fetch: {home / 'data' / 'set'}" in invoke("data", "list").output
    assert isinstance(invoke("data", "fetch", "nope").exception, InputError)

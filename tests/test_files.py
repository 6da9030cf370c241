"""Files appear whole or not at all, and an error names the file that it is about."""

import os
import socket
import stat

import pytest

from bsm import audio
from bsm.errors import InputError
from bsm.files import alone, check_writable, replacing, write_text


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_only_errors_of_the_file_itself_say_that_it_cannot_be_written(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"source\.txt"), replacing(path) as temporary:
        temporary.write_bytes((tmp_path / "source.txt").read_bytes())
    with pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space left on device\)"), replacing(path):
        raise OSError(28, "No space left on device")
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"b\.txt: cannot be written"):
        write_text(tmp_path / "taken" / "b.txt", "")


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to("there")
    check_writable(tmp_path / "link")
    for text in ("new", "newer"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == text


def test_links_in_a_circle(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be read .Too many levels of symbolic links"):
        audio.info(tmp_path / "loop")
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(InputError, match="cannot be written"):
            write(tmp_path / "loop" / "a.txt")
    check_writable(tmp_path / "loop")


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    places = [tmp_path / "pipe", tmp_path / "link"]
    places[1].symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        places.append(tmp_path / "socket")
        if os.geteuid() == 0:
            os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            places.append(tmp_path / "device")
        for path in places:
            for write in (check_writable, lambda path: write_text(path, "text")):
                with pytest.raises(InputError, match=f"{path}: is a pipe or a device; name a file to write to"):
                    write(path)
    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_a_lock_has_one_holder(tmp_path, locked):
    path = tmp_path / "new" / "lock"
    with (
        locked(path),
        pytest.raises(InputError, match=r"busy \(not known\); wait for it, or stop it"),
        alone(path, "busy"),
    ):
        pass
    with alone(path, "busy"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert path.exists()  # a process that has it open must hold the same lock as a later one


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"link: cannot be written"):
        check_writable(tmp_path / "link" / "a.json")

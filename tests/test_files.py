"""Files appear whole or not at all, and an error names the file that it is about."""

import pytest

from bsm.errors import InputError
from bsm.files import check_writable, replacing, write_text


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


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"link: cannot be written"):
        check_writable(tmp_path / "link" / "a.json")

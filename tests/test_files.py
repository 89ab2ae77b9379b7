"""diffedit_core.files: whole or not at all."""

import os

import pytest

from diffedit_core import files


def test_a_file_appears_at_the_end_and_nothing_else_stays(tmp_path):
    target = tmp_path / "x.bin"
    with files.written(target) as part:
        part.write_bytes(b"new")
        assert part.suffix == ".bin" and not target.exists()
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["x.bin"]


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        with files.written(target) as part:
            part.write_bytes(b"half")
            raise RuntimeError
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.bin"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with files.written(tmp_path / "link") as part:
        part.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("existing", (False, True))
def test_a_folder_appears_with_all_its_files_and_keeps_others(tmp_path, existing):
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        (target / "mine").write_text("kept")
        (target / "a").write_text("old")
    with files.folder_written(target) as part:
        (part / "a").write_text("new")
        (part / "below").mkdir()
        (part / "below" / "b").write_text("b")
        assert not (target / "below").exists()
    assert (target / "a").read_text() == "new" and (target / "below" / "b").read_text() == "b"
    assert (target / "mine").exists() == existing and os.listdir(tmp_path) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        with files.folder_written(tmp_path / "out") as part:
            (part / "a").write_text("half")
            raise RuntimeError
    assert os.listdir(tmp_path) == []

"""Files that are written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest
from tests.crash_points import crash_points

from afstream.atomic import replace_file, write_text
from afstream.errors import OutputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_text_replaces_another(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    write_text(str(path), "new: é")
    assert path.read_text("utf-8") == "new: é"
    assert names(tmp_path) == ["note.txt"]


def test_a_file_has_the_mode_of_an_ordinary_one(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "note.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o640


def stop_within(path, stop):
    with replace_file(path) as file:
        file.write(b"new")
        raise stop


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_where_the_block_raises_the_old_file_stays(tmp_path, stop):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(stop):
        stop_within(path, stop)
    assert path.read_text("utf-8") == "old"
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("call", [(os, "open"), (os, "fsync"), (Path, "replace")])
def test_what_the_system_refuses_is_one_sentence(tmp_path, monkeypatch, call):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def refuse(*_args, **_given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*call, refuse)
    with pytest.raises(OutputError) as raised:
        write_text(path, "new", what="the note")
    assert str(raised.value) == (
        f"cannot write the note {path} (no space left on device); choose another path"
    )
    assert path.read_text("utf-8") == "old"
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
def test_a_disk_that_is_full_when_buffered_bytes_are_written(tmp_path, monkeypatch):
    """The bytes lie in a buffer until the file is flushed; closing it fails once more."""
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, mode=0: real("/dev/full", os.O_RDWR) if mode else None
    )
    with pytest.raises(OutputError, match="no space left"):
        write_text(tmp_path / "note.txt", "text")
    with pytest.raises(KeyboardInterrupt):
        stop_within(tmp_path / "note.txt", KeyboardInterrupt)


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link, path = tmp_path / "note.txt", tmp_path / "disk" / "real.txt"
    link.symlink_to(path)
    write_text(link, "text")
    assert link.is_symlink()
    assert path.read_text("utf-8") == "text"


def test_nothing_but_an_ordinary_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OutputError, match="it is no ordinary file; choose another path"):
            write_text(tmp_path / name, "text")
    with pytest.raises(OutputError, match="no such file or directory"):
        write_text(tmp_path / "missing" / "note.txt", "text")
    assert names(tmp_path) == ["folder", "pipe"]


def test_a_long_name_can_be_replaced(tmp_path):
    path = tmp_path / ("é" * 120 + ".txt")
    write_text(path, "text")
    assert path.read_text("utf-8") == "text"


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, _n=name, _r=real: (calls.append(_n), _r(*args))[1]
        )
    write_text(tmp_path / "note.txt", "text")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_process_killed_at_any_file_operation_leaves_a_whole_file(tmp_path):
    path = tmp_path / "note.txt"
    seen = set()
    for _ in crash_points(lambda: write_text(path, "new"), before=lambda: write_text(path, "old")):
        seen.add(path.read_text("utf-8"))
        write_text(path, "newer")
        assert path.read_text("utf-8") == "newer"
    assert seen == {"old", "new"}

"""A lock is held by one run at a time, and dies with it."""

import os
import signal
import time

import pytest

from afstream.errors import OutputError
from afstream.lock import hold, lock_path


@pytest.fixture(params=["folder", "film.mp4"])
def locked(request, tmp_path):
    path = tmp_path / request.param
    if request.param == "folder":
        path.mkdir()
    return path


def refusal(path):
    with pytest.raises(OutputError) as caught, hold(path, what="folder"):
        pass
    return str(caught.value)


def test_a_second_run_is_refused_until_the_first_has_ended(locked):
    with hold(locked, what="folder"):
        said = refusal(locked)
        assert said.startswith(f"{locked} is being written by another run (process {os.getpid()} ")
        assert said.endswith("; wait for it, or choose another folder")
    with hold(locked, what="folder"):
        pass
    assert not lock_path(locked).exists()


def test_another_path_to_the_same_file_is_the_same_lock(locked):
    other = locked.with_name("link")
    other.symlink_to(locked)
    with hold(other, what="folder"):
        refusal(locked)


def test_a_killed_holder_frees_it_even_if_its_child_lives_on(locked):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with hold(locked, what="folder"):
            if os.fork() == 0:
                os.write(writer, f"{os.getpid()}\n".encode())
                time.sleep(60)
                os._exit(0)
            time.sleep(60)
        os._exit(0)
    grandchild = int(os.read(reader, 20))
    try:
        assert f"(process {child} on " in refusal(locked)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with hold(locked, what="folder"):
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


PLANTED = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("elsewhere"),
    "folder": os.mkdir,
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_lock_file_that_is_something_else_is_refused(locked, plant):
    plant(lock_path(locked))
    assert "is no ordinary file" in refusal(locked)
    assert not locked.with_name("elsewhere").exists()


def test_what_a_lock_file_holds_is_not_shown_raw(locked):
    with hold(locked, what="folder"):
        lock_path(locked).write_text("1 on \x1b]0;title\x07")
        assert refusal(locked).startswith(f"{locked} is being written by another run; wait")


def test_a_folder_out_of_reach_is_one_sentence(tmp_path):
    assert "no such file or directory" in refusal(tmp_path / "none" / "film.mp4")
    assert not (tmp_path / "none").exists()

"""What is not ours is spared: every path that a film may write, with something else there."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from afstream.errors import OutputError
from afstream.film.files import FilmFiles, free_video, is_record
from afstream.lock import hold


def files(folder: Path, **settings: object) -> FilmFiles:
    return FilmFiles.beside(folder / "film.mp4", sheet=folder / "sheet.png", **settings)  # pyright: ignore[reportArgumentType]


def regular(path: Path) -> None:
    path.write_bytes(b"precious")


def link(path: Path) -> None:
    (path.parent / "target").write_bytes(b"precious")
    path.symlink_to("target")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere/x")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(before)


NAMES = ("film.mp4", "film.json", "film.timeline.txt", "sheet.png", "film.srt")
STRANGERS = (link, dangling, loop, pipe, folder, unix_socket)


def everything(folder: Path) -> dict[str, object]:
    """All there is in a folder, links and contents included."""
    return {
        path.name: (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", STRANGERS)
def test_what_is_no_file_is_never_replaced(tmp_path: Path, name: str, make: Callable[[Path], None]):
    make(tmp_path / name)
    before = everything(tmp_path)
    with pytest.raises(OutputError, match=name.replace(".", r"\.")):
        files(tmp_path, live=True, subtitles="srt").check({}, overwrite=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_what_exists_needs_overwrite(tmp_path: Path, name: str):
    regular(tmp_path / name)
    before = everything(tmp_path)
    with pytest.raises(
        OutputError, match=r"exists already|is no (run record|replay|subtitle file) of afstream"
    ):
        files(tmp_path, live=True, subtitles="srt").check({}, overwrite=False)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("film.json", '{"name": "my project"}'),
        ("film.json", "[1, 2]"),
        ("film.json", "no JSON"),
        ("film.timeline.txt", "0:00 A star drifts.\n"),
        ("film.srt", "1\n00:00:01,000 --> 00:00:02,000\nMine\n\n"),
    ],
)
def test_what_we_named_is_replaced_only_if_it_is_ours(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match="so it is not replaced"):
        files(tmp_path, live=True, subtitles="srt").check({}, overwrite=True)
    assert (tmp_path / name).read_text() == content


def test_an_earlier_film_of_ours_is_replaced_when_the_user_says_so(tmp_path: Path):
    record = {"afstream_record": 2, "beside": ["film.srt"]}
    (tmp_path / "film.json").write_text(json.dumps(record))
    (tmp_path / "film.timeline.txt").write_text("# afstream replay of film.mp4\n0:00 A star.\n")
    for name in ("film.mp4", "sheet.png", "film.srt"):
        regular(tmp_path / name)
    files(tmp_path, live=True, subtitles="srt").check({}, overwrite=True)


@pytest.mark.parametrize("beside", [5, "film.srt", [["film.srt"], 5], ["notes.txt", "film.json"]])
def test_a_record_cannot_claim_what_it_likes(tmp_path: Path, beside: object):
    regular(tmp_path / "film.srt")
    regular(tmp_path / "notes.txt")
    (tmp_path / "film.json").write_text(json.dumps({"afstream_record": 2, "beside": beside}))
    made = files(tmp_path, subtitles="srt")
    with pytest.raises(OutputError, match="so it is not replaced"):
        made.check({}, overwrite=True)
    made.remove_stale()
    assert {path.name for path in tmp_path.iterdir()} == {"film.srt", "notes.txt", "film.json"}


def test_states_of_another_film_are_spared(tmp_path: Path):
    (tmp_path / "film.state").mkdir()
    regular(tmp_path / "film.state" / "chunk-000001.safetensors")
    with pytest.raises(OutputError, match="saved states of another film"):
        files(tmp_path).check({}, overwrite=False)


@pytest.mark.parametrize("kind", ["same", "hard link", "link"])
def test_no_output_is_an_input(tmp_path: Path, kind: str):
    source = tmp_path / "weights.safetensors"
    regular(source)
    record = tmp_path / "run.json"
    if kind == "same":
        record = source
    elif kind == "hard link":
        os.link(source, record)
    else:
        record.symlink_to(source)
    with pytest.raises(OutputError, match="is both the model and the run record"):
        files(tmp_path, record=record).check({"the model": source}, overwrite=True)
    assert source.read_bytes() == b"precious"


@pytest.mark.parametrize("video", ["", ".", "/", "..", "a\0b.mp4", f"{'x' * 300}.mp4"])
def test_a_path_that_names_no_file_is_one_sentence(video: str):
    with pytest.raises(OutputError, match=r"names no file|is no path|too long"):
        FilmFiles.beside(Path(video)).check({}, overwrite=False)


def test_a_second_run_is_refused_while_the_first_one_writes(tmp_path: Path):
    with files(tmp_path).locked():
        # a video that differs in its suffix alone shares what stands beside it
        for video in ("film.mp4", "film.mov", "film"):
            with (
                pytest.raises(OutputError, match="written by another run"),
                FilmFiles.beside(tmp_path / video).locked(),
            ):
                pass
    with files(tmp_path).locked():
        pass
    assert not list(tmp_path.iterdir())


def test_a_record_elsewhere_is_locked_too(tmp_path: Path):
    record = tmp_path / "run.json"
    with (
        hold(record, what="output"),
        pytest.raises(OutputError, match="written by another run"),
        files(tmp_path, record=record).locked(),
    ):
        pass


def test_the_default_output_takes_the_next_number(tmp_path: Path):
    first = tmp_path / "out.mp4"
    assert free_video(first).name == "out.mp4"
    regular(first)
    assert free_video(first).name == "out-2.mp4"
    regular(tmp_path / "out-2.json")
    assert free_video(first).name == "out-3.mp4"
    (tmp_path / "out-3.mp4").symlink_to("nowhere")
    assert free_video(first).name == "out-4.mp4"


def test_nothing_is_left_by_the_check(tmp_path: Path):
    files(tmp_path / "new", live=True, subtitles="srt").check({}, overwrite=False)
    assert not list((tmp_path / "new").iterdir())


def test_a_pipe_of_prompts_is_not_read_to_see_whether_it_is_a_record(tmp_path: Path):
    os.mkfifo(tmp_path / "prompts")
    assert not is_record(tmp_path / "prompts")


def test_a_record_does_not_take_the_place_of_the_states(tmp_path: Path):
    with pytest.raises(OutputError, match="both the run record and the folder of saved states"):
        files(tmp_path, record=tmp_path / "film.state").check({}, overwrite=True)


def test_what_a_killed_run_left_half_written_is_swept_away(tmp_path: Path):
    (tmp_path / "film.state").mkdir()
    left = [
        tmp_path / ".film.json.0123abcd.partial",
        tmp_path / ".film.mp4.0123abcd.partial",
        tmp_path / "film.state" / ".chunk-000001.safetensors.0123abcd.partial",
    ]
    mine = tmp_path / ".other.json.0123abcd.partial"
    for path in (*left, mine):
        regular(path)
    with files(tmp_path).locked():
        assert not any(path.exists() for path in left)
    assert mine.exists()

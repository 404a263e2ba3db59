"""What afstream did not write is neither replaced, nor followed, nor waited for."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.video.films import SIZE, chunk_of, files_limited_to, write

from afstream.errors import AfstreamError, ConfigError, OutputError
from afstream.video import Past, VideoWriter, check_output, frames_in, probe, read_tags

NAMES = ("film.mp4", "film.mkv", "film.webm", "film.gif")


def open_film(path, **given):
    return VideoWriter.open(path, size=SIZE, fps=16, **given)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_link(path):
    (path.parent / "target.mp4").write_bytes(b"mine")
    path.symlink_to("target.mp4")


def make_dangling_link(path):
    path.symlink_to("nowhere")


def make_loop(path):
    path.symlink_to(path.name)


OTHERS = (make_pipe, make_socket, make_link, make_dangling_link, make_loop)


@pytest.mark.parametrize("make", OTHERS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_is_refused_and_left_alone(tmp_path, monkeypatch, make, name):
    # A socket's path must be short.
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    make(path)
    before = path.lstat()
    for attempt in (
        lambda: open_film(path, overwrite=True),
        lambda: probe(path),
        lambda: check_output(path),
        lambda: frames_in(path),
        lambda: read_tags(path),
        lambda: open_film("other.mp4", past=Past(path, 0)),
    ):
        with pytest.raises(OutputError, match=r"film\.\w+ (is|cannot)"):
            attempt()
    assert path.lstat() == before
    assert not Path("nowhere").exists()
    assert not Path("target.mp4").exists() or Path("target.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_no_film(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    with pytest.raises(OutputError, match="is a directory, not a file"):
        open_film(path, overwrite=True)
    with pytest.raises(OutputError, match="is a directory, not a file"):
        probe(path)
    assert read_tags(path) == {}
    assert frames_in(path) == 0


@pytest.mark.parametrize("path", [Path("/dev/null"), Path("/dev/full"), Path("/dev/zero")])
def test_devices_are_refused(path):
    with pytest.raises(OutputError, match="is a device, not a file"):
        probe(path)
    with pytest.raises(OutputError, match="is a device, not a file"):
        read_tags(path)


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/..", "x" * 300 + ".mp4", "a\0b.mp4"])
def test_a_path_that_names_no_file_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as caught:
        open_film(name, overwrite=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_comes_before_the_first_frame_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    path = tmp_path / "film.mp4"
    with open_film(path, overwrite=True) as writer:
        path.symlink_to(target)
        with pytest.raises(OutputError, match="is a link"):
            writer.write(chunk_of(0))
    assert target.read_bytes() == b"mine"


def test_a_file_that_comes_before_the_first_frame_stays(tmp_path):
    path = tmp_path / "film.mp4"
    with open_film(path) as writer:
        path.write_bytes(b"mine")
        with pytest.raises(OutputError, match="file exists"):
            writer.write(chunk_of(0))
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("name", NAMES)
def test_another_name_of_a_replaced_file_keeps_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"an older film")
    (tmp_path / "second name").hardlink_to(path)
    with open_film(path, overwrite=True) as writer:
        assert path.read_bytes() == b"an older film"
        writer.write(chunk_of(0))
    assert (tmp_path / "second name").read_bytes() == b"an older film"
    assert read_tags(path)


def test_pictures_of_others_stay(tmp_path):
    folder = tmp_path / "film"
    folder.mkdir()
    mine = {
        "frame_notes.png": b"1",
        "frame_0001.png": b"2",
        "notes.txt": b"3",
        "frame_٠١٢٣٤٥.png": b"4",
    }
    for name, data in mine.items():
        (folder / name).write_bytes(data)
    write(folder, chunks=2)
    with pytest.raises(OutputError, match="exists already"):
        open_film(folder)
    write(folder, chunks=1, overwrite=True)
    assert frames_in(folder) == 12
    assert {name: (folder / name).read_bytes() for name in mine} == mine
    assert len(list(folder.iterdir())) == 12 + len(mine)


@pytest.mark.parametrize("name", ["frame_000000.png", "frame_000500.png", "frame_1000000.png"])
def test_a_folder_with_foreign_numbered_pictures_is_refused(tmp_path, name):
    folder = tmp_path / "film"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / name)
    before = (folder / name).read_bytes()
    with pytest.raises(OutputError, match="was not written by afstream and is not replaced"):
        open_film(folder, overwrite=True)
    assert (folder / name).read_bytes() == before
    assert read_tags(folder) == {}


def test_a_picture_that_comes_meanwhile_is_not_replaced(tmp_path):
    folder = tmp_path / "film"
    with open_film(folder) as writer:
        writer.write(chunk_of(0))
        (folder / "frame_000014.png").write_bytes(b"mine")
        with pytest.raises(OutputError, match=r"frame_000014\.png has come.*the 0\.88 s before"):
            writer.write(chunk_of(1))
    assert (folder / "frame_000014.png").read_bytes() == b"mine"
    assert writer.frames == frames_in(folder) == 14


def test_a_probe_leaves_nothing_and_changes_nothing(tmp_path):
    probe(tmp_path / "new.mp4")
    check_output(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.mp4").write_bytes(b"old")
    before = (tmp_path / "old.mp4").stat()
    probe(tmp_path / "old.mp4")
    assert (tmp_path / "old.mp4").stat() == before


def test_a_full_disk_keeps_whole_pictures(tmp_path):
    folder = tmp_path / "film"
    noise = np.random.default_rng(0).integers(0, 256, chunk_of(1).shape, np.uint8)
    with open_film(folder, scale=1) as writer, files_limited_to(2_000):
        writer.write(chunk_of(0))
        with pytest.raises(OutputError, match=r"the 0\.75 s before that are kept"):
            writer.write(noise)
    assert writer.frames == frames_in(folder) == len(list(folder.iterdir())) == 12


@pytest.mark.parametrize(
    ("name", "crf", "sentence"),
    [
        ("film.mp4", 52, "crf is 52; .* takes 0 to 51"),
        ("film.mkv", -1, "takes 0 to 51"),
        ("film.webm", 64, "takes 0 to 63"),
        ("film.gif", 20, "keeps pictures as they are"),
        ("film", 0, "keeps pictures as they are"),
    ],
)
def test_an_impossible_crf_is_refused(tmp_path, name, crf, sentence):
    with pytest.raises(ConfigError, match=sentence):
        open_film(tmp_path / name, crf=crf)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_higher_crf_is_a_smaller_file(tmp_path, name):
    sizes = []
    for crf in (40, None, 5):
        path = tmp_path / f"{crf}-{name}"
        with open_film(path, crf=crf) as writer:
            writer.write(chunk_of(0))
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes)


def test_tags_are_checked(tmp_path):
    for tags in ({"crf": "1"}, {"run": "x" * 60_000}):
        with pytest.raises(AfstreamError, match="tag"):
            open_film(tmp_path / "film.mp4", tags=tags)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm", "film.gif"])
@pytest.mark.parametrize("happens", ["removed", "replaced"])
def test_a_film_that_something_else_removes_is_not_told_as_made(tmp_path, name, happens):
    path = tmp_path / name
    with open_film(path) as writer:
        writer.write(chunk_of(0))
        writer.sync()
        path.unlink()
        if happens == "replaced":
            path.write_bytes(b"mine")
        with pytest.raises(OutputError, match="something else has removed, replaced or cut it"):
            writer.sync()
        # it has failed already
        writer.sync()
    with open_film(tmp_path / f"again{path.suffix}") as writer:
        writer.write(chunk_of(0))
        writer.path.unlink()
        with pytest.raises(OutputError, match="something else has removed, replaced or cut it"):
            writer.finish()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"mine"] * path.exists()


@pytest.mark.parametrize("then", ["finish", "write"])
def test_a_film_that_something_else_cuts_is_not_told_as_made(tmp_path, then):
    path = tmp_path / "film.mp4"
    with open_film(path) as writer:
        writer.write(chunk_of(0))
        os.truncate(path, 100)
        with pytest.raises(OutputError, match=r"replaced or cut it\): nothing is kept"):
            # a further piece would leave a hole before it
            writer.finish() if then == "finish" else writer.write(chunk_of(1))
    assert writer.frames == 0


def test_a_foreign_picture_among_own_ones_is_found_before_anything_is_removed(tmp_path):
    folder = tmp_path / "film"
    write(folder)
    for number in (3, 20, 999):
        strange = folder / f"frame_{number:06}.png"
        before = strange.read_bytes() if strange.exists() else None
        strange.write_bytes(b"mine")
        for past in (None, Past(folder, 2)):
            with pytest.raises(OutputError, match="was not written by afstream"):
                open_film(folder, overwrite=True, past=past)
        strange.write_bytes(before) if before else strange.unlink()
    assert frames_in(folder) == 36


@pytest.mark.parametrize("num_bytes", [0, 5, 20, 50])
def test_a_picture_that_a_power_failure_cut_is_replaced(tmp_path, num_bytes):
    folder = tmp_path / "film"
    write(folder)
    os.truncate(folder / "frame_000014.png", num_bytes)
    assert frames_in(folder) == 14
    with open_film(folder, past=Past(folder, 12)) as writer:
        writer.write(chunk_of(1))
    assert frames_in(folder) == 24

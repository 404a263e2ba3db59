"""A film says what it is from its first bytes on, and nothing else is taken for one."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tests.video.films import SIZE, chunk_of, read, write

from afstream.errors import OutputError
from afstream.video import VideoWriter, frames_in, read_tags

NAMES = ("film.mp4", "film.MOV", "film.m4v", "film.mkv", "film.webm", "film.gif", "film")
TITLE = "Ein grüner Ball 🌊\n--> \x00 \ud800 <b>"
TAGS = {"run": "a1b2", "settings": '{"cues": ["ä", "\\u0000"]}', "note": "x" * 3000}


@pytest.mark.parametrize("name", NAMES)
def test_tags_stand_in_every_kind_of_film(tmp_path, name):
    path = tmp_path / name
    with VideoWriter.open(path, size=SIZE, fps=16, title=TITLE, tags=TAGS, scale=2) as writer:
        writer.write(chunk_of(0))
        # The first cluster of a webm is held back until the next begins.
        growing = {} if name.endswith("webm") else read_tags(path)
        writer.write(chunk_of(1))
        assert writer.finish() is None
    tags = read_tags(path)
    assert tags == {"title": "Ein grüner Ball 🌊 --> <b>", "encoder": "afstream"} | TAGS | {
        "size": "64x48",
        "scale": "2",
        "fps": "16",
    } | ({} if name in ("film.gif", "film") else {"crf": "24" if "webm" in name else "18"})
    assert name.endswith("webm") or growing == tags
    assert len(read(path)) == 24


def test_players_show_a_picture_with_text_and_a_gif_with_a_comment(tmp_path):
    write(tmp_path / "film", chunks=1)
    with Image.open(tmp_path / "film" / "frame_000000.png") as image:
        assert image.info["Software"] == "afstream"
    write(tmp_path / "film.gif", chunks=1)
    with Image.open(tmp_path / "film.gif") as image:
        assert b'"encoder": "afstream"' in image.info["comment"]


def test_what_others_wrote_has_no_tags(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/film.mp4\n")
    (tmp_path / "c.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "d.gif")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "e.mp4"), "w") as container:
        container.metadata.update({"comment": '{"encoder": "other"}'})
        stream = container.add_stream("libx264", rate=16)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    paths = list(tmp_path.iterdir())
    assert [read_tags(path) for path in paths] == [{}] * len(paths)


@pytest.mark.parametrize("name", [*NAMES[:1], "film.mkv", "film.gif"])
def test_damaged_files_are_one_sentence(tmp_path, name):
    write(tmp_path / name, chunks=2, scale=1)
    data = (tmp_path / name).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / f"damaged-{name}"
    for _ in range(150):
        broken = bytearray(data[: random.integers(8, len(data))])
        for at in random.integers(4, min(len(broken), 1500), 12):
            if at < len(broken):
                broken[at] = random.integers(256)
        path.write_bytes(broken)
        for look in (read_tags, frames_in):
            # Whatever else it raises would be a traceback for users.
            with suppress(OutputError):
                look(path)


def test_what_does_not_exist_is_said(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        read_tags(tmp_path / "film.mp4")
    with pytest.raises(OutputError, match="does not exist"):
        frames_in(tmp_path / "film.mp4")


PIPED = """
import sys
from contextlib import suppress
sys.path.insert(0, sys.argv[1])
from tests.video.films import SIZE, chunk_of
from afstream.errors import OutputError
from afstream.video import VideoWriter
try:
    with VideoWriter.open("-", size=SIZE, fps=16, title="piped") as writer:
        for index in range(int(sys.argv[2])):
            writer.write(chunk_of(index))
            writer.sync()
        assert writer.finish() is None
except OutputError as error:
    sys.exit(str(error))
"""
ROOT = str(Path(__file__).parents[2])


def test_a_film_goes_to_standard_output(tmp_path):
    command = [sys.executable, "-c", PIPED, ROOT, "3"]
    done = subprocess.run(command, capture_output=True, check=True)
    (tmp_path / "film.mp4").write_bytes(done.stdout)
    assert len(read(tmp_path / "film.mp4")) == 36
    assert read_tags(tmp_path / "film.mp4")["title"] == "piped"


def test_a_reader_that_leaves_ends_the_film_with_a_sentence():
    command = [sys.executable, "-c", PIPED, ROOT, "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(2000)
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert said.startswith("standard output was closed by its reader, which took ")


def test_a_closed_standard_output_is_refused():
    command = [sys.executable, "-c", PIPED, ROOT, "1"]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(1)
    )
    assert done.stderr.startswith("standard output is closed")


@pytest.mark.parametrize("name", ["film.mp4", "film.webm", "film"])
def test_sync_reaches_the_disk(tmp_path, name, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle) or fsync(handle))
    with VideoWriter.open(tmp_path / name, size=SIZE, fps=16, scale=1) as writer:
        writer.sync()
        writer.write(chunk_of(0))
        assert not synced
        writer.sync()
        count = len(synced)
        assert count == (13 if name == "film" else 1)
        writer.sync()
        assert len(synced) == count + 1


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_damaged_film_prints_no_traceback(tmp_path, capfd, name):
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    for end in (*range(0, 60, 4), 300, len(data) - 1):
        path.write_bytes(data[:end])
        for look in (read_tags, frames_in):
            with suppress(OutputError):
                look(path)
    # one whose index has no end
    path.write_bytes(data[:24] + b"\xff" * 100)
    for look in (read_tags, frames_in):
        with suppress(OutputError):
            look(path)
    assert not capfd.readouterr().err

"""Frames written come back, whatever happens to the process or the disk meanwhile."""

import errno
import io
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from tests.video.films import SIZE, chunk_of, files_limited_to, read, write, write_forever

from afstream.errors import AfstreamError, ConfigError, OutputError
from afstream.video import VideoWriter, default_scale

KINDS = ("clip.mp4", "clip.mov", "clip.mkv", "clip.webm", "clip.gif", "clip")


@pytest.mark.parametrize("name", KINDS)
def test_frames_come_back_in_order_and_colour(tmp_path: Path, name: str):
    writer = write(tmp_path / name, scale=4)
    pictures = read(tmp_path / name)
    assert writer.frames == len(pictures) == 36
    assert writer.seconds == 2.25
    for index, picture in enumerate(pictures):
        assert picture.shape == (192, 256, 3)
        frame = chunk_of(index // 12)[index % 12]
        # The middle of each enlarged pixel, away from the edges that encoders blur.
        assert np.abs(picture[2::4, 2::4].astype(int) - frame).mean() < 4


@pytest.mark.parametrize("name", KINDS)
def test_same_frames_give_same_bytes(tmp_path: Path, name: str):
    for run in ("a", "b"):
        write(tmp_path / run / name)
    files = [sorted(file for file in (tmp_path / run).rglob("*.*")) for run in ("a", "b")]
    assert files[0]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_mp4_is_whole_after_every_chunk(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    with VideoWriter.open(path, size=SIZE, fps=16) as writer:
        for index in range(4):
            writer.write(chunk_of(index))
            assert len(read(path)) == writer.frames == 12 * (index + 1)


def test_mp4_says_its_length_and_can_be_sought(tmp_path: Path):
    write(tmp_path / "clip.mp4", chunks=8)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.duration == 6_000_000
        container.seek(3_000_000)
        assert next(container.decode(video=0)).time == 3.0


ENDLESS = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.video.films import SIZE, write_forever
from afstream.video import VideoWriter
with VideoWriter.open(sys.argv[2], size=SIZE, fps=16) as writer:
    write_forever(writer)
"""


def test_mp4_of_a_killed_process_can_be_played(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    command = [sys.executable, "-c", ENDLESS, str(Path(__file__).parents[2]), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        announced = [int(line) for line in itertools.islice(process.stdout, 5)][-1]
        process.kill()
        rest = [int(line) for line in process.stdout]
    assert process.returncode == -signal.SIGKILL
    announced = max([announced, *rest])
    assert len(read(path)) >= announced


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.gif"])
def test_what_was_made_outlives_a_file_that_cannot_grow(tmp_path: Path, name: str):
    path = tmp_path / name
    with (
        files_limited_to(12_000),
        pytest.raises(OutputError, match=r"file too large.*s before that are kept"),
        VideoWriter.open(path, size=SIZE, fps=16, scale=1) as writer,
    ):
        write_forever(writer)
    assert len(read(path)) == writer.frames > 0


class FillingDisk(io.FileIO):
    """Has room for 12,000 bytes, and takes a part of what is more."""

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        written = super().write(data[: max(12_000 - self.tell(), 0)])
        if written < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written


def test_full_disk_is_said_and_leaves_whole_fragments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "clip.mp4"

    def create_on_filling_disk(path: Path, *, overwrite: bool) -> FillingDisk:
        return FillingDisk(path, "w+")

    with VideoWriter.open(path, size=SIZE, fps=16, scale=1) as writer:
        monkeypatch.setattr("afstream.video.growing.create", create_on_filling_disk)
        with pytest.raises(OutputError) as caught:
            write_forever(writer)
    assert str(caught.value) == (
        f"the disk of {path} is full: the {writer.seconds:.2f} s before that are kept; free some"
        " space, then resume it or start again"
    )
    assert 5_000 < path.stat().st_size < 12_000
    assert len(read(path)) == writer.frames > 0


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((64, 64), 4),
        ((48, 48), 6),
        ((64, 48), 6),
        ((832, 480), 1),
        ((256, 256), 1),
        ((255, 300), 2),
    ],
)
def test_default_scale_makes_pictures_comfortable(size: tuple[int, int], scale: int):
    assert default_scale(size) == scale


def test_nothing_is_replaced_before_the_first_frame(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"an older video")
    with pytest.raises(OutputError, match="exists already; give --overwrite to replace it"):
        VideoWriter.open(path, size=SIZE, fps=16)
    with VideoWriter.open(path, size=SIZE, fps=16, overwrite=True):
        pass
    assert path.read_bytes() == b"an older video"
    with VideoWriter.open(tmp_path / "new.mp4", size=SIZE, fps=16):
        pass
    assert not (tmp_path / "new.mp4").exists()


def test_folder_forgets_an_earlier_and_longer_run(tmp_path: Path):
    write(tmp_path / "clip", chunks=3)
    (tmp_path / "clip" / "notes.txt").write_text("mine")
    write(tmp_path / "clip", chunks=1, overwrite=True)
    names = sorted(file.name for file in (tmp_path / "clip").iterdir())
    assert names == [*(f"frame_{index:06d}.png" for index in range(12)), "notes.txt"]


def test_parents_are_made(tmp_path: Path):
    write(tmp_path / "a" / "b" / "clip.mp4", chunks=1)
    assert read(tmp_path / "a" / "b" / "clip.mp4")


@pytest.mark.parametrize(
    ("name", "scale", "error", "sentence"),
    [
        (
            "clip.avi",
            None,
            OutputError,
            "ends in '.avi'; use .mp4, .m4v, .mov, .mkv",
        ),
        ("file/clip.mp4", None, OutputError, "choose another path"),
        ("file/clip", None, OutputError, "choose another path"),
        ("folder.mp4", None, OutputError, "is a directory"),
        ("clip.mp4", 0, ConfigError, "scale is 0; it must be 1 or more"),
        ("clip.mp4", 3000, ConfigError, "192000x144000 px.*choose scale 107 or less"),
        ("clip", 10**8, ConfigError, "choose scale 107 or less"),
    ],
)
def test_impossible_outputs_are_refused(
    tmp_path: Path, name: str, scale: int | None, error: type[AfstreamError], sentence: str
):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(error, match=sentence):
        VideoWriter.open(tmp_path / name, size=SIZE, fps=16, scale=scale)


def test_odd_sides_are_refused_where_colour_is_halved(tmp_path: Path):
    with pytest.raises(ConfigError, match="choose scale 2"):
        VideoWriter.open(tmp_path / "clip.mp4", size=(33, 48), fps=16, scale=1)
    with VideoWriter.open(tmp_path / "clip.gif", size=(33, 48), fps=16, scale=1) as writer:
        writer.write(np.zeros((2, 48, 33, 3), np.uint8))
    assert len(read(tmp_path / "clip.gif")) == 2


def test_frames_of_another_size_are_a_mistake(tmp_path: Path):
    writer = VideoWriter.open(tmp_path / "clip.mp4", size=SIZE, fps=16)
    with pytest.raises(ValueError, match="is expected"):
        writer.write(np.zeros((1, 64, 64, 3), np.uint8))

"""Frames written come back, whatever happens to the process or the disk meanwhile."""

import errno
import io
import itertools
import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import InvalidDataError
from PIL import Image

from afstream.errors import AfstreamError, ConfigError, OutputError
from afstream.video import VideoWriter, default_scale
from afstream.video.picture import Frames

SIZE = (64, 48)
KINDS = ("clip.mp4", "clip.webm", "clip.gif", "clip")


def chunk_of(index: int, count: int = 12) -> Frames:
    """A bright square that moves over a slope of colour, [count, 48, 64, 3]."""
    width, height = SIZE
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = np.stack([60 + columns, 40 + rows, 160 - rows], -1)
    frames = np.repeat(slope[None], count, 0)
    for number, frame in enumerate(frames, start=index * count):
        left = 4 + number % 40
        frame[16:32, left : left + 16] = (230, 90, 60)
    return frames.astype(np.uint8)


def read(path: Path) -> list[Frames]:
    """The pictures of a video, a folder, or of as much as there is of a broken file."""
    if path.is_dir():
        return [np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))]
    pictures: list[Frames] = []
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(video=0):
                pictures.append(frame.to_ndarray(format="rgb24"))
        except InvalidDataError:
            pass
    return pictures


def write(path: Path, chunks: int = 3, scale: int | None = None) -> VideoWriter:
    with VideoWriter.open(path, size=SIZE, fps=16, scale=scale) as writer:
        for index in range(chunks):
            writer.write(chunk_of(index))
    return writer


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
from test_video import *
with VideoWriter.open(sys.argv[2], size=SIZE, fps=16) as writer:
    write_forever(writer)
"""


def test_mp4_of_a_killed_process_can_be_played(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    command = [sys.executable, "-c", ENDLESS, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        announced = [int(line) for line in itertools.islice(process.stdout, 5)][-1]
        process.kill()
        rest = [int(line) for line in process.stdout]
    assert process.returncode == -signal.SIGKILL
    announced = max([announced, *rest])
    assert len(read(path)) >= announced


def write_forever(writer: VideoWriter) -> None:
    for index in range(1000):
        writer.write(chunk_of(index))
        print(writer.frames, flush=True)  # noqa: T201  for whoever started this as a process


@contextmanager
def files_limited_to(num_bytes: int) -> Generator[None]:
    """Let the kernel refuse to make any file longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif"])
def test_what_was_made_outlives_a_file_that_cannot_grow(tmp_path: Path, name: str):
    path = tmp_path / name
    with (
        files_limited_to(12_000),
        pytest.raises(OutputError, match=r"file too large.*s before that are kept"),
        VideoWriter.open(path, size=SIZE, fps=16, scale=1) as writer,
    ):
        write_forever(writer)
    kept = read(path)
    assert kept
    if name.endswith("mp4"):
        assert len(kept) == writer.frames


class FillingDisk(io.FileIO):
    """Has room for 12,000 bytes, and takes a part of what is more."""

    def write(self, data: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        room = 12_000 - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:room])


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
        " space and start again"
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
    with VideoWriter.open(path, size=SIZE, fps=16):
        pass
    assert path.read_bytes() == b"an older video"
    with VideoWriter.open(tmp_path / "new.mp4", size=SIZE, fps=16):
        pass
    assert not (tmp_path / "new.mp4").exists()


def test_folder_forgets_an_earlier_and_longer_run(tmp_path: Path):
    write(tmp_path / "clip", chunks=3)
    (tmp_path / "clip" / "notes.txt").write_text("mine")
    write(tmp_path / "clip", chunks=1)
    names = sorted(file.name for file in (tmp_path / "clip").iterdir())
    assert names == [*(f"frame_{index:06d}.png" for index in range(12)), "notes.txt"]


def test_parents_are_made(tmp_path: Path):
    write(tmp_path / "a" / "b" / "clip.mp4", chunks=1)
    assert read(tmp_path / "a" / "b" / "clip.mp4")


@pytest.mark.parametrize(
    ("name", "scale", "error", "sentence"),
    [
        ("clip.avi", None, OutputError, "ends in '.avi'; use .mp4, .webm, .gif, or no suffix"),
        ("file/clip.mp4", None, OutputError, "choose another path"),
        ("file/clip", None, OutputError, "choose another path"),
        ("folder.mp4", None, OutputError, "is a directory"),
        ("clip.mp4", 0, ConfigError, "scale is 0; it must be 1 or more"),
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

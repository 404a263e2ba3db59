"""Frames for films, and the pictures that come back from them."""

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.error import InvalidDataError
from PIL import Image

from afstream.video import VideoWriter
from afstream.video.picture import Frames

SIZE = (64, 48)


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


def write(
    path: Path, chunks: int = 3, scale: int | None = None, overwrite: bool = False
) -> VideoWriter:
    with VideoWriter.open(path, size=SIZE, fps=16, scale=scale, overwrite=overwrite) as writer:
        for index in range(chunks):
            writer.write(chunk_of(index))
    return writer


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

"""Lines from a pipe: waits that can be ended, pipes that do not wait, cues that share a chunk."""

import itertools
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from afstream.spec import StreamConfig
from afstream_cli.live import LiveCues
from afstream_cli.source import play_stdin
from afstream_cli.stdin import CAN_END, MOST_LINE_BYTES, StdinLines

pytestmark = pytest.mark.skipif(not CAN_END, reason="a wait for a line cannot be ended")


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of standard input to write to; tests close it."""
    read, write = os.pipe()
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield write


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_come_as_they_are_written(pipe: int, blocking: bool):
    os.set_blocking(sys.stdin.fileno(), blocking)
    lines = StdinLines()
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(lines))
    reader.start()
    for piece in (b"a b", b"all\na st", b"ar\r\n\xff\xc3\xa9\nlast"):
        os.write(pipe, piece)
    os.close(pipe)
    reader.join()
    assert found == ["a ball", "a star\r", "\udcff\u00e9", "last"]
    lines.close()


def test_a_line_without_end_does_not_fill_the_memory(pipe: int):
    lines = StdinLines()

    def flood() -> None:
        for _ in range(40):
            os.write(pipe, b"x" * (MOST_LINE_BYTES // 16))
        os.close(pipe)

    threading.Thread(target=flood).start()
    [line] = lines
    assert len(line) <= MOST_LINE_BYTES
    lines.close()


def test_leaving_a_live_source_ends_its_thread(pipe: int, fake_stream: ModuleType):
    """Python aborts when it exits while a thread encodes a prompt."""
    before = threading.active_count()
    os.write(pipe, b"a ball\n" + b"a star\n" * 1000)
    stream = fake_stream.Stream(StreamConfig())
    with play_stdin(stream, known=None, warn=lambda _: None, seed=None, duration=None) as source:
        assert len([*itertools.islice(source.chunks, 2)]) == 2
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    os.close(pipe)


def test_cues_that_share_a_chunk_are_told(fake_stream: ModuleType):
    seen, given = threading.Event(), threading.Event()

    def lines() -> Iterator[str]:
        yield "a ball\n"
        seen.wait()
        yield from ("a star\n", "a cube\n", "a red ball\n")
        given.set()

    told: list[str] = []
    stream = fake_stream.Stream(StreamConfig())
    live = LiveCues(stream, lines(), warn=told.append, seed=None, duration=None)
    live.wait()
    chunks = live.chunks()
    next(chunks)
    seen.set()
    given.wait()
    assert [next(chunks).prompt for _ in range(2)] == ["a red ball", "a red ball"]
    assert told == [
        "3 cues came within one chunk; only the last, 'a red ball', counts; give them times such"
        " as [+5s] to play them in turn"
    ]
    assert list(chunks)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("@seed 7\n", "stdin:2:1: @seed has no effect once the stream has begun; write seed=7"),
        ("caf\udce9\n", "stdin:2:4: byte 0xe9 is not UTF-8"),
        ("5s a star\n", "stdin:2:1: '5s a star' looks like a time"),
        ("- a star\n", "write 'a star'"),
    ],
)
def test_a_line_that_would_be_misread_is_told(fake_stream: ModuleType, line: str, words: str):
    told: list[str] = []
    stream = fake_stream.Stream(StreamConfig())
    live = LiveCues(stream, iter(["a ball\n", line]), warn=told.append, seed=None, duration=None)
    live.wait()
    assert {chunk.prompt for chunk in live.chunks()} == {"a ball"}
    assert len(told) == 1
    assert words in told[0]

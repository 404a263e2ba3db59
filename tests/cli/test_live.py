"""Cues that come while the video is made."""

import dataclasses
import io
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import pytest

from afstream.errors import TimelineError
from afstream.film.film import replay_of
from afstream.film.record import CueEntry
from afstream.spec import StreamConfig
from afstream.timeline import Cue, Moment, Timeline, Unit
from afstream_cli.live import LiveCues

FAKE_STREAM = Path(__file__).with_name("fake_stream.py")
Run = Callable[..., Any]


def decoded(path: Path) -> list[bytes]:
    """The pictures of a video; its metadata name the run."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def play(
    fake_stream: ModuleType,
    lines: Iterator[str],
    seed: int | None = None,
    duration: Moment | None = None,
) -> tuple[list[Any], list[str], LiveCues]:
    """All chunks of a live run, the warnings, and the cues."""
    warnings: list[str] = []
    stream = fake_stream.Stream(StreamConfig(seed=seed or 0))
    live = LiveCues(stream, lines, warn=warnings.append, seed=seed, duration=duration)
    live.wait()
    return list(live.chunks()), warnings, live


def test_one_line_gives_ten_seconds(fake_stream: ModuleType):
    chunks, warnings, _ = play(fake_stream, iter(["a red ball\n"]))
    assert not warnings
    frames = sum(len(chunk.frames) for chunk in chunks)
    assert 160 <= frames < 172


@pytest.mark.parametrize("ahead", [False, True])
def test_later_cues_wait_for_their_time(
    fake_stream: ModuleType, monkeypatch: pytest.MonkeyPatch, ahead: bool
):
    monkeypatch.setattr(fake_stream.Stream, "ahead", ahead)
    later = ["[2c] a cube\n", "0:02 a star\n", "[8c] cut a ring\n"]
    chunks, _, _ = play(fake_stream, iter(["a ball\n", "# remark\n", "\n", *later]))
    opened = [(chunk.index, chunk.prompt) for chunk in chunks if chunk.receipts]
    assert opened == [(0, "a ball"), (2, "a cube"), (3, "a star"), (8, "a ring")]
    asked = [receipt.requested_s for chunk in chunks for receipt in chunk.receipts]
    assert asked == [0.0, chunks[2].start_s, 2.0, chunks[8].start_s]


def test_a_line_takes_effect_at_the_next_chunk(fake_stream: ModuleType):
    seen, given = threading.Event(), threading.Event()

    def lines() -> Iterator[str]:
        yield "a ball\n"
        seen.wait()
        yield "now a star\n"
        given.set()

    stream = fake_stream.Stream(StreamConfig())
    live = LiveCues(stream, lines(), warn=pytest.fail, seed=None, duration=None)
    live.wait()
    chunks = live.chunks()
    prompts = [next(chunks).prompt for _ in range(2)]
    seen.set()
    given.wait()
    prompts += [next(chunks).prompt for _ in range(2)]
    assert prompts == ["a ball", "a ball", "a star", "a star"]


def test_a_line_waits_for_the_chunk_that_was_launched_ahead(
    fake_stream: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_stream.Stream, "ahead", True)
    seen, given = threading.Event(), threading.Event()

    def lines() -> Iterator[str]:
        yield "a ball\n"
        seen.wait()
        yield "now a star\n"
        given.set()

    stream = fake_stream.Stream(StreamConfig())
    live = LiveCues(stream, lines(), warn=pytest.fail, seed=None, duration=None)
    live.wait()
    chunks = live.chunks()
    made = [next(chunks) for _ in range(2)]
    seen.set()
    given.wait()
    made += [next(chunks)]
    # the receipt names chunk 3 by now, but chunk 2 is what was handed out
    assert len(replay_of(stream.state.history, 3).cues) == 1
    made += chunks
    assert [chunk.prompt for chunk in made[:5]] == ["a ball"] * 3 + ["a star"] * 2
    # asked for when chunk 2 was the next to be seen
    assert made[3].receipts[0].requested_s == made[2].start_s
    # ten seconds of the last prompt, whatever was launched beyond
    assert made[-1].start_s - made[3].start_s == pytest.approx(10, abs=0.75)
    assert [str(cue.start) for cue in replay_of(stream.state.history, len(made)).cues] == [
        "[0c]",
        "[3c]",
    ]


def test_the_video_keeps_pace_while_lines_may_come(
    fake_stream: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    waited: list[float] = []

    class News:
        def wait(self, seconds: float) -> None:
            nonlocal now
            waited.append(seconds)
            now += seconds

        def set(self) -> None: ...
        def clear(self) -> None: ...

    hold = threading.Event()

    def lines() -> Iterator[str]:
        yield "a ball\n"
        hold.wait()

    monkeypatch.setattr("afstream_cli.live.time.monotonic", lambda: now)
    live = LiveCues(
        fake_stream.Stream(StreamConfig()), lines(), warn=pytest.fail, seed=None, duration=None
    )
    monkeypatch.setattr(live, "_news", News())
    live.wait()
    made = list(itertools.islice(live.chunks(), 20))
    hold.set()
    assert made[-1].start_s - sum(waited) == pytest.approx(0.75)


def test_bad_lines_are_told_and_passed_over(fake_stream: ModuleType):
    lines = iter(
        ["@tempo 3\n", "0:05 a ball\n", "a wug\n", "a ball\n", "[+1s] a wug\n", "0:70 x\n"]
    )
    chunks, warnings, _ = play(fake_stream, lines)
    assert {chunk.prompt for chunk in chunks} == {"a ball"}
    assert [warning[:8] for warning in warnings[:1]] == ["stdin:1:"]
    assert "leave its time out" in warnings[1]
    assert "wug" in warnings[2]
    assert len(warnings) == 5


@pytest.mark.parametrize("lines", [[], ["\n", "# nothing\n"], ["a wug\n"]])
def test_no_prompt_at_all_is_an_error(fake_stream: ModuleType, lines: list[str]):
    with pytest.raises(TimelineError, match="ended without a prompt"):
        play(fake_stream, iter(lines))


@pytest.mark.parametrize(
    ("lines", "seed", "expected"),
    [
        (["a ball\n"], None, 0),
        (["@seed 4\n", "a ball\n"], None, 4),
        (["@seed 4\n", "a ball\n"], 9, 9),
        (["@seed 4\n", "seed=5 a ball\n"], 9, 5),
    ],
)
def test_seeds(fake_stream: ModuleType, lines: list[str], seed: int | None, expected: int):
    chunks, _, live = play(fake_stream, iter(lines), seed=seed)
    assert live.seed == expected
    assert chunks


def test_of_two_cues_on_one_chunk_the_record_names_the_one_that_counts(fake_stream: ModuleType):
    stream = fake_stream.Stream(StreamConfig())
    for prompt in ("a ball", "a cube"):
        stream.cue(Cue(start=Moment(0), prompt=prompt))
    assert CueEntry.of(next(stream.chunks())).prompt == "a cube"


@pytest.mark.parametrize("given", [True, False])
def test_duration_ends_the_stream(fake_stream: ModuleType, given: bool):
    lines = iter(["a ball\n"] if given else ["@duration 20c\n", "a ball\n"])
    duration = Moment(20, Unit.CHUNKS) if given else None
    chunks, _, _ = play(fake_stream, lines, duration=duration)
    assert len(chunks) == 20


@pytest.mark.parametrize("ahead", [False, True])
def test_a_live_run_can_be_replayed(
    afstream: Run,
    fake_stream: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ahead: bool,
):
    monkeypatch.setattr(fake_stream.Stream, "ahead", ahead)
    typed = "@seed 8\na red ball\n0:02 cut a star\n[40f] seed=2 it turns green\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert afstream("generate", "-p", "-", "-q", "-o", "live.mp4").code == 0
    replay = Timeline.read(tmp_path / "live.timeline.txt")
    assert [str(cue.start) for cue in replay.cues] == ["[0c]", "[3c]", "[4c]"]
    assert afstream("generate", "-p", "live.timeline.txt", "-q", "-o", "again.mp4").code == 0
    assert decoded(tmp_path / "live.mp4") == decoded(tmp_path / "again.mp4")


@pytest.mark.parametrize("pays", [False, True])
def test_a_live_run_is_rehearsed_where_that_pays(
    afstream: Run,
    fake_stream: ModuleType,
    timeline: str,
    monkeypatch: pytest.MonkeyPatch,
    pays: bool,
):
    done: list[str] = []
    monkeypatch.setattr(fake_stream.Stream, "pays_to_warm_up", pays)
    monkeypatch.setattr(
        fake_stream.Stream, "warm_up", lambda _: done.append("warm-up"), raising=False
    )
    typed = "@duration 1s\na red ball\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    live = afstream("generate", "-p", "-", "-o", "live.mp4")
    assert live.code == 0
    assert ("Warming up the GPU" in live.err) == pays
    assert done == ["warm-up"] * pays
    # a film of known prompts is not watched while it is made
    assert afstream("generate", "-p", timeline, "-o", "film.mp4").code == 0
    assert done == ["warm-up"] * pays


def test_what_a_chunk_tells_is_printed(
    afstream: Run, fake_stream: ModuleType, timeline: str, monkeypatch: pytest.MonkeyPatch
):
    whole = fake_stream.Stream._next

    def telling(self: Any, receipts: list[Any]) -> Any:
        chunk = whole(self, receipts)
        return dataclasses.replace(chunk, notes=("no graphs here",) if chunk.index == 1 else ())

    monkeypatch.setattr(fake_stream.Stream, "_next", telling)
    made = afstream("generate", "-p", timeline, "-q", "-o", "film.mp4")
    assert (made.code, made.err) == (0, "afstream: no graphs here\n")


def test_a_pipe_that_stays_open(tmp_path: Path):
    command = [sys.executable, str(FAKE_STREAM), "0", "generate", "-p", "-", "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        prompts: list[str] = []
        for line in ("a red ball", "now a blue ball"):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            wanted = line.removeprefix("now ")
            while not prompts or prompts[-1] != wanted:
                prompts.append(json.loads(process.stdout.readline())["prompt"])
        rest, _ = process.communicate()
    assert process.returncode == 0
    prompts += [json.loads(line)["prompt"] for line in rest.splitlines()]
    # No frame of the old prompt comes after the new one took effect.
    assert prompts == sorted(prompts, reverse=True)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 160


@pytest.mark.parametrize("extra", [["--dry-run"], ["--line", "1"], ["--switch-frames", "40"]])
def test_options_that_need_a_file(afstream: Run, extra: list[str]):
    done = afstream("generate", "-p", "-", *extra)
    assert done.code == 2
    assert "need a file" in done.err

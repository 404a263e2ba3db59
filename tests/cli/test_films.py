"""What `afstream generate` writes: kinds of video, subtitles, records, with a toy stream."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from afstream.film.film import Film
from afstream.film.record import read_record
from afstream.film.states import StateStore
from afstream.video import frames_in, read_tags

Run = Callable[..., Any]
FAKE_STREAM = Path(__file__).with_name("fake_stream.py")
FRAMES = 66
PROMPTS = ["a red ball bounces", "a blue [ball] drifts left", "it turns green", "a star"]


@pytest.mark.parametrize("out", ["v.mp4", "v.MP4", "v.mov", "v.m4v", "v.mkv"])
def test_a_finished_film_is_an_ordinary_file(
    afstream: Run, timeline: str, tmp_path: Path, out: str
):
    assert afstream("generate", "-p", timeline, "-q", "-o", out, "--crf", "30").code == 0
    with av.open(str(tmp_path / out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.profile == "High"
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
        chapters = [chapter["metadata"]["title"] for chapter in container.chapters()]
        assert container.metadata["title"] == "a red ball bounces"
    assert chapters == [
        "a red ball bounces",
        "a blue [ball] drifts left",
        "it turns green",
        "a star",
    ]
    tags = read_tags(tmp_path / out)
    assert tags["run"] == read_record(tmp_path / "v.json").run
    assert (tags["model"], tags["memory"], tags["crf"]) == ("fake", "anchor", "30")


def test_subtitles_are_notes_and_prompts_without_one(afstream: Run, timeline: str, tmp_path: Path):
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4", "--subtitles", "srt")
    afstream("generate", "-p", timeline, "-q", "-o", "w.mp4", "--subtitles", "vtt")
    blocks = (tmp_path / "v.srt").read_text().strip().split("\n\n")
    assert [block.split("\n")[2] for block in blocks] == [
        "a red ball bounces",
        "a blue [ball] drifts left",
        "Dusk",
        "a star",
    ]
    assert blocks[1].split("\n")[1] == "00:00:01,312 --> 00:00:02,062"
    assert blocks[-1].split("\n")[1].endswith("00:00:04,125")
    assert (tmp_path / "w.vtt").read_text().startswith("WEBVTT\n")


def test_notes_are_burnt_into_their_pictures_alone(afstream: Run, timeline: str, tmp_path: Path):
    afstream("generate", "-p", timeline, "-q", "-o", "v")
    afstream("generate", "-p", timeline, "-q", "-o", "w", "--subtitles", "burn")

    def pixels(name: str) -> list[bytes]:
        # each picture also names its run
        import imageio.v3 as iio

        return [iio.imread(path).tobytes() for path in sorted((tmp_path / name).iterdir())]

    differing = [
        at for at, (one, two) in enumerate(zip(pixels("v"), pixels("w"), strict=True)) if one != two
    ]
    # the third prompt has the note
    assert differing == list(range(33, 57))


def test_an_mp4_streams_to_standard_output(timeline: str, tmp_path: Path):
    command = [sys.executable, str(FAKE_STREAM), "0", "generate", "-p", timeline, "-o", "-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    with av.open(io.BytesIO(done.stdout)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    assert b"66 frames" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"timeline.txt"}


def test_standard_output_is_not_shared(afstream: Run, timeline: str):
    done = afstream("generate", "-p", timeline, "-o", "-", "--json")
    assert "both write to standard output" in done.err


@pytest.mark.parametrize(("exact", "frames"), [(True, 40), (False, 45)])
def test_a_duration_cuts_a_longer_timeline_off(
    afstream: Run, timeline: str, tmp_path: Path, exact: bool, frames: int
):
    more = ["--exact"] if exact else []
    done = afstream("generate", "-p", timeline, "-o", "v.mp4", "--duration", "2.5s", *more)
    assert "1 of 4 cues lie beyond" in done.err
    assert frames_in(tmp_path / "v.mp4") == frames


def test_exact_needs_a_length(afstream: Run, tmp_path: Path):
    (tmp_path / "t.txt").write_text("a ball\n")
    (tmp_path / "u.txt").write_text("0:00 a ball\n")
    assert "--exact needs a length" in afstream("generate", "-p", "u.txt", "--exact").err


def test_a_second_run_takes_another_name_and_replaces_nothing(
    afstream: Run, timeline: str, tmp_path: Path
):
    afstream("generate", "-p", timeline, "-q")
    first = (tmp_path / "out.mp4").read_bytes()
    afstream("generate", "-p", timeline, "-q", "--seed", "9")
    assert (tmp_path / "out.mp4").read_bytes() == first
    assert frames_in(tmp_path / "out-2.mp4") == FRAMES
    done = afstream("generate", "-p", timeline, "-o", "out.mp4", "--seed", "9")
    assert "out.mp4 exists already; give --overwrite" in done.err
    assert (tmp_path / "out.mp4").read_bytes() == first
    assert (
        afstream("generate", "-p", timeline, "-o", "out.mp4", "--seed", "9", "--overwrite").code
        == 0
    )
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "out-2.mp4").read_bytes()


def test_of_an_overwritten_film_nothing_old_is_left(
    afstream: Run, timeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("a ball\n"))
    made = ("-q", "-o", "v.mp4", "--sheet", "s.png")
    afstream("generate", "-p", "-", *made, "--subtitles", "srt")
    assert {"v.timeline.txt", "v.srt", "s.png"} <= {path.name for path in tmp_path.iterdir()}
    old_states = {path.name for path in (tmp_path / "v.state").iterdir()}
    monkeypatch.setattr(Film, "end", lambda *_: None)
    afstream("generate", "-p", timeline, *made, "--overwrite")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"timeline.txt", "v.mp4", "v.json", "v.state"}
    assert not old_states & {path.name for path in (tmp_path / "v.state").iterdir()}


def test_the_record_is_there_before_the_first_frame_replaces_anything(
    afstream: Run, timeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4")
    before = (tmp_path / "v.mp4").read_bytes()
    seen: list[tuple[str, int, bool]] = []
    cut = Film._cut

    def look(film: Film, chunk: Any) -> Any:
        record = read_record(tmp_path / "v.json")
        seen.append(
            (record.state, record.output.frames, (tmp_path / "v.mp4").read_bytes() == before)
        )
        return cut(film, chunk)

    monkeypatch.setattr(Film, "_cut", look)
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4", "--overwrite", "--seed", "9")
    assert seen[0] == ("running", 0, True)
    assert seen[1] == ("running", 0, False)


def test_a_live_run_saves_its_timeline_and_record_at_every_cue(
    afstream: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[str, int, int]] = []
    cut = Film._cut

    def look(film: Film, chunk: Any) -> Any:
        if chunk.receipts:
            replay = (tmp_path / "v.timeline.txt").read_text()
            record = read_record(tmp_path / "v.json")
            seen.append((chunk.prompt, replay.count("[") - 1, len(record.cues)))
        return cut(film, chunk)

    monkeypatch.setattr(Film, "_cut", look)
    monkeypatch.setattr("sys.stdin", io.StringIO("a ball\n[2c] a star\n[5c] a cone\n"))
    afstream("generate", "-p", "-", "-q", "-o", "v.mp4")
    assert seen == [("a ball", 1, 1), ("a star", 2, 2), ("a cone", 3, 3)]


def test_a_state_for_which_there_is_no_room_is_left_out(
    afstream: Run, fake_stream: Any, timeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from afstream.errors import OutputError

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(fake_stream.Stream, "save", full)
    done = afstream("generate", "-p", timeline, "-o", "v.mp4")
    assert done.code == 0
    assert "goes on without a saved state: the disk is full" in done.err
    assert frames_in(tmp_path / "v.mp4") == FRAMES


@pytest.mark.parametrize(
    ("out", "more"), [("v.mp4", ["--no-state"]), ("v.webm", []), ("v.gif", [])]
)
def test_no_state_is_saved_when_none_is_wanted_or_of_use(
    afstream: Run, timeline: str, tmp_path: Path, out: str, more: list[str]
):
    afstream("generate", "-p", timeline, "-q", "-o", out, *more)
    assert {path.name for path in tmp_path.iterdir()} == {"timeline.txt", out, "v.json"}
    assert json.loads((tmp_path / "v.json").read_text())["states"] == {"bytes": 0}


class Clock:
    """A clock that stands still but for what a state costs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_states_are_saved_so_seldom_that_they_cost_two_per_cent(tmp_path: Path):
    clock, taken = Clock(), 0.0

    class Stream:
        state_bytes = 200_000_000

        def save(self, path: Path) -> Any:
            nonlocal taken
            path.touch()
            clock.now += 3.0
            taken += 3.0
            return type("Saved", (), {"num_bytes": 1})

    stream: Any = Stream()
    store = StateStore(tmp_path / "states", clock=clock)
    for chunk in range(1, 5001):
        clock.now += 1.0
        if store.is_due(stream):
            store.save(stream, chunk)
    assert 0.015 < taken / clock.now < 0.0205
    assert store.spent_s == taken
    # the newest two
    assert len(store.found) == 2

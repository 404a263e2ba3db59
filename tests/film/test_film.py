"""The order in which a film's files are written, so that none says more than another holds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.fake_stream import Stream

from afstream.errors import OutputError
from afstream.film.files import FilmFiles
from afstream.film.film import Film
from afstream.film.record import RecordWriter
from afstream.film.states import StateStore
from afstream.film.writing import FilmOptions
from afstream.spec import StreamConfig
from afstream.timeline import Timeline
from afstream.video import VideoWriter

TIMELINE = Timeline.parse("@duration 6c\n0:00 a red ball\n0:02 a star\n")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make the first chunks of a film that saves whatever it can; returns its warnings."""
    monkeypatch.setattr("afstream.film.film.SAVE_EVERY_S", -1.0)
    monkeypatch.setattr("afstream.film.states.EVERY_S", 0.0)
    monkeypatch.setattr("afstream.film.states.SHARE", 1e9)

    def run(chunks: int, *, finish: bool = False, states: bool = True) -> list[str]:
        stream, told = Stream.open(StreamConfig()), list[str]()
        film = Film.open(
            FilmFiles.beside(tmp_path / "film.mp4", sheet=tmp_path / "sheet.png", states=states),
            stream,  # pyright: ignore[reportArgumentType]
            FilmOptions(scale=1, overwrite=True),
            timeline=TIMELINE,
            warn=told.append,
        )
        with film:
            for _, chunk in zip(range(chunks), stream.play(TIMELINE), strict=False):
                film.add(chunk)  # pyright: ignore[reportArgumentType]
            if finish:
                film.end("finished")
        return told

    return run


@pytest.mark.parametrize("states", [True, False])
def test_records_and_states_count_frames_that_are_on_the_disk(
    make: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, states: bool
):
    events: list[str] = []

    def noted(kind: type, name: str) -> None:
        call = getattr(kind, name)

        def run(self: object, *given: object, **named: object) -> object:
            events.append(f"{kind.__name__}.{name}")
            return call(self, *given, **named)

        monkeypatch.setattr(kind, name, run)

    for name in ("write", "sync", "finish"):
        noted(VideoWriter, name)
    noted(RecordWriter, "write")
    noted(StateStore, "save")
    make(4, states=states)
    assert events[:2] == ["RecordWriter.write", "VideoWriter.write"]
    on_disk = True
    for event in events:
        if event == "VideoWriter.write":
            on_disk = False
        elif event in ("VideoWriter.sync", "VideoWriter.finish"):
            on_disk = True
        else:
            assert on_disk, events
    assert events.count("StateStore.save") == 4 * states


def test_nothing_of_an_earlier_film_stays_beside_a_new_one(
    make: Callable[..., list[str]], tmp_path: Path
):
    make(6, finish=True)
    states = tmp_path / "film.state"
    (states / "notes.txt").write_text("mine")
    assert (tmp_path / "sheet.png").exists()
    assert {path.name for path in states.glob("*.safetensors")} == {
        "chunk-000005.safetensors",
        "chunk-000006.safetensors",
    }
    make(1)
    assert not (tmp_path / "sheet.png").exists()
    assert sorted(path.name for path in states.iterdir()) == [
        "chunk-000001.safetensors",
        "notes.txt",
    ]


def test_a_disk_without_room_for_a_state_does_not_end_the_film(
    make: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(stream: Stream, path: Path) -> None:
        raise OutputError(f"cannot write {path}")

    monkeypatch.setattr(Stream, "save", full)
    told = make(6, finish=True)
    assert told
    assert all("the film goes on without a saved state" in sentence for sentence in told)
    assert '"state": "finished"' in (tmp_path / "film.json").read_text()

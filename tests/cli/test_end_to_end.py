"""The command with the real stream inside, around a toy model."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from tests.engine.toy import toy_model

from afstream import stream as engine
from afstream.families.base import VideoModel

TIMELINE = """
@seed 3
@duration 0:06
0:00            A red star drifts left.
0:02 blend=1s It turns right.
0:04 cut seed=9 A blue heart spins at night.
"""
TYPED = """
@seed 3
@duration 0:06
A red star drifts left.
0:02 blend=1s It turns right.
0:04 cut seed=9 A blue heart spins at night.
"""


Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def toy_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def open_toy(name: str, **settings: object) -> VideoModel:
        return toy_model()

    monkeypatch.setattr(engine, "open_model", open_toy)
    (tmp_path / "t.txt").write_text(TIMELINE)


def test_same_seed_same_video(command: Run, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        assert command("generate", "-p", "t.txt", "-q", "-o", name).code == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 102
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["model"]["name"] == "toy"
    assert record["device"] == "cpu"
    assert [cue["chunk"] for cue in record["cues"]] == [0, 3, 6]


def packets(video: Path) -> list[bytes]:
    """The encoded pictures of a video; its metadata name the run."""
    with av.open(str(video)) as container:
        return [bytes(packet) for packet in container.demux(video=0)]


def test_live_is_the_same_video_and_so_is_its_replay(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO(TYPED))
    runs = {"live": "-", "replay": "live.timeline.txt", "planned": "t.txt"}
    for name, prompts in runs.items():
        assert command("generate", "-p", prompts, "-q", "-o", f"{name}.mp4").code == 0
    live, replay, planned = (packets(tmp_path / f"{name}.mp4") for name in runs)
    assert live == replay
    assert live == planned


def test_unknown_words_are_named(command: Run, tmp_path: Path):
    (tmp_path / "t.txt").write_text("0:00 A red star drifts left.\n0:05 A purple giraffe sings.\n")
    done = command("generate", "-p", "t.txt")
    assert done.code == 2
    assert "giraffe" in done.err
    assert not (tmp_path / "out.mp4").exists()

"""`afstream bench`, the real stream inside, around a toy model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from tests.engine.toy import toy_model

from afstream import stream as engine
from afstream.families.base import VideoModel
from afstream_cli.figures import CPU_NOTE

Run = Callable[..., Any]
SHORT = ("bench", "--device", "cpu", "--duration", "4s", "--switch-every", "2")


@pytest.fixture(autouse=True)
def toy_inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def open_toy(name: str, **settings: object) -> VideoModel:
        return toy_model()

    monkeypatch.setattr(engine, "open_model", open_toy)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_table_has_the_figures_and_the_caveat(command: Run):
    done = command(*SHORT, "--quiet")
    assert done.code == 0
    assert not done.err
    for words in ("toy", "end to end", "x real time", "first frame, cold", "switch", CPU_NOTE):
        assert words in done.out


def test_json_is_one_object_on_standard_output(command: Run):
    done = command(*SHORT, "--json", "--threads", "1", "--memory", "rolling", "--seed", "5")
    assert done.code == 0
    assert not done.err
    data = json.loads(done.out)
    assert data["complete"]
    assert data["machine"]["threads"] == 1
    assert (data["setup"]["memory"], data["setup"]["seed"]) == ("rolling", 5)
    assert data["switch_ms"]["count"] == 1
    assert data["setup"]["consumer"] == "none"


def test_the_video_can_be_had(command: Run, tmp_path: Path):
    done = command(*SHORT, "--json", "--out", "b.mp4")
    data = json.loads(done.out)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == data["frames"] + 9
    assert data["setup"]["consumer"] == "mp4"


def test_a_video_that_is_there_is_spared(command: Run, tmp_path: Path):
    (tmp_path / "b.mp4").write_bytes(b"mine")
    done = command(*SHORT, "--out", "b.mp4")
    assert done.code == 2
    assert "b.mp4 exists already; give --overwrite" in done.err
    assert (tmp_path / "b.mp4").read_bytes() == b"mine"


def test_progress_is_plain_lines_without_a_terminal(command: Run):
    done = command(*SHORT)
    lines = done.err.splitlines()
    assert lines[-1] == "bench  4.3 of 4.3 s of video"
    assert "bench" not in done.out


def test_one_chunk_measures_nothing_and_says_so(command: Run):
    done = command("bench", "--duration", "9f", "-q")
    assert done.code == 0
    assert "Nothing was measured" in done.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--duration", "soon"], "--duration"),
        (["--size", "big"], "--size"),
        (["--memory", "elephant"], "elephant"),
        (["--device", "abacus"], "abacus"),
        (["--out", "b.avi"], ".avi"),
    ],
)
def test_impossible_settings_are_one_sentence(
    command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], word: str
):
    monkeypatch.undo()
    done = command("bench", *arguments)
    assert done.code == 2
    assert word in done.err
    assert len(done.err.splitlines()) == 1

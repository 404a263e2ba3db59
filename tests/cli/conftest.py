"""The command with a stream that paints plain colours in the place of the real one."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from afstream_cli.app import main

FAKE_STREAM = Path(__file__).with_name("fake_stream.py")


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def fake_stream(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_stream", FAKE_STREAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up by name.
    monkeypatch.setitem(sys.modules, "fake_stream", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run the command in `tmp_path`, errors and exit code included."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Outcome(caught.value.code, out, err)

    return run


@pytest.fixture
def afstream(command: Run, fake_stream: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with the toy stream inside."""
    monkeypatch.setitem(sys.modules, "afstream.stream", fake_stream.as_module())
    return command


@pytest.fixture
def timeline(tmp_path: Path) -> str:
    """A file with two switches and a cut, 4 s long."""
    path = tmp_path / "timeline.txt"
    path.write_text(
        "@seed 3\n@duration 0:04\n"
        "0:00  a red ball bounces\n"
        "0:01  a blue [ball] drifts left\n"
        '0:02  note="Dusk"  it turns green\n'
        "0:03 cut  a star\n"
    )
    return path.name

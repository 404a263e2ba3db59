"""The door of the house: help, version, and errors as sentences."""

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from afstream.errors import ConfigError
from afstream_cli.app import COMMANDS, app, main


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


TORCH_AFTERWARDS = """
import sys
from afstream_cli.app import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "numpy", "av", "PIL"} & set(sys.modules)
    print("LOADED:", *sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "--help"],
        ["download", "--help"],
        ["download", "--list"],
        ["inspect", "--help"],
        ["convert", "--help"],
        ["bench", "--help"],
        ["bench", "kernels", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments: list[str]):
    done = python(TORCH_AFTERWARDS, *arguments)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == "LOADED:\n"


def test_commands_are_listed_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    words = capsys.readouterr().out.split()
    names = [word for word in words if word in COMMANDS]
    assert names == [
        "generate",
        "resume",
        "extend",
        "branch",
        "download",
        "inspect",
        "convert",
        "bench",
        "distill",
    ]
    groups = [str(group.name) for group in app.registered_groups]
    plain = [command.callback.__name__ for command in app.registered_commands]
    assert sorted(names) == sorted([*plain, *groups])


@pytest.mark.parametrize(
    ("timeline", "given", "said"),
    [
        ("0:00 a ball\n0:00 a star\n", [], "t.txt:2"),
        ("0:00 a ball\n", ["--gpu-memory", "12 elephants"], "12 elephants"),
        ("0:00 a ball\n", ["--preset", "elephant"], "preset is 'elephant'"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_what_is_wrong_in_words_is_told_before_torch_is_loaded(
    tmp_path: Path, timeline: str, given: list[str], said: str, dry: list[str]
):
    path = tmp_path / "t.txt"
    path.write_text(timeline)
    done = python(TORCH_AFTERWARDS, "generate", "--prompts", str(path), *given, *dry)
    assert done.returncode == 2
    assert said in done.stderr
    assert "torch" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"afstream {version('afstream')}\n"


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["generate", "--sed", "1"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_users_error_is_one_sentence(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--prompts", "nowhere.txt"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("afstream: nowhere.txt: ")
    assert len(err.splitlines()) == 1


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AFSTREAM_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        main(["generate", "--prompts", "x.txt", "--size", "big"])


AT_THE_END = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
from afstream_cli.app import main
main(["--version"])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_signal_while_python_ends_prints_no_traceback():
    done = python(AT_THE_END)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_long_path_does_not_hide_the_sentence(capsys: pytest.CaptureFixture[str]):
    for arguments in (["resume", "x" * 5000], ["generate", "-p", "t", "--model", "x" * 5000]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "xxx...xxx" in (told := capsys.readouterr().err)
        assert len(told) < 1200

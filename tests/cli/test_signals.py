"""A run that is stopped from outside closes its files and says how much there is."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

from afstream_cli.app import main
from afstream_cli.interruption import Interruption, Stopped, stopped_like_ctrl_c

FAKE_STREAM = Path(__file__).with_name("fake_stream.py")
CHUNK_S = "0.02"


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    (folder / "t.txt").write_text("@duration 1:00:00\n0:00 a red ball\n")
    return subprocess.Popen(
        [sys.executable, str(FAKE_STREAM), CHUNK_S, "generate", *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_is_closed_cleanly(tmp_path: Path, number: signal.Signals):
    with start(tmp_path, "-p", "t.txt", "--json") as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(number)
        rest, err = process.communicate()
    frames = json.loads([*lines, *rest.splitlines()][-1])["total_frames"]
    assert process.returncode == 128 + number
    assert err == (
        f"afstream: stopped; {frames / 16:.2f} s of video ({frames} frames) are kept in out.mp4"
        "; afstream resume out.mp4 goes on\n"
    )
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["state"] == "interrupted"
    assert record["output"]["frames"] == frames


def test_a_killed_run_leaves_a_video(tmp_path: Path):
    with start(tmp_path, "-p", "t.txt", "--json") as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        process.kill()
        process.communicate()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= json.loads(lines[-1])["total_frames"]


def test_a_reader_that_goes_away_ends_the_run(tmp_path: Path):
    with start(tmp_path, "-p", "t.txt", "--json") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 2
    assert "cannot write to standard output, its reader went away; " in err
    assert len(err.splitlines()) == 1


def test_waiting_for_the_first_cue_can_be_stopped(tmp_path: Path):
    with start(tmp_path, "-p", "-") as process:
        assert process.stderr
        assert process.stdin
        process.stdin.write("a wug\n")
        process.stdin.flush()
        # The refusal of the first line shows that the command waits for a better one.
        assert "wug" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert not (tmp_path / "out.mp4").exists()


def test_signals_that_the_parent_ignored_stay_ignored():
    """`nohup` ignores SIGHUP, and a shell without job control SIGINT of what it runs behind."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.signal is None
            signal.raise_signal(signal.SIGTERM)
            assert interruption.signal == signal.SIGTERM
            with pytest.raises(Stopped):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_a_signal_ends_tells_which(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    def work(*_: object, **__: object) -> None:
        with stopped_like_ctrl_c():
            signal.raise_signal(number)

    monkeypatch.setattr("afstream.families.wan.convert.check_out", work)
    with pytest.raises(SystemExit) as caught:
        main(["convert", "a", "b"])
    assert caught.value.code == 128 + number

"""`afstream download`: what is told, what is asked, what is printed to go on with."""

import io
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from tests.hub.fake_hub import REVISION, FakeHub, running

from afstream.hub.catalogue import CATALOGUE, FOLDER

STUDENT = CATALOGUE["self-forcing"]
PATH = STUDENT.files[0].path
PLACE = FOLDER / "self-forcing" / PATH


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running(FakeHub()) as hub:
        for model in CATALOGUE.values():
            hub.add(model.repository, [one.path for one in model.files])
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self):
        return True


@pytest.fixture
def typed(monkeypatch):
    """Give the command a terminal on which a line is typed."""
    return lambda text: monkeypatch.setattr(sys, "stdin", Terminal(text))


def test_the_list_needs_no_hub(command, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for arguments in ([], ["--list"], ["memflow", "--list"]):
        code, out, err = command("download", *arguments)
        assert (code, err) == (0, "")
        for model in CATALOGUE.values():
            assert model.name in out
            assert model.repository in out
            assert all(one.path in out for one in model.files)
        # the lines of a long cell
        assert "not verified: the names are read from the public config" in out


def test_files_sizes_and_licence_are_told_before_the_question(command, hub, typed):
    typed("no\n")
    code, out, err = command("download", "self-forcing")
    assert code == 2
    for told in (REVISION, "cc-by-nc-sa-4.0", PATH, "40.0 KB", "models/self-forcing", " are free"):
        assert told in out
    assert err.startswith("Fetch 40.0 KB into models/self-forcing? [y/N] ")
    assert err.endswith("nothing was fetched, as the answer was not yes\n")
    assert not FOLDER.exists()
    assert not hub.fetched()


@pytest.mark.parametrize("answer", ["", "\n", "maybe\n", "yn\n"])
def test_only_yes_is_yes(command, hub, typed, answer):
    typed(answer)
    assert command("download", "self-forcing").code == 2
    assert not FOLDER.exists()


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_after_yes_the_files_are_there_and_their_use_is_printed(command, hub, typed, answer):
    typed(answer)
    code, out, _ = command("download", "self-forcing")
    assert code == 0
    assert PLACE.read_bytes() == hub.repositories[STUDENT.repository][PATH]
    use = STUDENT.use(FOLDER / "self-forcing")
    assert out.endswith(f"\nafstream download wan-1.3b\n{use}\n")


def test_without_a_terminal_there_is_nobody_to_ask(command, hub, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, err = command("download", "self-forcing")
    assert code == 2
    assert PATH in out
    assert "standard input is no terminal, so nobody can be asked; give --yes" in err
    assert not FOLDER.exists()


def test_yes_asks_nothing_and_the_second_time_nothing_is_fetched(command, hub, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert command("download", "wan-1.3b", "--yes").code == 0
    assert command("download", "self-forcing", "-y", "--quiet").err == ""
    hub.requests.clear()
    code, out, _ = command("download", "self-forcing")
    assert code == 0
    assert ", is there" in out
    # the parts are there by now
    assert "download wan-1.3b" not in out
    assert not hub.fetched()


def test_the_parts_that_are_there_are_taken(command, hub):
    assert command("download", "wan-14b", "--yes").out.endswith(
        "\nafstream download self-forcing\n"
    )
    out = command("download", "self-forcing", "--yes").out
    assert out.endswith(f"\n{STUDENT.use(FOLDER / 'self-forcing', parts='wan-14b')}\n")
    assert "download wan" not in out


def test_a_dry_run_tells_and_fetches_nothing(command, hub):
    code, out, err = command("download", "memflow", "--dry-run")
    assert (code, err) == (0, "")
    assert "lora.pt  " in out
    assert not FOLDER.exists()


def test_a_preset_stands_for_its_files(command, hub):
    code, out, _ = command("download", "longlive-infinity", "--yes", "--to", "big disk/long")
    assert code == 0
    assert "afstream download wan-1.3b --to 'big disk/wan-1.3b'\n" in out
    assert "--student 'big disk/long/models/longlive_base.pt'" in out
    assert out.endswith(" --preset longlive-infinity\n")


def test_another_repository_can_be_named(command, hub):
    hub.add("other/Home", [PATH])
    code, out, _ = command("download", "self-forcing", "--yes", "--from", "other/Home")
    assert code == 0
    assert f"{hub.url}/other/Home at revision {REVISION}" in out
    assert PLACE.read_bytes() == hub.repositories["other/Home"][PATH]


def test_what_was_not_verified_is_told(command, hub):
    out = command("download", "anchor-forcing", "--dry-run").out
    assert "not verified  the names are read from the public config" in out


def test_control_characters_of_the_hub_do_not_reach_the_terminal(command, hub):
    hub.card = {"license": "\x1b[2Jmine"}
    out = command("download", "self-forcing", "--dry-run").out
    assert "\\x1b[2Jmine" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "there is no model 'nothing' to download; choose one of wan-1.3b"),
        (["memflow", "--backbone"], "memflow has no backbone beside its files"),
        (["self-forcing", "--from", "x/y"], "the hub has no x/y (404)"),
        (["self-forcing", "--yes", "--to", "file"], "cannot write file"),
    ],
)
def test_what_cannot_be_is_one_sentence(command, hub, tmp_path, arguments, said):
    (tmp_path / "file").touch()
    code, _, err = command("download", *arguments)
    assert code == 2
    assert err.startswith("afstream: ")
    assert said in err
    assert err.count("\n") == 1


def start(hub, folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", "from afstream_cli.app import main; main()", "download", *arguments],
        cwd=folder,
        env={**os.environ, "HF_ENDPOINT": hub.url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_offline_is_one_sentence(hub, tmp_path):
    done = start(hub, tmp_path, "memflow", HF_HUB_OFFLINE="1")
    out, err = done.communicate()
    assert (done.returncode, out) == (2, "")
    assert (
        err == f"afstream: HF_HUB_OFFLINE is set, so {hub.url} is not asked; unset it to download\n"
    )
    assert not hub.requests


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_a_signal_keeps_the_part_and_says_how_to_go_on(hub, tmp_path):
    """The hub sends 12 MB, of which huggingface_hub has written 10, and then nothing more."""
    data = bytes(range(256)) * 80_000
    hub.repositories[STUDENT.repository][PATH] = data
    hub.stall_after = 12_000_000
    stopped = start(hub, tmp_path, "self-forcing", "--yes")
    written = []
    while stopped.poll() is None and not (written and written[0]):
        written = [one.stat().st_size for one in tmp_path.rglob("*.part")]
        time.sleep(0.05)
    # what is told has left the process long before
    assert stopped.stdout
    assert select.select([stopped.stdout], [], [], 0)[0]
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate()
    assert stopped.returncode == 128 + signal.SIGINT
    assert "afstream: stopped; 10.49 MB of 20.48 MB are in models/self-forcing, and" in err
    assert "goes on from there" in err
    assert "Traceback" not in err
    hub.stall_after = None
    hub.requests.clear()
    again = start(hub, tmp_path, "self-forcing", "--yes")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "10.49 MB of it are there" in out
    assert (tmp_path / PLACE).read_bytes() == data
    assert {one.range for one in hub.requests if "/cdn/" in one.path} == {"bytes=10485760-"}

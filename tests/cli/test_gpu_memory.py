"""What cannot fit is refused before anything is loaded; what fits stands in the record."""

import json

import pytest
from tests.wan_transformer import CONFIG

from afstream import stream as engine
from afstream.config import WAN_BACKBONES

CUE = "0:00 a red star\n"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setitem(WAN_BACKBONES, "wan-tiny", CONFIG)
    (tmp_path / "t.txt").write_text(CUE)


@pytest.fixture
def nothing_loads(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(engine, "open_model", refuse)


GENERATE = ("generate", "-p", "t.txt", "-o", "v.mp4", "-q", "--duration", "9f")
BENCH = ("bench", "--duration", "1s", "--quiet")
COMMANDS = pytest.mark.parametrize("start", [GENERATE, BENCH])


@COMMANDS
def test_what_cannot_fit_is_refused_with_a_plan(command, nothing_loads, tmp_path, start):
    done = command(*start, "--model", "random:wan-14b", "--device", "cpu", "--gpu-memory", "40GiB")
    assert done.code == 2
    assert "the model 'random:wan-14b' at 832x480 needs about" in done.err
    assert "of GPU memory, and 40.0 GiB are there; add --offload " in done.err
    assert done.err.count("\n") == 1
    assert not done.out
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


@COMMANDS
def test_an_amount_that_is_none_is_refused(command, nothing_loads, start):
    done = command(*start, "--gpu-memory", "much")
    assert done.code == 2
    assert "--gpu-memory is 'much'; give an amount of memory such as 12GiB" in done.err


def test_the_record_holds_the_estimate(command, tmp_path):
    given = ("--model", "random:wan-tiny", "--device", "cpu", "--size", "32x32")
    done = command(*GENERATE, *given, "--gpu-memory", "12GiB")
    assert done.code == 0
    record = json.loads((tmp_path / "v.json").read_text())
    found = record["memory_estimate"]
    assert 0 < found["tensor_bytes"] < found["peak_bytes"] < 2**30
    assert {"backbone weights", "KV window", "KV anchors", "decoding"} <= {
        part["name"] for part in found["parts"]
    }
    done = command(*GENERATE, *given, "--overwrite")
    assert json.loads((tmp_path / "v.json").read_text())["memory_estimate"] is None


def test_bench_shows_it_beside_what_was_measured(command):
    given = ("--model", "random:wan-tiny", "--device", "cpu", "--size", "32x32")
    done = command(*BENCH, *given, "--gpu-memory", "1GiB", "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert data["device_bytes"] is None
    assert data["setup"]["gpu_memory"] == 2**30
    assert data["memory_estimate"]["tensor_bytes"] > 0
    done = command(*BENCH, *given, "--gpu-memory", "1GiB")
    assert "estimated GPU memory" in done.out


def test_a_dry_run_takes_the_amount_and_loads_nothing(command, nothing_loads, tmp_path):
    given = ("--model", "random:wan-tiny", "--device", "cpu", "--size", "32x32", "--dry-run")
    assert command(*GENERATE, *given, "--gpu-memory", "1GiB").code == 0
    assert "of GPU memory" in command(*GENERATE, *given, "--gpu-memory", "100MiB").err
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]

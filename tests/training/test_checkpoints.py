"""Runs go on as if they had never stopped; torn checkpoints are noticed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.training.tiny_run import make_trainer, run

from afstream.errors import CheckpointError
from afstream.training.trainer.checkpoints import CheckpointStore


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums are the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        assert found[name].keys() == weights.keys()
        for each, value in weights.items():
            assert torch.equal(found[name][each], value), (name, each)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run's folder with its three checkpoints, and its outcome."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    return folder, run(make_trainer(), folder)[1]


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it to spoil."""
    folder, outcome = whole
    return Path(shutil.copytree(folder, tmp_path / "run")), outcome


def newest(folder):
    return max(folder.glob("step-??????"))


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


TEARS = {
    "weights": lambda folder: truncate(folder / "__0_0.distcp"),
    "index": lambda folder: truncate(folder / ".metadata"),
    "missing": lambda folder: (folder / "__0_0.distcp").unlink(),
    "list": lambda folder: truncate(folder / "manifest.json"),
    "no list": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS)
def test_a_torn_checkpoint_is_told_and_the_one_before_is_used(finished, tear):
    folder, expected = finished
    assert sorted(path.name for path in folder.glob("step-*")) == [
        f"step-00000{step}" for step in (4, 6, 8)
    ]
    tear(newest(folder))
    told, found = run(make_trainer(), folder)
    assert told[0]["step"] == 6
    assert "step-000008 is torn" in told[0]["warning"]
    assert [entry["step"] for entry in told[1:]] == [7, 8]
    equal(found, expected)
    # the torn one was replaced
    again, found = run(make_trainer(), folder)
    assert again == []
    equal(found, expected)


def test_where_all_are_torn_the_run_begins_anew(finished):
    folder, expected = finished
    for path in folder.glob("step-*"):
        TEARS["weights"](path)
    told, found = run(make_trainer(), folder)
    assert [entry["step"] for entry in told] == [0, 0, 0, *range(1, 9)]
    equal(found, expected)


def test_what_a_kill_left_while_writing_is_no_checkpoint(finished):
    folder, _ = finished
    partial = newest(folder).rename(folder / "step-000008.partial")
    (partial / "manifest.json").unlink()
    told, _ = run(make_trainer(), folder)
    assert [entry["step"] for entry in told] == [7, 8]
    assert not partial.exists()


def test_a_sequence_in_the_making_is_not_saved(tmp_path):
    """Its keys and values would be gigabytes; the checkpoint waits for its end."""
    # a sequence has two windows, and five steps end inside one
    run(make_trainer(iterations=7, critic_updates=1), tmp_path, every=5)
    # the run's last window ends a sequence too, so that its result is kept
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000006", "step-000007"]
    manifest = json.loads((tmp_path / "step-000006" / "manifest.json").read_text())
    assert manifest["plain"]["number"] == 3


def test_another_runs_checkpoint_is_refused(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(CheckpointError, match=r"step-000008 is of another run: .* same settings"):
        run(make_trainer(lora=True), folder)
    assert not list(tmp_path.glob("*.partial"))


def test_plain_numbers_come_back_exactly(tmp_path):
    store = CheckpointStore(tmp_path)
    sums = {"loss": [0.1, 1 / 3]}
    weight, place = torch.arange(3.0), torch.zeros(3)
    state = {"step": 3, "seconds": 1 / 7, "sums": sums, "weights": {"a": {"b": weight}}}
    store.save(3, state)
    into = {"step": 0, "seconds": 0.0, "sums": {}, "weights": {"a": {"b": place}}}
    found, warnings = store.load(into)
    assert warnings == []
    assert found is not None
    assert found["seconds"] == 1 / 7
    assert found["sums"] == sums
    assert torch.equal(place, weight)
    shutil.rmtree(tmp_path / "step-000003")
    assert store.load(into) == (None, [])

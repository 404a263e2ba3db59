"""Killed runs go on as if nothing had happened; torn checkpoints are noticed."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
import torch
from tests.training.tiny_run import make_trainer, run

from afstream.errors import CheckpointError
from afstream.training.trainer.checkpoints import CheckpointStore

ITERATIONS = 24
KILLS = 5


@pytest.fixture(autouse=True)
def one_thread():
    """As many as the processes that are killed have: sums are the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killable(folder, goal):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    found = run(make_trainer(iterations=ITERATIONS), folder, every=3)
    torch.save(found[1], goal)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        assert found[name].keys() == weights.keys()
        for each, value in weights.items():
            assert torch.equal(found[name][each], value), (name, each)


def steps_logged(folder):
    log = folder / "log.jsonl"
    # the last line may be half written
    return log.read_text().count("\n") if log.is_file() else 0


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    _, expected = run(make_trainer(iterations=ITERATIONS), tmp_path / "whole", every=3)
    folder, goal = tmp_path / "killed", tmp_path / "outcome.pt"
    # one process loads torch, and its copies are killed
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.tiny_run"])
    chosen = random.Random(11)
    kills = []
    for attempt in range(KILLS + 1):
        process = context.Process(target=killable, args=(folder, goal))
        process.start()
        if attempt < KILLS:
            wait_for_step(process, folder, chosen.randint(2, 6))
            # anywhere within a step, or while a checkpoint is written
            time.sleep(chosen.uniform(0, 0.15))
            process.kill()
        process.join(120)
        kills.append(process.exitcode)
    assert kills[-1] == 0
    assert kills.count(-signal.SIGKILL) >= 3
    equal(torch.load(goal), expected)
    logs = [
        [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole" / "log.jsonl", folder / "log.jsonl")
    ]
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == list(range(1, ITERATIONS + 1))


def wait_for_step(process, folder, more):
    """Until a run has logged some steps after its last checkpoint."""
    saved = [int(path.name[-6:]) for path in folder.glob("step-??????")]
    goal = max(saved, default=0) + more
    # what the last run logged beyond its checkpoint is cut when the next one begins
    while process.is_alive() and steps_logged(folder) > max(saved, default=0):
        time.sleep(0.005)
    while process.is_alive() and steps_logged(folder) < goal:
        time.sleep(0.005)


@pytest.fixture
def finished(tmp_path):
    """A run's folder with its three checkpoints, and its outcome."""
    folder = tmp_path / "run"
    return folder, run(make_trainer(), folder)[1]


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

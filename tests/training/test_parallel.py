"""However a batch is divided, a run learns the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.tiny_run import main, make_trainer, outcome, run
from torch.distributed.tensor import DTensor

from afstream.errors import ConfigError
from afstream.training.trainer.distributed import Processes, joined

SCRIPT = Path(__file__).with_name("tiny_run.py")
# sums in another order, divided by small second moments in the first steps: a hundredth of a step
WEIGHTS, LOSSES = 2e-5, 1e-5


@pytest.fixture
def alone(monkeypatch):
    """No process of a group that someone else started."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def assert_alike(found, expected):
    (told, weights), (wanted, others) = found, expected
    assert [entry["step"] for entry in told] == [entry["step"] for entry in wanted]
    for entry, other in zip(told, wanted, strict=True):
        assert entry.keys() == other.keys()
        for name in entry.keys() - {"step", "seconds"}:
            assert entry[name] == pytest.approx(other[name], rel=LOSSES), name
    for part, values in others.items():
        assert weights[part].keys() == values.keys()
        for name, value in values.items():
            assert (weights[part][name] - value).abs().max() <= WEIGHTS, (part, name)


def test_two_processes_learn_what_one_learns(tmp_path, alone):
    """By torchrun: gradients averaged, FSDP2, FSDP2 with LoRA; against one process."""
    cases = ["full", "full-sharded", "lora-sharded"]
    together, single = tmp_path / "together", tmp_path / "single"
    together.mkdir()
    single.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(SCRIPT), str(together / "found.pt"), *cases]
    paths = [str(Path(__file__).parents[2]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before = torch.get_num_threads()
    main(single / "found.pt", ["full", "lora"])
    torch.set_num_threads(before)
    found, expected = (torch.load(folder / "found.pt") for folder in (together, single))
    for case in cases:
        assert_alike(found[case], expected[case.removesuffix("-sharded")])
        told, weights = found[f"{case}, resumed"]
        assert [entry["step"] for entry in told] == [2, 3, 4]
        assert "step-000004 is torn" in told[0]["warning"]
        for part, values in found[case][1].items():
            assert all(torch.equal(weights[part][name], it) for name, it in values.items())
    # one process reads what two wrote, each a part
    assert len(list((together / "full-sharded").glob("step-000004/*.distcp"))) == 2
    trainer = make_trainer(iterations=4)
    told, weights = run(trainer, together / "full-sharded")
    assert told == []
    for part, values in found["full-sharded"][1].items():
        assert all(torch.equal(weights[part][name], value) for name, value in values.items())


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_learns_what_it_learns_at_once(tmp_path, parts):
    expected = run(make_trainer(iterations=4), tmp_path / "whole")
    assert_alike(run(make_trainer(iterations=4, grad_accum=parts), tmp_path / "parts"), expected)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_layers_computed_twice_learn_the_same(tmp_path, lora):
    expected = run(make_trainer(iterations=4, lora=lora), tmp_path / "whole")
    again = run(make_trainer(iterations=4, lora=lora, recompute=True), tmp_path / "again")
    for part, values in expected[1].items():
        assert all(torch.equal(again[1][part][name], it) for name, it in values.items())


def test_a_group_of_one_shards_and_learns_the_same(tmp_path, alone):
    expected = run(make_trainer(iterations=4), tmp_path / "whole")
    with joined("cpu") as processes:
        assert (processes.rank, processes.count) == (0, 1)
        trainer = make_trainer(processes, iterations=4, sharded=True)
        weights = list(trainer.models.student.parameters())
        assert all(isinstance(weight, DTensor) for weight in weights)
        assert_alike(run(trainer, tmp_path / "sharded", processes), expected)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_bfloat16_computes_and_float32_learns(tmp_path, alone, lora):
    with joined("cpu") as processes:
        trainer = make_trainer(
            processes, lora=lora, sharded=True, recompute=True, dtype=torch.bfloat16, iterations=4
        )
        before = outcome(trainer)["student"]
        told, found = run(trainer, tmp_path, processes)
        student = trainer.models.student
        assert student.dtype == torch.bfloat16
        assert {value.dtype for value in found["student"].values()} == {torch.float32}
        # steps of a thousandth would be lost in the weights' bfloat16
        moved = [float((found["student"][name] - it).abs().max()) for name, it in before.items()]
        assert max(moved) > 1e-4
        assert all(entry["critic"] > 0 for entry in told)


def test_a_batch_that_cannot_be_divided_says_what_can():
    with pytest.raises(ConfigError, match="batch is 4 and there are 3 processes"):
        Processes(count=3).rows(4)
    assert list(Processes(rank=1, count=2).rows(4)) == [2, 3]
    with pytest.raises(ConfigError, match="grad_accum is 3 and a process makes 4 sequences"):
        make_trainer(grad_accum=3)


def test_more_processes_than_gpus_say_so(alone, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 1 of this machine has no GPU"), joined("cuda"):
        pass

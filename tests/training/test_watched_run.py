"""Steps without numbers: nothing learns from them, they are logged, and too many end the run."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import match_trainer
from torch.testing import assert_close

from afstream.errors import TrainingError
from afstream.training.machinery.loop import train
from afstream.training.machinery.optim import MixedOptimizer
from afstream.training.recipes.reading import load_recipe
from afstream.training.runs.stages import Observer


def test_a_step_without_numbers_changes_nothing():
    trainer = match_trainer()
    student, critic = trainer.models.student, trainer.models.critic
    trainer.advance()
    trainer.step += 1
    before = copy.deepcopy(trainer._state())
    hooks = [
        model.head.head.weight.register_hook(lambda gradient: gradient * math.nan)
        for model in (student, critic)
    ]
    told = trainer.advance()
    assert not math.isfinite(told["norm"])
    assert not math.isfinite(told["critic_norm"])
    assert math.isfinite(told["motion"])
    after = trainer._state()
    for name in ("student", "critic", "optimizer", "critic_optimizer"):
        assert_close(after[name], before[name], rtol=0, atol=0)

    for hook in hooks:
        hook.remove()
    trainer.advance()
    for model, name in ((student, "student"), (critic, "critic")):
        assert not torch.equal(model.head.head.weight, before[name]["head.head.weight"])


class Stumbling:
    """A trainer whose steps from the fourth on come out without numbers."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0

    def advance(self) -> dict[str, float]:
        return {"critic": math.nan if self.step >= 3 else 1.0}

    def state(self) -> dict[str, Any]:
        return {"weights": torch.full((1,), float(self.step))}

    def restore(self, state: object) -> None:
        raise AssertionError(state)


def test_too_many_of_them_end_the_run_and_leave_the_checkpoint(tmp_path: Path):
    watch = load_recipe("pocket", ["watch.skips_in_row=2"]).watch
    told: list[Any] = []
    log = tmp_path / "long.jsonl"
    observer = Observer(log, tmp_path / "sheets" / "long", watch, told.append)
    path = tmp_path / "long.checkpoint"
    with pytest.raises(TrainingError, match="2 in a row"):
        train(Stumbling(), 9, path, told.append, every=2, save_every=3, after=observer)
    assert torch.load(path, weights_only=True)["step"] == 3
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert entries == told
    assert entries[1]["warning"].startswith("step 4: critic came out without numbers")
    # the mean of the numbers that were there
    assert entries[2]["critic"] == 1.0


def test_sheets_are_drawn_when_they_are_due(tmp_path: Path):
    drawn: list[Path] = []
    observer = Observer(
        tmp_path / "long.jsonl",
        tmp_path / "sheets" / "long",
        load_recipe("pocket").watch,
        lambda _: None,
        every=4,
        draw=drawn.append,
    )
    for step in range(1, 9):
        observer(step, {"critic": 1.0})
    sheets = tmp_path / "sheets"
    assert drawn == [sheets / "long-000004.png", sheets / "long-000008.png"]


def test_the_mixed_optimizer_skips_as_well():
    layer = torch.nn.Linear(2, 2)
    held = layer.weight.clone()
    optimizer = MixedOptimizer(layer.named_parameters(), lr=0.1, hidden_lr=0.1, hidden_prefix="")
    for broken in (True, False):
        (layer(torch.ones(1, 2)).sum() * (math.nan if broken else 1.0)).backward()
        norm = optimizer.step(1.0)
        assert math.isfinite(norm) is not broken
        assert torch.equal(layer.weight, held) is broken

"""Steps without numbers: nothing learns from them, they are logged, and too many end the run."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import dmd_trainer
from torch.testing import assert_close

from afstream.errors import TrainingError
from afstream.training.recipes.reading import load_recipe
from afstream.training.runs.stages import Observer
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.loop import Trainer, train
from afstream.training.trainer.muon import Muon
from afstream.training.trainer.optim import adamw, trained, update


def test_a_step_without_numbers_changes_nothing():
    trainer = dmd_trainer()
    student, critic = trainer.models.student, trainer.models.critic
    trainer.advance()
    trainer.step += 1
    before = copy.deepcopy(trainer.state())
    assert before
    hooks = [
        model.head.head.weight.register_hook(lambda gradient: gradient * math.nan)
        for model in (student, critic)
    ]
    told = trainer.advance()
    assert not math.isfinite(told["norm"])
    assert not math.isfinite(told["critic_norm"])
    assert math.isfinite(told["motion"])
    after = trainer.state()
    assert after
    for name in ("student", "critic", "student_optimizer", "critic_optimizer"):
        assert_close(after[name], before[name], rtol=0, atol=0)

    for hook in hooks:
        hook.remove()
    trainer.advance()
    for model, name in ((student, "student"), (critic, "critic")):
        assert not torch.equal(model.head.head.weight, before[name]["head.head.weight"])


class Stumbling(Trainer):
    """A trainer whose steps from the fourth on come out without numbers."""

    def __init__(self) -> None:
        super().__init__({})

    def advance(self) -> dict[str, float]:
        return {"critic": math.nan if self.step >= 3 else 1.0}

    def state(self) -> dict[str, Any]:
        return {"weights": torch.full((1,), float(self.step))}

    def restore(self, state: object) -> None:
        raise AssertionError(state)


def test_too_many_of_them_end_the_run_and_leave_the_checkpoint(tmp_path: Path):
    watch = load_recipe("pocket", ["watch.skips_in_row=2"]).watch
    told: list[Any] = []
    store = CheckpointStore(tmp_path / "long")
    observer = Observer(store, told.append, watch)
    with pytest.raises(TrainingError, match="2 in a row"):
        train(Stumbling(), 9, store, told.append, every=2, save_every=3, after=observer)
    assert store.last_step == 3
    entries = [json.loads(line) for line in store.log.path.read_text().splitlines()]
    assert entries == told
    assert entries[1]["warning"].startswith("step 4: critic came out without numbers")
    # the mean of the numbers that were there
    assert entries[2]["critic"] == 1.0


def test_what_led_to_steps_without_numbers_is_not_gone_on_from(tmp_path: Path):
    """Step 3 was saved, with weights that are finite and ruined; step 2 is good."""
    store = CheckpointStore(tmp_path / "long")
    told: list[Any] = []
    with pytest.raises(TrainingError, match=r"the last 2 of 5 steps .* lower the learning rates"):
        train(Stumbling(), 5, store, told.append, save_every=1)
    # nothing was saved while steps came out without numbers
    names = sorted(path.name for path in store.folder.glob("step-*"))
    assert names == ["step-000001", "step-000002", "step-000003.aside"]
    assert "step-000003 is set aside" in told[-1]["warning"]
    for step in (3, 4):
        store.save(step, {"weights": torch.ones(1)})
    assert store.last_step == 4
    assert not list(store.folder.glob("*.aside"))


def test_one_step_without_numbers_at_the_end_is_no_fault_of_the_weights(tmp_path: Path):
    store = CheckpointStore(tmp_path / "long")
    train(Stumbling(), 4, store, lambda _: None, save_every=3)
    assert store.last_step == 4


def test_sheets_are_drawn_when_they_are_due(tmp_path: Path):
    drawn: list[Path] = []
    observer = Observer(
        CheckpointStore(tmp_path / "long"),
        lambda _: None,
        load_recipe("pocket").watch,
        every=4,
        draw=drawn.append,
    )
    (tmp_path / "long").mkdir()
    for step in range(1, 9):
        observer(step, {"critic": 1.0})
    sheets = tmp_path / "sheets"
    assert drawn == [sheets / "long-000004.png", sheets / "long-000008.png"]


def test_muon_and_adamw_skip_together():
    layer = torch.nn.Linear(2, 2)
    held = copy.deepcopy(trained(layer))
    muon = Muon([layer.weight], lr=0.1)
    optimizers = muon, adamw([layer.bias], 0.1, (0.9, 0.98), 0.0)
    for broken in (True, False):
        # the matrix alone is broken, and the bias stays as well
        (
            layer(torch.ones(1, 2)).sum() + layer.weight.sum() * (math.nan if broken else 1.0)
        ).backward()
        norm = update(trained(layer).values(), optimizers, 1.0)
        assert math.isfinite(norm) is not broken
        for name, weight in trained(layer).items():
            assert torch.equal(weight, held[name]) is broken
            assert weight.grad is None

"""`afstream distill`: every stage for a step or two, resuming, interruption, bad settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from afstream.distill.presets import FULL, QUICK, STAGES

from afstream.distill import presets
from afstream.models import open_model
from afstream.spec import ModelSpec

Run = Callable[..., Any]
TINY = ("distill", "--quick", "--steps", "2", "--clips", "2", "--folder", "run")


def test_all_stages_make_a_model_and_are_done_then(command: Run, tmp_path: Path):
    done = command(*TINY)
    assert done.code == 0
    assert not done.out
    for stage in STAGES:
        assert f"stage {stage} took" in done.err
    assert "try it: afstream generate --model run/pocket.safetensors" in done.err
    model = open_model(ModelSpec(name=str(tmp_path / "run" / "pocket.safetensors"), device="cpu"))
    assert model.name == "pocket"
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}

    again = command(*TINY)
    for stage in STAGES[:-1]:
        assert f"stage {stage} is done already" in again.err
    for name in ("clips.safetensors", "firsts.safetensors", "student.checkpoint"):
        assert (tmp_path / "run" / name).stat().st_mtime_ns == made[name]

    further = command(*TINY, "--steps", "3", "--stage", "student")
    assert "stage student goes on from step 2" in further.err
    checkpoint = torch.load(tmp_path / "run" / "student.checkpoint", weights_only=True)
    assert checkpoint["step"] == 3


def test_a_stage_that_comes_too_early_names_the_one_before(command: Run):
    for stage, before in (("clips", "vae"), ("student", "clips"), ("export", "student")):
        done = command(*TINY, "--stage", stage)
        assert done.code == 2
        assert f"--stage {before}" in done.err


@pytest.mark.parametrize(("saved", "words"), [(0, "begins it again"), (7, "step 7 is saved")])
def test_ctrl_c_says_what_is_kept(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: int, words: str
):
    def interrupted(*_: object, **__: object) -> None:
        if saved:
            torch.save({"step": saved}, tmp_path / "run" / "student.checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(presets, "train_student", interrupted)
    done = command(*TINY, "--steps", "9", "--stage", "student")
    assert done.code == 130
    assert done.err.startswith("afstream: stopped in stage student; ")
    assert words in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "teacher"], "vae, clips, student, export, all"),
        (["--recipe", "wan"], "choose one of pocket"),
    ],
)
def test_unknown_names_are_answered_with_the_known(command: Run, arguments: list[str], words: str):
    done = command("distill", *arguments)
    assert done.code == 2
    assert words in done.err


def test_an_unwritable_folder_is_one_sentence(command: Run, tmp_path: Path):
    (tmp_path / "run").write_text("in the way")
    done = command(*TINY, "--stage", "vae")
    assert done.code == 2
    assert done.err.startswith("afstream: cannot write run")


def test_fewer_steps_keep_the_proportions():
    half = FULL.with_steps(FULL.student.steps // 2)
    assert half.vae.steps == half.student.steps == FULL.student.steps // 2
    assert half.student.own_from * 2 == FULL.student.own_from
    assert half.student.first_steps * 2 == FULL.student.first_steps
    one = QUICK.with_steps(1).student
    assert one.warmup == one.decay == 1
    assert FULL.with_clips(10).num_firsts == 10 * FULL.num_firsts // FULL.num_clips


def test_progress_goes_by_kinds_and_steps():
    from afstream_cli.distill import Display
    from afstream_cli.progress import Job

    class Notes(Job):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[object, ...]] = []

        def begin(self, name: str, total: float) -> None:
            self.lines.append(("begin", name, total))

        def update(self, done: float, text: str) -> None:
            self.lines.append((done, text))

    notes = Notes()
    show = Display("clips", 0, notes)
    for kind, done in (("firsts", 4), ("firsts", 8), ("clips", 2)):
        show({"stage": "clips", "kind": kind, "done": done, "of": 8})
    Display("student", 40, notes)(json.loads('{"step": 10, "seconds": 60.0, "first": 0.5}'))
    assert notes.lines == [
        ("begin", "clips: firsts", 8),
        (4, "4 of 8"),
        (8, "8 of 8"),
        ("begin", "clips: clips", 8),
        (2, "2 of 8"),
        ("begin", "student", 40),
        (10, "step 10 of 40, first 0.5, 60 s, 3 min left"),
    ]

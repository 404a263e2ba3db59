"""A run's folder: held by one run at a time, its recipe recorded, a changed one told."""

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from afstream.errors import ConfigError, OutputError
from afstream.training.recipes.reading import load_recipe
from afstream.training.runs.opening import Run, claim
from afstream.training.runs.record import read_record
from afstream.training.runs.stages import RunContext, Stage
from afstream.training.trainer.checkpoints import CheckpointStore

FASTER = "teacher.lr=1.0"


class Runs:
    """A folder of a run with the stages `clips`, `teacher` and `short`; nothing is trained."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, *settings):
        recipe = load_recipe("pocket", settings)
        context = RunContext(recipe=recipe, folder=self.folder)
        common: Any = {"context": context, "summary": "", "run": lambda _: None}
        stages = (
            Stage(name="clips", files=("windows.safetensors",), **common),
            Stage(name="teacher", files=("teacher.safetensors",), steps=6, **common),
            Stage(name="short", files=("short-student.safetensors",), steps=4, **common),
            Stage(name="export", files=("pocket.safetensors",), always=True, **common),
        )
        return Run(recipe=recipe, folder=self.folder, stages=stages)

    def claim(self, *settings, resume=True, accept=False):
        with claim(self.run(*settings), resume=resume, accept=accept):
            return read_record(self.folder)

    def save(self, stage, step):
        CheckpointStore(self.folder / stage).save(step, {"step": step, "w": torch.zeros(2)})

    def finish(self, name):
        (self.folder / f"{name}.safetensors").write_text("made")


@pytest.fixture
def runs(tmp_path):
    """A run whose clips are made, and whose teacher has done three of its six steps."""
    made = Runs(tmp_path / "run")
    made.claim(resume=False)
    made.finish("windows")
    made.save("teacher", 3)
    return made


def refusal(runs, *settings, **how):
    with pytest.raises(ConfigError) as caught:
        runs.claim(*settings, **how)
    return str(caught.value)


def test_the_same_recipe_goes_on(runs):
    before = (runs.folder / "recipe.json").read_bytes()
    runs.claim()
    assert (runs.folder / "recipe.json").read_bytes() == before
    assert runs.claim().changes == ()
    assert "holds a run already" in refusal(runs, resume=False)


def test_a_changed_recipe_is_refused_with_its_keys(runs):
    before = (runs.folder / "recipe.json").read_bytes()
    assert refusal(runs, FASTER) == (
        f"{runs.folder} was begun with another recipe (teacher.lr 0.001 → 1.0); give the recipe as"
        " it was, or --accept-changes to go on with the new one"
    )
    many = (FASTER, "short.batch=3", "long.memory=recache", "sheet.every=7", "log.save_every=1")
    said = refusal(runs, *many)
    told = "teacher.lr 0.001 → 1.0, short.batch 8 → 3, long.memory 'anchor' → 'recache', 2 more"
    assert f"({told})" in said
    assert (runs.folder / "recipe.json").read_bytes() == before


def test_accepted_changes_are_recorded_with_the_step(runs):
    record = runs.claim(FASTER, "short.batch=3", "log.save_every=1", accept=True)
    assert record.recipe["teacher"]["lr"] == 1.0
    shared = {"log.save_every": (100, 1)}
    assert [one.model_dump() for one in record.changes] == [
        {"stage": "clips", "step": 0, "finished": True, "changes": shared},
        {
            "stage": "teacher",
            "step": 3,
            "finished": False,
            "changes": {"teacher.lr": (0.001, 1.0), **shared},
        },
    ]
    # what was accepted is the run's recipe from now on
    assert runs.claim(FASTER, "short.batch=3", "log.save_every=1") == record
    assert "teacher.lr 1.0 → 0.001" in refusal(runs, "short.batch=3", "log.save_every=1")
    again = runs.claim(FASTER, "short.batch=3", "log.save_every=2", accept=True)
    assert len(again.changes) == 4


def test_a_finished_stage_keeps_the_recipe_under_which_it_ran(runs):
    runs.save("teacher", 6)
    runs.finish("teacher")
    runs.save("short", 2)
    record = runs.claim(FASTER, "short.batch=3", accept=True)
    told = [(one.stage, one.step, one.finished, set(one.changes)) for one in record.changes]
    assert told == [
        ("teacher", 6, True, {"teacher.lr"}),
        ("short", 2, False, {"short.batch"}),
    ]
    ran = record.ran()
    assert ran["recipe"]["teacher"]["lr"] == 0.001
    assert ran["recipe"]["short"]["batch"] == 3
    assert ran["changes"][1]["changes"] == {"short.batch": (8, 3)}
    # its files are removed, and it begins anew under the new one
    (runs.folder / "teacher.safetensors").unlink()
    assert not runs.claim(FASTER, "short.batch=3").changes[0].finished
    for path in (runs.folder / "teacher").glob("*/*"):
        path.unlink()
    for path in [*(runs.folder / "teacher").glob("*"), runs.folder / "teacher"]:
        path.rmdir()
    record = runs.claim(FASTER, "short.batch=3")
    assert [one.stage for one in record.changes] == ["short"]
    assert record.ran()["recipe"]["teacher"]["lr"] == 1.0


def test_a_change_counts_from_the_checkpoint_that_is_whole(runs):
    runs.save("teacher", 4)
    path = runs.folder / "teacher" / "step-000004" / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert runs.claim(FASTER, accept=True).changes[-1].step == 3


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"model": "poc', "5", "null", "{}" * 2, "[" * 100_000, '{"model": 5}'],
)
def test_a_record_that_cannot_be_read_is_one_sentence(runs, text):
    (runs.folder / "recipe.json").write_text(text)
    said = refusal(runs)
    assert said.startswith(str(runs.folder / "recipe.json"))
    assert said.endswith("remove it, and --resume goes on with the recipe as it is given now")
    (runs.folder / "recipe.json").unlink()
    runs.claim()


def test_a_record_of_wrong_types_is_one_sentence(runs):
    path = runs.folder / "recipe.json"
    content = json.loads(path.read_text())
    for changes in ([5], [{"stage": "teacher"}], [{"stage": 1, "step": -1}]):
        path.write_text(json.dumps({**content, "changes": changes}))
        assert "remove it" in refusal(runs)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "is no ordinary file" in refusal(runs)


def test_a_recipe_of_an_earlier_version_is_a_changed_one(runs):
    content = json.loads((runs.folder / "recipe.json").read_text())
    del content["teacher"]["lr"]
    content["teacher"]["old"] = 1
    (runs.folder / "recipe.json").write_text(json.dumps(content))
    assert "(teacher.lr absent → 0.001, teacher.old 1 → absent)" in refusal(runs)
    (runs.folder / "recipe.json").write_text('{"model": "wan"}')
    assert "holds a run of a wan recipe, and this is a pocket recipe" in refusal(runs)


def test_a_folder_is_one_runs_at_a_time(runs):
    with claim(runs.run(), resume=True):
        with pytest.raises(OutputError, match=r"being written by another run .* with --out"):
            runs.claim()
        # nor by one that would begin
        with pytest.raises(OutputError):
            runs.claim(resume=False)
    with suppress(RuntimeError), claim(runs.run(), resume=True):
        raise RuntimeError
    runs.claim()


def test_of_several_processes_the_first_one_holds_it(runs):
    """All of them are refused alike."""
    told = []
    others: Any = SimpleNamespace(is_first=False, agree=lambda _: told[0] if told else None)
    with claim(runs.run(), resume=True, processes=others):
        runs.claim()
    told.append(OutputError("held"))
    with pytest.raises(OutputError, match="held"), claim(runs.run(), resume=True, processes=others):
        pass


def test_what_killed_runs_were_writing_is_removed(runs):
    left = [
        runs.folder / ".teacher.safetensors.0123abcd.partial",
        runs.folder / "teacher" / ".log.jsonl.0123abcd.partial",
    ]
    for path in left:
        path.write_text("half")
    half = runs.folder / "teacher" / "step-000004.partial"
    half.mkdir()
    (half / "__0_0.distcp").write_text("half")
    mine = runs.folder / "notes.partial"
    mine.write_text("mine")
    runs.claim()
    assert not any(path.exists() for path in (*left, half))
    assert mine.exists()

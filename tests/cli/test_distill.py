"""`afstream distill`: every stage for a step or two, resuming, interruption, bad settings."""

import json
import resource
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from afstream import Stream, Timeline
from afstream.checkpoints.files import save_tensors
from afstream.families.pocket.model import POCKET_PATH, load_parts
from afstream.lock import hold
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from afstream.training.recipes.reading import load_recipe
from afstream.training.runs import opening as run_module
from afstream.training.runs import stages as stages_module
from afstream.training.runs.opening import open_run
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.distributed import Processes
from afstream_cli.progress import Job
from afstream_cli.training import Display

Run = Callable[..., Any]
STAGES = ("vae", "clips", "student", "teacher", "short", "long", "retention", "export")
SMALL = (
    "vae.steps=1",
    "vae.batch=1",
    "vae.statistics_clips=1",
    "clips.firsts=2",
    "clips.clips=1",
    "clips.switch_frames=[6]",
    "clips.windows=1",
    "student.steps=2",
    "student.first_steps=1",
    "student.first_batch=2",
    "student.side_batch=1",
    "student.clip_batch=1",
    "teacher.steps=1",
    "teacher.batch=1",
    "short.iterations=1",
    "short.critic_updates=1",
    "short.batch=1",
    "short.lr=1e-2",
    "short.critic_lr=1e-2",
    "long.iterations=3",
    "long.critic_updates=1",
    "long.batch=1",
    "long.max_frames=39",
    "retention.steps=1",
    "retention.batch=1",
    "retention.whole_batch=1",
    "export.stage=long",
    "log.report_every=1",
    "sheet.every=3",
    'sheet.timeline="@duration 9f\\n0:00 a red ball"',
)
TINY = (
    "distill",
    "--recipe",
    "pocket-quick",
    "--out",
    "run",
    *(part for setting in SMALL for part in ("--set", setting)),
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_stages_make_a_model_and_are_done_then(command: Run, tmp_path: Path):
    done = command(*TINY)
    assert done.code == 0, done.err
    assert not done.out
    for stage in STAGES:
        assert f"stage {stage} took" in done.err
    assert "try it: afstream generate --model run/pocket.safetensors" in done.err
    folder = tmp_path / "run"
    assert [entry["step"] for entry in lines(folder / "short" / "log.jsonl")] == [1]
    told = lines(folder / "long" / "log.jsonl")
    assert {"student", "norm", "dmd_grad", "critic", "critic_norm", "motion"} <= told[0].keys()
    assert told[2]["sheet"] == "run/sheets/long-000003.png"
    assert [path.name for path in (folder / "sheets").iterdir()] == ["long-000003.png"]

    # what was exported is the moving average of the last stage, and it streams
    stream = Stream.open(ModelSpec(name=str(folder / "pocket.safetensors"), device="cpu"))
    short, long = (
        {
            who: load_file(folder / f"{stage}-{who}.safetensors")
            for who in ("student", "critic", "ema")
        }
        for stage in ("short", "long")
    )
    assert isinstance(stream.model.backbone, Backbone)
    for name, weight in stream.model.backbone.state_dict().items():
        assert torch.equal(weight, long["ema"][name].half().float())
    name = "blocks.0.ffn.0.weight"
    assert not torch.equal(long["ema"][name], long["student"][name])

    # each stage begins where the one before ended: learning rates tell how far a weight can go
    student, teacher = (load_file(folder / f"{who}.safetensors") for who in ("student", "teacher"))
    began = {"student": student[f"backbone.{name}"], "critic": teacher[name]}
    for who, weight in began.items():
        assert 5e-3 < (short[who][name] - weight).abs().max() < 2e-2
        assert 0 < (long[who][name] - short[who][name]).abs().max() < 5e-4
    [chunk] = stream.play(Timeline.parse("@duration 9f\n0:00 A red star drifts left."))
    assert chunk.frames.shape == (9, 64, 64, 3)
    assert chunk.frames.dtype == np.uint8

    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    refused = command(*TINY)
    assert refused.code == 2
    assert "run holds a run already; go on with it by --resume" in refused.err
    again = command(*TINY, "--resume")
    assert again.code == 0, again.err
    for stage in STAGES[:-1]:
        assert f"stage {stage} is already done" in again.err
    for name in ("clips.safetensors", "firsts.safetensors", "windows.safetensors"):
        assert (folder / name).stat().st_mtime_ns == made[name]
    assert (folder / "long").stat().st_mtime_ns == made["long"]

    more = (*TINY, "--set", "teacher.steps=2", "--stage", "teacher", "--resume")
    further = command(*more, "--accept-changes")
    assert "stage teacher goes on from step 1" in further.err
    assert CheckpointStore(folder / "teacher").last_step == 2


def test_the_last_stages_can_begin_with_the_embedded_model(command: Run, tmp_path: Path):
    embedded = (*TINY, "--set", "start.student=embedded")
    for stage in ("clips", "teacher", "short"):
        done = command(*embedded, "--stage", stage, "--resume")
        assert done.code == 0, done.err
    by_itself = ("--set", "retention.begins_with=student", "--set", "export.stage=retention")
    for stage in ("retention", "export"):
        done = command(*embedded, *by_itself, "--stage", stage, "--resume", "--accept-changes")
        assert done.code == 0, done.err
    taught = load_parts(tmp_path / "run" / "pocket.safetensors")
    given = load_parts()
    name = "blocks.0.ffn.0.weight"
    assert not torch.equal(taught.backbone.state_dict()[name], given.backbone.state_dict()[name])
    assert not torch.equal(taught.text.position, given.text.position)
    assert torch.equal(taught.vae.latent_mean, given.vae.latent_mean)

    # and a model file is as good a beginning
    mine = ("--set", f"start.student={tmp_path / 'run' / 'pocket.safetensors'}", "--out", "other")
    done = command(*embedded, *mine, "--stage", "clips")
    assert done.code == 0, done.err
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"windows.safetensors", "teacher.safetensors", "short-ema.safetensors"} <= made
    assert not {"vae.safetensors", "firsts.safetensors", "student"} & made
    done = command(*embedded, "--stage", "student", "--resume")
    assert done.code == 2
    assert "this recipe has clips, teacher, short, long, retention, export" in done.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("start.student=gone.safetensors", "must be new, embedded, or the path of a pocket model"),
        ("start.device=nowhere", "start.device is 'nowhere', which is not there; use cpu"),
    ],
)
def test_what_to_begin_with_must_be_there(command: Run, tmp_path: Path, setting: str, words: str):
    done = command(*TINY, "--set", setting)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_stage_that_comes_too_early_names_the_one_before(command: Run):
    before = {"clips": "vae", "student": "clips", "teacher": "student", "export": "long"}
    before |= {"retention": "long"}
    for stage, needed in before.items():
        done = command(*TINY, "--stage", stage, "--resume")
        assert done.code == 2
        assert f"--stage {needed} first" in done.err


def test_the_plan_writes_nothing(command: Run, tmp_path: Path):
    done = command(*TINY, "--dry-run")
    assert done.code == 0
    for number, stage in enumerate(STAGES, start=1):
        assert f"{number}. {stage}: " in done.out
    assert "3 steps, batch 1, lr 2e-05, critic_lr 1e-05" in done.out
    assert "18 new in each later one, up to 39, a switch in each sequence" in done.out
    assert "begins with short and teacher" in done.out
    assert not list(tmp_path.iterdir())

    wan = command("distill", "--recipe", "wan-1.3b", "--dry-run")
    assert wan.code == 0
    assert "model wan, everything into runs/wan-1.3b" in wan.out
    assert all(word in wan.out for word in ("1. ode", "2. short", "3. long", "4. export"))
    assert not list(tmp_path.iterdir())


def test_the_plan_names_the_processes_that_memory_is_counted_for(command: Run):
    """As docs/distill_plan.md has it for 64 GPUs and for one."""
    assert "memory per process on 1 process" in command(*TINY, "--dry-run").out
    many = command("distill", "--recipe", "wan-1.3b", "--stage", "short", "--dry-run")
    assert "memory per process on 64 processes 17.7 GB" in many.out
    assert "on one GPU 856 GB" in many.out
    setting = ("--set", "sizes.processes=1")
    one = command("distill", "--recipe", "wan-1.3b", "--stage", "short", "--dry-run", *setting)
    assert "memory per process on 1 process 856 GB" in one.out
    assert "on one GPU" not in one.out


@pytest.mark.parametrize(("saved", "words"), [(0, "begins it again"), (7, "step 7 is saved")])
def test_ctrl_c_says_what_is_kept(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: int, words: str
):
    def interrupted(*_: object, **__: object) -> None:
        if saved:
            CheckpointStore(tmp_path / "run" / "vae").save(saved, {"step": saved})
        raise KeyboardInterrupt

    monkeypatch.setattr(stages_module, "train", interrupted)
    done = command(*TINY, "--set", "vae.steps=9", "--stage", "vae")
    assert done.code == 130
    assert done.err.startswith("afstream: stopped in stage vae; ")
    assert words in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "tutor"], "short, long, retention, export, or all of them"),
        (["--recipe", "sora"], "choose one of pocket, pocket-quick, wan-1.3b, or the path of"),
        (["--set", "long.lr"], "write it as table.key=value"),
        (
            ["--set", "long.speed=2"],
            "pocket.toml, [long]: unknown key 'speed' (did you mean",
        ),
        (["--recipe", "wan-1.3b"], "Wan2.1-T2V-1.3B holds no Wan2.1 model; give a folder as it is"),
    ],
)
def test_bad_settings_are_one_sentence(command: Run, arguments: list[str], words: str):
    done = command("distill", *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_an_unwritable_folder_is_one_sentence(command: Run, tmp_path: Path):
    (tmp_path / "run").write_text("in the way")
    done = command(*TINY, "--stage", "vae")
    assert done.code == 2
    assert done.err.startswith("afstream: cannot write run")


def test_tensorboard_gets_every_number(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    curves: list[tuple[str, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == "run/tensorboard"

        def add_scalar(self, name: str, value: float, step: int) -> None:
            assert isinstance(value, float)
            curves.append((name, step))

        def close(self) -> None:
            curves.append(("closed", 0))

    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", SummaryWriter, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    done = command(*TINY, "--stage", "vae", "--tensorboard")
    assert done.code == 0, done.err
    assert {("vae/loss", 1), ("vae/norm", 1), ("vae/seconds", 1)} <= set(curves)
    assert curves[-1] == ("closed", 0)


def test_tensorboard_that_is_not_there_is_one_sentence(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = command(*TINY, "--stage", "vae", "--tensorboard")
    assert done.code == 2
    assert "--tensorboard needs the package tensorboard" in done.err
    assert not list(tmp_path.iterdir())


def test_of_several_processes_one_speaks(command: Run, monkeypatch: pytest.MonkeyPatch):
    @contextmanager
    def second(recipe: object) -> Generator[Processes, None, None]:
        yield Processes(rank=1)

    monkeypatch.setattr(run_module, "together", second)
    done = command(*TINY, "--stage", "vae")
    assert (done.code, done.out, done.err) == (0, "", "")


class Notes(Job):
    """A display that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[object, ...]] = []

    def begin(self, name: str, total: float) -> None:
        self.lines.append(("begin", name, total))

    def update(self, done: float, text: str) -> None:
        self.lines.append((done, text))

    def say(self, text: str) -> None:
        self.lines.append((text,))


def test_progress_goes_by_kinds_and_steps():
    run = open_run(load_recipe("pocket", ["long.iterations=3000"]), Path("run"))
    stages = {stage.name: stage for stage in run.stages}
    notes = Notes()
    show = Display(stages["clips"], notes)
    for kind, done in (("firsts", 4), ("firsts", 8), ("clips", 2)):
        show({"kind": kind, "done": done, "of": 8})
    show = Display(stages["long"], notes)
    show({"step": 10, "seconds": 60.0, "student": 0.5, "norm": 0.25, "critic": 2.0})
    show({"step": 11, "warning": "step 11: the DMD gradient explodes"})
    show({"step": 12, "sheet": "run/sheets/long-000012.png"})
    assert notes.lines == [
        ("begin", "clips: firsts", 8),
        (4, "4 of 8"),
        (8, "8 of 8"),
        ("begin", "clips: clips", 8),
        (2, "2 of 8"),
        ("begin", "long", 3000),
        (
            10,
            "step 10 of 3000, student 0.5, gradient norm 0.25, critic 2, 1.33 samples/s,"
            " 5.0 h left",
        ),
        ("warning: stage long, step 11: the DMD gradient explodes",),
        ("stage long, step 12: run/sheets/long-000012.png",),
    ]


def test_weights_that_are_not_finite_are_never_kept(command: Run, tmp_path: Path):
    """A learning rate beyond all measure: the run stops, and goes on from where it was well."""
    embedded = (*TINY, "--set", "start.student=embedded", "--set", "log.save_every=1")
    assert command(*embedded, "--stage", "clips").code == 0
    teacher = (*embedded, "--stage", "teacher", "--resume")
    assert command(*teacher).code == 0
    (tmp_path / "run" / "teacher.safetensors").unlink()
    more = ("--set", "teacher.steps=3", "--set", "teacher.warmup=1", "--accept-changes")
    lost = command(*teacher, *more, "--set", "teacher.hidden_lr=1e38")
    assert lost.code == 2
    assert "step 2 is not saved: teacher." in lost.err
    assert "holds values that are not finite; lower the learning rates, and go on" in lost.err
    assert "from step 1, the last saved, with --resume --accept-changes" in lost.err
    assert not (tmp_path / "run" / "teacher.safetensors").exists()
    well = command(*teacher, *more)
    assert well.code == 0, well.err
    made = load_file(tmp_path / "run" / "teacher.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in made.values())


def test_a_changed_recipe_and_a_folder_in_use_are_one_sentence(command: Run, tmp_path: Path):
    clips = (*TINY, "--set", "start.student=embedded", "--stage", "clips", "--resume")
    assert command(*clips).code == 0
    changed = (*clips, "--set", "teacher.lr=2e-3")
    for arguments, words in (
        (changed, "run was begun with another recipe (teacher.lr 0.001 → 0.002); give"),
        ((*changed, "--accept-changes"), ""),
        (changed, ""),
        (clips, "(teacher.lr 0.002 → 0.001)"),
    ):
        done = command(*arguments)
        assert done.code == (2 if words else 0), done.err
        assert words in done.err
        assert done.err.count("\n") == 1
    with hold(tmp_path / "run", what="folder"):
        done = command(*changed)
    assert done.code == 2
    assert "run is being written by another run (process" in done.err
    assert (tmp_path / "run" / "windows.safetensors").stat().st_mode & 0o444 == 0o444


def test_a_damaged_file_of_an_earlier_stage_is_one_sentence(command: Run, tmp_path: Path):
    embedded = (*TINY, "--set", "start.student=embedded", "--resume")
    assert command(*embedded, "--stage", "clips").code == 0
    path = tmp_path / "run" / "windows.safetensors"
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[-1] ^= 1
    for content in (b"", whole[:100], whole[:-1], bytes(turned), POCKET_PATH.read_bytes()):
        path.write_bytes(content)
        done = command(*embedded, "--stage", "teacher")
        assert done.code == 2
        assert "windows.safetensors is not what stage clips makes: " in done.err
        assert "remove it, and --stage clips makes it again" in done.err
        assert done.err.count("\n") == 1
    save_tensors(path, {"latents": torch.zeros(3)})
    done = command(*embedded, "--stage", "teacher")
    assert "it holds something else" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("room", [1_000, 100_000])
def test_a_full_disk_is_one_sentence(command: Run, tmp_path: Path, room: int):
    """Of the record, of a checkpoint."""
    embedded = (*TINY, "--set", "start.student=embedded", "--resume")
    assert command(*embedded, "--stage", "clips").code == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        done = command(*embedded, "--stage", "teacher")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(("afstream: cannot write", "afstream: checkpoint"))
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert command(*embedded, "--stage", "teacher").code == 0

"""The pocket recipe at full size, and a rehearsal of it that takes minutes and learns nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from afstream.distill.recipe import (
    CLIP_FRAMES,
    NUM_CLIPS,
    NUM_FIRSTS,
    Report,
    export,
    make_training_clips,
    train_student,
)
from afstream.distill.student_stage import StudentConfig
from afstream.distill.vae_stage import VaeStageConfig, train_vae

STAGES = ("vae", "clips", "student", "export")
# First chunks are worth a clip each, and are cheap to make.
FIRSTS_PER_CLIP = NUM_FIRSTS // NUM_CLIPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How long and on how much each stage of the pocket recipe works.

    Attributes:
        vae: the codec's stage.
        student: the student's stage.
        num_clips: clips to train the student on.
        num_firsts: first chunks to train it on.
        clip_frames: latent frames of a clip.
    """

    vae: VaeStageConfig = field(default_factory=VaeStageConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    num_clips: int = NUM_CLIPS
    num_firsts: int = NUM_FIRSTS
    clip_frames: int = CLIP_FRAMES

    def with_steps(self, steps: int) -> Preset:
        """The same with other numbers of steps, the parts of a run in proportion."""
        share = steps / self.student.steps
        student = replace(
            self.student,
            steps=steps,
            first_steps=round(self.student.first_steps * share),
            own_from=round(self.student.own_from * share),
            warmup=max(round(self.student.warmup * share), 1),
            decay=max(round(self.student.decay * share), 1),
        )
        warmup = max(round(self.vae.warmup_steps * steps / self.vae.steps), 1)
        return replace(
            self, vae=replace(self.vae, steps=steps, warmup_steps=warmup), student=student
        )

    def with_clips(self, num_clips: int) -> Preset:
        """The same with other numbers of clips and first chunks."""
        return replace(self, num_clips=num_clips, num_firsts=FIRSTS_PER_CLIP * num_clips)


FULL = Preset()
QUICK = (
    Preset(
        vae=VaeStageConfig(batch=2, window_frames=9, log_every=5, statistics_clips=4),
        student=StudentConfig(first_batch=8, side_batch=4, clip_batch=2),
        clip_frames=12,
    )
    .with_steps(20)
    .with_clips(16)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The pocket recipe in one folder.

    Attributes:
        folder: what the stages make stands here, and their checkpoints and logs.
        preset: how much of everything.
        out: where the finished model goes.
    """

    folder: Path
    preset: Preset
    out: Path

    def steps(self, stage: str) -> int:
        """Optimizer steps of a stage, 0 if it has none."""
        return {"vae": self.preset.vae.steps, "student": self.preset.student.steps}.get(stage, 0)

    def made(self, stage: str) -> Path:
        """The file that a stage ends with."""
        return {
            "vae": self.folder / "vae" / "vae.safetensors",
            "clips": self.folder / "clips.safetensors",
            "student": self.folder / "student.checkpoint",
            "export": self.out,
        }[stage]

    def is_done(self, stage: str) -> bool:
        """Whether running the stage would change nothing."""
        if stage == "student":
            return self.saved_step(stage) >= self.preset.student.steps
        return stage != "export" and self.made(stage).is_file()

    def saved_step(self, stage: str) -> int:
        """The step of a stage's checkpoint, 0 without one."""
        path = {
            "vae": self.folder / "vae" / "checkpoint.pt",
            "student": self.made("student"),
        }.get(stage)
        if path is None or not path.is_file():
            return 0
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]

    def do(self, stage: str, report: Report) -> None:
        """Run a stage from where it stopped to its end.

        Args:
            stage: one of `STAGES`.
            report: called with what is worth telling: `step`, losses and `seconds`, or `done`.

        Raises:
            CheckpointError: the stage before it has not been run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        preset = self.preset
        if stage == "vae":
            train_vae(preset.vae, self.folder / "vae", report)
        elif stage == "clips":
            make_training_clips(
                self.folder,
                report,
                num_clips=preset.num_clips,
                num_firsts=preset.num_firsts,
                clip_frames=preset.clip_frames,
            )
        elif stage == "student":
            train_student(self.folder, preset.student, report)
        else:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            export(self.folder, self.out)

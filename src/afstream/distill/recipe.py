"""The pocket recipe: codec, clips, student, export, each stage a function of one folder.

Stages resume where they stopped and skip what is done already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from afstream.config import BackboneConfig
from afstream.distill.data import Clips, make_clips
from afstream.distill.student_stage import Student, StudentConfig, StudentTrainer
from afstream.errors import CheckpointError
from afstream.geometry import CHUNK_FRAMES
from afstream.pocket.model import save_pocket
from afstream.pocket.text import vocabulary
from afstream.pocket.vae import PocketVae, load_vae

Report = Callable[[Mapping[str, Any]], None]

POCKET_BACKBONE = BackboneConfig(
    dim=192, ffn_dim=576, freq_dim=128, text_dim=96, text_len=24, num_heads=6, num_layers=6
)

CLIP_FRAMES = 33
NUM_CLIPS = 2400
NUM_FIRSTS = 9600
# switches fall at any time, most often once the window is full; 0 is no switch
SWITCH_FRAMES = (0, 0, 0, 6, 9, 12, 15, 18, 18, 21, 21, 24, 24)


def make_training_clips(
    folder: Path,
    report: Report,
    *,
    seed: int = 1,
    num_clips: int = NUM_CLIPS,
    num_firsts: int = NUM_FIRSTS,
    clip_frames: int = CLIP_FRAMES,
) -> None:
    """Stage `clips`: render, caption and encode the student's training data."""
    vae = _trained_vae(folder)
    inside = tuple(at for at in SWITCH_FRAMES if at < clip_frames)
    for name, count, frames, switches in (
        ("firsts", num_firsts, CHUNK_FRAMES, (0,)),
        ("clips", num_clips, clip_frames, inside),
    ):
        path = folder / f"{name}.safetensors"
        if path.is_file():
            continue

        def tell(done: int, name: str = name, count: int = count) -> None:
            report({"stage": "clips", "kind": name, "done": done, "of": count})

        clips = make_clips(
            vae, count=count, num_frames=frames, switch_frames=switches, seed=seed, report=tell
        )
        partial = path.with_suffix(".partial")
        clips.save(partial)
        partial.replace(path)


def train_student(folder: Path, config: StudentConfig, report: Report) -> None:
    """Stage `student`: teacher forcing, then the model's own past."""
    trainer = StudentTrainer(
        config,
        POCKET_BACKBONE,
        vocabulary(),
        Clips.load(_made(folder / "clips.safetensors", "clips")),
        Clips.load(_made(folder / "firsts.safetensors", "clips")),
    )
    trainer.train(folder, report)


def export(folder: Path, path: Path) -> None:
    """Stage `export`: write codec and the student's averaged weights as one pocket model."""
    content = torch.load(
        _made(folder / "student.checkpoint", "student"), map_location="cpu", weights_only=True
    )
    student = Student(BackboneConfig(**content["backbone"]), content["words"])
    student.load_state_dict(content["average"])
    recipe = {
        "steps": content["step"],
        "seconds": content["seconds"],
        "student": content["config"],
        "backbone": asdict(student.backbone.config),
    }
    save_pocket(
        path, backbone=student.backbone, text=student.text, vae=_trained_vae(folder), recipe=recipe
    )


def _trained_vae(folder: Path) -> PocketVae:
    return load_vae(_made(folder / "vae" / "vae.safetensors", "vae"))


def _made(path: Path, stage: str) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path} is not there yet; run --stage {stage} first")
    return path

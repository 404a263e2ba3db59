"""`afstream distill`: train a model by a recipe of this repository."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afstream.errors import ConfigError
from afstream_cli import options

if TYPE_CHECKING:
    from afstream.distill.presets import Run
    from afstream_cli.progress import Job

RECIPES = ("pocket",)
ALL = "all"
STAGE_NAMES = ("vae", "clips", "student", "export", ALL)
INTERRUPTED = 130
MINUTE_S = 60
# What a report holds beside losses.
PLACE = ("step", "seconds")

Recipe = Annotated[str, typer.Option(metavar="NAME", help="What to train: pocket.")]
Stage = Annotated[
    str,
    typer.Option(metavar="NAME", help="vae, clips, student, export, or all in this order."),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Everything made on the way; else runs/pocket or runs/pocket-quick."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="PATH", help="The model; else pocket.safetensors in the folder."
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="A rehearsal of minutes: full-size networks, a few steps on a few clips. The"
        " model it ends with shows noise.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Optimizer steps of vae and student; else the recipe's."),
]
Clips = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Clips to train the student on; else the recipe's."),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="To compute with; else as torch chooses.")
]


def distill(
    recipe: Recipe = "pocket",
    stage: Stage = ALL,
    folder: Folder = None,
    out: Out = None,
    quick: Quick = False,
    steps: Steps = None,
    clips: Clips = None,
    threads: Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a model by a recipe of this repository.

    Stages take up where they stopped and skip what is done, so the same command goes on after
    an interruption. Each keeps checkpoints and a log (JSON lines) in the folder.
    """
    for name, given, known in (("recipe", recipe, RECIPES), ("stage", stage, STAGE_NAMES)):
        if given not in known:
            raise ConfigError(f"--{name} is {given!r}; choose one of {', '.join(known)}")
    import torch

    from afstream.distill.presets import FULL, QUICK, STAGES, Run
    from afstream_cli.outputs import refused
    from afstream_cli.progress import open_job

    if threads:
        torch.set_num_threads(threads)
    preset = QUICK if quick else FULL
    preset = preset.with_steps(steps) if steps else preset
    preset = preset.with_clips(clips) if clips else preset
    folder = folder or Path("runs", f"{recipe}-quick" if quick else recipe)
    run = Run(folder=folder, preset=preset, out=out or folder / f"{recipe}.safetensors")
    for name in STAGES if stage == ALL else (stage,):
        try:
            with open_job(quiet=quiet) as job:
                do_stage(run, name, job)
        except KeyboardInterrupt:
            typer.echo(f"afstream: stopped in stage {name}; {kept(run, name)}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            raise refused(folder, error) from error
    if stage in (ALL, "export") and not quiet:
        typer.echo(f"try it: afstream generate --model {run.out} --prompts TIMELINE", err=True)


def do_stage(run: Run, stage: str, job: Job) -> None:
    """Run one stage under a progress display."""
    if run.is_done(stage):
        job.say(f"stage {stage} is done already: {run.made(stage)}; remove it to do it again")
        return
    if saved := run.saved_step(stage):
        job.say(f"stage {stage} goes on from step {saved}")
    began = time.monotonic()
    run.do(stage, Display(stage, run.steps(stage), job))
    job.say(f"stage {stage} took {time.monotonic() - began:.0f} s: {run.made(stage)}")


class Display:
    """Shows what a stage reports.

    Args:
        stage: its name.
        steps: optimizer steps in all, 0 for a stage without.
        job: where to show it.
    """

    def __init__(self, stage: str, steps: int, job: Job) -> None:
        self._stage = stage
        self._steps = steps
        self._job = job
        self._part = ""

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Show one report: steps with losses, or things done of a kind."""
        if "step" in entry:
            self._show(self._stage, entry["step"], self._steps, training(entry, self._steps))
        else:
            done, total = entry["done"], entry["of"]
            self._show(f"{self._stage}: {entry['kind']}", done, total, f"{done} of {total}")

    def _show(self, part: str, done: int, total: int, text: str) -> None:
        if part != self._part:
            self._part = part
            self._job.begin(part, total)
        self._job.update(done, text)


def training(entry: Mapping[str, Any], steps: int) -> str:
    """A step and its losses, in one line."""
    step, seconds = entry["step"], entry["seconds"]
    losses = [f"{name} {value:.4g}" for name, value in entry.items() if name not in PLACE]
    left_min = seconds / step * (steps - step) / MINUTE_S
    parts = [f"step {step} of {steps}", *losses, f"{seconds:.0f} s", f"{left_min:.0f} min left"]
    return ", ".join(parts)


def kept(run: Run, stage: str) -> str:
    """What an interrupted stage leaves behind."""
    if step := run.saved_step(stage):
        return f"step {step} is saved in {run.folder}, and the same command goes on from there"
    return "it had saved nothing yet, and the same command begins it again"

"""`afstream distill`: train a model by a recipe, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afstream_cli import options

if TYPE_CHECKING:
    from afstream.training.runs.opening import Run
    from afstream.training.runs.stages import Stage
    from afstream.training.trainer.log import Report
    from afstream_cli.progress import Job

ALL = "all"
INTERRUPTED = 130

Recipe = Annotated[
    str,
    typer.Option(metavar="NAME|FILE", help="pocket, pocket-quick, wan-1.3b, or a .toml file."),
]
StageName = Annotated[
    str, typer.Option("--stage", metavar="NAME", help="Run one stage, or all in order.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the recipe, such as long.lr=2e-5; may be given several times.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder for everything that is made.",
        show_default="runs/ and the recipe's name",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: go on with another recipe than the run began with; it is recorded.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Only show the stages, their steps and the memory that they need."
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write the log for TensorBoard.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=options.MOST_THREADS,
        help="CPU threads.",
        show_default="torch's choice",
    ),
]


def distill(
    recipe: Recipe = "pocket",
    stage: StageName = ALL,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    dry_run: DryRun = False,
    tensorboard: TensorBoard = False,
    threads: Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a model by a recipe, stage by stage.

    The folder holds everything: checkpoints, logs (JSON lines), contact sheets and the finished
    model. With --resume, stages continue where they stopped, and finished ones are skipped.
    """
    import torch

    from afstream.errors import OutputError
    from afstream.training.recipes.reading import load_recipe, recipe_name
    from afstream.training.runs.opening import choose_stages, claim, open_run, together
    from afstream_cli.progress import SilentJob, open_job

    wanted = load_recipe(recipe, settings or ())
    folder = out or Path("runs", recipe_name(recipe))
    planned = open_run(wanted, folder)
    names = [each.name for each in choose_stages(planned, stage)]
    if dry_run:
        show_plan(planned, choose_stages(planned, stage))
        return
    if threads:
        torch.set_num_threads(threads)
    board, speaks = None, True
    try:
        with together(wanted) as processes:
            speaks = processes.is_first
            if tensorboard and speaks:
                from afstream_cli.board import Board

                board = Board(folder / "tensorboard")
            run = open_run(wanted, folder, processes)
            with claim(run, resume=resume, accept=accept_changes, processes=processes):
                for each in (each for each in run.stages if each.name in names):
                    with open_job(quiet=quiet) if speaks else SilentJob() as job:
                        do_stage(each, folder, board, job)
    except OSError as error:
        raise OutputError.of(folder, error) from error
    finally:
        if board:
            board.close()
    finished = planned.stages[-1]
    if names[-1] == finished.name and speaks and not quiet:
        option = "--model" if wanted.model == "pocket" else "--model FOLDER --student"
        typer.echo(
            f"try it: afstream generate {option} {finished.outputs[0]} --prompts TIMELINE", err=True
        )


def show_plan(run: Run, stages: Sequence[Stage]) -> None:
    """Show what the stages will do, and the memory that they need."""
    typer.echo(f"model {run.recipe.model}, everything into {run.folder}")
    for number, stage in enumerate(stages, start=1):
        first, *others = stage.describe()
        typer.echo(f"\n{number}. {first}")
        for line in others:
            typer.echo(f"   {line}")
    typer.echo("\nmemory is counted from the sizes; other activations come on top")


def do_stage(stage: Stage, folder: Path, board: Report | None, job: Job) -> None:
    """Run one stage under a progress display."""
    from afstream_cli.training import Display

    files = ", ".join(str(path) for path in stage.outputs)
    if stage.is_done:
        job.say(f"stage {stage.name} is already done: {files}; remove it to do it again")
        return
    if saved := stage.saved_step:
        job.say(f"stage {stage.name} goes on from step {saved}")
    began = time.monotonic()
    try:
        stage.run(Display(stage, job, board))
    except KeyboardInterrupt:
        job.say(f"stopped in stage {stage.name}; {kept(stage, folder)}")
        raise typer.Exit(INTERRUPTED) from None
    job.say(f"stage {stage.name} took {time.monotonic() - began:.0f} s: {files}")


def kept(stage: Stage, folder: Path) -> str:
    """What an interrupted stage leaves behind."""
    if step := stage.saved_step:
        return f"step {step} is saved in {folder}, and --resume goes on from there"
    return "it had saved nothing yet, and --resume begins it again"

"""`afstream download`: a published model to a folder, after telling what it is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from afstream.errors import ConfigError, DownloadError
from afstream.hub.catalogue import CATALOGUE, FOLDER, PARTS, published
from afstream.text import printable
from afstream_cli import options
from afstream_cli.findings import PLAIN_WIDTH, size

if TYPE_CHECKING:
    from afstream.hub.download import Plan
    from afstream_cli.progress import Job

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A model of the list; without one, the list is shown."),
]
To = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="DIR", help="Where it goes.", show_default=f"{FOLDER}/NAME, made if missing"
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="OWNER/NAME",
        help="Another repository that has the same files.",
        show_default="as in the list",
    ),
]
Backbone = Annotated[
    bool, typer.Option("--backbone", help="Also Wan2.1's own backbone, which training needs.")
]
Listing = Annotated[bool, typer.Option("--list", help="Show which models there are, and stop.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Tell files, sizes and licence, and fetch nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before fetching.")]


def download(
    name: Name = None,
    to: To = None,
    source: Source = None,
    backbone: Backbone = False,
    listing: Listing = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a published student, or the parts of Wan2.1, from Hugging Face.

    Files, sizes and licence are told first, as the hub states them now. A download that was
    stopped goes on with the same command. It needs huggingface_hub, which is the extra hub.
    """
    if name is None or listing:
        show_catalogue()
        return
    from afstream.hub.download import plan_download
    from afstream_cli.interruption import stopped_like_ctrl_c

    model = published(name)
    folder = to or FOLDER / model.name
    with stopped_like_ctrl_c():
        plan = plan_download(model, folder, repository=source or "", with_backbone=backbone)
        show_plan(plan)
        plan.check()
        if dry_run:
            return
        if plan.missing_bytes and not yes:
            ask(plan)
        run(plan, quiet=quiet)
    show_use(plan, preset=name if name in model.presets else "")


def ask(plan: Plan) -> None:
    """Ask the user whether to go on.

    Raises:
        ConfigError: there is nobody to ask.
        DownloadError: the answer is not yes.
    """
    if not sys.stdin.isatty():
        raise ConfigError(
            "nothing was fetched: standard input is no terminal, so nobody can be asked; give --yes"
            " if that is what you want"
        )
    sys.stderr.write(f"Fetch {size(plan.missing_bytes)} into {printable(plan.folder)}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DownloadError("nothing was fetched, as the answer was not yes")


def run(plan: Plan, *, quiet: bool) -> None:
    """Fetch and check the files, and say how far it came when it is stopped."""
    from afstream.hub.download import download as fetch
    from afstream_cli.progress import open_job
    from afstream_cli.streams import tell

    try:
        with open_job(quiet=quiet) as job:
            fetch(plan, Progress(job))
    except KeyboardInterrupt:
        done = plan.num_bytes - plan.missing_bytes
        tell(
            f"afstream: stopped; {size(done)} of {size(plan.num_bytes)} are in {plan.folder}, and"
            " the same command goes on from there"
        )
        raise


class Progress:
    """Shows each step of a download as a part of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._step = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show how far a step is."""
        if step != self._step:
            self._job.begin(printable(step), total)
            self._step = step
        self._job.update(done, f"{size(done)} of {size(total)}")


def show_catalogue() -> None:
    """Print the models that can be downloaded."""
    rows: list[tuple[str, str]] = []
    for model in CATALOGUE.values():
        rows.append((model.name, model.repository))
        rows += [("", one.path) for one in model.files]
        presets = " or ".join(model.presets)
        notes = (model.remark, f"--preset {presets}" if presets else "")
        rows += [("", note) for note in notes if note]
        rows += [("", f"not verified: {model.doubt}")] if model.doubt else []
    show(rows)


def show_plan(plan: Plan) -> None:
    """Print what a download will fetch, and where it will go."""
    show(plan_rows(plan))


def plan_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """A row for each thing to know before a download."""
    repository = plan.repository
    yield "from", f"{repository.card} at revision {repository.revision}"
    yield "licence", repository.licence or f"none stated; see {repository.card}"
    if plan.model.doubt:
        yield "not verified", plan.model.doubt
    if plan.model.remark:
        yield "note", plan.model.remark
    for one in plan.files:
        state = ", is there" if one.there else ""
        if not one.there and one.num_fetched:
            state = f", {size(one.num_fetched)} of it are there"
        yield one.content, f"{one.remote.path}  {size(one.remote.num_bytes)}{state}"
    yield "in all", f"{size(plan.num_bytes)}, of which {size(plan.missing_bytes)} are to be fetched"
    yield "to", f"{plan.folder}, where {size(plan.free_bytes)} are free"


def show_use(plan: Plan, preset: str) -> None:
    """Print what to type next."""
    model, beside = plan.model, plan.folder.parent
    there = (
        row.name for row in CATALOGUE.values() if row.backbone and (beside / row.name).is_dir()
    )
    parts = next(there, "")
    steps = [model.use(plan.folder, preset, parts=parts or PARTS)]
    if model.presets and not parts:
        option = f" --to {shlex.quote(str(beside / PARTS))}" if beside != FOLDER else ""
        steps.insert(0, f"afstream download {PARTS}{option}")
    sys.stdout.write("\n".join(map(printable_lines, steps)) + "\n")


def printable_lines(command: str) -> str:
    """A command of several lines, each made safe to print."""
    return "\n".join(map(printable, command.splitlines()))


def show(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns on standard output."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(printable(name), printable(value))
    Console(highlight=False, markup=False, width=width).print(table)

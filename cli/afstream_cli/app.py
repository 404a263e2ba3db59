"""The afstream command: its subcommands, and the boundary where errors become sentences."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

from afstream.errors import AfstreamError
from afstream_cli.bench import bench
from afstream_cli.bench_kernels import bench_kernels
from afstream_cli.convert import convert
from afstream_cli.distill import distill
from afstream_cli.generate import generate
from afstream_cli.inspect import inspect
from afstream.film.versions import package_version

USER_ERROR = 2
INTERRUPTED = 130

COMMANDS = ("generate", "inspect", "convert", "bench", "distill")


class InOrder(TyperGroup):
    """Lists the commands in the order in which they are needed."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The names of the commands."""
        return list(COMMANDS)


app = typer.Typer(
    name="afstream",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Importing a command must stay cheap: modules that need torch are imported when it runs.
app.command()(generate)
app.command()(inspect)
app.command()(convert)
# `afstream bench` alone measures a stream; other benchmarks are its subcommands.
benches = typer.Typer(subcommand_metavar="[COMMAND [ARGS]...]")
benches.callback(invoke_without_command=True)(bench)
benches.command("kernels")(bench_kernels)
app.add_typer(benches, name="bench")
app.command()(distill)


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        typer.echo(f"afstream {package_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Stream a video from a timeline of prompts."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    A user's error becomes one sentence on stderr and exit code 2; AFSTREAM_TRACEBACK=1 shows
    where it came from.
    """
    try:
        app(arguments)
    except AfstreamError as error:
        if os.environ.get("AFSTREAM_TRACEBACK") == "1":
            raise
        typer.echo(f"afstream: {error}", err=True)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

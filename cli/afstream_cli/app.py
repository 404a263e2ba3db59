"""The afstream command: its subcommands, and the boundary where errors become sentences."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from afstream.errors import OutputError
from afstream.film.versions import package_version
from afstream.text import short_words
from afstream_cli.bench import bench
from afstream_cli.bench_kernels import bench_kernels
from afstream_cli.continuing import branch, extend, resume
from afstream_cli.convert import convert
from afstream_cli.distill import distill
from afstream_cli.download import download
from afstream_cli.faults import explain
from afstream_cli.generate import generate
from afstream_cli.inspect import inspect
from afstream_cli.interruption import stop_code, unhandled
from afstream_cli.streams import safe_streams, tell

COMMANDS = (
    *("generate", "resume", "extend", "branch"),
    *("download", "inspect", "convert", "bench", "distill"),
)


class Commands(TyperGroup):
    """The commands in the order in which they are needed, each of which a signal may end."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The names of the commands."""
        return list(COMMANDS)

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ANN401
        """Run a command; Typer itself would end after any signal as after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(stop_code(error)) from error
        except BrokenPipeError as error:
            raise OutputError("what reads the output went away") from error


app = typer.Typer(
    name="afstream",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Importing a command must stay cheap: modules that need torch are imported when it runs.
for command in (generate, resume, extend, branch):
    app.command()(command)
app.command()(download)
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

    A user's error becomes one sentence on stderr and exit code 2, any other one sentence, a report
    in a file and exit code 1; AFSTREAM_TRACEBACK=1 shows where it came from.
    """
    with safe_streams():
        try:
            code = exit_code(arguments)
            sys.stdout.flush()
        except Exception as error:
            if os.environ.get("AFSTREAM_TRACEBACK") == "1":
                raise
            code, sentence = explain(error, sys.argv if arguments is None else arguments)
            tell(f"afstream: {short_words(sentence)}")
        except KeyboardInterrupt as error:
            code = stop_code(error)
    # a second signal, while Python ends, would be told as an error of torch's
    atexit.register(unhandled)
    sys.exit(code)


def exit_code(arguments: Sequence[str] | None) -> int:
    """Run the command line; returns its exit code."""
    try:
        app(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0

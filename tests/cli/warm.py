"""Runs the command many times, each in a fork of one process that has imported everything.

Run as a script it reads a list of cases as JSON, and prints a list of outcomes.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

FAKE_STREAM = Path(__file__).with_name("fake_stream.py")
# What commands import when they run.
WARM = (
    "torch",
    "rich.progress",
    "rich.table",
    "typer.rich_utils",
    "afstream.bench",
    "afstream.families.registry",
    "afstream.memory_plan.found",
    "afstream.video",
    "afstream_cli.findings",
    "afstream_cli.making",
    "afstream_cli.preview",
    "afstream_cli.source",
)
CLOSED, BROKEN = "closed", "broken"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line, and where its standard streams lead.

    Attributes:
        arguments: the words after `afstream`.
        stdin: a path, or `CLOSED`.
        stdout: a path, `CLOSED`, or `BROKEN` for a pipe that nobody reads; empty to catch it.
        stderr: likewise.
        encoding: of standard output.
        plant: a Python statement that is run before the command.
        ends: end as Python does, which takes a while, so that what is written then is seen.
    """

    arguments: list[str]
    stdin: str = os.devnull
    stdout: str = ""
    stderr: str = ""
    encoding: str = "utf-8"
    plant: str = ""
    ends: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind: its exit code, and what was caught of its output."""

    code: int
    out: str
    err: str


def run_warm(folder: Path, cases: list[Case], *, fake: bool = True) -> list[Outcome]:
    """Run cases in a folder, with the stream that paints colours unless `fake` is false."""
    done = subprocess.run(
        [sys.executable, __file__, "fake" if fake else "real"],
        cwd=folder,
        input=json.dumps([asdict(case) for case in cases]),
        env=os.environ | {"XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        check=True,
    )
    return [Outcome(**one) for one in json.loads(done.stdout)]


def redirect(number: int, place: str, caught: int) -> None:
    """Lead a standard stream to its place."""
    if place == CLOSED:
        os.close(number)
        name = ("stdin", "stdout", "stderr")[number]
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)
    elif place == BROKEN:
        unread, end = os.pipe()
        os.close(unread)
        os.dup2(end, number)
    elif place:
        os.dup2(os.open(place, os.O_RDWR if number else os.O_RDONLY), number)
    else:
        os.dup2(caught, number)


def main() -> None:
    """Run each case in a fork."""
    if sys.argv[1] == "fake":
        sys.path.insert(0, str(FAKE_STREAM.parent))
        import fake_stream

        sys.modules["afstream.stream"] = fake_stream.as_module()
    else:
        importlib.import_module("afstream.stream")

    for name in WARM:
        importlib.import_module(name)
    from afstream_cli.app import main

    outcomes: list[dict[str, object]] = []
    for case in (Case(**one) for one in json.load(sys.stdin)):
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - ends with main
        child = os.fork()
        if not child:
            outcomes.clear()
            for number, place in enumerate((case.stdin, case.stdout, case.stderr)):
                redirect(number, place, (0, out.fileno(), err.fileno())[number])
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding=case.encoding, errors="strict")
            exec(case.plant)
            try:
                main(case.arguments)
            except SystemExit as end:
                if case.ends:
                    raise
                os._exit(end.code if isinstance(end.code, int) else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts: list[str] = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        outcomes.append({"code": code, "out": texts[0], "err": texts[1]})
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main()

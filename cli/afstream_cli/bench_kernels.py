"""`afstream bench kernels`: each kernel checked against its twin, then timed.

The code that measures is `kernel_bench` in the checkout's `benchmarks/`; the installed package does
not contain it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from afstream.errors import ConfigError
from afstream_cli import options

WRONG = 1
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu or cuda.", show_default="cuda where there is one"),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="480p|pocket",
        help="Wan 1.3B at 832x480 (on a GPU only), or the pocket model.",
        show_default="the larger that fits",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Run only this one of our backends: triton, sdpa or reference."
    ),
]
NoCompile = Annotated[
    bool,
    typer.Option(
        "--no-compile",
        help="On a GPU, skip the comparison with torch.compile, which takes minutes.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Also append all figures, with the machine, as one line of JSON to the file.",
        rich_help_panel=options.REPORT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The file for --json, and --json itself.",
        show_default="benchmarks/results/kernels.jsonl of the checkout",
        rich_help_panel=options.REPORT,
    ),
]


def bench_kernels(
    device: Device = None,
    size: Size = None,
    backend: Backend = None,
    no_compile: NoCompile = False,
    as_json: Json = False,
    out: Out = None,
    quiet: options.Quiet = False,
) -> None:
    """Check each kernel against its twin, then time it.

    Median milliseconds with a cold cache, TFLOP/s or GB/s, the share of the floor, and how many
    times as long each alternative takes: SDPA on keys rotated again and concatenated, eager RoPE,
    torch.compile. A kernel that is wrong is not timed, and the command exits with 1.

    Timings on a CPU say nothing about a GPU: only the reference path is timed there. With
    TRITON_INTERPRET=1, --backend triton checks the kernels there.
    """
    find_kernel_bench()

    from afstream_cli.progress import open_job

    with open_job(quiet=quiet) as job:
        from kernel_bench import RESULTS_FILE, append_line, check_appendable, run_kernel_bench

        path = out or (RESULTS_FILE if as_json else None)
        if path:
            check_appendable(path)
        parts = 0

        def show(done: int, total: int, text: str) -> None:
            nonlocal parts
            if total != parts:
                parts = total
                job.begin("bench kernels", total)
            job.update(done, f"{done} of {total}, {text}")

        report = run_kernel_bench(
            device, size, backend=backend, compiled=not no_compile, report=show
        )
    if path:
        append_line(path, report.as_data())

    from kernel_bench.figures import show_kernels

    show_kernels(report, path)
    if report.faults:
        raise typer.Exit(WRONG)


def find_kernel_bench() -> None:
    """Make the checkout's `kernel_bench` importable.

    Raises:
        ConfigError: afstream does not run from a checkout.
    """
    if not (BENCHMARKS / "kernel_bench").is_dir():
        raise ConfigError(
            "bench kernels needs a checkout of afstream, because the installed package does not"
            " contain the benchmarks; clone the repository and run `make setup` there"
        )
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))

"""`afstream bench`: speed, latency and memory of a whole stream on this machine."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afstream.errors import ConfigError
from afstream.spec import StreamConfig
from afstream_cli import options
from afstream_cli.stream_options import with_stream_options

if TYPE_CHECKING:
    from afstream.bench import Meter
    from afstream.video import VideoWriter
    from afstream_cli.interruption import Interruption
    from afstream_cli.progress import Job

LOAD = "Load"
SIGNAL_EXIT = 128

Duration = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="Video to make, such as 1:00, 60s or 960f.", rich_help_panel=LOAD
    ),
]
SwitchEvery = Annotated[
    float,
    typer.Option(
        metavar="S",
        min=0,
        help="Seconds of video per prompt; 0 for a single prompt.",
        rich_help_panel=LOAD,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Also write the video, and count the time for it.",
        show_default="frames are thrown away",
        rich_help_panel=LOAD,
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", min=0, help="Random seed.", rich_help_panel=options.MODEL)
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=options.MOST_THREADS,
        help="Threads that compute on the CPU.",
        show_default="torch's choice",
        rich_help_panel=options.MODEL,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print all figures as one JSON object on standard output, without progress.",
        rich_help_panel=options.REPORT,
    ),
]


@with_stream_options
def bench(
    *,
    context: typer.Context,
    duration: Duration = "1:00",
    switch_every: SwitchEvery = 10.0,
    out: Out = None,
    overwrite: options.Overwrite = False,
    seed: Seed = 0,
    config: StreamConfig,
    threads: Threads = None,
    quiet: options.Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a whole stream: speed, latency, stalls, memory.

    Shows denoising, decoding and the whole separately, and describes the machine.

    The first chunk, and those that compile or capture, are the warm-up and count as latency only.

    Figures from a CPU say nothing about a GPU, and figures from a busy machine say little.
    """
    if context.invoked_subcommand:
        refuse_options(context)
        return

    from afstream_cli.interruption import Interruption
    from afstream_cli.progress import open_job

    seconds = read_seconds(duration, config)
    if out:
        from afstream.film.files import check_video

        check_video(out, overwrite=overwrite)
    with open_job(quiet=quiet or as_json) as job:
        import torch

        from afstream.bench import Load, Meter
        from afstream.bench.load import PROMPTS

        if threads:
            torch.set_num_threads(threads)
        consumer = (out.suffix.lstrip(".") or "png") if out else "none"
        load = Load(
            stream=replace(config, seed=seed, prompts=PROMPTS),
            duration_s=seconds,
            switch_every_s=switch_every,
            consumer=consumer,
        )
        meter = Meter(load)
        with Interruption() as interruption:
            run(meter, out, job, interruption)
    result = meter.result()
    if as_json:
        sys.stdout.write(json.dumps(result.as_data(), indent=2) + "\n")
    else:
        from afstream_cli.figures import show_figures

        show_figures(result)
    if interruption.signal is not None:
        job.say("stopped; the figures are for the video made so far")
        raise typer.Exit(SIGNAL_EXIT + interruption.signal)


def refuse_options(context: typer.Context) -> None:
    """Refuse options before a subcommand, where they would have no effect.

    Raises:
        ConfigError: there is such an option.
    """
    command = context.invoked_subcommand
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                f"{parameter.opts[0]} stands before {command}, where it has no effect; give"
                f" options of {command} after it"
            )


def run(meter: Meter, out: Path | None, job: Job, interruption: Interruption) -> None:
    """Make the video, and write it if a path is given."""
    from afstream.bench import discard

    stream, total_s = meter.stream, meter.load.duration_s
    job.begin("bench", total_s)
    with open_writer(out, stream.size, stream.fps) as writer:
        for chunk in meter.run(writer.write if writer else discard):
            done_s = chunk.start_s + len(chunk.frames) / stream.fps
            job.update(done_s, f"{done_s:.1f} of {total_s:.1f} s of video")
            if interruption.signal is not None:
                return


def open_writer(
    out: Path | None, size: tuple[int, int], fps: int
) -> VideoWriter | nullcontext[None]:
    """A writer, or a context without a value if there is no path."""
    if out is None:
        return nullcontext()
    from afstream.video import VideoWriter

    # whether it may replace one was asked before the model was opened
    return VideoWriter.open(out, size=size, fps=fps, overwrite=True)


def read_seconds(duration: str, config: StreamConfig) -> float:
    """`1:00`, `60s` or `960f` as seconds of video, in whole chunks of a stream."""
    from afstream.families.registry import clock_of
    from afstream.timeline.directives import read_duration
    from afstream.timeline.lines import Place
    from afstream.timeline.plan import length_of

    return length_of(read_duration(duration, Place("--duration")), clock_of(config))

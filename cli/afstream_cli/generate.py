"""`afstream generate`: a timeline of prompts in, a video out."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from afstream.errors import ConfigError
from afstream.spec import StreamConfig
from afstream_cli import options
from afstream_cli.stream_options import with_stream_options

if TYPE_CHECKING:
    from afstream.timeline import Timeline

STDIN = "-"
DEFAULT_OUT = Path("out.mp4")
SIGNAL_EXIT = 128


@with_stream_options
def generate(
    *,
    prompts: options.Prompts,
    out: options.Out = DEFAULT_OUT,
    duration: options.Duration = None,
    scale: options.Scale = None,
    sheet: options.Sheet = None,
    seed: options.Seed = None,
    config: StreamConfig,
    switch_frames: options.SwitchFrames = None,
    line: options.Line = None,
    record: options.Record = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Stream a video from a timeline of prompts.

    The video grows chunk by chunk and can be played while it does. A run record (JSON) is written
    beside it: what was made, when each prompt took effect, and how fast.

    With --prompts - the first line of standard input starts the stream and every further line
    changes it, while the video keeps pace with real time. After the last line it continues until
    the newest prompt has lasted 10 s, or for --duration. The timeline that replays it is written
    beside the video.
    """
    from afstream.families.registry import check_cues, clock_of
    from afstream.timeline.imports import ImportOptions
    from afstream_cli.console import open_report
    from afstream_cli.inputs import read_frames, read_moment, read_timeline
    from afstream_cli.outputs import Outputs
    from afstream_cli.preview import show_plan

    if quiet and as_json:
        raise ConfigError("--quiet and --json were both given; choose one of them")
    length, clock = read_moment(duration), clock_of(config)
    timeline: Timeline | None = None
    if prompts != STDIN:
        given = ImportOptions(clock=clock, switch_frames=read_frames(switch_frames), line=line)
        timeline = read_timeline(Path(prompts), given, seed=seed, duration=length)
        # A fault in it must be reported before a model is loaded.
        plan = timeline.plan(clock)
        if dry_run:
            check_cues(config.model, timeline.cues)
            show_plan(plan, as_json=as_json)
            return
    elif dry_run or switch_frames or line:
        raise ConfigError("--dry-run, --switch-frames and --line need a file of prompts, not '-'")
    elif config.model.text == "drop":
        raise ConfigError(
            "--text-encoder drop needs a file of prompts, not '-', because prompts come later;"
            " give cpu"
        )
    config = replace(
        config,
        seed=(timeline.seed if timeline else seed) or 0,
        prompts=tuple(cue.prompt for cue in timeline.cues) if timeline else (),
    )
    outputs = Outputs.beside(out, record=record, sheet=sheet, live=timeline is None)
    outputs.check(prompts)

    typing = timeline is None and sys.stdin.isatty()
    with open_report(quiet=quiet, as_json=as_json, typing=typing) as report:
        # These import torch; all that can fail without it was checked before.
        from afstream.stream import Stream
        from afstream_cli.record import describe_run
        from afstream_cli.session import Session
        from afstream_cli.source import play_stdin, play_timeline

        began = time.perf_counter()
        stream = Stream.open(config)
        load_s = time.perf_counter() - began
        session = Session.open(
            stream,
            outputs,
            report,
            scale=scale,
            settings=describe_run(stream),
            load_s=load_s,
        )
        if typing:
            report.say("Type a prompt and press Enter; Ctrl-D ends, Ctrl-C stops.")
        source = (
            play_timeline(stream, timeline)
            if timeline
            else play_stdin(stream, warn=report.warn, seed=seed, duration=length)
        )
        with source:
            stopped_by = session.run(source)
    made = f"{session.writer.seconds:.2f} s of video ({session.writer.frames} frames)"
    if stopped_by is not None:
        kept = f"{made} are kept in {out}" if session.writer.frames else "nothing was made"
        report.warn(f"stopped; {kept}")
        raise typer.Exit(SIGNAL_EXIT + stopped_by)
    report.say(f"{made} in {out}, made at {session.tally.frames_per_s:.1f} frames a second")
    for path in outputs.others:
        report.say(f"  {path}")

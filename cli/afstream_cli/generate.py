"""`afstream generate`: a timeline of prompts in, a video out."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from afstream.errors import ConfigError

from afstream_cli import options

if TYPE_CHECKING:
    from afstream.stream import Stream
    from afstream.timeline import Moment, Timeline

    from afstream_cli.console import Report
    from afstream_cli.outputs import Outputs
    from afstream_cli.session import Source

LIVE = "-"
DEFAULT_OUT = Path("out.mp4")
SIGNAL_EXIT = 128


def generate(
    prompts: options.Prompts,
    out: options.Out = DEFAULT_OUT,
    duration: options.Duration = None,
    scale: options.Scale = None,
    sheet: options.Sheet = None,
    model: options.Model = "pocket",
    seed: options.Seed = None,
    size: options.Size = None,
    memory: options.Memory = "anchor",
    junction: options.Junction = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    switch_frames: options.SwitchFrames = None,
    line: options.Line = None,
    record: options.Record = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Stream a video from a timeline of prompts.

    The video grows chunk by chunk and can be played meanwhile. Beside it stands a run record
    (JSON): what was made, when each prompt took effect, and how fast.

    With --prompts - the first line of standard input starts the stream and every further line
    changes it, while the video keeps pace with the clock. After the last line it goes on until
    the newest prompt has lasted 10 s, or for --duration. A timeline beside it replays it.
    """
    from afstream.config import memory_policy

    from afstream_cli.console import open_report
    from afstream_cli.inputs import read_moment, read_pixels, read_timeline
    from afstream_cli.outputs import Outputs
    from afstream_cli.preview import show_plan

    if quiet and as_json:
        raise ConfigError("--quiet and --json were both given; choose one of them")
    frame_size, length = read_pixels(size), read_moment(duration)
    memory_policy(memory, junction=junction)
    timeline: Timeline | None = None
    if prompts != LIVE:
        timeline = read_timeline(
            Path(prompts), seed=seed, duration=length, switch_frames=switch_frames, line=line
        )
    elif dry_run or switch_frames or line:
        raise ConfigError("--dry-run, --switch-frames and --line need a file; '-' is none")
    if timeline and dry_run:
        show_plan(timeline.plan(), as_json=as_json)
        return
    outputs = Outputs.beside(out, record=record, sheet=sheet, live=timeline is None)
    outputs.check(prompts)

    with open_report(quiet=quiet, as_json=as_json, typing=is_typed(prompts)) as report:
        began = time.perf_counter()
        from afstream.stream import Stream

        stream = Stream.open(
            model,
            seed=(timeline.seed if timeline else seed) or 0,
            size=frame_size,
            memory=memory,
            junction=junction,
            device=device,
            dtype=dtype,
        )
        load_s = time.perf_counter() - began
        source = (
            play_file(stream, timeline)
            if timeline
            else play_live(stream, report, seed=seed, duration=length)
        )
        settings = {
            "model": stream.model_name,
            "seed": ...,
            "memory": memory,
        }

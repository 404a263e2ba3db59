"""`afstream generate`: a timeline of prompts in, a video out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from afstream.errors import ConfigError
from afstream.spec import StreamConfig
from afstream_cli import options
from afstream_cli.stream_options import with_stream_options

if TYPE_CHECKING:
    from afstream.timeline import Plan, Timeline

STDIN = STDOUT = "-"


@with_stream_options
def generate(
    *,
    prompts: options.Prompts,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    duration: options.Duration = None,
    exact: options.Exact = False,
    scale: options.Scale = None,
    crf: options.Crf = None,
    sheet: options.Sheet = None,
    subtitles: options.Subtitles = None,
    seed: options.Seed = None,
    config: StreamConfig,
    switch_frames: options.SwitchFrames = None,
    line: options.Line = None,
    record: options.Record = None,
    no_state: options.NoState = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Stream a video from a timeline of prompts.

    The video grows chunk by chunk and can be played while it does. A run record (JSON) is written
    beside it: what was made, when each prompt took effect, and how fast; and a folder with the
    state of the stream, from which `afstream resume`, `extend` and `branch` go on. As --prompts, a
    record replays its run.

    With --prompts - the first line of standard input starts the stream and every further line
    changes it, while the video keeps pace with real time. After the last line it continues until
    the newest prompt has lasted 10 s, or for --duration. The timeline that replays it is written
    beside the video.
    """
    from afstream.families.registry import clock_of
    from afstream.film.files import FilmFiles, free_video
    from afstream.film.writing import FilmOptions
    from afstream.timeline.imports import ImportOptions
    from afstream_cli.continuing import begun_film, resume_begun
    from afstream_cli.film_options import (
        check_report,
        check_subtitles,
        exact_length,
        model_files,
        recorded_settings,
    )
    from afstream_cli.inputs import read_frames, read_moment, read_timeline
    from afstream_cli.making import Making, make, rehearse
    from afstream_cli.preview import show_plan

    check_report(quiet=quiet, as_json=as_json)
    if as_json and str(out) == STDOUT:
        raise ConfigError("--json and --out - both write to standard output; choose one of them")
    check_subtitles(subtitles)
    live = prompts == STDIN
    if not live:
        config = recorded_settings(Path(prompts), config)
    length, clock = read_moment(duration), clock_of(config)
    timeline: Timeline | None = None
    plan: Plan | None = None
    exact_frames: int | None = None
    if not live:
        given = ImportOptions(clock=clock, switch_frames=read_frames(switch_frames), line=line)
        timeline = read_timeline(Path(prompts), given, seed=seed, duration=length)
        # A fault in it must be reported before a model is loaded.
        plan = timeline.plan(clock)
        if exact:
            exact_frames = exact_length(timeline, clock)
    elif dry_run or switch_frames or line or exact or resume:
        raise ConfigError(
            "--dry-run, --exact, --resume, --switch-frames and --line need a file of prompts, not"
            " '-'"
        )
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
    if resume and timeline and (found := begun_film(out, record)):
        resume_begun(found, timeline, dry_run=dry_run, quiet=quiet, as_json=as_json)
        if dry_run and plan:
            show_plan(plan, as_json=as_json)
        return
    files = FilmFiles.beside(
        out or free_video(),
        record=record,
        sheet=sheet,
        subtitles=subtitles,
        live=live,
        states=not no_state,
    )
    inputs = {} if live else {"the prompts": Path(prompts)}
    inputs |= model_files(config)
    making = Making(
        config=config,
        files=files,
        options=FilmOptions(
            scale=scale,
            crf=crf,
            exact_frames=exact_frames,
            subtitles=subtitles,
            overwrite=overwrite,
        ),
        timeline=timeline,
        seed=seed,
        duration=length,
    )
    if dry_run and plan:
        rehearse(making, inputs, overwrite=overwrite)
        show_plan(plan, as_json=as_json)
        return
    files.check(inputs, overwrite=overwrite)
    make(making, quiet=quiet, as_json=as_json)

"""Making a film: what generate, resume, extend and branch do once they know what is asked."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from afstream_cli.console import open_report
from afstream_cli.interruption import Interruption

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from afstream.film.film import Film, FilmFiles
    from afstream.film.found import FoundFilm
    from afstream.film.writing import FilmOptions, Kept
    from afstream.spec import StreamConfig
    from afstream.stream import Checked, Stream
    from afstream.timeline import Moment, Timeline
    from afstream_cli.console import Report
    from afstream_cli.source import Source

SIGNAL_EXIT = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class GoingOn:
    """An earlier film that is gone on with.

    Attributes:
        film: the earlier film.
        chunks: chunks of it that are kept.
        branch: whether another film goes on, not this one.
    """

    film: FoundFilm
    chunks: int
    branch: bool = False

    @property
    def kept(self) -> Kept:
        """What is kept of it."""
        return self.film.keep(self.chunks, branch=self.branch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What is to be made.

    Attributes:
        config: how the stream is opened.
        files: paths that were checked.
        options: how the film is written.
        timeline: what is played; None where prompts come from standard input.
        going_on: set where an earlier film is gone on with.
        seed: of a live run, None leaves the choice to its lines.
        duration: likewise.
    """

    config: StreamConfig
    files: FilmFiles
    options: FilmOptions
    timeline: Timeline | None
    going_on: GoingOn | None = None
    seed: int | None = None
    duration: Moment | None = None

    @property
    def known(self) -> Timeline | None:
        """What is known beforehand of what is played; None where nothing is."""
        return self.timeline or (self.going_on and self.going_on.film.timeline)


def rehearse(making: Making, inputs: Mapping[str, Path], *, overwrite: bool) -> None:
    """Refuse whatever `make` would refuse before it computes; nothing is loaded or left behind.

    Args:
        making: what would be made.
        inputs: see `FilmFiles.check`.
        overwrite: likewise.

    Raises:
        AfstreamError: it cannot be made.
    """
    with making.files.rehearsed(inputs, overwrite=overwrite):
        check_making(making)


def check_making(making: Making) -> Checked:
    """See that a film can be made, from whose files only headers are read.

    Raises:
        AfstreamError: it cannot be made.
    """
    from afstream.film.record import refuse_other_model
    from afstream.film.writing import open_writer
    from afstream.stream import check

    going_on, timeline = making.going_on, making.known
    checked = check(making.config, timeline.cues if timeline else ())
    if going_on:
        refuse_other_model(going_on.film.record, checked.model, going_on.film.video)
    open_writer(
        making.files.video,
        making.options,
        size=checked.size,
        fps=checked.clock.fps,
        kept=going_on and going_on.kept,
    )
    return checked


def make(making: Making, *, quiet: bool, as_json: bool) -> None:
    """Open the stream and write the film.

    Raises:
        AfstreamError: the model, the stream or a file failed; what was made is kept.
        Exit: a signal stopped the run.
    """
    going_on = making.going_on
    typing = making.timeline is None and sys.stdin.isatty()
    with open_report(quiet=quiet, as_json=as_json, typing=typing) as report, making.files.locked():
        # these import torch; all that can fail without it was checked before
        from afstream.stream import Stream
        from afstream_cli.source import play_stdin, play_timeline

        if going_on:
            set_threads(going_on.film.record.stream.threads)
        checked = check_making(making)
        began = time.perf_counter()
        stream = Stream.open(checked)
        load_s = time.perf_counter() - began
        film = None
        if making.known:
            film = open_film(making, stream, making.known, report, load_s=load_s)
        if going_on:
            catch_up(going_on, stream, report)
        if making.timeline is None and not going_on and stream.pays_to_warm_up:
            report.say("Warming up the GPU, so that no chunk comes late")
            stream.warm_up()
        if typing:
            report.say("Type a prompt and press Enter; Ctrl-D ends, Ctrl-C stops.")
        if making.timeline:
            source = play_timeline(stream, making.timeline)
        else:
            source = play_stdin(
                stream,
                known=going_on and going_on.film.timeline,
                warn=report.warn,
                seed=making.seed,
                duration=making.duration,
            )
        with source:
            film = film or open_film(making, stream, source.timeline, report, load_s=load_s)
            run(film, source, report)


def open_film(
    making: Making, stream: Stream, timeline: Timeline, report: Report, *, load_s: float
) -> Film:
    """Prepare to write the film that the stream makes."""
    from afstream.film.film import Film

    return Film.open(
        making.files,
        stream,
        making.options,
        timeline=timeline,
        live=making.timeline is None,
        load_s=load_s,
        kept=making.going_on and making.going_on.kept,
        warn=report.warn,
    )


def set_threads(count: int) -> None:
    """Use as many threads as the film was begun with: sums in another order round differently."""
    import torch

    torch.set_num_threads(count)


def catch_up(going_on: GoingOn, stream: Stream, report: Report) -> None:
    """Bring the stream to where the film goes on, and say how long that takes."""
    from afstream.film.found import return_to

    film, chunk = going_on.film, going_on.chunks
    fps = film.record.timings.frames_per_s

    def begin(count: int) -> None:
        frames = film.plan.frame_of_chunk(chunk) - film.plan.frame_of_chunk(chunk - count)
        if frames:
            took = f", about {frames / fps:.0f} s" if fps else ""
            report.say(f"Computing {frames / film.plan.clock.fps:.1f} s of video again{took}")

    return_to(stream, film, chunk, begin=begin, warn=report.warn)


def run(film: Film, source: Source, report: Report) -> None:
    """Write the chunks of a film, and say what was made.

    Args:
        film: takes the chunks.
        source: gives them.
        report: progress for the user.

    Raises:
        AfstreamError: the stream or a file failed; what was made is kept.
        Exit: a signal stopped the run.
    """
    report.begin(source.num_frames)
    with Interruption() as interruption, film:
        with closing(source.chunks) as chunks:
            for chunk in chunks:
                film.add(chunk)
                report.chunk(chunk, film.tally)
                if interruption.signal is not None or film.is_complete:
                    break
        stopped_by = interruption.signal
        film.end("finished" if stopped_by is None else "interrupted")
    made = f"{film.writer.seconds:.2f} s of video ({film.writer.frames} frames)"
    if stopped_by is not None:
        kept = f"{made} are kept in {film.files.video}" if film.writer.frames else "nothing is made"
        goes_on = film.writer.frames and film.files.go_on
        hint = f"; afstream resume {film.files.video} goes on" if goes_on else ""
        report.warn(f"stopped; {kept}{hint}")
        raise typer.Exit(SIGNAL_EXIT + stopped_by)
    speed = f"made at {film.tally.frames_per_s:.1f} frames a second"
    report.say(f"{made} in {film.files.video}, {speed}")
    for path in film.files.others:
        report.say(f"  {path}")
    if film.files.states and film.states.bytes:
        size = f"{film.states.bytes / 1e6:.1f} MB"
        report.say(f"  {film.files.states} ({size}; extend goes on from there)")

"""A film that was made before: what it holds, and going on from one of its chunks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from afstream.errors import OutputError
from afstream.families.registry import clock_of
from afstream.film.files import FilmFiles
from afstream.film.film import RUN
from afstream.film.record import CueEntry, Origin, RunRecord, read_record, refuse_other_model
from afstream.film.states import StateStore, Warn
from afstream.film.writing import FilmOptions, Kept
from afstream.timeline import Cue, Plan, Timeline
from afstream.video import frames_in, read_tags

if TYPE_CHECKING:
    from afstream.engine.state import Change
    from afstream.stream import Stream

RECORD_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFilm:
    """A film on disk.

    Attributes:
        video: the video, or the folder of PNGs.
        path: of its record.
        record: the record.
        frames: whole video frames that it holds.
        timeline: what it plays; of a live run, what it has come to.
        plan: the timeline's plan.
    """

    video: Path
    path: Path
    record: RunRecord
    frames: int
    timeline: Timeline
    plan: Plan

    @classmethod
    def find(cls, given: Path, *, record: Path | None = None) -> FoundFilm:
        """Read a film's record, and count its frames.

        Args:
            given: the video, or its record.
            record: path of the record, where it is not beside the video.

        Raises:
            OutputError: there is no such film, or video and record are of two runs.
            TimelineError: the timeline in the record cannot be read.
        """
        if given.suffix.lower() == RECORD_SUFFIX:
            path, read = given, read_record(given)
            video = given.parent / read.output.path
        else:
            path = record or FilmFiles.beside(given).record or given
            video, read = given, read_record(path)
        frames = _frames_in(video, read)
        if frames and read_tags(video).get(RUN) != read.run:
            raise OutputError(
                f"{video} and its record {path} are of two runs, so it cannot be gone on with; make"
                " it again with generate --overwrite"
            )
        timeline = Timeline.parse(read.timeline, source=str(path))
        plan = timeline.plan(clock_of(read.config))
        return cls(video=video, path=path, record=read, frames=frames, timeline=timeline, plan=plan)

    @property
    def whole_chunks(self) -> int:
        """Whole chunks that it holds."""
        return self.plan.whole_chunks(self.frames)

    @property
    def is_finished(self) -> bool:
        """Whether it ended cleanly, and holds every frame of its timeline."""
        exact = self.record.output.exact_frames
        whole = self.frames >= (exact or self.plan.num_video_frames)
        return self.record.state == "finished" and whole

    @property
    def options(self) -> FilmOptions:
        """How it is written."""
        output = self.record.output
        return FilmOptions(
            scale=output.scale,
            crf=output.crf,
            exact_frames=output.exact_frames,
            subtitles=output.subtitles,
        )

    def files(self, video: Path | None = None, *, live: bool) -> FilmFiles:
        """Its files, or those of another film of its kind.

        Args:
            video: the other film's; None means its own.
            live: whether prompts come from standard input.
        """
        output = self.record.output
        own = video is None
        return FilmFiles.beside(
            self.video if video is None else video,
            record=self.path if own else None,
            sheet=Path(output.sheet) if own and output.sheet else None,
            subtitles=output.subtitles,
            live=live,
            states=output.states,
        )

    def followed(self, more: Timeline, chunk: int) -> Timeline:
        """Its timeline up to a chunk, and another one from there on."""
        return self.timeline.continued(more, chunk=chunk, clock=self.plan.clock)

    def keep(self, chunks: int, *, branch: bool = False) -> Kept:
        """Its first chunks, for a film that goes on with them.

        Args:
            chunks: how many.
            branch: whether another film goes on, not this one.
        """
        run = self.record.run
        return Kept(
            video=self.video,
            frames=self.plan.frame_of_chunk(chunks),
            chunks=chunks,
            cues=self._cues(chunks),
            run=None if branch else run,
            origin=Origin(film=self.video.name, run=run, chunks=chunks)
            if branch
            else self.record.origin,
        )

    def _cues(self, chunks: int) -> list[CueEntry]:
        """The prompt changes of its first chunks; the record may not have got to the newest."""
        told = {cue.chunk: cue for cue in self.record.cues}
        planned = enumerate(self.plan.cues)
        known = [told.get(cue.chunk) or CueEntry.planned(cue, index) for index, cue in planned]
        return [cue for cue in known if cue.chunk < chunks]


def _frames_in(video: Path, record: RunRecord) -> int:
    """Whole frames of a video; 0 where the run was killed before its first chunk was whole."""
    if not os.path.lexists(video):
        return 0
    try:
        return frames_in(video)
    except OutputError:
        if record.state != "running" or record.output.frames:
            raise
        return 0


def leads_to(film: FoundFilm, chunk: int, changes: Sequence[Change]) -> bool:
    """Whether prompt changes are those of a film's first chunks, seeds included."""
    seed, due = film.timeline.seed or 0, dict[int, Cue]()
    for planned in film.plan.cues:
        seed = seed if planned.cue.seed is None else planned.cue.seed
        if planned.chunk < chunk:
            due[planned.chunk] = replace(planned.cue, seed=seed)
    made = [(change.chunk, _what(change.cue)) for change in changes]
    return made == [(at, _what(cue)) for at, cue in due.items()]


def _what(cue: Cue) -> tuple[object, ...]:
    """What of a cue decides the frames."""
    return cue.prompt, cue.transition, cue.blend_s, cue.seed


def return_to(
    stream: Stream, film: FoundFilm, chunk: int, *, begin: Callable[[int], None], warn: Warn
) -> None:
    """Bring a fresh stream to the start of one of a film's chunks.

    Chunks after the nearest saved state are computed again, bit for bit as they were.

    Args:
        stream: has made nothing yet.
        film: the film.
        chunk: where the stream shall stand.
        begin: called with the number of chunks to compute again.
        warn: called with a sentence for every state that cannot be used.

    Raises:
        ConfigError: the stream is of another model than the film.
    """
    refuse_other_model(film.record, stream.model, film.video)
    store = StateStore(film.files(live=False).states)
    at = store.restore(stream, chunk, fits=partial(leads_to, film), warn=warn)
    begin(chunk - at)
    past = tuple(cue for cue in film.plan.cues if cue.chunk < chunk)
    for _ in stream.play(replace(film.plan, cues=past, num_chunks=chunk), from_chunk=at):
        pass

"""A film while it is made: everything that one run writes, in the order that loses nothing.

The record is there before the first frame, frames are on the disk before a record or a state that
counts them, and each file but the growing video is replaced in one step. Wherever the process is
killed, the video holds all chunks but the one being written, and the record never says more than
the video holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from afstream.atomic import write_text
from afstream.errors import OutputError
from afstream.film.files import REPLAY_MARK, FilmFiles
from afstream.film.record import (
    CueEntry,
    OutputSettings,
    RecordWriter,
    State,
    StreamSettings,
    describe_run,
    run_name,
)
from afstream.film.sheet import FilmSheet
from afstream.film.states import StateStore, Warn
from afstream.film.tally import Tally
from afstream.film.versions import versions
from afstream.film.writing import BURN, FilmOptions, Kept, open_writer
from afstream.timeline import Timeline
from afstream.video import Caption, Chapter, VideoWriter, srt, vtt
from afstream.video.picture import Frames

if TYPE_CHECKING:
    from afstream.engine.state import Change
    from afstream.stream import Chunk, Stream

SAVE_EVERY_S = 5.0
# a planned film may have a cue in every chunk
CUE_EVERY_S = 1.0
# what a stop may be kept waiting for
QUICK_S = 2.0
TITLE_CHARS = 100
# the tag of a video by which its run is known
RUN = "run"


@dataclass(slots=True, kw_only=True)
class Film:
    """What one run writes; use it in a `with` statement, `end` it, and nothing is lost.

    Attributes:
        files: where everything lies.
        writer: writes the video.
        record: the run record.
        tally: counts and times of this run.
        states: the saved states.
        chunks: chunks that the film holds, those of earlier runs included.
    """

    files: FilmFiles
    writer: VideoWriter
    record: RecordWriter
    tally: Tally
    states: StateStore
    chunks: int = 0
    _stream: Stream
    _options: FilmOptions
    _sheet: FilmSheet | None
    _warn: Warn
    _begun: bool = False
    _saved_at: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        files: FilmFiles,
        stream: Stream,
        options: FilmOptions,
        *,
        timeline: Timeline,
        live: bool = False,
        load_s: float = 0.0,
        kept: Kept | None = None,
        warn: Warn,
    ) -> Film:
        """Prepare to write a film; nothing is created or replaced before its first chunk.

        Args:
            files: paths that were checked, and are locked.
            stream: the stream that makes it.
            options: how it is written.
            timeline: what it plays; of a live run, what is known so far.
            live: whether prompts come while it runs.
            load_s: seconds that the model took to load.
            kept: the chunks that it begins with, if any.
            warn: called with a sentence about what could not be done, such as a state that the
                disk has no room for.

        Raises:
            OutputError: the video cannot be written, or what it shall begin with is not there.
            ConfigError: scale or quality are impossible.
        """
        settings, described = StreamSettings.of(stream), describe_run(stream)
        seed, text = timeline.seed or 0, str(timeline)
        # where a run goes on it keeps its name
        decides = (
            described,
            settings.threads,
            seed,
            text,
            str(replace(options, overwrite=False)),
            versions(),
        )
        run = (kept and kept.run) or run_name(*decides, live=live)
        about = {RUN: run, "model": stream.model.name, "memory": stream.policy.name}
        writer = open_writer(
            files.video,
            options,
            size=stream.size,
            fps=stream.fps,
            title=timeline.cues[0].prompt[:TITLE_CHARS],
            tags=about,
            kept=kept,
            warn=warn,
        )
        output = OutputSettings(
            path=files.video.name,
            fps=stream.fps,
            scale=writer.picture.scale,
            crf=writer.film.crf,
            exact_frames=options.exact_frames,
            sheet=str(files.sheet.absolute()) if files.sheet else None,
            subtitles=options.subtitles,
            states=files.states is not None,
        )
        record = RecordWriter(
            path=files.record,
            run=run,
            timeline=text,
            output=output,
            stream=settings,
            described=described,
            live=live,
            seed=seed,
            load_s=load_s,
            origin=kept and kept.origin,
            beside=(files.subtitles.name,) if files.subtitles else (),
            cues=list(kept.cues) if kept else [],
        )
        sheet = FilmSheet(stream.size) if files.sheet else None
        if sheet and kept:
            sheet.add_kept(kept.video, kept.frames, kept.cues, stream.fps)
        return cls(
            files=files,
            writer=writer,
            record=record,
            tally=Tally(stream.fps),
            states=StateStore(files.states),
            chunks=kept.chunks if kept else 0,
            _stream=stream,
            _options=options,
            _sheet=sheet,
            _warn=warn,
        )

    def add(self, chunk: Chunk) -> None:
        """Write a chunk.

        Raises:
            OutputError: the video cannot grow; what it holds is kept.
        """
        self.tally.add(chunk)
        for note in chunk.notes:
            self._warn(note)
        if chunk.receipts:
            self.record.cues.append(CueEntry.of(chunk))
        if not self._begun:
            self._begin(chunk.index + 1)
        elif chunk.receipts and (self.record.live or self._since_saved_s > CUE_EVERY_S):
            # what was typed is kept even if its first frames are not
            self._save(chunk.index + 1)
        frames, note = self._cut(chunk), self._note()
        self.writer.write(frames, [note] * len(frames) if note else None)
        self.chunks = chunk.index + 1
        if self._sheet:
            self._sheet.add(chunk)
        self.tally.add_timing(chunk)
        if self.states.is_due(self._stream):
            self.save_state()
        if self._since_saved_s > SAVE_EVERY_S:
            self._save(self.chunks)

    @property
    def _since_saved_s(self) -> float:
        return time.monotonic() - self._saved_at

    @property
    def is_complete(self) -> bool:
        """Whether the film has the exact length that was asked for."""
        exact = self._options.exact_frames
        return exact is not None and self.writer.frames >= exact

    def save_state(self) -> None:
        """Save a state after the newest chunk; where the disk refuses, the film goes on without."""
        self.writer.sync()
        try:
            self.states.save(self._stream, self.chunks)
        except OutputError as error:
            self._warn(f"the film goes on without a saved state: {error}")

    def end(self, state: State, error: str | None = None) -> None:
        """Complete the files: of a finished film the video is made an ordinary one.

        Args:
            state: how the run ended.
            error: the message of the error that ended a failed run.

        Raises:
            OutputError: something cannot be written; the video is whole all the same.
        """
        if not self._begun:
            if state != "finished" or not self.writer.frames:
                # nothing was written, so nothing is told
                return
            self._begin(self.chunks)
        if state == "finished" or (
            state == "interrupted" and self.states.cost_s(self._stream) < QUICK_S
        ):
            self.save_state()
        if state == "finished":
            chapters = [Chapter(start_s, cue.prompt) for start_s, _, cue in self._spans()]
            if why_not := self.writer.finish(chapters):
                self._warn(why_not)
        else:
            # the record says what is kept, not what could be written
            with suppress(OutputError):
                self.writer.sync()
        self.writer.close()
        self.tally.end()
        self.record.state, self.record.error = state, error
        self._save(self.chunks)
        if self._sheet and self.files.sheet:
            self._sheet.save(self.files.sheet)

    def __enter__(self) -> Film:
        self.tally.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        if error is not None:
            state: State = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            # the first error is the one to report, and a full disk takes no record either
            with suppress(OutputError):
                self.end(state, str(error) or type(error).__name__)
        self.writer.close()

    def _begin(self, known: int) -> None:
        """Write the record before anything of an earlier film is replaced; see `_save`."""
        self._begun = True
        if not self.chunks:
            self.files.remove_stale()
        self._save(known)
        self.states.keep_until(self.chunks)

    def _save(self, known: int) -> None:
        """Write the record, and of a live run the replay of the chunks whose prompts are known."""
        self._saved_at = time.monotonic()
        if self.writer.frames:
            self.writer.sync()
        if self.record.live:
            replay = replay_of(self._stream.state.history, known)
            self.record.timeline = str(replay)
            if self.files.replay:
                write_text(self.files.replay, f"{REPLAY_MARK} of {self.files.video}\n{replay}")
        if self.files.subtitles:
            form = {".srt": srt, ".vtt": vtt}[self.files.subtitles.suffix]
            write_text(self.files.subtitles, form(self._captions()))
        self.record.write(self.writer, self.tally, self.states, chunks=self.chunks)

    def _cut(self, chunk: Chunk) -> Frames:
        if self._options.exact_frames is None:
            return chunk.frames
        return chunk.frames[: self._options.exact_frames - self.writer.frames]

    def _note(self) -> str:
        """The text to draw into the next pictures, empty for none."""
        burn = self._options.subtitles == BURN and self.record.cues
        return self.record.cues[-1].note if burn else ""

    def _captions(self) -> list[Caption]:
        return [
            Caption(start_s, stop_s, cue.note or cue.prompt)
            for start_s, stop_s, cue in self._spans()
        ]

    def _spans(self) -> list[tuple[float, float, CueEntry]]:
        """Start and end of every prompt in the video so far, seconds."""
        cues = [cue for cue in self.record.cues if cue.effective_s < self.writer.seconds]
        starts = [cue.effective_s for cue in cues]
        stops = [*starts[1:], self.writer.seconds]
        return list(zip(starts, stops, cues, strict=False))


def replay_of(history: Sequence[Change], num_chunks: int) -> Timeline:
    """The timeline that makes the first chunks of a stream again.

    Args:
        history: the prompt changes that took effect, each with the seed from there on.
        num_chunks: chunks to make; changes after them are left out.
    """
    first = history[0].cue.seed
    seeds = [first, *(change.cue.seed for change in history)]
    applied = [
        (change.chunk, change.cue if change.cue.seed != before else replace(change.cue, seed=None))
        for change, before in zip(history, seeds, strict=False)
    ]
    return Timeline.from_applied(applied, num_chunks=num_chunks, seed=first)

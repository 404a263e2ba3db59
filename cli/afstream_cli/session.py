"""One run: chunks from a stream into a video, a contact sheet and a record."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afstream.errors import OutputError
from afstream.video import VideoWriter
from afstream.video.sheet import ContactSheet
from afstream_cli.interruption import Interruption
from afstream_cli.outputs import write_whole
from afstream_cli.record import RunRecord
from afstream_cli.tally import Tally

if TYPE_CHECKING:
    from afstream.stream import Stream
    from afstream_cli.console import Report
    from afstream_cli.outputs import Outputs
    from afstream_cli.source import Source

SAVE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The files and reports of one run.

    Attributes:
        outputs: paths of the files.
        writer: writes the video.
        sheet: the contact sheet, None when none is wanted.
        record: the run record.
        tally: counts and times.
        report: progress for the user.
    """

    outputs: Outputs
    writer: VideoWriter
    sheet: ContactSheet | None
    record: RunRecord
    tally: Tally
    report: Report

    @classmethod
    def open(
        cls,
        stream: Stream,
        outputs: Outputs,
        report: Report,
        *,
        scale: int | None,
        settings: Mapping[str, object],
        load_s: float,
    ) -> Session:
        """Prepare to write the chunks of a stream.

        Args:
            stream: gives size and frame rate.
            outputs: paths that were found writable.
            report: progress for the user.
            scale: factor by which pictures are enlarged; None brings the shorter side to 256 px or
                more.
            settings: description of the stream for the record.
            load_s: seconds that the model took to load.
        """
        return cls(
            outputs=outputs,
            writer=VideoWriter.open(
                outputs.video, size=stream.size, fps=stream.fps, scale=scale, overwrite=True
            ),
            sheet=ContactSheet(stream.size) if outputs.sheet else None,
            record=RunRecord(settings=settings, load_s=load_s),
            tally=Tally(stream.fps),
            report=report,
        )

    def run(self, source: Source) -> int | None:
        """Write the chunks until they end or the user stops the run.

        Returns:
            The signal that stopped it; None when it came to its end.

        Raises:
            AfstreamError: the stream or a file failed; what was made is kept.
        """
        self.record.seed = source.seed
        try:
            with Interruption() as interruption:
                with self.writer:
                    stopped_by = self._write(source, interruption)
                self.tally.end()
                self.record.state = "finished" if stopped_by is None else "interrupted"
                self._save(source, last=True)
        except BaseException as error:
            self.record.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.record.error = str(error) or type(error).__name__
            # The first error is the one to report, and a full disk takes no record either.
            with suppress(OutputError):
                self._save(source, last=True)
            raise
        return stopped_by

    def _write(self, source: Source, interruption: Interruption) -> int | None:
        self.report.begin(source.num_frames)
        self.tally.begin()
        saved = time.monotonic()
        for chunk in source.chunks:
            self.tally.add(chunk)
            self.writer.write(chunk.frames)
            if self.sheet:
                self.sheet.add(
                    chunk.frames,
                    segment=chunk.segment,
                    prompt=chunk.prompt,
                    start_s=chunk.start_s,
                )
            if chunk.receipts:
                self.record.add_cue(chunk)
            self.report.chunk(chunk, self.tally)
            if interruption.signal is not None:
                break
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save(source, last=False)
                saved = time.monotonic()
        return interruption.signal

    def _save(self, source: Source, *, last: bool) -> None:
        """Write everything but the video; nothing is written before the first frame."""
        if not self.writer.frames:
            return
        data = self.record.as_data(self.writer, self.tally)
        write_whole(self.outputs.record, json.dumps(data, indent=2) + "\n")
        if self.outputs.timeline and source.replay:
            write_whole(self.outputs.timeline, str(source.replay(self.tally.chunks)))
        if last and self.sheet and self.outputs.sheet:
            self.sheet.save(self.outputs.sheet)

"""Cues typed or piped in while the stream runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING

from afstream.errors import AfstreamError, TimelineError
from afstream.timeline import Cue, LiveReader, Moment
from afstream.timeline.lines import shown
from afstream.timeline.plan import LAST_CUE_S

if TYPE_CHECKING:
    from afstream.stream import Chunk, Receipt, Stream


class LiveCues:
    """Feeds lines to a stream as cues, and ends it after the last line.

    While lines may still come, the video keeps pace with real time, one chunk ahead at most, so
    that a cue given after ten seconds is seen after ten seconds. After the last line the rest is
    made at full speed: for the given duration, or until the newest prompt has lasted as long as a
    timeline's last prompt does. A stream that runs ahead has one more chunk submitted, which no cue
    can change.

    Args:
        stream: without a prompt, or where an earlier run has left it.
        lines: as they come; reading may block, it happens in a thread of its own.
        warn: called with a message about a line that cannot be used; the stream goes on.
        seed: the seed that the stream was opened with; None leaves the choice to the lines.
        duration: length of the video; None leaves the choice to the lines.
    """

    def __init__(
        self,
        stream: Stream,
        lines: Iterable[str],
        *,
        warn: Callable[[str], None],
        seed: int | None,
        duration: Moment | None,
    ) -> None:
        self.seed = seed or 0
        self._stream = stream
        self._clock = stream.clock
        self._lines = lines
        self._warn = warn
        self._seed_given = seed is not None
        self._duration = duration
        self._reader = LiveReader(clock=self._clock)
        self._later: list[Cue] = []
        self._asked: list[Receipt] = []
        # The prompt that is seen, None before the first, and since when.
        history = stream.state.history
        self._newest: Cue | None = history[-1].cue if history else None
        self._next_chunk = stream.next_chunk
        self._newest_s = self._next_s = stream.next_s
        # Guards all of the above, because another thread reads the lines.
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._ended = threading.Event()
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def wait(self) -> Cue | None:
        """Start reading, and return when the stream has its first prompt.

        Returns:
            The first prompt; None where an earlier run has given it.

        Raises:
            TimelineError: the lines ended without one.
        """
        self._thread.start()
        if self._newest:
            return None
        self._started.wait()
        with self._lock:
            if not self._asked:
                raise TimelineError(
                    "standard input ended without a prompt; write at least one line, such as"
                    " 'A red ball bounces.'"
                )
            return self._asked[-1].cue

    def join(self, timeout_s: float | None = None) -> None:
        """Read no further, and wait until the line that was read last is done with.

        Python aborts when it exits while another thread computes.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Yield the stream's chunks, giving it the cues that are due."""
        source = self._stream.chunks(before=self._ask_due)
        began = time.monotonic() - self._next_s
        while not self._over():
            self._keep_pace(began)
            chunk = next(source)
            self._advance(chunk)
            yield chunk

    def _read(self) -> None:
        try:
            for line in self._lines:
                if self._stopping.is_set():
                    break
                try:
                    self._take(line)
                except AfstreamError as error:
                    self._warn(str(error))
        finally:
            for event in (self._ended, self._started, self._news):
                event.set()

    def _take(self, line: str) -> None:
        """Read a line: give the stream a cue that is due now, keep any other for later."""
        with self._lock:
            seed = self._reader.directives.seed
            cue = self._reader.read(line, self._next_s)
            if cue is None:
                if self._reader.directives.seed != seed and self._began:
                    raise self._reader.place.error(
                        "@seed has no effect once the stream has begun; write seed=7 before a"
                        " prompt to change the noise from there on"
                    )
                return
            if self._due(cue):
                self._ask(cue)
            elif self._began:
                self._later.append(cue)
            else:
                raise TimelineError(
                    f"the first cue starts at {cue.start}; a live stream begins with it; leave"
                    " its time out"
                )
        self._started.set()
        self._news.set()

    @property
    def _began(self) -> bool:
        """Whether the stream has its first prompt."""
        return bool(self._asked or self._newest)

    def _ask(self, cue: Cue) -> None:
        first = not self._began
        self._asked.append(self._stream.cue(cue))
        if first:
            directive = None if self._seed_given else self._reader.directives.seed
            self.seed = next((s for s in (cue.seed, directive) if s is not None), self.seed)
            # No chunk was made yet, so this is the seed of all of them.
            self._stream.state.seed = self.seed

    def _ask_due(self) -> None:
        """Give the stream the cues that are due."""
        with self._lock:
            due = [cue for cue in self._later if self._due(cue)]
            self._later = [cue for cue in self._later if not self._due(cue)]
            for cue in due:
                try:
                    self._ask(cue)
                except AfstreamError as error:
                    self._warn(str(error))

    def _advance(self, chunk: Chunk) -> None:
        """Remember which cues took effect, and where the next chunk to be shown begins."""
        with self._lock:
            self._asked = [receipt for receipt in self._asked if not _shown(receipt, chunk)]
            if chunk.receipts:
                # Of several on one chunk the last one counts.
                self._newest = chunk.receipts[-1].cue
                self._tell_superseded(chunk)
                self._newest_s = chunk.start_s
            self._next_chunk = chunk.index + 1
            self._next_s = chunk.start_s + len(chunk.frames) / self._stream.fps

    def _tell_superseded(self, chunk: Chunk) -> None:
        """Warn that some cues were never seen."""
        count, newest = len(chunk.receipts), chunk.receipts[-1].prompt
        if count > 1:
            self._warn(
                f"{count} cues came within one chunk; only the last, {shown(newest)}, counts; give"
                " them times such as [+5s] to play them in turn"
            )

    def _over(self) -> bool:
        with self._lock:
            duration = self._duration or self._reader.directives.duration
            if duration is not None:
                return self._reached(duration, self._next_chunk, self._next_s)
            if not self._ended.is_set() or self._later or self._asked:
                return False
            blend_s = self._newest.blend_s if self._newest else 0.0
            return self._next_s - self._newest_s >= max(LAST_CUE_S, blend_s)

    def _keep_pace(self, began: float) -> None:
        """Wait while the video is more than a chunk ahead of the clock and no line came."""
        ahead_s = self._next_s - self._clock.chunk_s - (time.monotonic() - began)
        if ahead_s > 0 and not self._ended.is_set():
            self._news.wait(ahead_s)
        self._news.clear()

    def _due(self, cue: Cue) -> bool:
        """Whether the next chunk that a cue can change starts at or after this one."""
        return self._reached(cue.start, self._stream.next_chunk, self._stream.next_s)

    def _reached(self, moment: Moment, chunk: int, seconds: float) -> bool:
        """Whether a chunk that starts after so many seconds starts at or after a moment."""
        if moment.counts_latents:
            return chunk * self._clock.chunk_frames >= moment.in_latents(self._clock)
        return seconds >= moment.in_seconds(self._clock)


def _shown(receipt: Receipt, chunk: Chunk) -> bool:
    """Whether a change took effect with this chunk or before, not with a pending one."""
    return receipt.chunk is not None and receipt.chunk <= chunk.index

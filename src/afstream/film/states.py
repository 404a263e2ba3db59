"""Saved states beside a film: the newest two, written so seldom that it costs little time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from afstream.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from afstream.engine.state import Fits
    from afstream.stream import Stream

KEPT = 2
NAME = "chunk-{:06}.safetensors"
PATTERN = re.compile(r"chunk-([0-9]{6,12})\.safetensors")
# the share of the time that saving may take, and the seconds between two states at least
SHARE = 0.02
EVERY_S = 5.0
# what a disk takes at least: the cost of the first state is not known before it is written
BYTES_PER_S = 200e6

Warn = Callable[[str], None]


class StateStore:
    """The saved states of one film.

    Args:
        folder: where they lie; None saves none.
        clock: the host's clock in seconds; tests replace it.
    """

    def __init__(
        self, folder: Path | None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.folder = folder
        # of the newest state, and what all of them took
        self.bytes, self.spent_s = 0, 0.0
        self._clock = clock
        self._saved_at = clock()
        self._cost_s = 0.0

    @property
    def found(self) -> list[tuple[int, Path]]:
        """Chunk and path of every state, newest first."""
        if self.folder is None or not self.folder.is_dir():
            return []
        names = ((PATTERN.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(match[1]), path) for match, path in names if match), reverse=True)

    def is_due(self, stream: Stream) -> bool:
        """Whether a state may be saved without taking more than its share of the time."""
        if self.folder is None:
            return False
        return self._clock() - self._saved_at >= max(EVERY_S, self.cost_s(stream) / SHARE)

    def cost_s(self, stream: Stream) -> float:
        """Seconds that saving a state takes: as the last one did, or estimated."""
        return self._cost_s or stream.state_bytes / BYTES_PER_S

    def save(self, stream: Stream, chunk: int) -> None:
        """Save the state of a stream that has yielded everything before a chunk.

        Raises:
            OutputError: it cannot be written; the states before it are kept.
        """
        if self.folder is None or not chunk:
            return
        began = self._clock()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError.of(self.folder, error) from error
        try:
            self.bytes = stream.save(self.folder / NAME.format(chunk)).num_bytes
        finally:
            # a disk that is full is not asked again at once
            self._saved_at = self._clock()
            self._cost_s = self._saved_at - began
            self.spent_s += self._cost_s
        for _, old in self.found[KEPT:]:
            with suppress(OSError):
                old.unlink()

    def restore(self, stream: Stream, chunk: int, *, fits: Fits, warn: Warn) -> int:
        """Bring a fresh stream as near to the start of a chunk as the saved states allow.

        Args:
            stream: a stream that has made nothing yet.
            chunk: where it shall go on.
            fits: whether a state is one of this film's; see `Stream.load`.
            warn: called with a sentence for every state that cannot be used.

        Returns:
            The chunk before which the stream stands now: 0 without a usable state.
        """
        for at, path in self.found:
            if at > chunk:
                continue
            try:
                stream.load(path, fits=fits)
            except CheckpointError as error:
                warn(f"{error}; the state before it is used")
                continue
            # a stream that runs ahead had begun a chunk under the prompts of then
            if stream.next_chunk <= chunk:
                # whatever the file is called
                return stream.position
        if stream.position:
            stream.rewind(0)
        return 0

    def keep_until(self, chunk: int) -> None:
        """Remove the states after a chunk, because the film goes on otherwise from there."""
        for at, path in self.found:
            if at > chunk:
                with suppress(OSError):
                    path.unlink()

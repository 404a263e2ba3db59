"""Where the chunks of a run come from: a timeline, or cues given while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from afstream.timeline import Moment, Timeline
from afstream_cli.live import LiveCues
from afstream_cli.stdin import CAN_END, StdinLines

if TYPE_CHECKING:
    from afstream.stream import Chunk, Stream

UNENDED_WAIT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Chunks to write, and what is known about them beforehand; leave it with a `with` statement.

    Attributes:
        chunks: chunks of a stream whose prompts were checked.
        seed: seed of the noise.
        num_frames: video frames to come, None in a live stream.
        replay: makes the timeline that replays a number of chunks; None where a timeline is played.
        close: ends whatever feeds the stream.
    """

    chunks: Iterable[Chunk]
    seed: int
    num_frames: int | None
    replay: Callable[[int], Timeline] | None
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def play_timeline(stream: Stream, timeline: Timeline) -> Source:
    """The chunks of a timeline.

    Raises:
        PromptError: the model cannot understand one of the prompts.
    """
    plan = timeline.plan(stream.clock)
    return Source(
        chunks=stream.play(plan),
        seed=timeline.seed or 0,
        num_frames=plan.num_video_frames,
        replay=None,
    )


def play_stdin(
    stream: Stream, *, warn: Callable[[str], None], seed: int | None, duration: Moment | None
) -> Source:
    """The chunks of cues from standard input; returns once the first cue was read."""
    lines = StdinLines()
    live = LiveCues(stream, lines, warn=warn, seed=seed, duration=duration)

    def close() -> None:
        lines.close()
        live.join(None if CAN_END else UNENDED_WAIT_S)

    try:
        live.wait()
    except BaseException:
        close()
        raise
    return Source(
        chunks=live.chunks(),
        seed=live.seed,
        num_frames=None,
        replay=live.replay,
        close=close,
    )

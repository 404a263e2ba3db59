"""Where the chunks of a run come from: a timeline, or cues given while it runs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from afstream.errors import TimelineError
from afstream.timeline import Moment, Timeline
from afstream_cli.live import LiveCues
from afstream_cli.stdin import CAN_END, StdinLines

if TYPE_CHECKING:
    from afstream.stream import Chunk, Stream

UNENDED_WAIT_S = 1.0
START = Moment(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Chunks to write, and what is known about them beforehand; leave it with a `with` statement.

    Attributes:
        chunks: chunks of a stream whose prompts were checked.
        timeline: what they play, seed included; of a live stream, what is known so far.
        num_frames: video frames to come, None in a live stream.
        close: ends whatever feeds the stream.
    """

    chunks: Generator[Chunk, None, None]
    timeline: Timeline
    num_frames: int | None
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
    """The chunks of a timeline, from where the stream stands.

    Raises:
        PromptError: the model cannot understand one of the prompts.
    """
    plan, chunk = timeline.plan(stream.clock), stream.position
    return Source(
        chunks=stream.play(plan, from_chunk=chunk),
        timeline=timeline,
        num_frames=plan.num_video_frames - plan.frame_of_chunk(chunk),
    )


def play_stdin(
    stream: Stream,
    *,
    known: Timeline | None,
    warn: Callable[[str], None],
    seed: int | None,
    duration: Moment | None,
) -> Source:
    """The chunks of cues from standard input; returns once the first cue was read.

    Args:
        stream: makes them.
        known: what it has played already; None where it begins.
        warn: called with a message about a line that cannot be used.
        seed: the seed that the stream was opened with; None leaves the choice to the lines.
        duration: length of the video; None leaves the choice to the lines.
    """
    lines = StdinLines()
    live = LiveCues(stream, lines, warn=warn, seed=seed, duration=duration)
    # accepted before the film was killed, and not seen yet
    for cue in known.cues if known else ():
        if cue.start.in_latents(stream.clock) >= stream.next_chunk * stream.clock.chunk_frames:
            stream.cue(cue)

    def close() -> None:
        lines.close()
        live.join(None if CAN_END else UNENDED_WAIT_S)

    try:
        first = live.wait()
    except BaseException:
        close()
        raise
    begun = Timeline(cues=(replace(first, start=START),), seed=live.seed) if first else known
    if begun is None:
        raise TimelineError("a live stream begins with a prompt")
    return Source(chunks=live.chunks(), timeline=begun, num_frames=None, close=close)

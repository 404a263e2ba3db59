"""Where the chunks of a run come from: a timeline, or cues given while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afstream.timeline import Moment, Timeline
from afstream_cli.live import LiveCues, stdin_lines

if TYPE_CHECKING:
    from afstream.stream import Chunk, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Chunks to write, and what is known about them beforehand.

    Attributes:
        chunks: chunks of a stream whose prompts were checked.
        seed: seed of the noise.
        num_frames: video frames to come, None in a live stream.
        replay: makes the timeline that replays a number of chunks; None where a timeline is played.
    """

    chunks: Iterable[Chunk]
    seed: int
    num_frames: int | None
    replay: Callable[[int], Timeline] | None


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
    live = LiveCues(stream, stdin_lines(), warn=warn, seed=seed, duration=duration)
    live.wait()
    return Source(
        chunks=live.chunks(),
        seed=live.seed,
        num_frames=None,
        replay=live.replay,
    )

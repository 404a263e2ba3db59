"""Where the chunks of a run come from: a timeline, or cues given meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afstream.timeline import Cue, Moment, Timeline
from afstream_cli.live import LiveCues, stdin_lines

if TYPE_CHECKING:
    from afstream.stream import Chunk, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Chunks, and what was asked for in them.

    Attributes:
        chunks: from a stream whose prompts were checked.
        seed: of the noise.
        num_frames: video frames to come, None when nobody knows.
        asked: the cue of a segment, and the time for which it was asked, s.
        replay: the timeline that replays so many chunks; None where a timeline is played.
    """

    chunks: Iterable[Chunk]
    seed: int
    num_frames: int | None
    asked: Callable[[int], tuple[Cue, float]]
    replay: Callable[[int], Timeline] | None


def play_timeline(stream: Stream, timeline: Timeline) -> Source:
    """The chunks of a timeline.

    Raises:
        PromptError: the model cannot understand one of the prompts.
    """
    plan = timeline.plan()

    def asked(segment: int) -> tuple[Cue, float]:
        return plan.cues[segment].cue, plan.cues[segment].requested_s

    return Source(
        chunks=stream.play(plan),
        seed=timeline.seed or 0,
        num_frames=plan.num_video_frames,
        asked=asked,
        replay=None,
    )


def play_stdin(
    stream: Stream, *, warn: Callable[[str], None], seed: int | None, duration: Moment | None
) -> Source:
    """The chunks of cues from standard input; returns when the first one is there."""
    live = LiveCues(stream, stdin_lines(), warn=warn, seed=seed, duration=duration)
    live.wait()
    return Source(
        chunks=live.chunks(),
        seed=live.seed,
        num_frames=None,
        asked=live.asked,
        replay=live.replay,
    )

"""The plan of a stream: when each cue takes effect, and how long everything lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from afstream.geometry import CHUNK_FRAMES, FPS, TEMPORAL_STRIDE
from afstream.timeline.cue import Cue
from afstream.timeline.moment import DIGITS, Moment, clock, decimal
from afstream.timeline.snap import Landing, land

CHUNK_S = CHUNK_FRAMES * TEMPORAL_STRIDE / FPS
LAST_CUE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCue:
    """A cue and the chunk at which it takes effect.

    Attributes:
        cue: what was asked for.
        requested_s: when it was asked for, in seconds of video.
        chunk: the first chunk of its segment, counted through the stream.
        num_chunks: chunks of its segment.
        video_frame: the first video frame of its segment.
        scene: which scene it belongs to, counted from 0; every cut begins one.
        blend_chunks: chunks over which the previous prompt fades out, 0 for none.
    """

    cue: Cue
    requested_s: float
    chunk: int
    num_chunks: int
    video_frame: int
    scene: int
    blend_chunks: int

    @property
    def effective_s(self) -> float:
        """When it takes effect, in seconds of video."""
        return self.video_frame / FPS

    @property
    def slip_s(self) -> float:
        """How much later than asked for it takes effect."""
        return self.effective_s - self.requested_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a player does: one segment per cue, in order, without gaps.

    Attributes:
        cues: the segments.
        num_chunks: chunks of the whole stream.
        num_video_frames: video frames of the whole stream.
    """

    cues: tuple[PlannedCue, ...]
    num_chunks: int
    num_video_frames: int

    @property
    def duration_s(self) -> float:
        """Seconds of video: at least what was asked for, in whole chunks."""
        return self.num_video_frames / FPS


def plan_cues(cues: Sequence[Cue], *, duration: Moment | None, live: bool) -> Plan:
    """Put cues on chunks.

    Args:
        cues: in the order of time.
        duration: of the whole stream; without it the last cue lasts `LAST_CUE_S` from where it
            takes effect, or as long as its blend.
        live: a blend may be broken off by the next cue or by the end.
    """
    landings: list[Landing] = []
    for cue in cues:
        landing = land(cue, landings[-1] if landings else None)
        if duration is not None:
            check_end(landing, duration)
        landings.append(landing)
    last = landings[-1]
    if duration is not None:
        num_chunks = last.scene.chunk_at(duration)
    else:
        last_s = max(LAST_CUE_S, last.cue.blend_s)
        num_chunks = last.scene.chunk_from(last.effective_s + last_s)
    stops = [*(landing.chunk for landing in landings[1:]), num_chunks]
    segments = tuple(segment(landing, stop) for landing, stop in zip(landings, stops, strict=True))
    if not live:
        check_blends(segments)
    return Plan(
        cues=segments,
        num_chunks=num_chunks,
        num_video_frames=last.scene.frame_of_chunk(num_chunks),
    )


def segment(landing: Landing, stop: int) -> PlannedCue:
    """The segment from where a cue landed to the chunk `stop`, which is no longer in it."""
    # Rounded because 1.5 s must stay two chunks when the division is not exact.
    blend_chunks = blend_length(landing.cue.blend_s)
    return PlannedCue(
        cue=landing.cue,
        requested_s=landing.requested_s,
        chunk=landing.chunk,
        num_chunks=stop - landing.chunk,
        video_frame=landing.video_frame,
        scene=landing.scene.index,
        blend_chunks=blend_chunks,
    )


def check_end(landing: Landing, duration: Moment) -> None:
    """Refuse a cue that takes effect when the stream is over."""
    if landing.chunk >= landing.before.chunk_at(duration):
        raise landing.cue.place.error(
            f"the cue at {clock(landing.requested_s)} takes effect at"
            f" {clock(landing.effective_s)}, past the end; @duration is {duration}; start the cue"
            " earlier, or raise @duration"
        )


def blend_length(blend_s: float) -> int:
    """Chunks of a blend that lasts at least `blend_s` seconds, 0 for none."""
    return ceil(round(blend_s / CHUNK_S, DIGITS))


def check_blends(segments: Sequence[PlannedCue]) -> None:
    """Refuse blends without a prompt before them, or longer than their own prompt lasts."""
    for index, planned in enumerate(segments):
        place = planned.cue.blend_place
        if planned.blend_chunks and not index:
            raise place.error(
                "found a blend on the first cue; there is no prompt before it to blend from;"
                " remove it"
            )
        if planned.blend_chunks > planned.num_chunks:
            raise place.error(
                f"the blend of {decimal(planned.cue.blend_s)} s takes {planned.blend_chunks}"
                f" chunks, but its prompt lasts {planned.num_chunks}"
                f" ({decimal(planned.num_chunks * CHUNK_S)} s); shorten the blend, or start the"
                " next cue later"
            )

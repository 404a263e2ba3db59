"""The plan of a stream: the chunk at which each cue takes effect, and how long it lasts.

A stream is made chunk by chunk, so a cue takes effect at the first chunk start at or after its
time. Latent frames and chunks are counted through the whole stream; the video frames they decode
to depend on the scenes, since a scene's first chunk gives fewer than the later ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from afstream.geometry import ChunkClock
from afstream.timeline.cue import Cue
from afstream.timeline.moment import DIGITS, Moment, clock_time, decimal

LAST_CUE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Chunks and video frames from one cut on.

    Attributes:
        clock: lengths of chunks and frames.
        index: number of the scene, counted from 0.
        chunk: its first chunk.
        video_frame: its first video frame.
    """

    clock: ChunkClock
    index: int = 0
    chunk: int = 0
    video_frame: int = 0

    def frame_of_latent(self, latent: int) -> int:
        """First video frame of a latent frame of the stream."""
        start = self.chunk * self.clock.chunk_frames
        return self.video_frame + self.clock.format.video_frames(latent - start)

    def frame_of_chunk(self, chunk: int) -> int:
        """First video frame of a chunk of the stream."""
        return self.frame_of_latent(chunk * self.clock.chunk_frames)

    def chunk_at(self, moment: Moment) -> int:
        """The first chunk that starts at or after an absolute moment."""
        if moment.counts_latents:
            return ceil(moment.in_latents(self.clock) / self.clock.chunk_frames)
        return self.chunk_from(moment.in_seconds(self.clock))

    def chunk_from(self, seconds: float) -> int:
        """The first chunk that starts at or after a time."""
        frame = ceil(seconds * self.clock.fps) - self.video_frame
        return self.chunk + self.clock.chunk_from(frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCue:
    """A cue and its segment: the chunks for which it holds.

    Attributes:
        cue: the request.
        requested_s: the time in the video for which it was requested, seconds.
        requested_latent: the same in latent frames of the stream.
        in_scene: the scene that it belongs to; every cut begins one.
        chunk: the first chunk of its segment, counted through the stream.
        num_chunks: chunks of its segment.
    """

    cue: Cue
    requested_s: float
    requested_latent: int
    in_scene: Scene
    chunk: int
    num_chunks: int = 0

    @property
    def scene(self) -> int:
        """Number of its scene, counted from 0."""
        return self.in_scene.index

    @property
    def video_frame(self) -> int:
        """The first video frame of its segment."""
        return self.in_scene.frame_of_chunk(self.chunk)

    @property
    def effective_s(self) -> float:
        """When it takes effect, in seconds of video."""
        return self.video_frame / self.in_scene.clock.fps

    @property
    def slip_s(self) -> float:
        """Seconds from the requested time to the time when it takes effect."""
        return self.effective_s - self.requested_s

    @property
    def blend_chunks(self) -> int:
        """Chunks over which the previous prompt fades out, 0 for none."""
        return blend_length(self.cue.blend_s, self.in_scene.clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a stream plays: one segment per cue, in order, without gaps.

    Attributes:
        clock: lengths of chunks and frames that it was made for.
        cues: the segments.
        num_chunks: chunks of the whole stream.
        num_video_frames: video frames of the whole stream.
    """

    clock: ChunkClock
    cues: tuple[PlannedCue, ...]
    num_chunks: int
    num_video_frames: int

    @property
    def duration_s(self) -> float:
        """Seconds of video: at least the requested duration, in whole chunks."""
        return self.num_video_frames / self.clock.fps

    def frame_of_chunk(self, chunk: int) -> int:
        """First video frame of a chunk; that of `num_chunks` is the number of video frames."""
        return self._scene(chunk).frame_of_chunk(chunk)

    def whole_chunks(self, frames: int) -> int:
        """Chunks that lie wholly within the first so many video frames."""
        ends = range(1, self.num_chunks + 1)
        return bisect_right(ends, frames, key=self.frame_of_chunk)

    def chunk_at(self, moment: Moment) -> int:
        """The first chunk that starts at or after an absolute moment.

        The end is the start of chunk `num_chunks`; for a moment after it, one more is returned.
        """
        if moment.counts_latents:
            latent = moment.in_latents(self.clock)
            return min(ceil(latent / self.clock.chunk_frames), self.num_chunks + 1)
        frame = ceil(round(moment.in_seconds(self.clock) * self.clock.fps, DIGITS))
        return bisect_left(range(self.num_chunks + 1), frame, key=self.frame_of_chunk)

    def _scene(self, chunk: int) -> Scene:
        """The scene of a chunk."""
        index = bisect_right(self.cues, chunk, key=lambda planned: planned.chunk)
        return self.cues[index - 1].in_scene


def plan_cues(
    cues: Sequence[Cue], clock: ChunkClock, *, duration: Moment | None, live: bool
) -> Plan:
    """Assign cues to chunks.

    Args:
        cues: in the order of time.
        clock: lengths of chunks and frames.
        duration: length of the stream; without it the last cue lasts `LAST_CUE_S` from where it
            takes effect, or as long as its blend.
        live: a blend may be broken off by the next cue or by the end.
    """
    scene = Scene(clock=clock)
    planned: list[PlannedCue] = []
    for cue in cues:
        found = snap(cue, scene, planned[-1] if planned else None)
        if duration is not None:
            check_end(found, scene, duration)
        planned.append(found)
        scene = found.in_scene
    last = planned[-1]
    if duration is not None:
        num_chunks = scene.chunk_at(duration)
    else:
        num_chunks = scene.chunk_from(last.effective_s + max(LAST_CUE_S, last.cue.blend_s))
    starts = [*(found.chunk for found in planned), num_chunks]
    lengths = (stop - start for start, stop in pairwise(starts))
    segments = tuple(
        replace(found, num_chunks=length) for found, length in zip(planned, lengths, strict=True)
    )
    if not live:
        check_blends(segments)
    return Plan(
        clock=clock,
        cues=segments,
        num_chunks=num_chunks,
        num_video_frames=scene.frame_of_chunk(num_chunks),
    )


def snap(cue: Cue, scene: Scene, previous: PlannedCue | None) -> PlannedCue:
    """Find the chunk of a cue, which continues a scene or begins one; the first cue's is 0."""
    if previous is None:
        return PlannedCue(cue=cue, requested_s=0.0, requested_latent=0, in_scene=scene, chunk=0)
    clock, start = scene.clock, cue.start
    if start.counts_latents:
        latent = start.in_latents(clock) + (previous.requested_latent if start.relative else 0)
        chunk = ceil(latent / clock.chunk_frames)
        seconds = scene.frame_of_latent(latent) / clock.fps
    else:
        seconds = start.in_seconds(clock) + (previous.requested_s if start.relative else 0)
        # 1.1 + 2.2 is 3.3 and not 3.3000000000000003: no rounding error may cost a chunk.
        seconds = round(seconds, DIGITS)
        chunk = scene.chunk_from(seconds)
        latent = chunk * clock.chunk_frames
    check_order(cue, seconds, chunk, previous)
    if cue.transition == "cut":
        frame = scene.frame_of_chunk(chunk)
        scene = Scene(clock=clock, index=scene.index + 1, chunk=chunk, video_frame=frame)
    return PlannedCue(
        cue=cue, requested_s=seconds, requested_latent=latent, in_scene=scene, chunk=chunk
    )


def check_order(cue: Cue, seconds: float, chunk: int, previous: PlannedCue) -> None:
    """Refuse a cue before the previous one, at its time, or on its chunk."""
    other = f"the cue on line {previous.cue.line}" if previous.cue.line else "the cue before it"
    earlier, effective = clock_time(previous.requested_s), clock_time(previous.effective_s)
    if seconds < previous.requested_s or chunk < previous.chunk:
        raise cue.place.error(
            f"the cue starts at {cue.start}, before {other} at {earlier}; cues stand in the order"
            " of time; move it up, or change its time"
        )
    if seconds == previous.requested_s:
        raise cue.place.error(
            f"the cue starts at {earlier}, as does {other}; a time has one cue; change one of them"
        )
    if chunk == previous.chunk:
        raise cue.place.error(
            f"the cue starts at {clock_time(seconds)}, but {other} takes effect at {effective}"
            f" only; a prompt lasts at least one chunk; start the cue after {effective}"
        )


def check_end(found: PlannedCue, before: Scene, duration: Moment) -> None:
    """Refuse a cue that takes effect when the stream is over."""
    if found.chunk >= before.chunk_at(duration):
        raise found.cue.place.error(
            f"the cue at {clock_time(found.requested_s)} takes effect at"
            f" {clock_time(found.effective_s)}, past the end; @duration is {duration}; start the"
            " cue earlier, or raise @duration"
        )


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
            lasts_s = planned.num_chunks * planned.in_scene.clock.chunk_s
            raise place.error(
                f"the blend of {decimal(planned.cue.blend_s)} s takes {planned.blend_chunks}"
                f" chunks, but its prompt lasts {planned.num_chunks} ({decimal(lasts_s)} s);"
                " shorten the blend, or start the next cue later"
            )


def blend_length(blend_s: float, clock: ChunkClock) -> int:
    """Chunks of a blend that lasts at least `blend_s` seconds, 0 for none."""
    # Rounded because 1.5 s must stay two chunks when the division is not exact.
    return ceil(round(blend_s / clock.chunk_s, DIGITS))


def length_of(duration: Moment, clock: ChunkClock) -> float:
    """Seconds of video of a stream without cuts that lasts until `duration`, in whole chunks."""
    scene = Scene(clock=clock)
    return scene.frame_of_chunk(scene.chunk_at(duration)) / clock.fps

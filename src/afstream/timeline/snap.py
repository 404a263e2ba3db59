"""Times snapped to chunks.

A stream is made chunk by chunk, so a request takes effect at the first chunk start at or
after it. Latent frames and chunks are counted through the whole stream; the video frames
they decode to depend on the scenes, since a scene's first chunk gives 9 and not 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from afstream.geometry import CHUNK_FRAMES, FPS, TEMPORAL_STRIDE, video_frames
from afstream.timeline.cue import Cue
from afstream.timeline.moment import DIGITS, Moment, Unit, clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where chunks and video frames stand from the last cut on.

    Attributes:
        index: counted from 0.
        chunk: its first chunk.
        video_frame: its first video frame.
    """

    index: int = 0
    chunk: int = 0
    video_frame: int = 0

    def frame_of_latent(self, latent: int) -> int:
        """First video frame of a latent frame of the stream."""
        return self.video_frame + video_frames(latent - self.chunk * CHUNK_FRAMES)

    def frame_of_chunk(self, chunk: int) -> int:
        """First video frame of a chunk of the stream."""
        return self.frame_of_latent(chunk * CHUNK_FRAMES)

    def chunk_at(self, moment: Moment) -> int:
        """The first chunk that starts at or after an absolute moment."""
        if counts_latents(moment):
            return ceil(in_latents(moment) / CHUNK_FRAMES)
        return self.chunk_from(in_seconds(moment))

    def chunk_from(self, seconds: float) -> int:
        """The first chunk that starts at or after a time."""
        frame = ceil(seconds * FPS) - self.video_frame
        latents = ceil((frame - 1) / TEMPORAL_STRIDE) + 1 if frame > 0 else 0
        return self.chunk + ceil(latents / CHUNK_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """Where a cue was asked for, and the chunk at which it takes effect.

    Attributes:
        cue: what was asked for.
        requested_s: when, in seconds of video.
        requested_latent: when, in latent frames of the stream.
        chunk: the chunk at which it takes effect.
        before: the scene that it ends or goes on with.
        scene: the scene that it belongs to.
    """

    cue: Cue
    requested_s: float
    requested_latent: int
    chunk: int
    before: Scene
    scene: Scene

    @property
    def video_frame(self) -> int:
        """The first video frame under this cue."""
        return self.scene.frame_of_chunk(self.chunk)

    @property
    def effective_s(self) -> float:
        """When it takes effect, in seconds of video."""
        return self.video_frame / FPS


def land(cue: Cue, previous: Landing | None) -> Landing:
    """Find the chunk of a cue, given the cue before it."""
    if previous is None:
        return land_first(cue)
    before, start = previous.scene, cue.start
    if counts_latents(start):
        latent = in_latents(start) + (previous.requested_latent if start.relative else 0)
        chunk = ceil(latent / CHUNK_FRAMES)
        seconds = before.frame_of_latent(latent) / FPS
    else:
        seconds = in_seconds(start) + (previous.requested_s if start.relative else 0)
        # 1.1 + 2.2 is 3.3 and not 3.3000000000000003: no rounding error may cost a chunk.
        seconds = round(seconds, DIGITS)
        chunk = before.chunk_from(seconds)
        latent = chunk * CHUNK_FRAMES
    check_order(cue, seconds, chunk, previous)
    scene = before
    if cue.transition == "cut":
        scene = Scene(index=before.index + 1, chunk=chunk, video_frame=before.frame_of_chunk(chunk))
    return Landing(
        cue=cue,
        requested_s=seconds,
        requested_latent=latent,
        chunk=chunk,
        before=before,
        scene=scene,
    )


def land_first(cue: Cue) -> Landing:
    """The first cue takes effect at 0, and nowhere else."""
    if cue.start.relative:
        raise cue.place.error(
            f"the first cue starts at {cue.start}, and no cue is before it; write 0:00"
        )
    if cue.start.value:
        raise cue.place.error(
            f"the first cue starts at {cue.start}; a stream begins at 0:00; start the cue there,"
            " or add one before it"
        )
    scene = Scene()
    return Landing(cue=cue, requested_s=0.0, requested_latent=0, chunk=0, before=scene, scene=scene)


def check_order(cue: Cue, seconds: float, chunk: int, previous: Landing) -> None:
    """Refuse a cue before the previous one, at its time, or on its chunk."""
    other = f"the cue on line {previous.cue.line}" if previous.cue.line else "the cue before it"
    earlier, effective = clock(previous.requested_s), clock(previous.effective_s)
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
            f"the cue starts at {clock(seconds)}, but {other} takes effect at {effective} only; a"
            f" prompt lasts at least one chunk; start the cue after {effective}"
        )


def counts_latents(moment: Moment) -> bool:
    """Whether the moment is written in latent frames or chunks."""
    return moment.unit in (Unit.LATENT_FRAMES, Unit.CHUNKS)


def in_latents(moment: Moment) -> int:
    """Latent frames or chunks as latent frames."""
    return int(moment.value) * (CHUNK_FRAMES if moment.unit is Unit.CHUNKS else 1)


def in_seconds(moment: Moment) -> float:
    """Seconds or video frames as seconds."""
    return moment.value / (FPS if moment.unit is Unit.VIDEO_FRAMES else 1)

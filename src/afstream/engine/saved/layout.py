"""What the header of a saved state holds beside tensors, and what it must agree with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from afstream.engine.chunk import Receipt
from afstream.engine.decode import PendingChunk
from afstream.engine.state import Change
from afstream.timeline import Cue, Moment, Unit
from afstream.timeline.cue import MAX_SEED, Transition
from afstream.validation import Checked

# raised with every change of the layout
VERSION = 1

Number = Annotated[int, Field(ge=0, le=2**53)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class SavedCue(Checked):
    """A cue; see `Cue` and `Moment`."""

    start: float
    unit: Literal["s", "f", "l", "c"]
    relative: bool
    prompt: str
    transition: Transition
    blend_s: float
    seed: Seed | None
    note: str

    @classmethod
    def of(cls, cue: Cue) -> SavedCue:
        """As it is saved."""
        start = cue.start
        return cls(
            start=start.value,
            unit=start.unit.value,  # pyright: ignore[reportArgumentType]  the letters above
            relative=start.relative,
            prompt=cue.prompt,
            transition=cue.transition,
            blend_s=cue.blend_s,
            seed=cue.seed,
            note=cue.note,
        )

    def cue(self) -> Cue:
        """The cue; `TimelineError` where there is no such cue."""
        return Cue(
            start=Moment(self.start, Unit(self.unit), relative=self.relative),
            prompt=self.prompt,
            transition=self.transition,
            blend_s=self.blend_s,
            seed=self.seed,
            note=self.note,
        )


class SavedChange(Checked):
    """A prompt change that took effect; see `Change`."""

    chunk: Number
    cue: SavedCue


class SavedReceipt(Checked):
    """A receipt of a pending chunk; see `Receipt`."""

    cue: SavedCue
    requested_s: float
    blend_chunks: Number
    superseded: bool

    @classmethod
    def of(cls, receipt: Receipt) -> SavedReceipt:
        """As it is saved."""
        return cls(
            cue=SavedCue.of(receipt.cue),
            requested_s=receipt.requested_s,
            blend_chunks=receipt.blend_chunks,
            superseded=receipt.superseded,
        )

    def receipt(self, chunk: int) -> Receipt:
        """The receipt of a chunk; a live cue's time counts from now."""
        return Receipt(
            cue=self.cue.cue(),
            requested_s=self.requested_s,
            blend_chunks=self.blend_chunks,
            chunk=chunk,
            superseded=self.superseded,
        )


class SavedPending(Checked):
    """A chunk that was submitted and not collected; see `PendingChunk`."""

    segment: Number
    prompt: str
    start_s: float
    receipts: tuple[SavedReceipt, ...]

    @classmethod
    def of(cls, pending: PendingChunk) -> SavedPending:
        """As it is saved, tensors aside."""
        return cls(
            segment=pending.segment,
            prompt=pending.prompt,
            start_s=pending.start_s,
            receipts=tuple(map(SavedReceipt.of, pending.receipts)),
        )


class SavedScene(Checked):
    """Host integers of one scene; see `RolloutState` and `KVCache`."""

    frame: Number
    slot_frames: tuple[int, ...]
    anchors: dict[str, Number | None]


class SavedBlend(Checked):
    """How far a blend has come; see `Blend`."""

    chunks: Number
    done: Number


class Layout(Checked):
    """All of it; see `StreamState`.

    Attributes:
        stream: what the stream that loads it must agree with.
        values: decoder state, embeddings, latents and frames, as `pack` gives them.
    """

    stream: dict[str, Any]
    seed: Seed
    first_seed: Seed
    history: tuple[SavedChange, ...]
    chunk: Number
    segment: Annotated[int, Field(ge=-1, le=2**53)]
    video_frame: Number
    prompt: str
    scene: SavedScene | None
    blend: SavedBlend | None
    pending: Annotated[tuple[SavedPending, ...], Field(max_length=2)]
    values: dict[str, Any]

    @property
    def position(self) -> int:
        """See `StreamState`."""
        return self.chunk - len(self.pending)

    def changes(self) -> list[Change]:
        """The history; `TimelineError` where it holds no cues."""
        return [Change(change.chunk, change.cue.cue()) for change in self.history]

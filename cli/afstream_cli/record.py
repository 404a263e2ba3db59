"""The run record: what was made, from which settings, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from afstream_cli.versions import versions

if TYPE_CHECKING:
    from afstream.stream import Chunk, Stream
    from afstream.video import VideoWriter
    from afstream_cli.tally import Tally

FORMAT = 1
State = Literal["running", "finished", "interrupted", "failed"]


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """One run, as data; only the list of cues grows with it.

    Attributes:
        settings: model, memory, device and everything else that describes the stream.
        load_s: seconds that the model took to load.
        seed: seed of the noise.
        state: how the run ended; `running` when the process was killed.
        error: the message of the error that ended a failed run.
        cues: every prompt that took effect.
    """

    settings: Mapping[str, object]
    load_s: float
    seed: int = 0
    state: State = "running"
    error: str | None = None
    cues: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def add_cue(self, chunk: Chunk) -> None:
        """Add the prompt that took effect with this chunk."""
        receipt = chunk.receipts[-1]
        cue = receipt.cue
        self.cues.append(
            {
                "segment": chunk.segment,
                "prompt": cue.prompt,
                "transition": cue.transition,
                "blend_s": cue.blend_s,
                "seed": cue.seed,
                "note": cue.note,
                "requested_s": receipt.requested_s,
                "effective_s": chunk.start_s,
                "slip_s": round(chunk.start_s - receipt.requested_s, 6),
                "chunk": chunk.index,
                "switch_ms": receipt.switch_ms,
            }
        )

    def as_data(self, writer: VideoWriter, tally: Tally) -> dict[str, object]:
        """The record in plain values."""
        width, height = writer.picture.size
        return {
            "afstream_record": FORMAT,
            "state": self.state,
            "error": self.error,
            "output": {
                "path": str(writer.path),
                "frames": writer.frames,
                "seconds": writer.seconds,
                "chunks": tally.chunks,
                "fps": writer.picture.fps,
                "width_px": width,
                "height_px": height,
                "scale": writer.picture.scale,
            },
            **self.settings,
            "seed": self.seed,
            "cues": self.cues,
            "timings": {"load_s": round(self.load_s, 3), **tally.summary()},
            "versions": versions(),
        }


def describe_run(stream: Stream) -> dict[str, object]:
    """The settings that decide whether two runs of one timeline and seed give the same video."""
    model = stream.model
    width, height = stream.size
    return {
        "model": {"name": model.name, **model.details},
        "memory": stream.policy.settings,
        "size_px": [width, height],
        "device": str(model.backbone.device),
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
        "backend": stream.backend.name,
        "compiled": stream.compiled,
        "graphs": stream.graphs,
        "memory_estimate": stream.estimate and stream.estimate.as_data(),
    }

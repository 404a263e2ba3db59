"""The memory of one stream, part by part, and the most of it that is needed at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from afstream.memory_plan.outline import Outline, Setting
from afstream.memory_plan.parts import Part, all_parts

# blocks are rounded up, and holes between them stay empty; most where tensors come and go
SLACK_STAYING, SLACK_PASSING = 0.01, 0.1
# what comes and goes, and what is no tensor
PASSING = (
    "weights on their way",
    "encoding a prompt",
    "denoising",
    "re-cache",
    "new text keys",
    "decoding",
    "captured graphs",
    "CUDA context",
    "workspaces",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Parts that lie on the GPU at one time.

    Attributes:
        name: what happens then.
        tensors: bytes of tensors that are alive.
        slack: an allowance for what torch cannot use between them.
        held: bytes that are taken, with what torch and the driver keep beside them.
    """

    name: str
    tensors: int
    slack: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a stream will take.

    Attributes:
        parts: what is counted, and the allowances; not all of it is there at once.
        moments: encoding prompts, loading, streaming, a prompt switch.
    """

    parts: tuple[Part, ...]
    moments: tuple[Moment, ...]

    @property
    def peak_bytes(self) -> int:
        """Memory that the GPU must have free before anything is loaded."""
        return max(moment.held for moment in self.moments)

    @property
    def tensor_bytes(self) -> int:
        """Most memory of live tensors: what `torch.cuda.max_memory_allocated` would say."""
        return max(moment.tensors for moment in self.moments)

    @property
    def host_bytes(self) -> int:
        """Weights in the host's memory."""
        return sum(part.bytes for part in self.parts if part.where == "host")

    def bytes_of(self, name: str) -> int:
        """Of the part of a name; 0 if there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "peak_bytes": self.peak_bytes,
            "tensor_bytes": self.tensor_bytes,
            "host_bytes": self.host_bytes,
            "parts": [asdict(part) for part in self.parts],
            "moments": [asdict(moment) for moment in self.moments],
        }


def estimate(outline: Outline, setting: Setting) -> Estimate:
    """What a stream takes on a GPU.

    Args:
        outline: of the model.
        setting: how it is run.

    Raises:
        ConfigError: there are fewer layers than are to be offloaded.
    """
    parts = {part.name: part for part in all_parts(outline, setting)}

    def moment(name: str, tensors: tuple[str, ...], pools: int) -> Moment:
        live = sum(parts[part].bytes for part in tensors)
        passing = sum(parts[part].bytes for part in tensors if part in PASSING)
        slack = int(SLACK_STAYING * (live - passing) + SLACK_PASSING * passing)
        allowed = parts["CUDA context"].bytes + parts["workspaces"].bytes + slack
        return Moment(name=name, tensors=live, slack=slack, held=live + pools + allowed)

    on_device = tuple(name for name, part in parts.items() if part.where == "device")
    weights = tuple(name for name in on_device if name.endswith(" weights"))
    resident = tuple(name for name in on_device if name not in PASSING)
    if setting.text == "drop":
        resident = tuple(name for name in resident if name != "text encoder weights")
    loading = tuple(name for name in weights if name in resident)
    calls, graphs = outline.calls(setting), parts["captured graphs"].bytes
    # a cue may be encoded at any time, a known prompt was encoded before
    encoding = () if setting.prompts or setting.text != "device" else ("encoding a prompt",)
    text = ("text encoder weights", "encoding a prompt", "prompt embeddings")
    # captured calls work in memory of their own, which stays theirs
    during = max(calls.denoise, calls.context)
    stream = (*resident, *encoding, "denoising", "decoding")
    switch = (*resident, *encoding, "re-cache", "new text keys", "decoding")
    moments = [
        moment("load", (*loading, "weights on their way"), 0),
        moment("stream", stream, max(graphs - during, 0)),
        moment("switch", switch, graphs),
    ]
    if outline.is_folder and setting.text != "cpu":
        moments.insert(0, moment("encode", text, 0))
    slack = Part(
        name="allocator slack",
        bytes=max(moments, key=lambda one: one.held).slack,
        why=f"allowance: {SLACK_STAYING:.0%} of what stays, {SLACK_PASSING:.0%} of what passes",
    )
    return Estimate(parts=(*parts.values(), slack), moments=tuple(moments))

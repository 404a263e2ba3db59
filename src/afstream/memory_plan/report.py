"""Reports of memory: parts, the phases in which they are there, and the peak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from afstream.geometry import Geometry
from afstream.memory_plan.units import MIB
from afstream.spec import StreamConfig

PhaseName = Literal["encode", "load", "stream", "switch"]
Where = Literal["device", "host"]

# Nobody can count these beforehand; they are allowances, and every table says so.
CONTEXT_BYTES = 512 * MIB
WORKSPACE_BYTES = 128 * MIB
# blocks are rounded up, and holes between them stay empty; most where tensors come and go
STAYING_SLACK, PASSING_SLACK = 0.01, 0.1


class Part(NamedTuple):
    """Memory of one purpose.

    Attributes:
        why: where the number comes from.
        phases: when its tensors are on the GPU.
        passes: whether it comes and goes within a phase.
    """

    name: str
    bytes: int
    why: str = ""
    phases: tuple[PhaseName, ...] = ()
    where: Where = "device"
    passes: bool = False


class Phase(NamedTuple):
    """What is on the GPU at one time.

    Attributes:
        tensors: bytes of live tensors.
        slack: an allowance for what torch's allocator cannot use between them.
        held: bytes that are taken, with what torch and the driver keep beside tensors.
    """

    name: PhaseName
    tensors: int
    slack: int
    held: int

    @classmethod
    def of(cls, name: PhaseName, parts: Iterable[Part], pools: int = 0) -> Phase:
        """Add up a phase's parts, and `pools`, which captured graphs hold beside them."""
        there = [part for part in parts if name in part.phases]
        passing = sum(part.bytes for part in there if part.passes)
        tensors = sum(part.bytes for part in there)
        slack = int(STAYING_SLACK * (tensors - passing) + PASSING_SLACK * passing)
        return cls(name, tensors, slack, tensors + pools + CONTEXT_BYTES + WORKSPACE_BYTES + slack)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """What a stream takes on a GPU.

    Attributes:
        model: its name.
        parts: what is counted, and the allowances; not all of them are there at once.
        phases: encoding prompts, loading, streaming, a prompt switch.
    """

    model: str
    config: StreamConfig
    geometry: Geometry
    parts: tuple[Part, ...]
    phases: tuple[Phase, ...]

    @property
    def fullest(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.held)

    @property
    def peak_bytes(self) -> int:
        """Bytes that the GPU must have free before anything is loaded."""
        return self.fullest.held

    @property
    def tensor_bytes(self) -> int:
        """The most bytes of live tensors: what `torch.cuda.max_memory_allocated` would say."""
        return max(phase.tensors for phase in self.phases)

    @property
    def host_bytes(self) -> int:
        """Bytes of weights in host memory."""
        return sum(part.bytes for part in self.parts if part.where == "host")

    def bytes_of(self, name: str) -> int:
        """Bytes of the part of a name; 0 if there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "peak_bytes": self.peak_bytes,
            "tensor_bytes": self.tensor_bytes,
            "host_bytes": self.host_bytes,
            "parts": [part._asdict() for part in self.parts],
            "phases": [phase._asdict() for phase in self.phases],
        }

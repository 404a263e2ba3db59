"""What a stream tells of itself: its parts, and how far it has come."""

from __future__ import annotations

import torch

from afstream.engine.pipeline import ChunkPipeline
from afstream.engine.saved.states import SavedStates
from afstream.engine.state import StreamState
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.policy import MemoryPolicy
from afstream_kernels import Backend


class StreamFacts:
    """The properties of a `Stream`, which sets these attributes.

    Attributes:
        model: its parts.
        geometry: the video's size in pixels, latent values and tokens.
    """

    model: VideoModel
    geometry: Geometry
    _pipeline: ChunkPipeline
    _states: SavedStates

    def __repr__(self) -> str:
        width, height = self.size
        place = f"next chunk {self.next_chunk} at {self.next_s:g} s"
        return (
            f"<Stream of {self.model.name}: {width}x{height} at {self.fps} fps,"
            f" memory {self.policy.name}, {self.backend.name} on {self.model.backbone.device},"
            f" {'closed' if self._pipeline.closed else place}>"
        )

    @property
    def state(self) -> StreamState:
        """All state of the running stream."""
        return self._pipeline.state

    @property
    def ahead(self) -> bool:
        """Whether each chunk is submitted before the one before it is collected."""
        return self._pipeline.ahead

    @property
    def fps(self) -> int:
        """Video frames a second."""
        return self.model.format.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.geometry.width_px, self.geometry.height_px

    @property
    def policy(self) -> MemoryPolicy:
        """The memory policy."""
        return self._pipeline.rollout.policy

    @property
    def backend(self) -> Backend:
        """The backend of attention and the other kernels."""
        return self._pipeline.rollout.backend

    @property
    def compiled(self) -> bool:
        """Whether torch compiles the layers."""
        return self.model.backbone.is_compiled

    @property
    def threads(self) -> int:
        """Threads that torch computes with on the CPU; frames depend on it in their last bits."""
        return torch.get_num_threads()

    @property
    def graphs(self) -> bool:
        """Whether model calls are captured as CUDA graphs; no longer after a capture failed."""
        scene = self.state.rollout
        failed = scene is not None and scene.graphs is not None and scene.graphs.failure
        return self._pipeline.rollout.use_graphs and not failed

    @property
    def pays_to_warm_up(self) -> bool:
        """Whether a rehearsal pays before a video that is watched while it is made: on a GPU."""
        return self.model.backbone.device.type == "cuda"

    @property
    def next_chunk(self) -> int:
        """Index of the next chunk to be submitted: the first that a cue can change."""
        return self.state.chunk

    @property
    def next_s(self) -> float:
        """Time in the video at which that chunk begins, seconds."""
        return self._pipeline.next_s

    @property
    def position(self) -> int:
        """Index of the next chunk to be yielded; less than `next_chunk` where one waits for it."""
        return self.state.position

    @property
    def state_bytes(self) -> int:
        """Bytes that `save` writes once the memory is full, its header aside.

        The decoder's own state counts from the first chunk on.
        """
        return self._states.num_bytes

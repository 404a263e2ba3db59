"""What a stream is, as far as its saved states depend on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import NamedTuple

import torch

from afstream.engine.rollout import Rollout
from afstream.families.base import VideoModel
from afstream.geometry import Geometry
from afstream.kvcache.cache import slot_shape
from afstream.model.dit import TextContext

# values of a tensor that stand for all of it
SAMPLE = 8


class StreamKind(NamedTuple):
    """A stream without its state.

    Attributes:
        model: its parts, its name and where it came from.
        size: of the video.
        rollout: memory, backend and denoise steps.
    """

    model: VideoModel
    size: Geometry
    rollout: Rollout

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one chunk of latents, (B, c, C, h, w)."""
        frames, config = self.rollout.policy.lengths.chunk_frames, self.rollout.model.config
        return (1, frames, config.in_dim, self.size.latent_height, self.size.latent_width)

    @property
    def slot_shape(self) -> tuple[int, int, int, int, int]:
        """Of one slot's keys; see `afstream.kvcache.cache.slot_shape`."""
        grid = self.size.rows, self.size.columns
        return slot_shape(self.rollout.policy, self.rollout.model.config, grid)

    @property
    def decoder_module(self) -> str:
        """Name of the module that has the classes of the decoder's state."""
        return type(self.model.vae).__module__

    @property
    def memory_bytes(self) -> int:
        """Bytes of keys, values and latents that are kept once the window is full."""
        rollout, policy = self.rollout, self.rollout.policy
        slot = torch.Size(self.slot_shape).numel() * rollout.model.dtype.itemsize
        latents = torch.Size(self.shape).numel() * rollout.latent_dtype.itemsize
        return 2 * slot * policy.num_slots + latents * policy.lengths.window_chunks

    def facts(self) -> dict[str, str]:
        """What a state and the stream that loads it must have in common, by name."""
        model, backbone = self.model, self.rollout.model
        digest = hashlib.sha256(json.dumps(model.identity, sort_keys=True).encode()).hexdigest()
        settings = {
            "memory": self.rollout.policy.settings,
            "sampler": asdict(model.sampler),
            "backbone": asdict(backbone.config),
        }
        return {
            "model": model.name,
            "size": f"{self.size.width_px}x{self.size.height_px}",
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "backend": self.rollout.backend.name,
            **{
                f"{of} {name}": str(value)
                for of, values in settings.items()
                for name, value in values.items()
            },
            "model's origin": digest[:16],
        }

    def weights(self, text: TextContext | None) -> str:
        """A digest of values that the model computed, which tells its weights from others.

        Weights themselves may lie in buffers that other layers use in turn.
        """
        digest = hashlib.sha256()
        times = [x for time in self.rollout.times for x in (time.embedding, time.projection)]
        prompt = [part for keys in text or () for part in (keys.k, keys.v)]
        for tensor in times + prompt:
            sample = tensor.detach().flatten()[:SAMPLE].cpu()
            digest.update(sample.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

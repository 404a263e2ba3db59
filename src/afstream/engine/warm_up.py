"""A rehearsal: what would make some later chunk late is met before the first one.

Libraries plan each length of attention when they first meet it, kernels are compiled and loaded,
and CUDA graphs are captured at the second call of their kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from afstream.engine.stopwatch import Stopwatch
from afstream.kvcache.policy import MemoryPolicy
from afstream_kernels import on_device

if TYPE_CHECKING:
    from afstream.engine.pipeline import ChunkPipeline


def rehearsal_chunks(policy: MemoryPolicy) -> int:
    """Chunks before a switch, and after it, until every kind of call has come three times.

    The window fills, or a junction comes to be seen; then a call runs eagerly, the next one is
    captured, and one is replayed.
    """
    return policy.lengths.window_chunks + 2


def warm_up(pipeline: ChunkPipeline) -> None:
    """Make chunks that nobody sees, and leave their buffers and graphs to the first scene.

    Args:
        pipeline: without a prompt so far; its state stays as it is.
    """
    rollout, decoder = pipeline.rollout, pipeline.decoder
    with torch.inference_mode(), on_device(rollout.model.device):
        config = rollout.model.config
        text = rollout.model.text_context(torch.zeros(1, config.text_len, config.text_dim))
        scene = rollout.start(text, pipeline.prompts.chunk_shape(rollout))
        watch, state = Stopwatch(decoder.stream.event), None
        for block in range(2):
            if block:
                rollout.switch(scene, text)
            for chunk in range(rehearsal_chunks(rollout.policy)):
                clean = rollout.denoise(scene, rollout.noise(scene, seed=0, chunk=chunk))
                state = decoder.submit(clean, state, watch).state
                rollout.commit(scene, clean)
        rollout.restart(scene, text)
        pipeline.prompts.spare = scene
        decoder.stream.wait(decoder.stream.finish())

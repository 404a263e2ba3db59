"""Make `tests/golden/rollout_recapture.safetensors`, which no public code could be asked for.

    python -m tests.kvcache.make_recapture

It is what the plain stream computes in float64 with the golden backbone: three switches, one of
them while the whole past fits into the window, so that the sink is replaced twice. Named and laid
out like the recorded rollouts beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.kvcache.plain_memory import RECAPTURE, Memory
from tests.kvcache.plain_stream import PlainStream
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
PATH = GOLDEN / "rollout_recapture.safetensors"
# timesteps 1000, 937.5 and 625: exact in float32, in which the engine holds them
STEPS, SHIFT = (1000, 750, 250), 5.0
MEMORY = Memory(name=RECAPTURE)
HEIGHT, WIDTH, FRAMES, SWITCHES = 4, 6, 45, [8, 20, 34]
NUM_LAYERS, NUM_HEADS, TEXT_LEN, TEXT_DIM, FREQ_DIM = 2, 2, 8, 24, 32
SEED = 12
CONFIG = {
    "dim": 64,
    "ffn_dim": 128,
    "freq_dim": FREQ_DIM,
    "text_dim": TEXT_DIM,
    "text_len": TEXT_LEN,
    "num_heads": NUM_HEADS,
    "num_layers": NUM_LAYERS,
    "local_attn_size": MEMORY.W,
    "sink_size": MEMORY.S,
    "frames_per_block": MEMORY.c,
    "latent_h": HEIGHT,
    "latent_w": WIDTH,
    "timestep_shift": SHIFT,
    "denoising_steps": STEPS,
    "num_frames": FRAMES,
    "switch_frames": SWITCHES,
    "global_sink": False,
    "rope_enhance": True,
    "use_prompt_cache": False,
    "weight_seed": 1,
    "data_seed": SEED,
}


def make_case() -> dict[str, Tensor]:
    """Inputs in float32, and what comes of them in float64."""
    c, shape = MEMORY.c, (16, HEIGHT, WIDTH)
    draw = torch.Generator().manual_seed(SEED)
    prompts = torch.randn(1 + len(SWITCHES), TEXT_LEN, TEXT_DIM, generator=draw)
    noise = torch.randn(FRAMES, *shape, generator=draw)
    # every denoise step of a chunk but the last adds fresh noise
    fresh = torch.randn(FRAMES // c, len(STEPS) - 1, c, *shape, generator=draw)
    sigmas = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (step / 1000 for step in STEPS)]
    stream = PlainStream(
        load_file(GOLDEN / "backbone.safetensors"),
        MEMORY,
        num_heads=NUM_HEADS,
        freq_dim=FREQ_DIM,
        text_len=TEXT_LEN,
        sigmas=sigmas,
    )
    stream.cut(prompts[0])
    # a request takes effect at the first chunk start at or after it
    starts = [-(-frame // c) * c for frame in SWITCHES]
    latents = list[Tensor]()
    for index, start in enumerate(noise.split(c)):
        if stream.frame in starts:
            stream.switch(prompts[1 + starts.index(stream.frame)])
        latents.append(stream.chunk(torch.cat([start[None], fresh[index]])))
    seen = [frame for frame, _ in stream.scene.visible(stream.frame - c, c)]
    keys, values = (
        torch.stack([torch.cat([held[layer, at] for at in seen]) for layer in range(NUM_LAYERS)])[
            :, None
        ]
        for held in (stream.keys, stream.values)
    )
    return {
        "noise": noise[None],
        "renoise": fresh.flatten(0, 1)[:, None],
        "prompt_embeds": prompts,
        "timesteps": torch.tensor([1000 * sigma for sigma in sigmas]),
        "latents": torch.cat(latents)[None],
        "kv_k": keys,
        "kv_v": values,
    }


if __name__ == "__main__":
    case = {name: value.float().contiguous() for name, value in make_case().items()}
    save_file(case, PATH, {"config": json.dumps(CONFIG)})

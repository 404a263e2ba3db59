"""Check rollouts of the engine against recorded rollouts of the method.

    python benchmarks/parity.py --weights WEIGHTS.safetensors CASE.safetensors...
    python benchmarks/parity.py --base STUDENT.pt --lora LORA.pt CASE.safetensors...

Prints, per case, the largest error relative to the largest recorded value, and the same
for the last chunk; exits 1 if any case lies above the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from afstream.config import BackboneConfig, MemoryPolicy, SamplerConfig, from_mapping
from afstream.errors import AfstreamError
from afstream.model.checkpoints import merge_loras, read_lora, read_student
from afstream.model.dit import Backbone
from afstream.model.weights import Weights, load_into
from afstream.rollout import Rollout, RolloutState
from afstream_kernels import BACKENDS, Backend

TOLERANCES = {"float32": 1e-5, "float64": 1e-6}


def read_case(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of one recorded rollout."""
    with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["config"]), tensors


def policy_of(config: dict[str, Any]) -> MemoryPolicy:
    """The memory that a recorded config describes."""
    return MemoryPolicy(
        window_frames=config["local_attn_size"],
        sink_frames=config["sink_size"],
        chunk_frames=config["frames_per_block"],
        positions="tri-region" if config["rope_enhance"] else "absolute",
        at_switch="recache" if config["global_sink"] else "recapture",
        junction="gap" if config["use_prompt_cache"] else "none",
    )


def replay(
    config: dict[str, Any],
    case: dict[str, Tensor],
    weights: Weights,
    dtype: torch.dtype,
    backend: Backend | None = None,
) -> tuple[Tensor, RolloutState]:
    """Run a recorded rollout on its own noise.

    Returns:
        Latents [B, F, C, h, w] and the state at the end.
    """
    model = Backbone(from_mapping(BackboneConfig, config)).to(dtype)
    load_into(model, weights, what="the checkpoint")
    policy = policy_of(config)
    sampler = SamplerConfig(steps=tuple(config["denoising_steps"]), shift=config["timestep_shift"])
    rollout = Rollout.of(model, policy, sampler, backend=backend)
    noise, fresh, prompts = (case[name].to(dtype) for name in ("noise", "renoise", "prompt_embeds"))
    batch = noise.shape[0]
    with torch.no_grad():
        texts = [model.text_context(embeds.expand(batch, -1, -1)) for embeds in prompts[:, None]]

    chunk, between = policy.chunk_frames, len(sampler.steps) - 1
    state = rollout.start(texts[0], noise[:, :chunk].shape)
    # a request takes effect at the first chunk start at or after it
    switches = {
        -(-at // chunk) * chunk: text
        for at, text in zip(config["switch_frames"], texts[1:], strict=True)
    }
    for index, block in enumerate(noise.split(chunk, dim=1)):
        if state.frame in switches:
            rollout.switch(state, switches[state.frame])
        start = index * between
        clean = rollout.denoise(state, torch.stack([block, *fresh[start : start + between]]))
        rollout.commit(state, clean)
        noise[:, index * chunk : (index + 1) * chunk] = clean
    return noise, state


def relative_error(found: Tensor, recorded: Tensor) -> float:
    """Largest difference over largest recorded value."""
    return float((found - recorded).abs().max() / recorded.abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases; 0 if every one lies within the tolerance."""
    parser = argparse.ArgumentParser(description="Check rollouts against recorded ones.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, help="backbone weights, Wan names")
    source.add_argument("--base", type=Path, help="student checkpoint (.pt)")
    parser.add_argument("--lora", type=Path, help="LoRA for --base (.pt)")
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32")
    parser.add_argument("--backend", choices=BACKENDS, help="of the kernels; else what suits")
    parser.add_argument("--tolerance", type=float, help="instead of the dtype's own")
    parser.add_argument("cases", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    tolerance = options.tolerance or TOLERANCES[options.dtype]
    base = read_student(options.weights or options.base).weights

    failed = 0
    for path in options.cases:
        config, case = read_case(path)
        given = [options.lora] if options.lora else []
        loras = [read_lora(lora, alpha=config.get("lora_alpha")) for lora in given]
        weights = merge_loras(base, loras)
        dtype = getattr(torch, options.dtype)
        latents, _ = replay(config, case, weights, dtype, options.backend)
        recorded = case["latents"]
        worst = relative_error(latents, recorded)
        tail = config["frames_per_block"]
        last = relative_error(latents[:, -tail:], recorded[:, -tail:])
        failed += not worst <= tolerance
        verdict = "ok" if worst <= tolerance else f"ABOVE {tolerance:g}"
        print(f"{path.name}: largest error {worst:.2e}, last chunk {last:.2e}  {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AfstreamError as error:
        sys.exit(f"parity: {error}")

"""Check rollouts of the engine, and training's figures, against recorded ones of the method.

    python benchmarks/parity.py --weights WEIGHTS.safetensors CASE.safetensors...
    python benchmarks/parity.py --base STUDENT.pt --lora LORA.pt CASE.safetensors...
    python benchmarks/parity.py DMD.safetensors...

Prints, per case, the largest error relative to the largest recorded value, and the same
for a rollout's last chunk; exits 1 if any case lies above the tolerance. A case of distribution
matching holds its own weights; its figures are the flows of teacher and critic, both losses,
and the gradient by the latents.
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

from afstream.checkpoints import merge_loras, read_lora, read_student
from afstream.checkpoints.files import Weights, load_into
from afstream.config import BackboneConfig, SamplerConfig, WindowLengths
from afstream.engine.rollout import Rollout
from afstream.engine.state import RolloutState
from afstream.errors import AfstreamError
from afstream.families.wan.family import WAN
from afstream.kvcache.memories.anchor import Anchor
from afstream.kvcache.memories.recache import RecacheWindow, Recapture
from afstream.kvcache.policy import MemoryPolicy
from afstream.kvcache.positions import ABSOLUTE, TRI_REGION
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_clean, predict_flow
from afstream.training.dmd.losses import critic_loss, dmd_gradient, dmd_loss, guided
from afstream.validation import validated
from afstream_kernels import BACKENDS

TOLERANCES = {"float32": 1e-5, "float64": 1e-6}


def read_case(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of one recorded rollout."""
    with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["config"]), tensors


def policy_of(config: dict[str, Any]) -> MemoryPolicy:
    """The memory that a recorded config describes."""
    lengths = WindowLengths(
        window_frames=config["local_attn_size"],
        sink_frames=config["sink_size"],
        chunk_frames=config["frames_per_block"],
        horizon_frames=21,
    )
    positions = TRI_REGION if config["rope_enhance"] else ABSOLUTE
    if config["use_prompt_cache"]:
        return Anchor(lengths=lengths, positions=positions, junction="gap")
    if config["global_sink"]:
        return RecacheWindow(lengths=lengths, positions=positions)
    return Recapture(lengths=lengths, positions=positions)


def replay(
    config: dict[str, Any],
    case: dict[str, Tensor],
    weights: Weights,
    dtype: torch.dtype,
    backend: str | None = None,
) -> tuple[Tensor, RolloutState]:
    """Run a recorded rollout on its own noise.

    Returns:
        Latents [B, F, C, h, w] and the state at the end.
    """
    sizes = {**config, "patch": WAN.geometry.patch}
    model = Backbone(validated(BackboneConfig, sizes, source="config")).to(dtype)
    load_into(model, weights, what="the checkpoint")
    policy = policy_of(config)
    sampler = SamplerConfig(steps=tuple(config["denoising_steps"]), shift=config["timestep_shift"])
    rollout = Rollout.of(model, policy, sampler, backend=backend)
    noise, fresh, prompts = (case[name].to(dtype) for name in ("noise", "renoise", "prompt_embeds"))
    batch = noise.shape[0]
    with torch.no_grad():
        texts = [model.text_context(embeds.expand(batch, -1, -1)) for embeds in prompts[:, None]]

    chunk, between = policy.lengths.chunk_frames, len(sampler.steps) - 1
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


def is_matching(config: dict[str, Any]) -> bool:
    """Whether a recorded config is of distribution matching."""
    return "guidance_scale" in config


def matching_figures(
    config: dict[str, Any], case: dict[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """What distribution matching computes from a case's inputs, by the recorded names."""
    models = {name: _bidirectional(config, case, name, dtype) for name in ("teacher", "critic")}
    latents, noise, noisy, timestep, cond, uncond = (
        case[name].to(dtype)
        for name in (
            *("latents", "noise", "noisy", "timestep"),
            *("prompt_embeds", "negative_embeds"),
        )
    )
    with torch.no_grad():
        texts = {
            name: (model.text_context(cond), model.text_context(uncond))
            for name, model in models.items()
        }
        flows = {
            name: predict_flow(model, noisy, timestep, texts[name][0])
            for name, model in models.items()
        }
        clean, without = (
            predict_clean(models["teacher"], noisy, timestep, text) for text in texts["teacher"]
        )
        fake = predict_clean(models["critic"], noisy, timestep, texts["critic"][0])
    real = guided(clean, without, config["guidance_scale"])
    leaf = latents.clone().requires_grad_()
    # the recorded mask: frames 3 and later
    counts = torch.arange(config["num_frames"]) >= WAN.lengths.chunk_frames
    loss = dmd_loss(leaf, dmd_gradient(latents.double(), real, fake), counts)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return {
        "teacher_flow": flows["teacher"],
        "critic_flow": flows["critic"],
        "dmd_loss": loss.detach()[None],
        "dmd_grad": gradient,
        "critic_loss": critic_loss(flows["critic"], noise, latents)[None],
    }


def _bidirectional(
    config: dict[str, Any], case: dict[str, Tensor], name: str, dtype: torch.dtype
) -> Backbone:
    sizes = {**config, "patch": WAN.geometry.patch}
    model = Backbone(validated(BackboneConfig, sizes, source="config")).to(dtype)
    prefix = f"{name}."
    weights = {
        key.removeprefix(prefix): value for key, value in case.items() if key.startswith(prefix)
    }
    load_into(model, weights, what=f"the {name}")
    return model


def relative_error(found: Tensor, recorded: Tensor) -> float:
    """Largest difference over largest recorded value."""
    return float((found - recorded).abs().max() / recorded.abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases; 0 if every one lies within the tolerance."""
    parser = argparse.ArgumentParser(description="Check rollouts against recorded ones.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", type=Path, help="backbone weights, Wan names")
    source.add_argument("--base", type=Path, help="student checkpoint (.pt)")
    parser.add_argument("--lora", type=Path, help="LoRA for --base (.pt)")
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32")
    parser.add_argument("--backend", choices=BACKENDS, help="of the kernels [default: what suits]")
    parser.add_argument("--tolerance", type=float, help="instead of the dtype's own")
    parser.add_argument("cases", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    tolerance = options.tolerance or TOLERANCES[options.dtype]
    source_path = options.weights or options.base
    base = read_student(source_path).weights if source_path else {}

    failed = 0
    for path in options.cases:
        config, case = read_case(path)
        dtype = getattr(torch, options.dtype)
        if is_matching(config):
            for name, found in matching_figures(config, case, dtype).items():
                worst = relative_error(found, case[name])
                failed += not worst <= tolerance
                print(f"{path.name}: {name}, {_verdict(worst, tolerance)}")
            continue
        if not source_path:
            parser.error(f"{path.name} is a rollout; give --weights or --base")
        given = [options.lora] if options.lora else []
        loras = [read_lora(lora, alpha=config.get("lora_alpha")) for lora in given]
        weights = merge_loras(base, loras)
        latents, _ = replay(config, case, weights, dtype, options.backend)
        recorded = case["latents"]
        worst = relative_error(latents, recorded)
        tail = config["frames_per_block"]
        last = relative_error(latents[:, -tail:], recorded[:, -tail:])
        failed += not worst <= tolerance
        print(f"{path.name}: last chunk {last:.2e}, {_verdict(worst, tolerance)}")
    return 1 if failed else 0


def _verdict(worst: float, tolerance: float) -> str:
    judged = "ok" if worst <= tolerance else f"ABOVE {tolerance:g}"
    return f"largest error {worst:.2e}  {judged}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AfstreamError as error:
        sys.exit(f"parity: {error}")

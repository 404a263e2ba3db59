"""LoRAs in the layouts of the tools that write them, each with the factor that they state."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tests.checkpoints.lora_files import LAYERS, RANK, expected, pairs, theirs, underscored
from tests.matrix.rows import WEIGHTS, Row, Rows, saved

ROWS = Rows()
ALPHA = 8.0


def lora(plain: Path, given: str | Path, factor: float) -> Row:
    """A row for LoRAs on the plain folder's own backbone, each pair times a factor."""
    student = saved(plain.parent / "student.safetensors", WEIGHTS)
    spec = {"student": student, "loras": (str(given),)}
    return Row(spec=spec, weights=expected(dict.fromkeys(LAYERS, factor)))


@ROWS.row("PEFT's folder, `adapter_config.json`")
def _(path: Path, plain: Path) -> Row:
    saved(path / "adapter_model.safetensors", pairs("base_model.model."))
    (path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA})
    )
    return lora(plain, path, ALPHA / RANK)


@ROWS.row("PEFT with `use_rslora`")
def _(path: Path, plain: Path) -> Row:
    file = saved(path / "adapter_model.safetensors", pairs("base_model.model."))
    (path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_rslora": True})
    )
    return lora(plain, file, ALPHA / RANK**0.5)


@ROWS.row("diffusers, `lora_adapter_metadata` in the header")
def _(path: Path, plain: Path) -> Row:
    said = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    named = pairs("transformer.", spell=theirs)
    header = {"lora_adapter_metadata": json.dumps(said)}
    return lora(plain, saved(path / "l.safetensors", named, header), ALPHA / RANK)


@ROWS.row("`alpha` as a text in the header")
def _(path: Path, plain: Path) -> Row:
    file = saved(path / "l.safetensors", pairs("diffusion_model."), {"alpha": "1"})
    return lora(plain, file, 1 / RANK)


@ROWS.row("ai-toolkit, diffusion-pipe (`diffusion_model.`)")
def _(path: Path, plain: Path) -> Row:
    return lora(plain, saved(path / "l.safetensors", pairs("diffusion_model.")), 1.0)


@ROWS.row("kohya, musubi (`lora_unet_`), alpha tensors, a negative scale")
def _(path: Path, plain: Path) -> Row:
    down_up = ("lora_down.weight", "lora_up.weight")
    named = pairs("lora_unet_", *down_up, alpha=torch.tensor(ALPHA), spell=underscored)
    file = saved(path / "l.safetensors", named)
    return lora(plain, f"{file}:-0.5", -0.5 * ALPHA / RANK)


@ROWS.row("VideoX-Fun (`lora_unet__`)")
def _(path: Path, plain: Path) -> Row:
    down_up = ("lora_down.weight", "lora_up.weight")
    named = pairs("lora_unet__", *down_up, alpha=torch.tensor(ALPHA), spell=underscored)
    return lora(plain, saved(path / "l.safetensors", named), ALPHA / RANK)


@ROWS.row("LyCORIS (`lycoris_`)")
def _(path: Path, plain: Path) -> Row:
    down_up = ("lora_down.weight", "lora_up.weight")
    named = pairs("lycoris_", *down_up, alpha=torch.tensor(ALPHA), spell=underscored)
    return lora(plain, saved(path / "l.safetensors", named), ALPHA / RANK)


@ROWS.row("DiffSynth (`pipe.dit.`, `.default`)")
def _(path: Path, plain: Path) -> Row:
    down_up = ("lora_A.default.weight", "lora_B.default.weight")
    return lora(plain, saved(path / "l.safetensors", pairs("pipe.dit.", *down_up)), 1.0)


@ROWS.row("LightX2V, Kijai (`.diff`, `.diff_b`, `.diff_m`)")
def _(path: Path, plain: Path) -> Row:
    names = ("blocks.0.norm3.weight", "blocks.1.ffn.0.bias", "blocks.0.modulation")
    suffixes = ("norm3.diff", "ffn.0.diff_b", "diff_m")
    changes = {name: torch.full_like(WEIGHTS[name], 0.01) for name in names}
    prefixes = ("blocks.0.", "blocks.1.", "blocks.0.")
    spelled = zip(prefixes, suffixes, changes.values(), strict=True)
    named = pairs("diffusion_model.", "lora_down.weight", "lora_up.weight")
    named |= {f"diffusion_model.{prefix}{suffix}": value for prefix, suffix, value in spelled}
    row = lora(plain, saved(path / "l.safetensors", named), 1.0)
    row.weights.update({name: row.weights[name] + changes[name] for name in names})
    return row


@ROWS.row("`.pt` with alpha as a number")
def _(path: Path, plain: Path) -> Row:
    return lora(plain, saved(path / "l.pt", pairs(alpha=2.0)), 2 / RANK)


@ROWS.row("`.pt` with `generator_lora` and `lora_config`")
def _(path: Path, plain: Path) -> Row:
    said = {"rank": RANK, "alpha": ALPHA}
    content = {"generator_lora": pairs("base_model.model."), "lora_config": said}
    return lora(plain, saved(path / "l.pt", content), ALPHA / RANK)


@ROWS.row("two LoRAs with scales")
def _(path: Path, plain: Path) -> Row:
    first = saved(path / "a.safetensors", pairs("diffusion_model."))
    second = saved(path / "b.safetensors", pairs("transformer.", spell=theirs))
    row = lora(plain, f"{first}:0.8", 0.8 - 0.3)
    row.spec["loras"] = (f"{first}:0.8", f"{second}:-0.3")
    return row


@ROWS.row("a LoRA on float8 weights")
def _(path: Path, plain: Path) -> Row:
    eight = {name: value.to(torch.float8_e4m3fn) for name, value in WEIGHTS.items()}
    merged = {name: value.float() for name, value in eight.items()}
    added = expected(dict.fromkeys(LAYERS, 1.0))
    for layer in LAYERS:
        name = f"{layer}.weight"
        merged[name] = merged[name] + added[name] - WEIGHTS[name]
    spec = {
        "student": saved(path / "s.safetensors", eight),
        "loras": (saved(path / "l.safetensors", pairs("diffusion_model.")),),
    }
    return Row(spec=spec, weights=merged)

"""Backbones and students: the public families' files, and what tools put around weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from tests.checkpoints.lora_files import LAYERS, pair
from tests.matrix.rows import OTHERS, WEIGHTS, Row, Rows, saved, student, under
from tests.wan_folder import make_wan_folder
from tests.wan_transformer import diffusers_name, write_transformer

ROWS = Rows()


@ROWS.row("Wan2.1 folder, original layout")
def _(path: Path, plain: Path) -> Row:
    return Row(spec={"name": str(make_wan_folder(path / "Wan2.1-T2V-1.3B", layout="original"))})


@ROWS.row("Wan2.1 folder, diffusers' layout")
def _(path: Path, plain: Path) -> Row:
    return Row(spec={"name": str(make_wan_folder(path / "d", layout="diffusers"))})


@ROWS.row("Wan2.1 folder, shards and an index")
def _(path: Path, plain: Path) -> Row:
    folder = make_wan_folder(path / "d", layout="diffusers")
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    write_transformer(folder, "diffusers", shards=3)
    return Row(spec={"name": str(folder)})


@ROWS.row("Wan2.1 folder in the hub's cache")
def _(path: Path, plain: Path) -> Row:
    """Links of a snapshot into a folder of blobs without suffixes."""
    folder = make_wan_folder(path / "d", layout="diffusers")
    root = path / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    snapshot = root / "snapshots" / "0a1b"
    (root / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(folder.rglob("*"))):
        if file.is_file():
            blob = shutil.copy(file, root / "blobs" / f"{number:040x}")
            link = snapshot / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    return Row(spec={"name": str(snapshot)})


@ROWS.row("`self_forcing_dmd.pt`")
def _(path: Path, plain: Path) -> Row:
    content = {
        "generator": under("model.", OTHERS),
        "critic": under("model.", OTHERS),
        "generator_ema": under("model.", WEIGHTS),
        "step": 600,
    }
    return student(path / "self_forcing_dmd.pt", content, "self-forcing")


@ROWS.row("`chunkwise/causal_forcing.pt`")
def _(path: Path, plain: Path) -> Row:
    content = {"generator": under("model.", WEIGHTS)}
    return student(path / "chunkwise" / "causal_forcing.pt", content, "causal-forcing")


def with_lora(path: Path, names: tuple[str, str], preset: str, prefix: str) -> Row:
    """A student and its LoRA of rank 256 and alpha 256: the pairs count as they are."""
    merged, named = dict(WEIGHTS), {}
    for layer in LAYERS:
        down, up = pair(layer, rank=256)
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + up @ down
        named[f"base_model.model.{layer}.lora_A.weight"] = down
        named[f"base_model.model.{layer}.lora_B.weight"] = up
    base = saved(path / names[0], {"generator": under(prefix, WEIGHTS)})
    lora = saved(path / names[1], {"generator_lora": named, "critic_lora": {}})
    return Row(spec={"student": base, "loras": (lora,)}, weights=merged, preset=preset)


@ROWS.row("`longlive_base.pt` with `lora.pt`")
def _(path: Path, plain: Path) -> Row:
    names = ("models/longlive_base.pt", "models/lora.pt")
    return with_lora(path, names, "longlive", "model.")


@ROWS.row("`MemFlow/base.pt` with `MemFlow/lora.pt`")
def _(path: Path, plain: Path) -> Row:
    return with_lora(path, ("MemFlow/base.pt", "MemFlow/lora.pt"), "memflow", "model.")


@ROWS.row("`AnchorForcing/base.pt` with `AnchorForcing/final.pt`")
def _(path: Path, plain: Path) -> Row:
    names = ("AnchorForcing/base.pt", "AnchorForcing/final.pt")
    return with_lora(path, names, "anchor-forcing", "model._fsdp_wrapped_module.")


@ROWS.row("`krea-realtime-video-14b.safetensors`")
def _(path: Path, plain: Path) -> Row:
    file = path / "krea-realtime-video-14b.safetensors"
    return student(file, under("model.", WEIGHTS), "krea-realtime")


@ROWS.row("one file, `model.diffusion_model.` before each name")
def _(path: Path, plain: Path) -> Row:
    return student(path / "s.safetensors", under("model.diffusion_model.", WEIGHTS))


@ROWS.row("one file, diffusers' names")
def _(path: Path, plain: Path) -> Row:
    named = {diffusers_name(name): value for name, value in WEIGHTS.items()}
    return student(path / "s.safetensors", named)


@ROWS.row("data parallel (`module.`)")
def _(path: Path, plain: Path) -> Row:
    return student(path / "s.pt", under("module.model.", WEIGHTS))


@ROWS.row("FSDP and `torch.compile`")
def _(path: Path, plain: Path) -> Row:
    prefix = "model._fsdp_wrapped_module._orig_mod."
    return student(path / "s.pt", {"generator": under(prefix, WEIGHTS)})


@ROWS.row("Lightning (`state_dict`), DeepSpeed (`module`)")
def _(path: Path, plain: Path) -> Row:
    lightning = {"state_dict": under("model.", WEIGHTS), "epoch": 3, "optimizer_states": [{}]}
    return student(path / "s.ckpt", lightning)


@ROWS.row("rCM (`net.`)")
def _(path: Path, plain: Path) -> Row:
    return student(path / "s.pt", under("net.", WEIGHTS))


@ROWS.row("moving average as `{decay, shadow}`")
def _(path: Path, plain: Path) -> Row:
    return student(path / "s.pt", {"generator_ema": {"decay": 0.99, "shadow": WEIGHTS}})


@ROWS.row("folder of shards as the student")
def _(path: Path, plain: Path) -> Row:
    write_transformer(path, "diffusers", shards=2)
    return Row(spec={"student": str(path / "transformer")})


def quantised(scale_word: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Matrices of layers in float8 with a scale each, and what they stand for."""
    eight, true = dict(WEIGHTS), dict(WEIGHTS)
    for name, value in WEIGHTS.items():
        if name.startswith("blocks.") and value.ndim == 2:
            scale = value.abs().max() / 448
            eight[name] = (value / scale).to(torch.float8_e4m3fn)
            true[name] = eight[name].float() * scale
            eight[name.removesuffix("weight") + scale_word] = scale
    return eight, true


@ROWS.row("float8, e4m3fn, without scales")
def _(path: Path, plain: Path) -> Row:
    eight = {name: value.to(torch.float8_e4m3fn) for name, value in WEIGHTS.items()}
    true = {name: value.float() for name, value in eight.items()}
    return student(path / "s.safetensors", eight, weights=true)


@ROWS.row("float8, e5m2, without scales")
def _(path: Path, plain: Path) -> Row:
    eight = {name: value.to(torch.float8_e5m2) for name, value in WEIGHTS.items()}
    true = {name: value.float() for name, value in eight.items()}
    return student(path / "s.safetensors", eight, weights=true)


@ROWS.row("fp8_scaled (`.scale_weight`)")
def _(path: Path, plain: Path) -> Row:
    eight, true = quantised("scale_weight")
    mark = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    content = under("model.diffusion_model.", eight | mark)
    return student(path / "s.safetensors", content, weights=true)


@ROWS.row("ComfyUI's `.comfy_quant`, float8")
def _(path: Path, plain: Path) -> Row:
    eight, true = quantised("weight_scale")
    said = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    layers = [name for name in eight if name.endswith("weight_scale")]
    marks = {name.replace("weight_scale", "comfy_quant"): said.clone() for name in layers}
    return student(path / "s.safetensors", eight | marks, weights=true)


@ROWS.row("int8 with a scale for each row")
def _(path: Path, plain: Path) -> Row:
    eight, true = dict(WEIGHTS), dict(WEIGHTS)
    for name, value in WEIGHTS.items():
        if name.startswith("blocks.") and value.ndim == 2:
            scale = value.abs().amax(1, keepdim=True) / 127
            eight[name] = (value / scale).round().to(torch.int8)
            true[name] = eight[name].float() * scale
            eight[f"{name}_scale"] = scale
    return student(path / "s.safetensors", eight, weights=true)


@ROWS.row("safetensors as `.sft`, `.bin`, or without a suffix")
def _(path: Path, plain: Path) -> Row:
    saved(path / "s.sft", WEIGHTS)
    return Row(spec={"student": str((path / "s.sft").rename(path / "blob"))})

"""VAEs, text encoders and tokenizers: beside a plain backbone, or in its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.matrix.rows import TEXT, VAE, Row, Rows, saved, under
from tests.tiny_vae import tiny_weights, write_tiny
from tests.wan_folder import GOLDEN, comfyui_text, write_text_encoder, write_vae

ROWS = Rows()


def own_vae() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / VAE, weights_only=True)


@ROWS.row("`wan_2.1_vae.safetensors` (ComfyUI)")
def _(path: Path, plain: Path) -> Row:
    return Row(spec={"vae": saved(path / "wan_2.1_vae.safetensors", own_vae())})


@ROWS.row("VAE with `model.` before each name")
def _(path: Path, plain: Path) -> Row:
    return Row(spec={"vae": saved(path / "v.safetensors", under("model.", own_vae()))})


@ROWS.row("VAE in float8")
def _(path: Path, plain: Path) -> Row:
    eight = {name: value.to(torch.float8_e4m3fn) for name, value in own_vae().items()}
    true = {name: value.float() for name, value in eight.items()}
    like = {"vae": saved(path / "like.pth", true)}
    return Row(spec={"vae": saved(path / "v.safetensors", eight)}, like=like)


@ROWS.row("VAE folder of diffusers")
def _(path: Path, plain: Path) -> Row:
    return Row(spec={"vae": str(write_vae(path, "diffusers"))})


@ROWS.row("`taew2_1.pth`, `taew2_1.safetensors`")
def _(path: Path, plain: Path) -> Row:
    file = write_tiny(path / "taew2_1.pth", tiny_weights())
    other = write_tiny(path / "taew2_1.safetensors", tiny_weights(), encoder=False)
    return Row(spec={"vae": str(file)}, like={"vae": str(other)})


def own_text(plain: Path) -> dict[str, torch.Tensor]:
    return torch.load(plain / TEXT, weights_only=True)


@ROWS.row("`umt5-xxl-enc-bf16.safetensors` (Kijai)")
def _(path: Path, plain: Path) -> Row:
    file = saved(path / "umt5-xxl-enc-bf16.safetensors", own_text(plain))
    return Row(spec={"text_encoder_file": file})


@ROWS.row("`umt5_xxl_fp16.safetensors` (ComfyUI), `spiece_model` in it")
def _(path: Path, plain: Path) -> Row:
    folder = write_text_encoder(path, "diffusers")
    content = comfyui_text(load_file(folder / "model.safetensors"))
    return Row(spec={"text_encoder_file": saved(path / "umt5_xxl_fp16.safetensors", content)})


@ROWS.row("`models_t5_umt5-xxl-enc-fp8.pth` (LightX2V)")
def _(path: Path, plain: Path) -> Row:
    eight = {
        name: value.to(torch.float8_e4m3fn) if value.ndim == 2 else value
        for name, value in own_text(plain).items()
    }
    true = {name: value.float() for name, value in eight.items()}
    like = {"text_encoder_file": saved(path / "like.pth", true)}
    return Row(spec={"text_encoder_file": saved(path / "fp8.pth", eight)}, like=like)


@ROWS.row("text encoder folder of transformers")
def _(path: Path, plain: Path) -> Row:
    return Row(spec={"text_encoder_file": str(write_text_encoder(path, "diffusers"))})

"""VAEs, text encoders and tokenizers: beside a plain backbone, or in its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.matrix.rows import VAE, Row, Rows, saved, under
from tests.tiny_vae import tiny_weights, write_tiny
from tests.wan_folder import GOLDEN, write_vae

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

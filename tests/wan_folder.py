"""A tiny Wan2.1 text-to-video model on disk, laid out as the real ones are downloaded."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tests.wan_transformer import CONFIG, write_transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from afstream.config import BackboneConfig
from afstream.families.wan.vae import load_vae

Layout = Literal["original", "diffusers"]

GOLDEN = Path(__file__).parent / "golden"
SPECIAL = ("<pad>", "</s>", "<unk>")
WORDS = ["a", "red", "star", "blue", "drifts", "left", "over", "the", "meadow", "at", "night"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;-'\"!?()"


def make_wan_folder(path: Path, *, layout: Layout, config: BackboneConfig = CONFIG) -> Path:
    """Write a complete model with random weights; both layouts hold the same ones."""
    path.mkdir(parents=True, exist_ok=True)
    write_transformer(path, layout, config=config)
    write_vae(path, layout)
    write_text_encoder(path, layout, text_dim=config.text_dim)
    write_tokenizer(path, layout)
    if layout == "diffusers":
        _write_index(path)
    return path


def write_vae(path: Path, layout: Layout) -> Path:
    """The golden VAE, base dim 4."""
    source = GOLDEN / "Wan2.1_VAE.pth"
    if layout == "original":
        return Path(shutil.copy(source, path / source.name))
    load_vae(source).autoencoder.save_pretrained(path / "vae")
    return path / "vae"


def write_text_encoder(path: Path, layout: Layout, *, text_dim: int = CONFIG.text_dim) -> Path:
    """A UMT5 encoder with the vocabulary of `write_tokenizer`, and some room behind it."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=len(pieces()) + 4,
        d_model=text_dim,
        d_kv=4,
        d_ff=40,
        num_layers=2,
        num_heads=4,
        is_encoder_decoder=False,
        architectures=["UMT5EncoderModel"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder: Any = UMT5EncoderModel(config)
    if layout == "diffusers":
        encoder.save_pretrained(path / "text_encoder")
        return path / "text_encoder"
    file = path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(original_names(encoder), file)
    return file


def original_names(encoder: Any) -> dict[str, torch.Tensor]:
    """A transformers encoder's weights as Wan's own code calls them."""
    weights = {
        "token_embedding.weight": encoder.shared.weight,
        "norm.weight": encoder.encoder.final_layer_norm.weight,
    }
    for index, block in enumerate(encoder.encoder.block):
        attention, feed = block.layer
        parts = {
            "norm1": attention.layer_norm,
            "norm2": feed.layer_norm,
            "pos_embedding.embedding": attention.SelfAttention.relative_attention_bias,
            "ffn.gate.0": feed.DenseReluDense.wi_0,
            "ffn.fc1": feed.DenseReluDense.wi_1,
            "ffn.fc2": feed.DenseReluDense.wo,
            **{f"attn.{part}": getattr(attention.SelfAttention, part) for part in "qkvo"},
        }
        weights |= {f"blocks.{index}.{name}.weight": part.weight for name, part in parts.items()}
    return {name: weight.detach().clone() for name, weight in weights.items()}


def pieces() -> list[tuple[str, float]]:
    """The vocabulary, the likelier piece with the higher score: words before single letters."""
    words = [f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in dict.fromkeys(WORDS) if len(word) > 1]
    single = ["\N{LOWER ONE EIGHTH BLOCK}", *LETTERS]
    return [
        *((piece, 0.0) for piece in SPECIAL),
        *((piece, -2.0) for piece in words),
        *((piece, -5.0) for piece in single),
    ]


def write_tokenizer(path: Path, layout: Layout) -> Path:
    """A tokenizer of the kind and with the files of Wan's, less its sentencepiece model."""
    folder = path / "google" / "umt5-xxl" if layout == "original" else path / "tokenizer"
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.Unigram(pieces(), unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {**special, "extra_ids": 0, "model_max_length": 512, "tokenizer_class": "T5Tokenizer"},
    )
    return folder


def sentencepiece_model() -> bytes:
    """The same vocabulary as `write_tokenizer`'s, as a sentencepiece model: protobuf by hand.

    Its fields are those of sentencepiece_model.proto, of which nothing needs to be installed.
    """
    normal, unknown, control = 1, 2, 3
    kinds = {"<pad>": control, "</s>": control, "<unk>": unknown}
    vocabulary = b"".join(
        _field(
            1,
            _field(1, piece.encode())
            + bytes([2 << 3 | 5])
            + struct.pack("<f", score)
            + _number(3, kinds.get(piece, normal)),
        )
        for piece, score in pieces()
    )
    unigram = _number(3, 1) + _number(40, SPECIAL.index("<unk>")) + _number(41, 2**64 - 1)
    trainer = unigram + _number(42, SPECIAL.index("</s>")) + _number(43, SPECIAL.index("<pad>"))
    return vocabulary + _field(2, trainer) + _field(3, _field(1, b"identity"))


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def comfyui_text(encoder: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' weights as ComfyUI has them in one file, the tokenizer among them."""
    own = {name: value.clone() for name, value in encoder.items() if "embed_tokens" not in name}
    spiece = torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)
    return own | {"spiece_model": spiece}


def write_comfyui(path: Path, source: Path, backbone: dict[str, torch.Tensor]) -> Path:
    """ComfyUI's `models/` with a backbone, and the VAE and text encoder of a diffusers folder."""
    encoder = load_file(source / "text_encoder" / "model.safetensors")
    vae = torch.load(GOLDEN / "Wan2.1_VAE.pth")
    for name, weights in (
        ("diffusion_models/wan2.1_t2v.safetensors", backbone),
        ("text_encoders/umt5_xxl_fp16.safetensors", comfyui_text(encoder)),
        ("vae/wan_2.1_vae.safetensors", vae),
    ):
        (path / name).parent.mkdir(parents=True)
        save_file({key: value.clone() for key, value in weights.items()}, path / name)
    return path


def write_hub(path: Path, source: Path, name: str, *, revision: str = "37ec51", main: bool = True):
    """A folder as it lies in a hub's cache: files in blobs/, links to them in snapshots/."""
    root = path / f"models--{name}"
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    for number, file in enumerate(sorted(one for one in source.rglob("*") if one.is_file())):
        blob = root / "blobs" / f"{revision}{number}"
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (root / "refs" / "main").write_text(revision)
    return root


def _write_index(path: Path) -> None:
    _write_json(
        path / "model_index.json",
        {
            "_class_name": "WanPipeline",
            "_diffusers_version": "0.33.0.dev0",
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "WanTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLWan"],
        },
    )
    (path / "scheduler").mkdir()
    _write_json(
        path / "scheduler" / "scheduler_config.json", {"_class_name": "UniPCMultistepScheduler"}
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")

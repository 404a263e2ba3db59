"""Wan2.1's text encoder: UMT5 through transformers, its weights read from either layout."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from afstream.checkpoints.configs import TextEncoderFile
from afstream.checkpoints.files import (
    Weights,
    file_weights,
    is_folder,
    read_json,
    read_settings,
)
from afstream.checkpoints.names import CONFIG, PIECES_TENSOR, TEXT_STEM
from afstream.checkpoints.names import TEXT_TYPE as KIND
from afstream.checkpoints.shards import folder_weights
from afstream.checkpoints.wrappers import renamed
from afstream.errors import CheckpointError, PromptError
from afstream.families.wan.facts import KEPT_PROMPTS
from afstream.families.wan.loading import ModuleSource, optional
from afstream.families.wan.tokenizer import (
    TEXT_LEN,
    Tokenize,
    read_tokenizer,
    shorten,
    tokens_of,
)
from afstream.validation import show_name, validated

# the original names and transformers'
SHARED = "shared.weight"
SHARED_AGAIN = "encoder.embed_tokens.weight"
OUTER = {"token_embedding.weight": SHARED, "norm.weight": "encoder.final_layer_norm.weight"}
INNER = {
    "norm1.weight": "layer.0.layer_norm.weight",
    **{f"attn.{part}.weight": f"layer.0.SelfAttention.{part}.weight" for part in "qkvo"},
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
LAYER = re.compile(r"blocks\.([0-9]{1,6})\.(.+)")
# weights that tell a size: name, and what its two axes are
FIRST = "encoder.block.0.layer."
SIZES = (
    (SHARED, "vocab_size", "d_model"),
    (f"{FIRST}1.DenseReluDense.wi_1.weight", "d_ff", "d_model"),
    (f"{FIRST}0.SelfAttention.q.weight", "inner_dim", "d_model"),
    (
        f"{FIRST}0.SelfAttention.relative_attention_bias.weight",
        "relative_attention_num_buckets",
        "num_heads",
    ),
)
THEIR_LAYER = re.compile(r"encoder\.block\.([0-9]{1,6})\..+")
MATRIX_DIMS = 2
PUBLISHED = "give Wan2.1's, such as models_t5_umt5-xxl-enc-bf16.pth or a text_encoder/ folder"


class WanText:
    """Encodes prompts, and keeps the embeddings of the most recent ones.

    Args:
        encoder: transformers' `UMT5EncoderModel` with its weights.
        tokenize: a prompt to its token numbers, end mark included.
        text_len: most tokens of a prompt.
    """

    def __init__(self, encoder: nn.Module, tokenize: Tokenize, *, text_len: int = TEXT_LEN) -> None:
        self.encoder = encoder
        self.text_len = text_len
        self._tokenize = tokenize
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        # prompts come from any thread
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        """Where it runs, and where its embeddings lie."""
        return next(self.encoder.parameters()).device

    def tokens(self, prompt: str) -> list[int]:
        """A prompt's token numbers; more than `text_len` raise `PromptError`."""
        return tokens_of(prompt, self._tokenize, self.text_len)

    def encode_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [B, T, text_dim] of token numbers [B, T], zero behind a prompt's end.

        The mask [B, T] is 1 where a prompt has a token.
        """
        ids, mask = ids.to(self.device), mask.to(self.device)
        # ordinary tensors even during a stream: training may meet a kept one later
        with torch.inference_mode(mode=False), torch.no_grad():
            x: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            return x.masked_fill(mask[..., None] == 0, 0.0)

    def encode_longest(self) -> None:
        """Encode a prompt of `text_len` tokens on the meta device; see `ModelFamily`."""
        ids = torch.zeros(1, self.text_len, dtype=torch.long, device="meta")
        with torch.inference_mode():
            # without a mask: transformers reads its values, which meta tensors lack
            self.encoder(input_ids=ids)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to embeddings [B, text_len, text_dim], zero behind a prompt's end.

        Raises:
            PromptError: a prompt is too long.
        """
        with self._lock:
            rows = [self._encode_one(prompt) for prompt in prompts]
        padded = [functional.pad(row, (0, 0, 0, self.text_len - len(row))) for row in rows]
        return torch.stack(padded)

    def _encode_one(self, prompt: str) -> Tensor:
        """[T, text_dim], only as long as the prompt: padding changes nothing and costs time."""
        row = self._kept.get(prompt)
        if row is None:
            ids = torch.tensor([self.tokens(prompt)])
            row = self._kept[prompt] = self.encode_ids(ids, torch.ones_like(ids))[0]
        self._kept.move_to_end(prompt)
        if len(self._kept) > KEPT_PROMPTS:
            self._kept.popitem(last=False)
        return row


class EncodedPrompts:
    """Embeddings of prompts that are encoded at once, so that the text encoder can be dropped.

    The encoder is not kept. A prompt that is too long raises `PromptError`.
    """

    def __init__(self, text: WanText, prompts: Sequence[str]) -> None:
        self._rows = {prompt: text.encode([prompt])[0] for prompt in prompts}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to embeddings [B, text_len, text_dim].

        Raises:
            PromptError: a prompt was not known beforehand.
        """
        for prompt in prompts:
            if prompt not in self._rows:
                raise PromptError(
                    f"the prompt {shorten(prompt)!r} came after the text encoder was dropped; keep"
                    " the encoder on the cpu to give prompts later"
                )
        return torch.stack([self._rows[prompt] for prompt in prompts])


def load_text(
    path: Path,
    tokenizer: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    text_len: int = TEXT_LEN,
) -> WanText:
    """Read Wan2.1's text encoder, and its tokenizer; see `read_tokenizer`.

    The path is a transformers `text_encoder/` folder, or one file with the names of Wan's own
    `models_t5_umt5-xxl-enc-bf16.pth` or transformers' names, as ComfyUI has them. `text_len` is
    the most tokens of a prompt.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: something is missing, or is no UMT5 encoder.
    """
    encoder: Any = text_source(path).build(device=device, dtype=dtype)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    vocab_size = len(encoder.shared.weight)
    return WanText(encoder, read_tokenizer(tokenizer, vocab_size), text_len=text_len)


def text_source(path: Path) -> ModuleSource[Any]:
    """What transformers' `UMT5EncoderModel` is made from; raises what `load_text` raises."""
    model: Any = optional("transformers", "UMT5EncoderModel")
    settings: Any = optional("transformers", "UMT5Config")
    config, weights = _from_folder(path) if is_folder(path) else _from_file(path)
    return ModuleSource(
        what=f"text encoder {path}",
        make=lambda: model(settings.from_dict(config)),
        weights=weights,
    )


def _from_folder(folder: Path) -> tuple[dict[str, Any], Weights]:
    path = folder / CONFIG
    kind = read_json(path).get("model_type", KIND)
    if kind != KIND:
        raise CheckpointError(
            f"{path} describes a {show_name(kind)} model; Wan2.1's text encoder is a {KIND} one"
        )
    config = read_settings(path, TextEncoderFile)
    return config.model_dump(exclude_unset=True), _named(folder_weights(folder, TEXT_STEM), folder)


def _from_file(path: Path) -> tuple[dict[str, Any], Weights]:
    """Settings by the shapes of the weights, which one file does not say otherwise."""
    weights = _named(file_weights(path), path)
    seen: dict[str, int] = {}
    for name, *axes in SIZES:
        if name not in weights or weights[name].ndim != MATRIX_DIMS:
            raise CheckpointError(
                f"{path} is no UMT5 encoder of Wan2.1: it has no {name} of {MATRIX_DIMS} axes, in"
                " transformers' words;"
                f" {PUBLISHED}"
            )
        seen.update(zip(axes, weights[name].shape, strict=True))
    layers = [int(found[1]) for found in map(THEIR_LAYER.fullmatch, weights) if found]
    seen["d_kv"] = seen.pop("inner_dim") // max(seen["num_heads"], 1)
    config = validated(
        TextEncoderFile,
        {**seen, "num_layers": 1 + max(layers)},
        source=f"{path} is no UMT5 encoder of Wan2.1",
        remedy=PUBLISHED,
        error=CheckpointError,
    )
    return config.model_dump(exclude_unset=True), weights


def _named(weights: Weights, path: Path) -> Weights:
    """Weights under transformers' names, the token embedding under both of its own.

    A tokenizer among them, which ComfyUI's files have, is left out.
    """
    own = {name: value for name, value in weights.items() if name != PIECES_TENSOR}
    return _with_both_names(renamed(own, path, _renamed))


def _renamed(name: str) -> str:
    layer = LAYER.fullmatch(name)
    if layer is None:
        return OUTER.get(name, name)
    return f"encoder.block.{layer[1]}.{INNER.get(layer[2], layer[2])}"


def _with_both_names(weights: Weights) -> Weights:
    """The token embedding under both of its names; files have one of them, or both."""
    both = dict(weights)
    for name in (SHARED_AGAIN, SHARED):
        if name in weights:
            both[SHARED] = both[SHARED_AGAIN] = weights[name]
    return both

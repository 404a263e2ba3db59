"""Wan2.1's text encoder: UMT5 through transformers, prompts cleaned as Wan cleans them."""

from __future__ import annotations

import html
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from afstream.checkpoints.configs import TextEncoderFile
from afstream.checkpoints.files import file_weights, folder_weights, read_json, read_settings
from afstream.checkpoints.names import CONFIG, TEXT_STEM
from afstream.checkpoints.names import TEXT_TYPE as KIND
from afstream.checkpoints.weights import Weights
from afstream.errors import AfstreamError, CheckpointError, PromptError
from afstream.families.wan.loading import ModuleSource, optional
from afstream.validation import show_name

TOKENIZER_FILE = "tokenizer.json"
TEXT_LEN = 512
# prompts whose embeddings are kept; one of Wan's size takes up to 4 MB
KEPT_PROMPTS = 32
# letters of a prompt that an error repeats
SHOWN = 40

# Wan cleans prompts with ftfy, of which straight quotation marks are what prompts need
STRAIGHT = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")) | str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)

# the original names and transformers'
SHARED = "shared.weight"
SHARED_AGAIN = "encoder.embed_tokens.weight"
OUTER = {
    "token_embedding.weight": SHARED,
    "norm.weight": "encoder.final_layer_norm.weight",
}
INNER = {
    "norm1.weight": "layer.0.layer_norm.weight",
    **{f"attn.{part}.weight": f"layer.0.SelfAttention.{part}.weight" for part in "qkvo"},
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
LAYER = re.compile(r"blocks\.(\d+)\.(.+)")
# weights of the original layout that tell a size: name, and what its two axes are
SIZES = (
    ("token_embedding.weight", "vocab_size", "d_model"),
    ("blocks.0.ffn.fc1.weight", "d_ff", "d_model"),
    ("blocks.0.attn.q.weight", "inner_dim", "d_model"),
    ("blocks.0.pos_embedding.embedding.weight", "relative_attention_num_buckets", "num_heads"),
)
MATRIX_DIMS = 2

Tokenize = Callable[[str], list[int]]


def clean(prompt: str) -> str:
    """A prompt as Wan reads it: HTML entities resolved, quotes straight, single spaces."""
    plain = html.unescape(html.unescape(prompt)).translate(STRAIGHT)
    return " ".join(plain.split())


class WanText:
    """Prompts to embeddings. Prompts that came up lately are not encoded again.

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
        """A prompt's token numbers.

        Raises:
            PromptError: there are more than `text_len`.
        """
        return tokens_of(prompt, self._tokenize, self.text_len)

    def encode_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings of token numbers.

        Args:
            ids: [B, T].
            mask: [B, T], 1 where a prompt has a token and 0 behind its end.

        Returns:
            [B, T, text_dim], zero behind a prompt's end.
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
    """Embeddings of prompts that were known beforehand; the encoder is gone.

    Args:
        rows: by prompt, [text_len, text_dim].
    """

    def __init__(self, rows: dict[str, Tensor]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, text: WanText, prompts: Sequence[str]) -> EncodedPrompts:
        """Encode prompts.

        Raises:
            PromptError: one is too long.
        """
        return cls({prompt: text.encode([prompt])[0] for prompt in prompts})

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


def shorten(text: str) -> str:
    """As much of a prompt as an error repeats."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def load_text(
    path: Path,
    tokenizer: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    text_len: int = TEXT_LEN,
) -> WanText:
    """Read Wan2.1's text encoder.

    Args:
        path: a transformers `text_encoder/` folder, or the original
            `models_t5_umt5-xxl-enc-bf16.pth`.
        tokenizer: the tokenizer's folder.
        device: where it will run.
        dtype: of its weights and embeddings.
        text_len: most tokens of a prompt.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: something is missing, or is no UMT5 encoder.
    """
    encoder: Any = text_source(path).build(device=device, dtype=dtype)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    vocab_size = len(encoder.shared.weight)
    return WanText(encoder, read_tokenizer(tokenizer, vocab_size), text_len=text_len)


def text_source(path: Path) -> ModuleSource[Any]:
    """What transformers' `UMT5EncoderModel` is made from; see `load_text`.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: something is missing, or is no UMT5 encoder.
    """
    model: Any = optional("transformers", "UMT5EncoderModel")
    settings: Any = optional("transformers", "UMT5Config")
    config, weights = _from_folder(path) if path.is_dir() else _from_original(path)
    return ModuleSource(
        what=f"text encoder {path}",
        make=lambda: model(settings.from_dict(config)),
        weights=_with_both_names(weights),
    )


def tokens_of(prompt: str, tokenize: Tokenize, text_len: int = TEXT_LEN) -> list[int]:
    """A prompt's token numbers, end mark included.

    Raises:
        PromptError: there are more than `text_len`.
    """
    text = clean(prompt)
    numbers = tokenize(text)
    if len(numbers) > text_len:
        raise PromptError(
            f"the prompt {shorten(text)!r} has {len(numbers)} tokens; {text_len} are allowed, so"
            " shorten it"
        )
    return numbers


def read_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenize:
    """Read the tokenizer of an encoder.

    Args:
        folder: with a `tokenizer.json`, or a sentencepiece model.
        vocab_size: tokens that the encoder knows; None when it is not at hand.

    Raises:
        CheckpointError: it is missing, damaged, or another encoder's.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no tokenizer at {folder}; give the folder with its tokenizer.json")
    read = _tokenizer_from_file if (folder / TOKENIZER_FILE).is_file() else _tokenizer_from_folder
    try:
        size, tokenize = read(folder)
    except AfstreamError:
        raise
    # what the readers raise for a bad file has no common base
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be read as a tokenizer; download it again"
        ) from error
    if vocab_size is not None and size > vocab_size:
        raise CheckpointError(
            f"the tokenizer {folder} knows {size} tokens, the text encoder {vocab_size}; give the"
            " tokenizer of this encoder"
        )
    return tokenize


def _tokenizer_from_file(folder: Path) -> tuple[int, Tokenize]:
    """Vocabulary size and tokenizer, exactly as `tokenizer.json` describes it.

    transformers 5 would take the vocabulary from that file, and its own normalisation.
    """
    reader: Any = optional("tokenizers", "Tokenizer")
    tokenizer: Any = reader.from_file(str(folder / TOKENIZER_FILE))
    # a file may ask for either; prompts that are too long shall be told
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.get_vocab_size(), lambda text: tokenizer.encode(text).ids


def _tokenizer_from_folder(folder: Path) -> tuple[int, Tokenize]:
    """The same for a folder that has nothing but a sentencepiece model."""
    reader: Any = optional("transformers", "AutoTokenizer")
    tokenizer: Any = reader.from_pretrained(str(folder), local_files_only=True)
    return len(tokenizer), lambda text: tokenizer(text, verbose=False)["input_ids"]


def _from_folder(folder: Path) -> tuple[dict[str, Any], Weights]:
    path = folder / CONFIG
    kind = read_json(path).get("model_type", KIND)
    if kind != KIND:
        raise CheckpointError(
            f"{path} describes a {show_name(kind)} model; Wan2.1's text encoder is a {KIND} one"
        )
    config = read_settings(path, TextEncoderFile)
    return config.model_dump(exclude_unset=True), folder_weights(folder, TEXT_STEM)


def _from_original(path: Path) -> tuple[dict[str, Any], Weights]:
    weights = file_weights(path)
    seen: dict[str, int] = {}
    for name, *axes in SIZES:
        if name not in weights or weights[name].ndim != MATRIX_DIMS:
            raise CheckpointError(
                f"{path} is no UMT5 encoder of Wan2.1: it has no {name} of {MATRIX_DIMS} axes;"
                " give models_t5_umt5-xxl-enc-bf16.pth or a text_encoder/ folder"
            )
        seen.update(zip(axes, weights[name].shape, strict=True))
    layers = [int(found[1]) for found in map(LAYER.fullmatch, weights) if found]
    seen["d_kv"] = seen.pop("inner_dim") // seen["num_heads"]
    config = {**seen, "num_layers": 1 + max(layers)}
    return config, {_renamed(name): value for name, value in weights.items()}


def _renamed(name: str) -> str:
    layer = LAYER.fullmatch(name)
    if layer is None:
        return OUTER.get(name, name)
    return f"encoder.block.{layer[1]}.{INNER.get(layer[2], layer[2])}"


def _with_both_names(weights: Weights) -> Weights:
    """The token embedding under both of its names; files have one of them, or both."""
    named = [weights[name] for name in (SHARED, SHARED_AGAIN) if name in weights]
    return {**weights, SHARED: named[0], SHARED_AGAIN: named[0]} if named else weights

"""Prompts to the token numbers of Wan2.1's text encoder, cleaned as Wan cleans them."""

from __future__ import annotations

import html
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field

from afstream.bounded import MB, read_bounded
from afstream.checkpoints.files import dangling, file_weights, read_json
from afstream.checkpoints.names import PIECES_TENSOR
from afstream.errors import AfstreamError, CheckpointError, PromptError
from afstream.families.wan.loading import optional
from afstream.validation import SettingsFile, show_name, validated

TOKENIZER_FILE = "tokenizer.json"
PIECES_FILE = "spiece.model"
# whatever else a tokenizer may be told in
SETTINGS_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
# UMT5's has 17 MB and 770,000 values
MAX_BYTES = 64 * MB
MAX_VALUES = 4_000_000
# steps of normalising and splitting, and how many characters they may make of one
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
MAX_STEPS = 64
MAX_GROWTH = 64
TEXT_LEN = 512
OWN = "give Wan2.1's own tokenizer, such as google/umt5-xxl/ of its folder"
# letters of a prompt that an error repeats
SHOWN = 40

# Wan cleans prompts with ftfy, of which straight quotation marks are what prompts need
STRAIGHT = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")) | str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)

TEMPLATE = "TemplateProcessing"


class Mark(SettingsFile):
    """A token that a template puts before or behind a prompt."""

    id: str


class TemplatePart(SettingsFile):
    """A mark, or else the prompt."""

    mark: Mark | None = Field(None, alias="SpecialToken")


class Template(SettingsFile):
    """What stands around a prompt, in `tokenizer.json`."""

    single: tuple[TemplatePart, ...] = ()
    pair: tuple[TemplatePart, ...] = ()
    special_tokens: dict[str, Any] = Field(default_factory=dict)


Tokenize = Callable[[str], list[int]]
T = TypeVar("T")


def clean(prompt: str) -> str:
    """A prompt as Wan reads it: HTML entities resolved, quotes straight, single spaces."""
    plain = html.unescape(html.unescape(prompt)).translate(STRAIGHT)
    return " ".join(plain.split())


def shorten(text: str) -> str:
    """As much of a prompt as an error repeats."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def tokens_of(prompt: str, tokenize: Tokenize, text_len: int = TEXT_LEN) -> list[int]:
    """A prompt's token numbers, end mark included; more than `text_len` raise `PromptError`."""
    text = clean(prompt)
    numbers = tokenize(text)
    if len(numbers) > text_len:
        raise PromptError(
            f"the prompt {shorten(text)!r} has {len(numbers)} tokens; {text_len} are allowed, so"
            " shorten it"
        )
    return numbers


def read_tokenizer(path: Path, vocab_size: int | None = None) -> Tokenize:
    """Read the tokenizer of an encoder from a `tokenizer.json` or a sentencepiece model.

    The path is the folder of either, or a text encoder's file with such a model in it. It may know
    no more than `vocab_size` tokens; None when the encoder is not at hand.

    Raises:
        ConfigError: it is a sentencepiece model, and sentencepiece is not installed.
        CheckpointError: it is missing, damaged, or another encoder's; or, when it is used, it
            cannot read a prompt.
    """
    if not path.exists():
        raise CheckpointError(f"no tokenizer at {path}; give the folder with its tokenizer.json")
    if path.is_dir():
        check_files(path)
    read = _from_json if (path / TOKENIZER_FILE).is_file() else _from_pieces
    size, tokenize = _guarded(path, lambda: read(path))
    if vocab_size is not None and size > vocab_size:
        raise CheckpointError(
            f"the tokenizer {path} knows {size} tokens, the text encoder {vocab_size}; give the"
            " tokenizer of this encoder"
        )
    return lambda text: _guarded(path, lambda: tokenize(text))


def copy_tokenizer(path: Path, target: Path) -> None:
    """Write a tokenizer's own files into a new folder; others may lie beside them."""
    target.mkdir()
    if path.is_file():
        (target / PIECES_FILE).write_bytes(_pieces(path))
        return
    for name in (TOKENIZER_FILE, PIECES_FILE, *SETTINGS_FILES):
        if (path / name).is_file():
            shutil.copyfile(path / name, target / name)


def check_files(folder: Path) -> None:
    """See that a tokenizer's files are such as its readers can be given.

    Raises:
        CheckpointError: one is damaged, or would fill memory.
    """
    for name in (TOKENIZER_FILE, PIECES_FILE, *SETTINGS_FILES):
        if lost := dangling(folder / name):
            raise lost
    for name in SETTINGS_FILES:
        if (folder / name).exists():
            read_json(folder / name, what="a tokenizer")
    pieces, whole = folder / PIECES_FILE, folder / TOKENIZER_FILE
    if pieces.exists() and not (pieces.is_file() and pieces.stat().st_size <= MAX_BYTES):
        raise CheckpointError(f"{pieces} is no file of at most {MAX_BYTES // MB} MB; {OWN}")
    if not whole.exists():
        return
    content = read_json(whole, most_bytes=MAX_BYTES, most_values=MAX_VALUES, what="a tokenizer")
    steps = [step for part in STEPS for step in _steps(content.get(part))]
    growth = math.prod(map(_growth, steps))
    if len(steps) > MAX_STEPS or growth > MAX_GROWTH:
        raise CheckpointError(
            f"{whole} makes up to {growth:.3g} characters of one in {len(steps)} steps; at most"
            f" {MAX_GROWTH} in {MAX_STEPS} are allowed; {OWN}"
        )
    for step in steps:
        if step["type"] == TEMPLATE:
            _check_template(step, whole)


def _check_template(step: dict[str, Any], path: Path) -> None:
    """See that a template names marks that it has; the reader would panic, and print it."""
    template = validated(Template, step, source=str(path), remedy=OWN, error=CheckpointError)
    used = {part.mark.id for part in (*template.single, *template.pair) if part.mark}
    if unknown := sorted(used - template.special_tokens.keys()):
        raise CheckpointError(
            f"{path} puts {show_name(unknown[0])} around prompts, which it does not define; {OWN}"
        )


def _steps(part: object) -> Iterator[dict[str, Any]]:
    """Every object with a type in a part of `tokenizer.json`."""
    if isinstance(part, dict):
        if "type" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _steps(inner)


def _growth(step: dict[str, Any]) -> float:
    """Characters that a step may make of one."""
    content, pattern = step.get("content"), step.get("pattern")
    if not isinstance(content, str) or not isinstance(pattern, dict):
        return 1.0
    text = pattern.get("String")
    # an expression may match where nothing stands
    return max(1.0, len(content) / (len(text) or 1)) if isinstance(text, str) else 1 + len(content)


def _guarded(path: Path, read: Callable[[], T]) -> T:
    """What a reader gives; whatever it raises becomes a `CheckpointError`."""
    try:
        return read()
    except AfstreamError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    # what the readers raise for a bad file has no common base; a panic of theirs is no Exception
    except BaseException as error:
        raise CheckpointError(f"{path} cannot be read as a tokenizer; {OWN}") from error


def _from_json(folder: Path) -> tuple[int, Tokenize]:
    """Vocabulary size and tokenizer, exactly as `tokenizer.json` describes it."""
    # not by transformers 5, which takes the vocabulary from that file, and its own normalisation
    reader: Any = optional("tokenizers", "Tokenizer")
    tokenizer: Any = reader.from_file(str(folder / TOKENIZER_FILE))
    # a file may ask for either; a prompt that is too long must be refused, not cut
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.get_vocab_size(), lambda text: tokenizer.encode(text).ids


def _from_pieces(path: Path) -> tuple[int, Tokenize]:
    """Vocabulary size and tokenizer by a sentencepiece model, with its end mark behind a prompt."""
    content = _pieces(path)
    reader: Any = optional("sentencepiece", "SentencePieceProcessor")
    model: Any = reader(model_proto=content)
    end: int = model.eos_id()
    if end < 0:
        raise CheckpointError(f"{path} has a tokenizer without an end mark; {OWN}")
    return model.get_piece_size(), lambda text: [*model.encode(text), end]


def _pieces(path: Path) -> bytes:
    """A sentencepiece model: of a folder its `spiece.model`, of a file the tensor of its bytes."""
    if path.is_dir():
        return read_bounded(path / PIECES_FILE, MAX_BYTES)
    content = file_weights(path).get(PIECES_TENSOR)
    if content is None or content.dtype != torch.uint8 or content.numel() > MAX_BYTES:
        raise CheckpointError(
            f"{path} holds no tokenizer of at most {MAX_BYTES // MB} MB, as bytes in"
            f" {PIECES_TENSOR}; {OWN}"
        )
    return content.flatten().numpy().tobytes()

"""Prompts to the token numbers of Wan2.1's text encoder, cleaned as Wan cleans them."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afstream.errors import AfstreamError, CheckpointError, PromptError
from afstream.families.wan.loading import optional

TOKENIZER_FILE = "tokenizer.json"
TEXT_LEN = 512
# letters of a prompt that an error repeats
SHOWN = 40

# Wan cleans prompts with ftfy, of which straight quotation marks are what prompts need
STRAIGHT = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")) | str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)

Tokenize = Callable[[str], list[int]]


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


def read_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenize:
    """Read the tokenizer of an encoder from a `tokenizer.json` or a sentencepiece model.

    It may know no more than `vocab_size` tokens; None when the encoder is not at hand.

    Raises:
        CheckpointError: it is missing, damaged, or another encoder's.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no tokenizer at {folder}; give the folder with its tokenizer.json")
    read = _from_file if (folder / TOKENIZER_FILE).is_file() else _from_folder
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


def _from_file(folder: Path) -> tuple[int, Tokenize]:
    """Vocabulary size and tokenizer, exactly as `tokenizer.json` describes it."""
    # not by transformers 5, which takes the vocabulary from that file, and its own normalisation
    reader: Any = optional("tokenizers", "Tokenizer")
    tokenizer: Any = reader.from_file(str(folder / TOKENIZER_FILE))
    # a file may ask for either; a prompt that is too long must be refused, not cut
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.get_vocab_size(), lambda text: tokenizer.encode(text).ids


def _from_folder(folder: Path) -> tuple[int, Tokenize]:
    """Vocabulary size and tokenizer of a folder that has nothing but a sentencepiece model."""
    reader: Any = optional("transformers", "AutoTokenizer")
    tokenizer: Any = reader.from_pretrained(str(folder), local_files_only=True)
    return len(tokenizer), lambda text: tokenizer(text, verbose=False)["input_ids"]

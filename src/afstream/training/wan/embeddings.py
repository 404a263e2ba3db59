"""Prompts for training: encoded once, kept on disk, so that the text encoder can leave.

A cache is a folder of safetensors files. Each tensor is one prompt's embeddings, without the
zeros behind its end, under a hash of the text and of the encoder that read it; a folder can
serve several encoders and several lists of prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from afstream.checkpoints.files import save_tensors
from afstream.checkpoints.safetensors import damage
from afstream.errors import CheckpointError, ConfigError, PromptError
from afstream.model.protocols import TextEncoder
from afstream.training.trainer.rng import in_turn

Pair = tuple[str, str]

SUFFIX = ".safetensors"
# of one file of the cache; a killed run loses the work on one file
PROMPTS_PER_FILE = 256
PAIR = 2


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """Pairs of prompts from a text file.

    A `.jsonl` file has lines such as `{"prompts": ["first", "second"]}`, of whose prompts the
    first two count; any other file has one prompt a line. A prompt that stands alone is its own
    second one, which is all that sequences without a switch need. Empty lines are skipped.

    Raises:
        PromptError: the file cannot be read, or has no prompts; says in which line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} cannot be read as a list of prompts: {error}") from error
    parse = _json_pair if path.suffix == ".jsonl" else _plain_pair
    pairs = tuple(
        parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    if not pairs:
        raise PromptError(f"{path} has no prompts; give at least one line")
    return pairs


class EmbeddingCache:
    """Embeddings by prompt, in a folder that is made when something is added.

    Those of different encoders differ; `encoder` is the identity of one.
    """

    def __init__(self, folder: Path, encoder: str) -> None:
        self._folder = folder
        self._encoder = encoder
        self._files: dict[str, Path] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read which prompts the folder holds now.

        Raises:
            CheckpointError: a file there cannot be read.
        """
        for path in sorted({*self._folder.glob(f"*{SUFFIX}")} - {*self._files.values()}):
            if fault := damage(path):
                raise _unreadable(path, fault)
            with _opened(path) as file:
                self._files.update(dict.fromkeys(file.keys(), path))

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Prompts that are not in the cache yet, each once."""
        return [it for it in dict.fromkeys(prompts) if self._key(it) not in self._files]

    def add(self, prompts: Iterable[str], text: TextEncoder, *, batch: int = 8) -> int:
        """Encode the prompts that are not there yet, `batch` together; tell how many they were.

        Raises:
            PromptError: the encoder cannot understand one.
        """
        missing = self.missing(prompts)
        for start in range(0, len(missing), PROMPTS_PER_FILE):
            self._write(missing[start : start + PROMPTS_PER_FILE], text, batch)
        return len(missing)

    def get(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, T, text_dim], T that of the longest prompt.

        Raises:
            PromptError: one was never added.
        """
        rows = [self._row(prompt) for prompt in prompts]
        longest = max(len(row) for row in rows)
        return torch.stack([functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])

    def _row(self, prompt: str) -> Tensor:
        key = self._key(prompt)
        if key not in self._files:
            raise PromptError(
                f"the prompt {prompt!r} is not in the cache {self._folder}; encode it first"
            )
        with _opened(self._files[key]) as file:
            return file.get_tensor(key)

    def _write(self, prompts: Sequence[str], text: TextEncoder, batch: int) -> None:
        rows: dict[str, Tensor] = {}
        for start in range(0, len(prompts), batch):
            some = prompts[start : start + batch]
            for prompt, row in zip(some, text.encode(some), strict=True):
                used = row.ne(0).any(dim=1).nonzero()
                length = int(used[-1]) + 1 if len(used) else 1
                rows[self._key(prompt)] = row[:length].cpu().clone()
        path = self._folder / f"{_digest(*rows)}{SUFFIX}"
        save_tensors(path, rows)
        self._files.update(dict.fromkeys(rows, path))

    def _key(self, prompt: str) -> str:
        return _digest(self._encoder, prompt)


class CachedPrompts:
    """Pairs of a list, by number, from a cache; see `afstream.training.dmd.trainer.Prompts`.

    The list is repeated without end, each time in another order. Guidance leads away from the
    prompt `negative`; it and all others must be in the cache.
    """

    def __init__(
        self, pairs: Sequence[Pair], cache: EmbeddingCache, negative: str, *, seed: int = 0
    ) -> None:
        self._pairs = pairs
        self._cache = cache
        self._seed = seed
        self._negative = cache.get([negative])

    def pair(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, text_dim] of the first and the second prompts."""
        count = len(self._pairs)
        chosen = [self._pairs[in_turn(number, count, self._seed)] for number in numbers]
        firsts, seconds = zip(*chosen, strict=True)
        return self._cache.get(firsts), self._cache.get(seconds)

    def full(self, numbers: Sequence[int]) -> Tensor:
        """See `Prompts`: nobody knows what prompts in anyone's words leave out."""
        del numbers
        raise ConfigError(
            "full_prompts is true, and what these prompts leave out is not known; set it to false"
        )

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, T, text_dim] of any prompts in the cache; see `TextEncoder`."""
        return self._cache.get(prompts)

    def unconditional(self, count: int) -> Tensor:
        """Embeddings [B, T, text_dim] of the negative prompt."""
        return self._negative.expand(count, -1, -1)


def _plain_pair(line: str, _where: str) -> Pair:
    return line.strip(), line.strip()


def _json_pair(line: str, where: str) -> Pair:
    try:
        prompts = json.loads(line)["prompts"]
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        texts = [text.strip() for text in given[:PAIR]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PromptError(
            f'{where}: no pair of prompts; write {{"prompts": ["first", "second"]}}'
        ) from error
    if not texts or not all(texts):
        raise PromptError(f"{where}: a prompt is empty; give one or two prompts that say something")
    return texts[0], texts[-1]


def _opened(path: Path) -> Any:  # noqa: ANN401  safetensors has no types
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as cached embeddings: {reason}; delete it, and it is made again"
    )


def _digest(*texts: str) -> str:
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        # the length, so that no two lists of texts run together alike
        found.update(f"{len(text)}:{text}".encode())
    return found.hexdigest()

"""The pocket text encoder: a closed list of words, two small transformer layers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from afstream.errors import PromptError
from afstream.families.pocket.phrases import SILENT_WORDS, VOCABULARY, words

NUM_HEADS = 4
NUM_LAYERS = 2
PADDING = 0


def vocabulary() -> tuple[str, ...]:
    """Every word that means something in the pocket world, in a fixed order."""
    return tuple(dict.fromkeys(word for group in VOCABULARY.values() for word in group))


def telling_words(prompt: str) -> list[str]:
    """The words of a prompt, without those that say nothing of the world."""
    return [word for word in words(prompt) if word not in SILENT_WORDS]


def known_words(prompt: str, known: Sequence[str], text_len: int) -> list[str]:
    """The telling words of a prompt, all of which are known.

    Raises:
        PromptError: the prompt is empty, has more than `text_len` words, or others than these.
    """
    telling = telling_words(prompt)
    unknown = [word for word in dict.fromkeys(telling) if word not in known]
    if unknown:
        near = [near for word in unknown for near in difflib.get_close_matches(word, known, 1)]
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        named = ", ".join(map(repr, unknown))
        groups = "; ".join(f"{name}: {', '.join(some)}" for name, some in VOCABULARY.items())
        raise PromptError(
            f"the pocket model does not know {named} in {prompt!r}.{hint} It knows {groups}."
        )
    if not telling:
        raise PromptError(
            f"the prompt {prompt!r} has no words; say what is seen, for example"
            ' "A red star drifts left over a meadow."'
        )
    if len(telling) > text_len:
        raise PromptError(
            f"the prompt {prompt!r} has {len(telling)} words; the pocket model reads at most"
            f" {text_len}"
        )
    return telling


class PocketText(nn.Module):
    """Words to embeddings, for the words that the pocket world knows.

    The order of the words is part of the weights; a prompt has at most `text_len` of them.
    """

    def __init__(self, known: Sequence[str], *, text_dim: int, text_len: int) -> None:
        super().__init__()
        self.words = tuple(known)
        self.text_len = text_len
        # token 0 is padding
        self._tokens = {word: token for token, word in enumerate(self.words, start=1)}
        self.embedding = nn.Embedding(1 + len(self.words), text_dim, padding_idx=PADDING)
        self.position = nn.Parameter(0.02 * torch.randn(text_len, text_dim))
        layer = nn.TransformerEncoderLayer(
            text_dim,
            NUM_HEADS,
            dim_feedforward=2 * text_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, NUM_LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(text_dim)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers [B, text_len], zero behind a prompt's last word.

        Raises:
            PromptError: a prompt is empty, too long, or has words that are not known.
        """
        rows = torch.zeros(len(prompts), self.text_len, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            telling = known_words(prompt, self.words, self.text_len)
            row[: len(telling)] = torch.tensor([self._tokens[word] for word in telling])
        return rows.to(self.position.device)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, text_len] tokens to [B, text_len, text_dim], zero in the padding's rows."""
        absent = tokens == PADDING
        x = self.embedding(tokens) + self.position
        x = self.norm(self.encoder(x, src_key_padding_mask=absent))
        return x.masked_fill(absent[..., None], 0.0)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to embeddings [B, text_len, text_dim].

        Raises:
            PromptError: see `tokens`.
        """
        return self(self.tokens(prompts))

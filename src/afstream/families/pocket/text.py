"""The pocket text encoder: a closed list of words, two small transformer layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from afstream.families.pocket.vocabulary import known_words

NUM_HEADS = 4
NUM_LAYERS = 2
PADDING = 0


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

    def read(self, prompt: str) -> list[str]:
        """The telling words of a prompt; see `known_words`."""
        return known_words(prompt, self._tokens, self.text_len)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers [B, text_len], zero behind a prompt's last word.

        Raises:
            PromptError: a prompt is empty, too long, or has words that are not known.
        """
        rows = torch.zeros(len(prompts), self.text_len, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            telling = self.read(prompt)
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
